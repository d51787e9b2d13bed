//! Retrieval of emoji by their names with real weights: `emoji-clip` in float32 on the 1,923 OpenMoji pictures.
//!
//! On the CPU all pictures and names are embedded and the recall must be that of ONNX Runtime. A GPU embeds a part of them:
//! its vectors must be the CPU's and its best pictures those of ONNX Runtime, from which the rest follows.

use std::collections::BTreeMap;
use std::path::Path;

use lenslet::tasks::dual_tower::DualTower;
use lenslet::tasks::image::decode;
use lenslet::tasks::similarity::cosine;
use lenslet::tasks::tower::SessionTower;
use lenslet_tests::backend::Backend;
use lenslet_tests::bundled::{config_files, load};
use lenslet_tests::native::{in_parallel, options, read, repository, say, shared};
use lenslet_tests::ranking::Ranking;
use serde::Deserialize;

/// R@1, R@5 and R@10 by language, as ONNX Runtime has them (the model's own page).
const KNOWN: [(&str, [f64; 3]); 3] =
    [("en", [0.2236, 0.4821, 0.6121]), ("zh", [0.0770, 0.2226, 0.3261]), ("es", [0.0998, 0.2756, 0.3770])];

/// 0.3 points, and half a unit of the last digit above.
const TOLERANCE: f64 = 0.003_05;

/// One picture with its names.
#[derive(Deserialize)]
struct Entry {
    file: String,
    en: String,
    zh: String,
    es: String,
}

fn tower(folder: &Path, backend: Backend) -> Option<DualTower<SessionTower>> {
    let options = options(backend)?;
    let read_optional = |name: &str| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?));
    let files: BTreeMap<String, Vec<u8>> = config_files().filter_map(read_optional).collect();
    let [image, text] = ["vision_model.onnx", "text_model.onnx"].map(|name| read(folder.join(name)));
    Some(load(&files, Some(&image), Some(&text), &options).unwrap_or_else(|e| panic!("{e}")))
}

fn embed_pictures(tower: &DualTower<SessionTower>, folder: &Path, files: &[String]) -> Vec<Vec<f32>> {
    in_parallel(files, |file| {
        let pixels = decode(&read(folder.join(file))).unwrap_or_else(|e| panic!("{file}: {e}"));
        let vectors = pollster::block_on(tower.encode_images(&[pixels]));
        vectors.unwrap_or_else(|e| panic!("{file}: {e}")).remove(0)
    })
}

fn embed_texts(tower: &DualTower<SessionTower>, texts: &[String]) -> Vec<Vec<f32>> {
    in_parallel(texts, |text| {
        let vectors = pollster::block_on(tower.encode_texts(&[text.as_str()]));
        vectors.unwrap_or_else(|e| panic!("{text:?}: {e}")).remove(0)
    })
}

/// The share of names whose own picture is among the best 1, 5 and 10.
fn recall(pictures: &[Vec<f32>], names: &[Vec<f32>]) -> [f64; 3] {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let mut found = [0usize; 3];
    for (own, name) in names.iter().enumerate() {
        let similarity = dot(&pictures[own], name);
        let better = pictures.iter().filter(|picture| dot(picture, name) > similarity).count();
        for (found, k) in found.iter_mut().zip([1, 5, 10]) {
            *found += usize::from(better < k);
        }
    }
    found.map(|n| n as f64 / names.len() as f64)
}

fn ranking() -> Ranking {
    Ranking::parse(&read(repository("tests/goldens/emoji-ranking.json"))).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn recall_on_cpu() {
    let Some(folder) = shared("emoji-clip") else { return };
    let entries: Vec<Entry> = serde_json::from_slice(&read(folder.join("openmoji.json"))).expect("a list of emoji");
    assert_eq!(entries.len(), 1923);
    let tower = tower(&folder, Backend::Cpu).expect("a CPU is always there");
    let files: Vec<String> = entries.iter().map(|e| e.file.clone()).collect();
    let pictures = embed_pictures(&tower, &folder, &files);
    let mut wrong = Vec::new();
    for (language, known) in KNOWN {
        let name = |e: &Entry| match language {
            "en" => e.en.clone(),
            "zh" => e.zh.clone(),
            _ => e.es.clone(),
        };
        let names: Vec<String> = entries.iter().map(name).collect();
        let got = recall(&pictures, &embed_texts(&tower, &names));
        say(&format!("emoji-clip fp32 on cpu, {language}: R@1 / R@5 / R@10 {got:.4?}, ONNX Runtime {known:.4?}"));
        if got.iter().zip(&known).any(|(g, k)| (g - k).abs() > TOLERANCE) {
            wrong.push(language);
        }
    }
    assert!(wrong.is_empty(), "the recall differs in {wrong:?}");
}

#[test]
fn the_same_best_pictures_on_cpu() {
    best_pictures(Backend::Cpu);
}

#[test]
fn the_same_best_pictures_on_gpu() {
    best_pictures(Backend::Gpu);
}

fn best_pictures(backend: Backend) {
    let Some(folder) = shared("emoji-clip") else { return };
    let Some(tower) = tower(&folder, backend) else { return };
    let ranking = ranking();
    let pictures = embed_pictures(&tower, &folder, &ranking.pictures);
    let queries = embed_texts(&tower, &ranking.queries);
    let worst = ranking.check(&pictures, &queries).unwrap_or_else(|e| panic!("{}: {e}", backend.name()));
    say(&format!(
        "emoji-clip fp32 on {}: the same ten best of {} pictures for {} queries, similarities within {worst:.1e}",
        backend.name(),
        pictures.len(),
        queries.len()
    ));
    if backend == Backend::Gpu {
        let reference = self::tower(&folder, Backend::Cpu).expect("a CPU is always there");
        let pairs = [
            (&pictures, embed_pictures(&reference, &folder, &ranking.pictures)),
            (&queries, embed_texts(&reference, &ranking.queries)),
        ];
        for (got, want) in pairs {
            for (g, w) in got.iter().zip(&want) {
                let cosine = cosine(g, w);
                assert!(cosine >= 0.9999, "a vector of the GPU has cosine {cosine} with the CPU's");
            }
        }
    }
}
