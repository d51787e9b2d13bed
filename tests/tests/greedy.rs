//! Greedy continuation of the zoo's decoders, natively.

use lenslet_tests::backend::Backend;
use lenslet_tests::greedy::{Continued, FOLDERS, Greedy, copies};
use lenslet_tests::native::{options, read, say, shared, zoo_file};

fn all(backend: Backend) {
    let (Some(zoo), Some(options)) = (shared("zoo"), options(backend)) else { return };
    let (mut passed, mut failed) = (0, vec![]);
    for folder in FOLDERS {
        let folder_path = zoo.join(folder);
        let greedy = Greedy::parse(&read(folder_path.join("greedy.json"))).unwrap();
        for file in greedy.files.keys() {
            let onnx = |name: &str| zoo_file(&zoo, folder, name);
            match pollster::block_on(greedy.check(file, &onnx, &options)) {
                // The CPU rounds as ONNX Runtime does; a GPU may be a step off.
                Ok(continued) if backend == Backend::Cpu && !continued.ties.is_empty() => {
                    failed.push(format!("{folder}/{file}: {}", continued.ties.join("; ")))
                }
                Ok(Continued { caches, growing, .. }) if growing == caches || copies(file).is_some() => passed += 1,
                Ok(Continued { caches, growing, .. }) => {
                    failed.push(format!("{folder}/{file}: {growing} of {caches} caches grow in place"))
                }
                Err(reason) => failed.push(format!("{folder}/{file}: {reason}")),
            }
        }
    }
    say(&format!(
        "{passed} of {} decoders continue as ONNX Runtime does, on {}",
        passed + failed.len(),
        backend.name()
    ));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn on_the_cpu() {
    all(Backend::Cpu);
}

#[test]
fn on_the_gpu() {
    all(Backend::Gpu);
}
