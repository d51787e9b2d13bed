//! `photo-search` on JPEG files, from file to embedding, against `tests/goldens/photo-search-jpeg.json`.

use std::collections::BTreeMap;

use lenslet_tests::backend::Backend;
use lenslet_tests::bundled::{config_files, load};
use lenslet_tests::native::{in_parallel, options, read, repository, say};
use lenslet_tests::photographs::Photographs;

fn photographs(backend: Backend) {
    let Some(options) = options(backend) else { return };
    let golden = Photographs::parse(&read(repository("tests/goldens/photo-search-jpeg.json")))
        .unwrap_or_else(|e| panic!("photo-search-jpeg.json: {e}"));
    let folder = repository(&format!("models/bundled/{}", golden.model));
    let files: BTreeMap<String, Vec<u8>> =
        config_files().filter_map(|name| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?))).collect();
    let vision = read(folder.join(&golden.vision));
    let tower = load(&files, Some(&vision), None, &options).unwrap_or_else(|e| panic!("{}: {e}", golden.model));

    let numbered: Vec<(usize, &String)> = golden.pictures.iter().enumerate().collect();
    let results = in_parallel(&numbered, |&(n, picture)| {
        let file = read(repository(picture));
        pollster::block_on(golden.check(&tower, n, &file)).map_err(|e| format!("{picture}: {e}"))
    });
    let failed: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failed.is_empty(), "on {}: {failed:#?}", backend.name());
    let least = results.iter().flatten().fold(1.0, |a, &b| f32::min(a, b));
    say(&format!("{} photographs on {}: least cosine {least:.6}", results.len(), backend.name()));
}

#[test]
fn jpeg_files_on_cpu() {
    photographs(Backend::Cpu);
}

#[test]
fn jpeg_files_on_gpu() {
    photographs(Backend::Gpu);
}
