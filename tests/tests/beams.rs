//! Beam search through the zoo's decoders, natively, against a search that runs every sequence anew and keeps no cache.

use lenslet::generate::{BeamGeneration, BeamOptions, Feed, Hypothesis, Prompt, Sampling};
use lenslet::tasks::writing::{TextGenerator, WritingFiles, WritingOptions};
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

/// A text of a generator: its tokens, pieces, and why it ended.
fn written(generator: &TextGenerator, prompt: &[u32], asked: &WritingOptions) -> (Vec<u32>, Vec<String>, &'static str) {
    pollster::block_on(async {
        let mut stream = generator.continue_tokens(prompt.to_vec(), asked).await.unwrap();
        let mut pieces = vec![];
        while let Some(piece) = stream.next().await.unwrap() {
            pieces.push(piece);
        }
        assert_eq!(stream.usage().completion_tokens, stream.tokens().len());
        (stream.tokens().to_vec(), pieces, stream.finish_reason().unwrap())
    })
}

#[test]
fn texts_by_beams_come_whole_and_the_folder_says_how_many() {
    let (Some(folder), Some(options)) = (shared("zoo/gpt2/tiny"), options(Backend::Cpu)) else { return };
    let greedy = Greedy::parse(&read(folder.join("greedy.json"))).unwrap();
    let onnx = |name: &str| std::fs::read(folder.join("onnx").join(name)).map_err(|e| e.to_string());
    let open = || pollster::block_on(greedy.open("model.onnx", &onnx, &options)).unwrap();
    let [model, tokenizer] = ["config.json", "tokenizer.json"].map(|name| read(folder.join(name)));
    let generator = |generation: &str| {
        let files = WritingFiles {
            model: Some(&model),
            generation: Some(generation.as_bytes()),
            tokenizer: &tokenizer,
            ..WritingFiles::default()
        };
        TextGenerator::new(open().decoder, &files).unwrap()
    };
    let opened = open();
    let eos = opened.tokens[3];
    let direct = |beams, length_penalty, penalty| {
        let options =
            BeamOptions { beams, length_penalty, max_new_tokens: 8, eos: vec![eos], ..BeamOptions::default() };
        pollster::block_on(async {
            let prompt = Prompt::from(opened.prompt.clone());
            let state = opened.start(opened.prompt.len() + 8);
            let mut search = BeamGeneration::begin(&opened.decoder, state, prompt, options, penalty).await.unwrap();
            while search.step().await.unwrap() {}
            search.finish().swap_remove(0).tokens
        })
    };
    let asked = |beams, length_penalty| WritingOptions {
        beams,
        length_penalty,
        max_new_tokens: Some(8),
        ..WritingOptions::default()
    };

    let plain = generator(&format!(r#"{{"eos_token_id": {eos}}}"#));
    let (tokens, pieces, _) = written(&plain, &opened.prompt, &asked(None, None));
    assert_eq!(tokens, opened.tokens[..3], "greedy");
    assert!(pieces.len() > 1, "greedy text is streamed");
    let (tokens, pieces, reason) = written(&plain, &opened.prompt, &asked(Some(BEAMS), Some(3.0)));
    assert_eq!(tokens, direct(BEAMS, 3.0, 1.0));
    assert_eq!(pieces.len(), 1);
    assert_eq!(reason, if tokens.len() == 8 { "length" } else { "stop" });
    assert_ne!(tokens, opened.tokens[..3], "beams find another text");

    // The folder's own beams, length and repetition penalty, unless the caller says otherwise or draws.
    let searching = generator(&format!(
        r#"{{"eos_token_id": {eos}, "num_beams": 3, "length_penalty": 3.0, "repetition_penalty": 1.3}}"#
    ));
    assert_eq!(written(&searching, &opened.prompt, &asked(None, None)).0, direct(3, 3.0, 1.3));
    assert_ne!(direct(3, 3.0, 1.3), direct(3, 3.0, 1.0), "the repetition penalty counts");
    let one = written(&searching, &opened.prompt, &asked(Some(1), None));
    assert!(one.1.len() > 1, "one beam is streamed");
    let sampling = Some(Sampling { temperature: 1.0, seed: 5, ..Sampling::default() });
    let drawn = WritingOptions { sampling, ..asked(None, None) };
    assert!(written(&searching, &opened.prompt, &drawn).1.len() > 1, "a draw is streamed");

    // Stop strings cut what beams found.
    let (tokens, pieces, _) = written(&plain, &opened.prompt, &asked(Some(BEAMS), Some(3.0)));
    let stop: String = pieces[0].chars().skip(2).take(2).collect();
    let cut = WritingOptions { stop: vec![stop.clone()], ..asked(Some(BEAMS), Some(3.0)) };
    let (fewer, text, reason) = written(&plain, &opened.prompt, &cut);
    assert_eq!((text.concat(), reason), (pieces[0].split(&stop).next().unwrap().to_owned(), "stop"));
    assert!(fewer.len() < tokens.len());
}
