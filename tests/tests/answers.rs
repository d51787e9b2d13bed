//! Questions about pictures, with the zoo's models, against the same steps written out.

use std::path::{Path, PathBuf};

use lenslet::generate::{Decoder, Feed, Sampling};
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tasks::config::FolderConfig;
use lenslet::tasks::image::{Filter, Pixels, decode, resize};
use lenslet::tasks::text::TextEncoder;
use lenslet::tasks::writing::{Answerer, Resume, WritingFiles, WritingOptions};
use lenslet::tensor::{Bool, Tensor};
use lenslet::{Session, SessionOptions};
use lenslet_tests::backend::Backend;
use lenslet_tests::greedy::argmax;
use lenslet_tests::native::{options, read, shared};

const UNIFIED: &str = "zoo/smolvlm-256m-instruct/tiny";
const CROSS: &str = "zoo/blip-image-captioning-base/tiny";
const NEW_TOKENS: usize = 10;

/// As SmolVLM's, in short.
const TEMPLATE: &str = "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}:\
{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% elif p['type'] == 'image' %}{{ '<image>' }}\
{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// A folder of the zoo with its files; some replaced.
struct Model {
    folder: PathBuf,
    options: SessionOptions,
    preprocessor: Vec<u8>,
    tokenizer: Vec<u8>,
    template: Option<&'static str>,
}

impl Model {
    fn open(folder: &str, backend: Backend) -> Option<Model> {
        let (folder, options) = (shared(folder)?, options(backend)?);
        let preprocessor = read(folder.join("preprocessor_config.json"));
        let tokenizer = read(folder.join("tokenizer.json"));
        Some(Model { folder, options, preprocessor, tokenizer, template: None })
    }

    /// The model with a word for each of its decoder's `vocabulary`: the zoo's BLIP has fewer in its tokenizer.
    fn with_words(mut self, vocabulary: u64) -> Model {
        let mut json: serde_json::Value = serde_json::from_slice(&self.tokenizer).unwrap();
        let first = json["model"]["vocab"].as_object().unwrap().len() as u64;
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.extend((first..vocabulary).map(|id| {
            let word = format!("[word{id}]");
            serde_json::json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                               "normalized": false, "special": false})
        }));
        self.tokenizer = serde_json::to_vec(&json).unwrap();
        self
    }

    /// The model with pictures of 64 pixels cut into tiles of 32.
    fn tiled(mut self) -> Model {
        let mut json: serde_json::Value = serde_json::from_slice(&self.preprocessor).unwrap();
        json["size"]["longest_edge"] = 64.into();
        json["do_image_splitting"] = true.into();
        self.preprocessor = serde_json::to_vec(&json).unwrap();
        self
    }

    fn session(&self, name: &str) -> Session {
        let file = read(self.folder.join("onnx").join(name));
        Session::from_onnx(&file, &NoExternalData, &ImportOptions::default(), self.options.clone()).unwrap()
    }

    fn decoder(&self) -> Decoder {
        let file = read(self.folder.join("onnx/decoder_model_merged.onnx"));
        let decoder = Decoder::from_onnx(&file, &NoExternalData, self.options.clone()).unwrap();
        match decoder.embedding_width() {
            Some(_) => decoder.embed_with(self.session("embed_tokens.onnx")).unwrap(),
            None => decoder,
        }
    }

    fn encoder(&self) -> Session {
        let unified = self.folder.join("onnx/vision_encoder.onnx").exists();
        self.session(if unified { "vision_encoder.onnx" } else { "encoder_model.onnx" })
    }

    fn with_files<T>(&self, f: impl FnOnce(&WritingFiles<'_>) -> T) -> T {
        let [model, generation, tokenizer_config] =
            ["config.json", "generation_config.json", "tokenizer_config.json"].map(|name| read(self.folder.join(name)));
        f(&WritingFiles {
            model: Some(&model),
            generation: Some(&generation),
            tokenizer: &self.tokenizer,
            tokenizer_config: Some(&tokenizer_config),
            preprocessor: Some(&self.preprocessor),
            chat_template: self.template.map(str::as_bytes),
            ..WritingFiles::default()
        })
    }

    /// Without special tokens but those that the text names.
    fn ids(&self, text: &str) -> Vec<u32> {
        let tokenizer = TextEncoder::new(&self.tokenizer, &FolderConfig::default()).unwrap();
        tokenizer.tokenizer().encode(text, false).unwrap().get_ids().to_vec()
    }

    fn answerer(&self) -> Answerer {
        self.with_files(|files| Answerer::new(self.encoder(), self.decoder(), files)).unwrap()
    }
}

