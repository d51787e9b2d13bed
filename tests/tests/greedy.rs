//! Greedy continuation of the zoo's decoders, natively.

use lenslet::generate::{Decoder, DecoderError, Feed};
use lenslet::onnx::NoExternalData;
use lenslet::tensor::Tensor;
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

/// Values that are no numbers are an error that names the layer, the sequence stays as it was, and so does the decoder. What does
/// not fit is refused before anything runs.
#[test]
fn broken_steps_are_named_and_taken_back() {
    let Some(zoo) = shared("zoo") else { return };
    let file = read(zoo.join("smolvlm-256m-instruct/tiny/onnx/decoder_model_merged.onnx"));
    for backend in [Backend::Cpu, Backend::Gpu] {
        let Some(options) = options(backend) else { continue };
        let decoder = Decoder::from_onnx(&file, &NoExternalData, options).unwrap();
        let width = decoder.embedding_width().unwrap();
        let embeddings = |value: f32| Feed {
            tokens: None,
            embeddings: Some(Tensor::from_slice(&[1, 2, width], &vec![value; 2 * width]).unwrap()),
            mask: None,
        };
        let mut state = decoder.start(1, 5, vec![]);
        let first = pollster::block_on(decoder.run(&mut state, embeddings(0.5))).unwrap();
        let again = pollster::block_on(decoder.run(&mut state.clone(), embeddings(0.25))).unwrap();
        let broken = pollster::block_on(decoder.run(&mut state, embeddings(f32::NAN))).unwrap_err();
        assert_eq!(broken.kind(), "not_a_number");
        assert!(broken.to_string().contains("step 1") && broken.to_string().contains("layer"), "{broken}");
        assert!(matches!(&broken, DecoderError::NotANumber { layer, .. } if layer == "0"), "{broken}");
        assert_eq!(state.positions(), 2);
        let after = pollster::block_on(decoder.run(&mut state, embeddings(0.25))).unwrap();
        assert_eq!(after.as_slice::<f32>().unwrap(), again.as_slice::<f32>().unwrap());
        assert_ne!(after.as_slice::<f32>().unwrap(), first.as_slice::<f32>().unwrap());
        // Four of five positions are taken.
        let full = pollster::block_on(decoder.run(&mut state, embeddings(0.5))).unwrap_err();
        assert_eq!((full.kind(), state.positions()), ("context_full", 4));
        let ids = pollster::block_on(decoder.run(&mut state, Feed::tokens(&[1]))).unwrap_err();
        assert_eq!(ids.kind(), "decoder_mismatch", "it takes embeddings");
        assert_eq!(decoder.check_vocabulary(10).unwrap_err().kind(), "vocabulary_mismatch");
        // A prefix is kept by forgetting what came behind it.
        decoder.truncate(&mut state, 2);
        let once_more = pollster::block_on(decoder.run(&mut state, embeddings(0.25))).unwrap();
        assert_eq!(once_more.as_slice::<f32>().unwrap(), again.as_slice::<f32>().unwrap());
    }
}
