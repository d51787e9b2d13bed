//! Sequences that share runs of a decoder: each goes on as it does alone, whoever its companions are, wherever they stand.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use lenslet::generate::{
    Choice, Decoder, Feed, Finish, GenerateOptions, Generation, Prompt, Sampling, SharedStep, SharedSteps, State,
};
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
        let feed = Feed { tokens: Some(&prompt), embeddings, mask: None };
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
    let mut texts: Vec<(usize, Text)> = vec![];
    let mut over: Vec<(usize, Text)> = vec![];
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

/// What is wrong with a step is its text's own: it stays as it was, and its companions go on.
#[test]
fn what_is_wrong_with_one_text_is_no_matter_to_the_others() {
    let (Some(zoo), Some(options)) = (shared("zoo"), options(Backend::Cpu)) else { return };
    let folder = "smollm2-135m/tiny";
    let greedy = Greedy::parse(&read(zoo.join(folder).join("greedy.json"))).unwrap();
    let onnx = |name: &str| zoo_file(&zoo, folder, name);
    pollster::block_on(async {
        let opened = greedy.open("model.onnx", &onnx, &options).await.unwrap();
        let decoder = &opened.decoder;
        let mut full = decoder.start(1, opened.prompt.len(), vec![]);
        decoder.run(&mut full, Feed::tokens(&opened.prompt)).await.unwrap();
        let (mut one, mut other) = (Text::begin(&opened, 0).await, Text::begin(&opened, 1).await);
        let (mut strange, mut pair) = (one.state.clone(), decoder.start(2, 8, vec![]));
        decoder.run(&mut pair, Feed::tokens(&[1, 2])).await.unwrap();
        let mut new = decoder.start(1, 8, vec![]);
        let step = |state, token| SharedStep { state, token, sampling: Sampling::default(), history: &[] };
        let mut steps = [
            step(&mut full, 1),
            one.step(),
            step(&mut strange, u32::MAX),
            step(&mut pair, 3),
            other.step(),
            step(&mut new, 5),
        ];
        let (choices, runs) = decoder.choose_together(&mut steps).await;
        let kinds: Vec<&str> = choices.iter().map(|c| c.as_ref().map_or_else(|e| e.kind(), |_| "")).collect();
        assert_eq!(kinds, ["context_full", "", "unknown_token", "decoder_mismatch", "", ""]);
        assert_eq!(runs[0], 2, "those that can share a run do: {runs:?}");
        let got = [&choices[1], &choices[4]].map(|c| c.as_ref().unwrap().token);
        let wanted = [alone(&opened, 0).await, alone(&opened, 1).await].map(|made| made[1].token);
        assert_eq!(got, wanted);
        let positions = [&full, &strange, &pair, &new].map(State::positions);
        assert_eq!(positions, [opened.prompt.len(), opened.prompt.len(), 1, 1]);
        assert!(decoder.choose_together(&mut []).await.0.is_empty());
    });
}

/// What became of a text: its tokens, and why there are no more.
type Written = (Vec<u32>, Option<Finish>);

/// A text as its reader leads it: a future that is polled on.
struct Led<'d> {
    future: Pin<Box<dyn Future<Output = Written> + 'd>>,
    done: Option<Written>,
}

impl<'d> Led<'d> {
    /// The first prompt whole, the others a part of it.
    fn begin(opened: &'d Opened, nth: usize, steps: Option<&'d std::sync::Arc<SharedSteps>>) -> Led<'d> {
        let future = async move {
            let prompt = Prompt::from(opened.prompt[..opened.prompt.len() - nth].to_vec());
            let options = GenerateOptions { max_new_tokens: NEW_TOKENS + nth, ..GenerateOptions::default() };
            let mut generation = Generation::begin(&opened.decoder, opened.start(64), prompt, options).await.unwrap();
            if let Some(steps) = steps {
                generation.share(steps);
            }
            let mut tokens = vec![];
            while let Some(choice) = generation.next().await.unwrap() {
                tokens.push(choice.token);
            }
            assert_eq!(generation.state().positions(), opened.prompt.len() - nth + tokens.len() - 1);
            (tokens, generation.finished())
        };
        Led { future: Box::pin(future), done: None }
    }

    fn poll(&mut self) {
        if self.done.is_none()
            && let Poll::Ready(done) = self.future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.done = Some(done);
        }
    }
}

/// Texts that leave their steps to be taken join in the middle of others, are dropped, and make room for the next.
#[test]
fn texts_leave_their_steps_and_go_on_once_they_are_taken() {
    let (Some(zoo), Some(options)) = (shared("zoo"), options(Backend::Cpu)) else { return };
    for folder in ["smollm2-135m/tiny", "vit-gpt2-image-captioning/tiny"] {
        let greedy = Greedy::parse(&read(zoo.join(folder).join("greedy.json"))).unwrap();
        let onnx = |name: &str| zoo_file(&zoo, folder, name);
        let opened = pollster::block_on(greedy.open("decoder_model_merged.onnx", &onnx, &options)).unwrap();
        let prompts = opened.prompt.len().min(3);
        let wanted: Vec<_> =
            (0..prompts).map(|nth| pollster::block_on(Led::begin(&opened, nth, None).future)).collect();
        let steps = SharedSteps::new();
        let run = || pollster::block_on(steps.run(&opened.decoder));
        assert!(run().is_empty(), "nothing was left");
        let mut texts = vec![Led::begin(&opened, 0, Some(&steps))];
        for at in 0..30 {
            texts.iter_mut().for_each(Led::poll);
            let waiting = texts.iter().filter(|text| text.done.is_none()).count();
            assert_eq!(steps.waiting(), waiting);
            if at == 3 {
                // A text that is dropped takes its step with it.
                texts.truncate(1);
                assert_eq!(steps.waiting(), 1);
            }
            let served: usize = run().into_iter().sum();
            assert_eq!(served, texts.iter().filter(|text| text.done.is_none()).count());
            if at == 1 || at == 4 {
                texts.extend((1..prompts).map(|nth| Led::begin(&opened, nth, Some(&steps))));
            }
        }
        let got: Vec<_> = texts.into_iter().map(|text| text.done.unwrap()).collect();
        assert_eq!(got, wanted, "{folder}");
    }
}
