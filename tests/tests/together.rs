//! Sequences that share runs of a decoder: each goes on as it does alone, whoever its companions are, wherever they stand.

use lenslet::generate::{Choice, Decoder, Sampling, SharedStep, State};
use lenslet::tensor::Tensor;
use lenslet_tests::backend::Backend;
use lenslet_tests::greedy::{FOLDERS, Greedy, Opened, copies};
use lenslet_tests::native::{options, read, say, shared, zoo_file};

const NEW_TOKENS: usize = 8;

/// A text under way.
struct Text {
    state: State,
    sampling: Sampling,
    /// The tokens before, for a repetition penalty.
    history: Vec<u32>,
    made: Vec<Choice>,
}

impl Text {
    async fn begin(opened: &Opened, nth: usize) -> Text {
        let decoder = &opened.decoder;
        let whole = nth == 0;
        let prompt = match nth {
            0 => opened.prompt.clone(),
            nth => opened.prompt[..1 + (opened.prompt.len() - 1) / nth].to_vec(),
        };
        // Another picture for each.
        let encoder = opened.encoder.iter().map(|(name, tensor)| {
            let values: Vec<f32> = tensor.to_f32_vec().unwrap().iter().map(|x| x * (1.0 + nth as f32 / 3.0)).collect();
            (*name, Tensor::from_slice(tensor.shape(), &values).unwrap())
        });
        let mut state = decoder.start(1, prompt.len() + NEW_TOKENS, encoder.collect());
        state.reserve(prompt.len() + NEW_TOKENS);
        let sampling = match nth {
            2 => Sampling { temperature: 0.8, seed: 5, ..Sampling::default() },
            3 => Sampling { repetition_penalty: 1.5, ..Sampling::default() },
            _ => Sampling::default(),
        };
        let embeddings = opened.embeddings.clone().filter(|_| whole);
        let feed = lenslet::generate::Feed { tokens: Some(&prompt), embeddings, mask: None };
        let made = decoder.choose(&mut state, feed, &sampling, &[&prompt]).await.unwrap();
        let history = [&prompt[..], &[made[0].token]].concat();
        Text { state, sampling, history, made }
    }

    fn step(&mut self) -> SharedStep<'_> {
        let token = self.made.last().unwrap().token;
        SharedStep { state: &mut self.state, token, sampling: self.sampling, history: &self.history }
    }

    fn take(&mut self, choice: Choice) {
        self.history.push(choice.token);
        self.made.push(choice);
    }
}

/// One step of all texts; how many each run of the graph served.
async fn step(decoder: &Decoder, texts: &mut [&mut Text]) -> Vec<usize> {
    let mut steps: Vec<SharedStep<'_>> = texts.iter_mut().map(|text| text.step()).collect();
    let (choices, runs) = decoder.choose_together(&mut steps).await;
    for (text, choice) in texts.iter_mut().zip(choices) {
        text.take(choice.unwrap());
    }
    runs
}

async fn alone(opened: &Opened, nth: usize) -> Vec<Choice> {
    let mut text = Text::begin(opened, nth).await;
    for _ in 1..NEW_TOKENS {
        assert_eq!(step(&opened.decoder, &mut [&mut text]).await, [1]);
    }
    text.made
}

/// Texts that join and leave at different times make what they make alone, to the last bit.
async fn check(opened: &Opened) -> usize {
    let decoder = &opened.decoder;
    let mut want = vec![];
    for nth in 0..4 {
        want.push(alone(opened, nth).await);
    }
    let (mut texts, mut over): (Vec<(usize, Text)>, Vec<(usize, Text)>) = (vec![], vec![]);
    let (mut begun, mut runs) = (0, vec![]);
    while over.len() < want.len() {
        // One more joins every second step.
        if begun < want.len() && runs.len() % 2 == 0 {
            texts.insert(begun / 2, (begun, Text::begin(opened, begun).await));
            begun += 1;
        }
        let mut rows: Vec<&mut Text> = texts.iter_mut().map(|(_, text)| text).collect();
        runs.push(step(decoder, &mut rows).await);
        let ended = texts.iter().position(|(_, text)| text.made.len() == NEW_TOKENS);
        ended.into_iter().for_each(|at| over.push(texts.remove(at)));
    }
    for (nth, text) in over {
        assert_eq!(text.made, want[nth], "text {nth}");
        let bits = |made: &[Choice]| made.iter().map(|c| c.log_probability.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&text.made), bits(&want[nth]), "text {nth}");
    }
    assert!(want[1..].iter().any(|made| *made != want[0]), "the texts are told apart");
    runs.iter().map(Vec::len).sum()
}

#[test]
fn each_text_is_what_it_is_alone() {
    let (Some(zoo), Some(options)) = (shared("zoo"), options(Backend::Cpu)) else { return };
    let (mut sharing, mut alone, mut failed) = (0, 0, vec![]);
    for folder in FOLDERS {
        let greedy = Greedy::parse(&read(zoo.join(folder).join("greedy.json"))).unwrap();
        for file in greedy.files.keys() {
            let onnx = |name: &str| zoo_file(&zoo, folder, name);
            let opened = pollster::block_on(greedy.open(file, &onnx, &options)).unwrap();
            let most = opened.decoder.most_together();
            if opened.decoder.quantizes_while_running() || copies(file).is_some() {
                assert_eq!(most, 1, "{folder}/{file}");
                alone += 1;
                continue;
            }
            if most < 4 {
                failed.push(format!("{folder}/{file}: {most} together"));
                continue;
            }
            let runs = pollster::block_on(check(&opened));
            assert!(runs < 4 * (NEW_TOKENS - 1), "{folder}/{file}: {runs} runs");
            sharing += 1;
        }
    }
    say(&format!("{sharing} decoders serve texts together, {alone} one by one"));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