fn asked() -> WritingOptions {
    WritingOptions { max_new_tokens: Some(NEW_TOKENS), ..WritingOptions::default() }
}

/// Tokens of the answer, and tokens of the prompt that were read for it.
fn ask(answerer: &Answerer, picture: &Pixels, question: &str) -> (Vec<u32>, usize) {
    pollster::block_on(async {
        let mut stream = answerer.ask(picture, question, &asked()).await.unwrap();
        let text = stream.rest().await.unwrap();
        assert!(!text.is_empty());
        (stream.tokens().to_vec(), stream.usage().prompt_tokens)
    })
}

/// A picture with something in it.
fn picture(width: u32, height: u32, seed: u32) -> Pixels {
    let value = |x: u32, y: u32, c: u32| ((x * 7 + y * 13 + c * 40) ^ (x * y / 5 + seed * 29)) as u8;
    let rows = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c))));
    Pixels::from_rgb(width, height, rows.collect()).unwrap()
}

/// Planes of an RGB picture, normalised with mean and deviation of a half.
fn planes(picture: &Pixels) -> Vec<f32> {
    let plane = |c: usize| picture.data().iter().skip(c).step_by(3).map(|&b| (f32::from(b) / 255.0 - 0.5) / 0.5);
    (0..3).flat_map(plane).collect()
}

