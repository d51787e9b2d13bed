//! The bundled models, from picture files and texts to embeddings, against `tests/goldens`.

use std::collections::BTreeMap;
use std::path::Path;

use lenslet_tests::backend::Backend;
use lenslet_tests::bundled::{FLIPPED_SHARE, Golden, Precision, config_files, load};
use lenslet_tests::native::in_parallel;
use lenslet_tests::native::{options, read, repository, say, shared};

/// The configuration files that a folder has.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    config_files().filter_map(|name| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?))).collect()
}

fn golden(model: &str) -> Golden {
    let path = |ending| repository(&format!("tests/goldens/{model}.{ending}"));
    Golden::parse(&read(path("json")), read(path("safetensors"))).unwrap_or_else(|e| panic!("{model}: {e}"))
}

/// Compares everything that the golden lists, and names everything that differs.
fn compare(
    what: &str,
    backend: Backend,
    golden: &Golden,
    graphs: [Option<Vec<u8>>; 2],
    folder: &Path,
    precision: Precision,
) {
    let Some(options) = options(backend) else { return };
    let [image, text] = graphs.each_ref().map(Option::as_deref);
    let tower = load(&files(folder), image, text, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut results = Vec::new();
    if image.is_some() {
        let numbered: Vec<(usize, &String)> = golden.pictures.iter().enumerate().collect();
        results.extend(in_parallel(&numbered, |&(n, picture)| {
            let file = read(repository(picture));
            let result = pollster::block_on(golden.check_picture(&tower, n, &file, precision));
            result.map_err(|e| format!("{picture}: {e}"))
        }));
    }
    let pictures = results.len();
    if text.is_some() {
        let numbered: Vec<usize> = (0..golden.texts.len()).collect();
        results.extend(in_parallel(&numbered, |&n| {
            let result = pollster::block_on(golden.check_text(&tower, n, precision));
            result.map_err(|e| format!("text {n} ({:.30}): {e}", golden.texts[n]))
        }));
    }
    let failed: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    let least = results.iter().filter_map(|r| r.as_ref().ok()).fold(1.0, |a, &b| f32::min(a, b));
    let passed = results.len() - failed.len();
    say(&format!("{what} on {}: {passed} of {} agree, least cosine {least:.6}", backend.name(), results.len()));
    assert!(failed.is_empty(), "{what} on {}: {failed:#?}", backend.name());
    assert!(passed > 0);
    let texts: Vec<f32> = results[pictures..].iter().filter_map(|r| r.clone().ok()).collect();
    let flipped = texts.iter().filter(|&&cosine| cosine < precision.text()).count();
    if !texts.is_empty() {
        say(&format!("{what} on {}: {flipped} of {} texts below {}", backend.name(), texts.len(), precision.text()));
    }
    assert!(flipped as f32 <= FLIPPED_SHARE * texts.len() as f32, "{flipped} of {} texts are off", texts.len());
}

fn bundled(model: &str, backend: Backend) {
    let folder = repository(&format!("models/bundled/{model}"));
    let golden = golden(model);
    let graphs = [&golden.vision, &golden.text].map(|graph| Some(read(folder.join(graph))));
    compare(model, backend, &golden, graphs, &folder, Precision::Bundled);
}

/// The float32 originals, as far as the test material has them.
fn single(model: &str, backend: Backend) {
    let Some(originals) = shared(model) else { return };
    let graphs = ["vision_model.onnx", "text_model.onnx"].map(|graph| std::fs::read(originals.join(graph)).ok());
    assert!(graphs[0].is_some(), "{model} has no float32 image tower");
    let folder = repository(&format!("models/bundled/{model}"));
    compare(&format!("{model} fp32"), backend, &golden(model), graphs, &folder, Precision::Single);
}

#[test]
fn photo_search_on_cpu() {
    bundled("photo-search", Backend::Cpu);
}

#[test]
fn photo_search_on_gpu() {
    bundled("photo-search", Backend::Gpu);
}

#[test]
fn emoji_clip_on_cpu() {
    bundled("emoji-clip", Backend::Cpu);
}

#[test]
fn emoji_clip_on_gpu() {
    bundled("emoji-clip", Backend::Gpu);
}

#[test]
fn photo_search_fp32_on_cpu() {
    single("photo-search", Backend::Cpu);
}

#[test]
fn photo_search_fp32_on_gpu() {
    single("photo-search", Backend::Gpu);
}

#[test]
fn emoji_clip_fp32_on_cpu() {
    single("emoji-clip", Backend::Cpu);
}

#[test]
fn emoji_clip_fp32_on_gpu() {
    single("emoji-clip", Backend::Gpu);
}
