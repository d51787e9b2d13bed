//! Rows of one batch do not see each other, nor the padding in front of them: each continues as it does alone.

use lenslet::generate::{Decoder, Feed, Sampling};
use lenslet_tests::backend::Backend;
use lenslet_tests::greedy::Greedy;
use lenslet_tests::native::{options, read, say, shared, zoo_file};

const NEW_TOKENS: usize = 8;

/// Greedy tokens of prompts of different lengths, padded on the left to one.
async fn continued(decoder: &Decoder, prompts: &[&[u32]]) -> Vec<Vec<u32>> {
    let longest = prompts.iter().map(|p| p.len()).max().unwrap();
    let (mut tokens, mut mask) = (vec![], vec![]);
    for prompt in prompts {
        let padding = longest - prompt.len();
        // Padding of a real token, so that seeing it would change something.
        tokens.extend(std::iter::repeat_n(7, padding).chain(prompt.iter().copied()));
        mask.extend((0..longest).map(|at| at >= padding));
    }
    let mut state = decoder.start(prompts.len(), longest + NEW_TOKENS, vec![]);
    let sampling = Sampling::default();
    let feed = Feed { tokens: Some(&tokens), embeddings: None, mask: Some(&mask) };
    let mut choices = decoder.choose(&mut state, feed, &sampling, &[]).await.unwrap();
    let mut made = vec![vec![]; prompts.len()];
    for _ in 0..NEW_TOKENS {
        made.iter_mut().zip(&choices).for_each(|(row, choice)| row.push(choice.token));
        let last: Vec<u32> = choices.iter().map(|c| c.token).collect();
        choices = decoder.choose(&mut state, Feed::tokens(&last), &sampling, &[]).await.unwrap();
    }
    made
}

fn all(backend: Backend) {
    let (Some(zoo), Some(options)) = (shared("zoo"), options(backend)) else { return };
    for folder in ["smollm2-135m/tiny", "gpt2/tiny"] {
        let greedy = Greedy::parse(&read(zoo.join(folder).join("greedy.json"))).unwrap();
        // The INT8 graphs quantize activations over the whole batch: there rows do see each other.
        for file in ["model.onnx", "decoder_model_merged.onnx"] {
            let onnx = |name: &str| zoo_file(&zoo, folder, name);
            pollster::block_on(async {
                let opened = greedy.open(file, &onnx, &options).await.unwrap();
                let (prompt, decoder) = (&opened.prompt[..], &opened.decoder);
                let prompts = [prompt, &prompt[..1], &prompt[prompt.len() / 2..], &prompt[1..4]];
                let together = continued(decoder, &prompts).await;
                assert_eq!(together[0], opened.tokens[..NEW_TOKENS], "{folder}/{file}: the longest row");
                for (prompt, together) in prompts.iter().zip(&together) {
                    let alone = continued(decoder, &[prompt]).await.remove(0);
                    assert_eq!(alone, *together, "{folder}/{file}: a row of {} tokens", prompt.len());
                }
                assert_ne!(together[1], together[2], "{folder}/{file}: the rows are told apart");
            });
        }
    }
    say(&format!("rows of a batch continue as alone, on {}", backend.name()));
}

#[test]
fn on_the_cpu() {
    all(Backend::Cpu);
}

#[test]
fn on_the_gpu() {
    all(Backend::Gpu);
}

#[test]
fn padding_that_a_graph_cannot_leave_out_is_refused() {
    let (Some(zoo), Some(options)) = (shared("zoo"), options(Backend::Cpu)) else { return };
    let folder = "vit-gpt2-image-captioning/tiny";
    let greedy = Greedy::parse(&read(zoo.join(folder).join("greedy.json"))).unwrap();
    let onnx = |name: &str| zoo_file(&zoo, folder, name);
    pollster::block_on(async {
        let opened = greedy.open("decoder_model_merged.onnx", &onnx, &options).await.unwrap();
        let mut state = opened.start(8);
        let feed = Feed { tokens: Some(&[1, 2]), embeddings: None, mask: Some(&[false, true]) };
        let error = opened.decoder.run(&mut state, feed).await.unwrap_err();
        assert_eq!(error.kind(), "decoder_mismatch");
        assert!(error.to_string().contains("attention_mask"), "{error}");
        let feed = Feed { tokens: Some(&[1, 2]), embeddings: None, mask: Some(&[true, true]) };
        opened.decoder.run(&mut state, feed).await.unwrap();
    });
}