/// Greedy tokens after a prompt that is read in one piece.
fn continued(
    decoder: &Decoder,
    encoder: Vec<(&'static str, Tensor)>,
    tokens: &[u32],
    embeddings: Option<Tensor>,
    end: u32,
) -> Vec<u32> {
    pollster::block_on(async {
        let mut state = decoder.start(1, tokens.len() + NEW_TOKENS, encoder);
        let feed = Feed { tokens: Some(tokens), embeddings, mask: None };
        let mut logits = decoder.run(&mut state, feed).await.unwrap();
        let mut made = vec![];
        while made.len() < NEW_TOKENS {
            let token = argmax(logits.as_slice::<f32>().unwrap());
            if token == end {
                break;
            }
            made.push(token);
            logits = decoder.run(&mut state, Feed::tokens(&[token])).await.unwrap();
        }
        made
    })
}

/// The answer of the unified model, from squares [n, 3, 32, 32] and the prompt as text in pieces around the image tokens.
fn by_hand(model: &Model, squares: &[f32], pieces: &[&str]) -> Vec<u32> {
    let n = squares.len() / (3 * 32 * 32);
    let inputs = [
        ("pixel_values", Tensor::from_slice(&[1, n, 3, 32, 32], squares).unwrap()),
        ("pixel_attention_mask", Tensor::from_slice(&[1, n, 32, 32], &vec![Bool(1); n * 1024]).unwrap()),
    ];
    let features = model.encoder().run(&inputs).unwrap().remove(0).1;
    assert_eq!(features.shape(), [n, 4, 48]);
    let tokens = model.ids(&pieces.join("<image><image><image><image>"));
    let decoder = model.decoder();
    let embedded = pollster::block_on(decoder.embed(&tokens, 1)).unwrap();
    let mut values = embedded.as_slice::<f32>().unwrap().to_vec();
    let mut rows = features.as_slice::<f32>().unwrap().chunks(48);
    for (at, _) in tokens.iter().enumerate().filter(|(_, t)| **t == 510) {
        values[at * 48..][..48].copy_from_slice(rows.next().unwrap());
    }
    assert!(rows.next().is_none(), "{n} squares take their place");
    let embeddings = Tensor::from_slice(&[1, tokens.len(), 48], &values).unwrap();
    continued(&decoder, vec![], &tokens, Some(embeddings), 511)
}

fn unified(backend: Backend) {
    let Some(mut model) = Model::open(UNIFIED, backend) else { return };
    let picture = picture(50, 37, 1);
    // Longest edge 32: 32 x 23.68, cut to 23 and made even, then the square.
    let small = resize(&picture, 32, 24, Filter::Bicubic).unwrap();
    let square = planes(&resize(&small, 32, 32, Filter::Bicubic).unwrap());
    let (fake, whole) = ("<fake_token_around_image>", "<fake_token_around_image><global-img>");

    let question = " what is it?";
    let end = format!("{fake}{question}");
    let expected = by_hand(&model, &square, &[whole, &end]);
    assert_eq!(ask(&model.answerer(), &picture, question).0, expected, "without a template");

    model.template = Some(TEMPLATE);
    let start = format!("<|im_start|>User:{whole}");
    let end = format!("{fake}{question}<end_of_utterance>\nAssistant:");
    let expected = by_hand(&model, &square, &[&start, &end]);
    assert_eq!(ask(&model.answerer(), &picture, question).0, expected, "with a template");

    let model = model.tiled();
    // Longest edge 64: 64 x 47.36, cut to 47 and made even, then whole tiles.
    let first = resize(&picture, 64, 48, Filter::Bicubic).unwrap();
    let large = resize(&first, 64, 64, Filter::Bicubic).unwrap();
    let mut squares = vec![];
    for (x, y) in [(0, 0), (32, 0), (0, 32), (32, 32)] {
        let rows = (y..y + 32).flat_map(|y| large.data()[(y * 64 + x) * 3..][..96].to_vec());
        squares.extend(planes(&Pixels::from_rgb(32, 32, rows.collect()).unwrap()));
    }
    squares.extend(planes(&resize(&large, 32, 32, Filter::Bicubic).unwrap()));
    let tile = |before: &str, row: usize, column: usize| format!("{before}{fake}<row_{row}_col_{column}>");
    let pieces = [
        tile("<|im_start|>User:", 1, 1),
        tile("", 1, 2),
        tile("\n", 2, 1),
        tile("", 2, 2),
        format!("\n\n{whole}"),
        end,
    ];
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let expected = by_hand(&model, &squares, &pieces);
    let got = ask(&model.answerer(), &picture, question).0;
    assert_eq!(got, expected, "in tiles");
    assert_eq!(ask(&model.answerer(), &picture, question).0, got, "every time");
}

/// What the npm package must answer (`tests/browser/pictures/answers.mjs`), from the same file of a picture.
fn golden(backend: Backend) {
    let Some(model) = Model::open(UNIFIED, backend) else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden: serde_json::Value = serde_json::from_slice(&read(root.join("goldens/answers.json"))).unwrap();
    let picture = decode(&read(root.join("..").join(golden["picture"].as_str().unwrap()))).unwrap();
    let answerer = model.answerer();
    let answers = golden["answers"].as_array().unwrap().iter().map(|entry| {
        pollster::block_on(async {
            let question = entry["question"].as_str().unwrap();
            let mut stream = answerer.ask(&picture, question, &asked()).await.unwrap();
            let text = stream.rest().await.unwrap();
            serde_json::json!({ "question": question, "text": text, "promptTokens": stream.usage().prompt_tokens })
        })
    });
    assert_eq!(serde_json::Value::Array(answers.collect()), golden["answers"]);
    assert_eq!(answerer.work().pictures_encoded, 1);
}

#[test]
fn the_page_has_the_cpus_answers() {
    golden(Backend::Cpu);
}

#[test]
fn the_page_has_the_gpus_answers() {
    golden(Backend::Gpu);
}

#[test]
fn a_unified_decoder_answers_on_the_cpu() {
    unified(Backend::Cpu);
}

#[test]
fn a_unified_decoder_answers_on_the_gpu() {
    unified(Backend::Gpu);
}

/// The second question about a picture runs neither encoder nor prefix, and is answered as from scratch.
fn reuse(model: &Model) {
    let (first, second) = (picture(50, 37, 1), picture(37, 50, 2));
    let answerer = model.answerer();
    let (_, whole) = ask(&answerer, &first, " what is it?");
    let once = answerer.work();
    assert_eq!(once.pictures_encoded, 1);
    assert!(once.prefix_positions > 0);
    let question = " which colour, and why there?";
    let (reused, read) = ask(&answerer, &first, question);
    assert_eq!(answerer.work(), once, "nothing of the picture is computed again");
    let fresh = model.answerer();
    let (scratch, all) = ask(&fresh, &first, question);
    assert_eq!(reused, scratch);
    assert_eq!((read, all), (all - once.prefix_positions, read + fresh.work().prefix_positions));
    assert!(whole > once.prefix_positions);
    // An answer does not grow into what is kept.
    assert_eq!(ask(&answerer, &first, question).0, scratch);
    assert_eq!(answerer.work(), once);

    let (other, _) = ask(&answerer, &second, question);
    assert_eq!(answerer.work().pictures_encoded, 2);
    assert_eq!(other, ask(&model.answerer(), &second, question).0);
    assert_ne!(other, scratch, "the answer depends on the picture");
    answerer.forget();
    ask(&answerer, &second, question);
    assert_eq!(answerer.work().pictures_encoded, 3);
}

#[test]
fn a_second_question_reuses_the_prefix_on_the_cpu() {
    let Some(mut model) = Model::open(UNIFIED, Backend::Cpu) else { return };
    model.template = Some(TEMPLATE);
    reuse(&model.tiled());
}

#[test]
fn a_second_question_reuses_the_prefix_on_the_gpu() {
    let Some(mut model) = Model::open(UNIFIED, Backend::Gpu) else { return };
    model.template = Some(TEMPLATE);
    reuse(&model);
}

fn cross(backend: Backend) {
    let Some(model) = Model::open(CROSS, backend) else { return };
    let model = model.with_words(512);
    let picture = picture(50, 37, 3);
    let square = resize(&picture, 32, 32, Filter::Bicubic).unwrap();
    let (mean, std) = ([0.48145466f64, 0.4578275, 0.40821073], [0.26862954f64, 0.26130258, 0.27577711]);
    let pixels: Vec<f32> = (0..3)
        .flat_map(|c| square.data().iter().skip(c).step_by(3).map(move |&b| (f64::from(b) / 255.0 - mean[c]) / std[c]))
        .map(|v| v as f32)
        .collect();
    let pixels = Tensor::from_slice(&[1, 3, 32, 32], &pixels).unwrap();
    let encoder = model.encoder();
    let pixels = [("pixel_values", pixels)];
    let encoded = pollster::block_on(encoder.run_for(&pixels, &["last_hidden_state"])).unwrap().remove(0);
    let question = "a picture of";
    let tokens = [&[510][..], &model.ids(question)].concat();
    let expected = continued(&model.decoder(), vec![("encoder_hidden_states", encoded)], &tokens, None, 3);
    assert_eq!(ask(&model.answerer(), &picture, question).0, expected);
    reuse(&model);
}

#[test]
fn an_encoder_decoder_answers_on_the_cpu() {
    cross(Backend::Cpu);
}

#[test]
fn an_encoder_decoder_answers_on_the_gpu() {
    cross(Backend::Gpu);
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(model) = Model::open(UNIFIED, Backend::Cpu) else { return };
    let answerer = model.answerer();
    let refuse = |question: &str, asked: &WritingOptions| {
        pollster::block_on(answerer.ask(&picture(9, 9, 0), question, asked)).err().unwrap().kind()
    };
    assert_eq!(refuse("what is <image>?", &asked()), "question_image_token");
    let sampling = Some(Sampling { temperature: 1.0, ..Sampling::default() });
    let both = WritingOptions { beams: Some(2), sampling, ..asked() };
    assert_eq!(refuse("what is it?", &both), "beams_and_temperature");
    assert_eq!(refuse(&"very long ".repeat(9000), &asked()), "context_full");

    // A decoder without the graph of its embeddings, one that sees nothing, and a table of another model.
    let file = |folder: &str, name: &str| read(shared(folder).unwrap().join("onnx").join(name));
    let bare = |folder: &str, name: &str| {
        Decoder::from_onnx(&file(folder, name), &NoExternalData, model.options.clone()).unwrap()
    };
    let kind = |decoder| model.with_files(|f| Answerer::new(model.encoder(), decoder, f)).err().unwrap().kind();
    assert_eq!(kind(bare(UNIFIED, "decoder_model_merged.onnx")), "model_incomplete");
    assert_eq!(kind(bare("zoo/smollm2-135m/tiny", "decoder_model_merged.onnx")), "model_incomplete");
    let table = model.session("embed_tokens.onnx");
    let error = bare("zoo/smollm2-135m/tiny", "decoder_model_merged.onnx").embed_with(table).err().unwrap();
    assert_eq!(error.kind(), "decoder_mismatch");
    let wrong = bare(UNIFIED, "decoder_model_merged.onnx").embed_with(model.encoder()).err().unwrap();
    assert_eq!(wrong.kind(), "decoder_mismatch");
}

/// A text that is cut behind any of its tokens goes on with those that it would have had, greedy or drawn, and nothing of it is
/// given out twice.
fn resumes(folder: &str, words: Option<u64>, backend: Backend) {
    let Some(mut model) = Model::open(folder, backend) else { return };
    model.template = words.is_none().then_some(TEMPLATE);
    if let Some(words) = words {
        model = model.with_words(words);
    }
    let (answerer, picture, question) = (model.answerer(), picture(50, 37, 1), "what is it?");
    let drawn = Sampling { temperature: 1.0, repetition_penalty: 1.2, seed: 5, ..Sampling::default() };
    for sampling in [Sampling::default(), drawn] {
        let asked = WritingOptions { sampling: Some(sampling), ..asked() };
        let written = |asked: &WritingOptions| {
            pollster::block_on(async {
                let mut stream = answerer.ask(&picture, question, asked).await.unwrap();
                let (mut pieces, mut counts) = (vec![], vec![]);
                while let Some(piece) = stream.next().await.unwrap() {
                    pieces.push(piece);
                    counts.push(stream.tokens().len());
                }
                assert_eq!(stream.usage().completion_tokens, stream.tokens().len());
                (pieces, counts, stream.tokens().to_vec(), stream.finish_reason())
            })
        };
        let (pieces, counts, tokens, finish) = written(&asked);
        assert!(tokens.len() > 3, "{tokens:?}");
        for (at, &count) in counts.iter().enumerate() {
            let resume = Some(Resume::Tokens(tokens[..count].to_vec()));
            let (rest, _, all, ended) = written(&WritingOptions { resume, ..asked.clone() });
            assert_eq!((rest.concat(), &all, ended), (pieces[at + 1..].concat(), &tokens, finish), "behind {count}");
        }
    }
    let refuse =
        |asked: &WritingOptions| pollster::block_on(answerer.ask(&picture, question, asked)).err().unwrap().kind();
    let resume = |tokens: Vec<u32>| WritingOptions { resume: Some(Resume::Tokens(tokens)), ..asked() };
    assert_eq!(refuse(&resume(vec![1, 1_000_000])), "unknown_token");
    assert_eq!(refuse(&WritingOptions { beams: Some(2), ..resume(vec![1]) }), "beams_and_resume");
}

#[test]
fn an_answer_that_was_cut_goes_on() {
    resumes(UNIFIED, None, Backend::Cpu);
    resumes(CROSS, Some(512), Backend::Cpu);
}

#[test]
fn an_answer_that_was_cut_goes_on_on_the_gpu() {
    resumes(UNIFIED, None, Backend::Gpu);
}
