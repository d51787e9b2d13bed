//! Beam search through the zoo's decoders, natively, against a search that runs every sequence anew and keeps no cache.

use lenslet::generate::{BeamGeneration, BeamOptions, Feed, Hypothesis};
use lenslet_tests::backend::Backend;
use lenslet_tests::greedy::{FOLDERS, Greedy, Opened};
use lenslet_tests::native::{options, read, say, shared, zoo_file};

const BEAMS: usize = 4;
const NEW_TOKENS: usize = 8;

/// What a reference search finds: score, tokens, whether it ended by itself.
type Found = (f64, Vec<u32>, bool);

/// The logarithms of the next token's probabilities behind the prompt and `tokens`, from one run over all of it.
async fn next(opened: &Opened, tokens: &[u32]) -> Vec<f64> {
    let prompt = opened.prompt_and(tokens).await.unwrap();
    let mut state = opened.start(prompt.tokens.len());
    let feed = Feed { tokens: Some(&prompt.tokens), embeddings: prompt.embeddings, mask: None };
    let logits = opened.decoder.run(&mut state, feed).await.unwrap();
    let logits: Vec<f64> = logits.as_slice::<f32>().unwrap().iter().map(|&x| f64::from(x)).collect();
    let most = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - most).exp()).sum();
    logits.iter().map(|x| x - most - sum.ln()).collect()
}

/// The plainest search: all continuations of all sequences, sorted.
async fn reference(opened: &Opened, eos: u32, length_penalty: f64) -> Found {
    let score = |sum: f64, length: usize| sum / (length as f64).powf(length_penalty);
    let mut alive: Vec<(f64, Vec<u32>)> = vec![(0.0, vec![])];
    let mut finished: Vec<Found> = vec![];
    for step in 1..=NEW_TOKENS {
        let mut all = vec![];
        for (at, (sum, tokens)) in alive.iter().enumerate() {
            let next = next(opened, tokens).await;
            all.extend(next.into_iter().enumerate().map(|(token, p)| (sum + p, at, token as u32)));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut grown = vec![];
        for (rank, &(sum, at, token)) in all.iter().enumerate() {
            if grown.len() == BEAMS {
                break;
            }
            if token != eos {
                grown.push((sum, [&alive[at].1[..], &[token]].concat()));
            } else if rank < BEAMS {
                finished.push((score(sum, step), alive[at].1.clone(), true));
            }
        }
        finished.sort_by(|a, b| b.0.total_cmp(&a.0));
        finished.truncate(BEAMS);
        if finished.len() == BEAMS && finished[BEAMS - 1].0 >= score(all[0].0, step) {
            return finished.swap_remove(0);
        }
        alive = grown;
    }
    finished.extend(alive.into_iter().map(|(sum, tokens)| (score(sum, NEW_TOKENS), tokens, false)));
    finished.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

async fn search(opened: &Opened, options: BeamOptions) -> Hypothesis {
    let prompt = opened.prompt_and(&[]).await.unwrap();
    let state = opened.start(prompt.tokens.len() + options.max_new_tokens);
    let mut search = BeamGeneration::begin(&opened.decoder, state, prompt, options, 1.0).await.unwrap();
    while search.step().await.unwrap() {}
    search.finish().swap_remove(0)
}

fn all(backend: Backend, penalties: &[f32]) {
    let (Some(zoo), Some(options)) = (shared("zoo"), options(backend)) else { return };
    let (mut cases, mut ended, mut other) = (0, 0, 0);
    for folder in FOLDERS {
        let greedy = Greedy::parse(&read(zoo.join(folder).join("greedy.json"))).unwrap();
        // Quantized activations depend on all positions that are read at once, so that a run without cache is no reference.
        let plain = ["decoder_model_merged.onnx", "model.onnx"];
        let file = plain.into_iter().find(|f| greedy.files.contains_key(*f)).unwrap();
        let onnx = |name: &str| zoo_file(&zoo, folder, name);
        pollster::block_on(async {
            let opened = greedy.open(file, &onnx, &options).await.unwrap();
            let one = BeamOptions { beams: 1, max_new_tokens: opened.tokens.len(), ..BeamOptions::default() };
            assert_eq!(search(&opened, one).await.tokens, opened.tokens, "{folder}: one beam is greedy");
            // A token that greedy decoding meets soon: texts end at different lengths, and some never.
            let eos = opened.tokens[3];
            for &length_penalty in penalties {
                let beams = BeamOptions {
                    beams: BEAMS,
                    max_new_tokens: NEW_TOKENS,
                    eos: vec![eos],
                    length_penalty,
                    ..BeamOptions::default()
                };
                let got = search(&opened, beams).await;
                let (score, tokens, end) = reference(&opened, eos, length_penalty.into()).await;
                let what = format!("{folder}/{file}, length penalty {length_penalty}");
                assert_eq!((&got.tokens, got.eos.is_some()), (&tokens, end), "{what}: {} and {score}", got.score);
                assert!((f64::from(got.score) - score).abs() < 1e-3, "{what}: {} and {score}", got.score);
                cases += 1;
                ended += usize::from(end);
                other += usize::from(!opened.tokens.starts_with(&tokens));
            }
        });
    }
    say(&format!(
        "{cases} beam searches equal on {}; {ended} texts end by themselves, {other} are not greedy's",
        backend.name()
    ));
    assert!(ended > 0 && other > 0, "these cases do not tell beam search from greedy decoding");
}

#[test]
fn on_the_cpu() {
    all(Backend::Cpu, &[0.0, 1.0, -2.0, 3.0]);
}

#[test]
fn on_the_gpu() {
    all(Backend::Gpu, &[1.0]);
}
