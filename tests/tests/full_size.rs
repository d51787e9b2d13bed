//! CLIP ViT-B/32 at its real size, with seeded weights, against ONNX Runtime's numbers.

use lenslet::Session;
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet_tests::backend::Backend;
use lenslet_tests::full_size::Check;
use lenslet_tests::native::{options, read, say, shared};
use lenslet_tests::skeleton::fill;

fn run(graph: &str, backend: Backend) {
    let Some(folder) = shared("zoo/clip-vit-base-patch32/full") else { return };
    let Some(options) = options(backend) else { return };
    let check = Check::parse(&read(folder.join("check.json")), graph).unwrap_or_else(|e| panic!("{e}"));
    let model = fill(&read(folder.join(format!("{graph}.skeleton.onnx.gz")))).unwrap_or_else(|e| panic!("{e}"));
    let session = Session::from_onnx(&model, &NoExternalData, &ImportOptions::default(), options)
        .unwrap_or_else(|e| panic!("{graph}: {e}"));
    let megabytes = model.len() / 1_000_000;
    drop(model);
    let worst = pollster::block_on(check.run(&session));
    let worst = worst.unwrap_or_else(|e| panic!("{graph} on {}: {e}", backend.name()));
    say(&format!(
        "clip-vit-base-patch32 {graph} ({megabytes} MB) on {}: within {worst:.1e} of the mean magnitude",
        backend.name()
    ));
}

#[test]
fn vision_model_on_cpu() {
    run("vision_model", Backend::Cpu);
}

#[test]
fn vision_model_on_gpu() {
    run("vision_model", Backend::Gpu);
}

#[test]
fn text_model_on_cpu() {
    run("text_model", Backend::Cpu);
}

#[test]
fn text_model_on_gpu() {
    run("text_model", Backend::Gpu);
}
