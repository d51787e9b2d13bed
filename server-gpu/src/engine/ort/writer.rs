//! Texts of decoders in ONNX Runtime.
//!
//! The caches of a text are values of ONNX Runtime, bound to the device as outputs of one step and as inputs of the next: they do not
//! come to the host. The logits do, one row a step, and the runtime's own sampler chooses from them, so that the same seed
//! gives the same text on every engine.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use lenslet::generate::sampler::{HISTORY, PARAMS, TOKEN, append_sampler};
use lenslet::generate::{ChatFiles, ChatOptions, ChatTemplate, GenerateOptions};
use lenslet::graph::{Dim, Fact, Graph};
use lenslet::tasks::config::{ConfigFiles, FolderConfig};
use lenslet::tasks::image::{Pixels, Preprocessor};
use lenslet::tasks::writing::{Pieces, Settings, WritingError};
use lenslet::tensor::{DType, Tensor};
use lenslet::{Session as Runtime, SessionOptions};
use lenslet_models::folder::{ModelFolder, Precision};
use lenslet_models::writing::Beside;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::DynValue;

use super::{library, tensor};
use crate::chat::ChatPrompt;
use crate::config::{Config, Device};
use crate::engine::{Step, TensorSpec, WriterKind};
use crate::error::ServeError;
use crate::hosted::Form;

const PAST: &str = "past_key_values.";
const PRESENT: &str = "present.";
const LOGITS: &str = "logits";
const ENCODED: &str = "encoder_hidden_states";

/// A captioner or a language model.
pub(super) struct OrtWriter {
    eyes: Option<(Mutex<Session>, Preprocessor)>,
    decoder: Mutex<Session>,
    /// The decoder's inputs.
    inputs: Vec<TensorSpec>,
    /// The parts of its caches' names behind the prefix.
    caches: Vec<String>,
    sampler: Runtime,
    settings: Settings,
    chat: Option<ChatTemplate>,
    /// Where caches lie.
    memory: (AllocationDevice, i32),
    pub(super) kind: WriterKind,
}

/// A text under way.
pub(super) struct Text {
    caches: Vec<DynValue>,
    encoded: Option<DynValue>,
    /// Tokens that are read next.
    unread: Vec<u32>,
    /// Tokens of a text that was begun elsewhere, which are read behind these.
    resumed: VecDeque<u32>,
    /// Positions that are read.
    positions: usize,
    calls: u64,
    history: Vec<u32>,
    made: usize,
    options: GenerateOptions,
    limit: usize,
    pieces: Pieces,
    prompt_tokens: usize,
}

fn failed(error: impl std::fmt::Display) -> ServeError {
    ServeError::internal("ort_text", error.to_string())
}

fn writing(error: WritingError) -> ServeError {
    super::super::lenslet::writing_error(error)
}

impl OrtWriter {
    /// Loads a model's folder: a captioner, or a language model in one graph.
    pub(super) fn load(
        folder: &ModelFolder,
        form: Form,
        precision: Precision,
        config: &Config,
    ) -> Result<OrtWriter, ServeError> {
        let file = |stem| folder.file(stem, precision).map_err(|e| ServeError::internal(e.kind(), e.to_string()));
        let unsupported = |what: &str| {
            let what = format!("the ort engine {what}; serve {} with --engine lenslet", folder.name());
            ServeError::internal("ort_form", what)
        };
        let kind = match form {
            Form::Captioner => WriterKind::Captioner,
            Form::Text => WriterKind::Text,
            _ => return Err(unsupported("does not put pictures into prompts")),
        };
        let path: Option<PathBuf> = match file("decoder_model_merged")? {
            Some(path) => Some(path),
            None => file("model")?,
        };
        let path = path.ok_or_else(|| unsupported("wants a decoder in one graph (decoder_model_merged or model)"))?;
        let beside = Beside::read(folder).map_err(|e| ServeError::internal(e.kind(), e.to_string()))?;
        let files = beside.files();
        let settings = Settings::new(&files).map_err(writing)?;
        let eyes = match kind {
            WriterKind::Captioner => {
                let encoder = file("encoder_model")?.ok_or_else(|| unsupported("wants an encoder_model"))?;
                let files = ConfigFiles { preprocessor: files.preprocessor, ..ConfigFiles::default() };
                let config_of_pictures = FolderConfig::parse(&files).map_err(failed)?.preprocessor;
                let missing = || ServeError::internal("model_incomplete", "the folder has no preprocessor_config.json");
                let preprocessor =
                    Preprocessor::from_config(&config_of_pictures.ok_or_else(missing)?).map_err(failed)?;
                Some((Mutex::new(library::open(&encoder, config)?), preprocessor))
            }
            _ => None,
        };
        let chat_files = ChatFiles {
            jinja: files.chat_template,
            json: files.chat_template_json,
            tokenizer_config: files.tokenizer_config,
            special_tokens: files.special_tokens,
        };
        let decoder = library::open(&path, config)?;
        let specs = decoder.inputs().iter().map(|input| tensor::spec(input.name(), input.dtype()));
        let inputs: Vec<TensorSpec> = specs.collect::<Result<_, _>>()?;
        let caches: Vec<String> =
            inputs.iter().filter_map(|input| input.name.strip_prefix(PAST)).map(str::to_owned).collect();
        let known = |input: &TensorSpec| {
            const NAMES: [&str; 5] = ["input_ids", "attention_mask", "position_ids", "use_cache_branch", ENCODED];
            NAMES.contains(&input.name.as_str())
                || input.name == "encoder_attention_mask"
                || input.name.starts_with(PAST)
        };
        if let Some(other) = inputs.iter().find(|input| !known(input)) {
            return Err(unsupported(&format!("does not know the decoder's input {}", other.name)));
        }
        let logits = decoder.outputs().iter().find(|output| output.name() == LOGITS);
        let logits = logits.ok_or_else(|| unsupported("wants a decoder with an output logits"))?;
        let vocabulary = tensor::spec(LOGITS, logits.dtype())?.shape.last().copied().flatten();
        let vocabulary = vocabulary.ok_or_else(|| unsupported("wants a decoder whose vocabulary is known"))?;
        let memory = match config.device {
            Device::Cuda | Device::Tensorrt => (AllocationDevice::CUDA, config.ort.device_id),
            _ => (AllocationDevice::CPU, 0),
        };
        Ok(OrtWriter {
            eyes,
            decoder: Mutex::new(decoder),
            inputs,
            caches,
            sampler: sampler(vocabulary)?,
            settings,
            chat: ChatTemplate::from_files(&chat_files, None).ok(),
            memory,
            kind,
        })
    }

    /// Begins a text: looks at the picture, or writes the conversation down.
    pub(super) fn begin(&self, prompt: &ChatPrompt) -> Result<Text, ServeError> {
        let asked = prompt.options(self.settings.generation.sampling(0).map_err(failed)?);
        let mut pieces = Pieces::new(self.settings.tokenizer.clone(), &asked.stop).map_err(writing)?;
        let (mut encoded, tokens) = (
            None,
            match &self.eyes {
                Some(_) => vec![self.settings.start().map_err(writing)?],
                None => self.tokens(prompt)?,
            },
        );
        if self.eyes.is_some() {
            encoded = Some(self.see(prompt.picture()?)?);
            pieces = pieces.without_leading_space();
        }
        let written = self.settings.resumed(&asked).map_err(writing)?;
        pieces.resume(&written).map_err(writing)?;
        let options = self.settings.options(&asked, tokens.len()).map_err(writing)?;
        let limit = self.settings.limit(tokens.len(), &options);
        if let Some(id) = written.iter().find(|&&id| id as usize >= self.settings.tokens()) {
            let what = format!("{id} is no token of this model");
            return Err(ServeError::bad_request("unknown_token", what).at("lenslet"));
        }
        let history = [tokens.clone(), written.clone()].concat();
        if tokens.is_empty() || history.len() > limit {
            let what = format!("the prompt has {} tokens; it must have 1 to {limit}", history.len());
            return Err(ServeError::bad_request("context_full", what));
        }
        Ok(Text {
            caches: vec![],
            encoded,
            positions: 0,
            calls: written.len() as u64,
            history,
            made: written.len(),
            options,
            limit,
            pieces,
            prompt_tokens: tokens.len(),
            unread: tokens,
            resumed: written.into(),
        })
    }

    /// The conversation in tokens.
    fn tokens(&self, prompt: &ChatPrompt) -> Result<Vec<u32>, ServeError> {
        prompt.no_picture()?;
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let (text, special) = match &self.chat {
            // The template writes the special tokens.
            Some(chat) => {
                let text = chat.render(&prompt.messages(), &options);
                (text.map_err(|e| ServeError::bad_request(e.kind(), e.to_string()))?, false)
            }
            None => (prompt.question(), true),
        };
        self.settings.encode(&text, special).map_err(writing)
    }

    /// What the decoder attends to.
    fn see(&self, picture: &Pixels) -> Result<DynValue, ServeError> {
        let Some((encoder, preprocessor)) = &self.eyes else { return Err(failed("this model does not see")) };
        let pixels = preprocessor.process(picture).map_err(|e| ServeError::bad_request(e.kind(), e.to_string()))?;
        let input = ort::value::Tensor::from_array((pixels.shape, pixels.data)).map_err(failed)?;
        let mut encoder = encoder.lock().unwrap_or_else(PoisonError::into_inner);
        let name = encoder.inputs().first().ok_or_else(|| failed("the encoder has no input"))?.name().to_owned();
        let all = encoder.outputs();
        let output = all.iter().find(|output| output.name() == "last_hidden_state").or(all.first());
        let output = output.ok_or_else(|| failed("the encoder has no output"))?.name().to_owned();
        let mut binding = encoder.create_binding().map_err(failed)?;
        binding.bind_input(&name, &input).map_err(failed)?;
        binding.bind_output_to_device(&output, &self.device()?).map_err(failed)?;
        let mut outputs = encoder.run_binding(&binding).map_err(|e| super::run_error(&e))?;
        outputs.remove(&output).ok_or_else(|| failed("the encoder gave nothing"))
    }

    fn device(&self) -> Result<MemoryInfo<'static>, ServeError> {
        MemoryInfo::new(self.memory.0, self.memory.1, AllocatorType::Device, MemoryType::Default).map_err(failed)
    }

    /// Leads a text one token on.
    pub(super) fn step(&self, text: &mut Text) -> Result<Step, ServeError> {
        if text.pieces.stopped() {
            return text.end("stop");
        }
        if text.made >= text.options.max_new_tokens || text.positions >= text.limit {
            return text.end("length");
        }
        let logits = self.run(text)?;
        // One at a time, as they were written: a graph that quantizes while running finds one scale for all that it reads at once.
        if let Some(token) = text.resumed.pop_front() {
            text.unread = vec![token];
            return Ok(text.step());
        }
        let token = self.choose(text, &logits)?;
        text.calls += 1;
        if text.options.end.contains(&token) {
            return text.end("stop");
        }
        text.made += 1;
        text.history.push(token);
        text.unread = vec![token];
        let piece = text.pieces.push(token).map_err(writing)?;
        let finish = text.pieces.stopped().then_some("stop");
        Ok(Step { text: piece, tokens: vec![token], finish, ..text.step() })
    }

    /// Reads what is unread, and returns the logits f32 \[1, vocabulary\] behind it.
    fn run(&self, text: &mut Text) -> Result<Tensor, ServeError> {
        let (first, new) = (text.caches.is_empty(), text.unread.len());
        let mut decoder = self.decoder.lock().unwrap_or_else(PoisonError::into_inner);
        let mut binding = decoder.create_binding().map_err(failed)?;
        let integers = |values: Vec<i64>| {
            let tensor = ort::value::Tensor::from_array(([1, values.len()], values));
            tensor.map(|tensor| tensor.into_dyn()).map_err(failed)
        };
        let mut bound = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let value = match input.name.as_str() {
                "input_ids" => integers(text.unread.iter().map(|&id| i64::from(id)).collect())?,
                "attention_mask" => integers(vec![1; text.positions + new])?,
                "position_ids" => integers((text.positions as i64..).take(new).collect())?,
                "use_cache_branch" => {
                    ort::value::Tensor::from_array(([1usize], vec![!first])).map_err(failed)?.into_dyn()
                }
                ENCODED => {
                    let encoded = text.encoded.as_ref().ok_or_else(|| failed("there is no picture"))?;
                    binding.bind_input(ENCODED, encoded).map_err(failed)?;
                    continue;
                }
                "encoder_attention_mask" => {
                    let rows = text.encoded.as_ref().and_then(|encoded| encoded.shape().get(1).copied()).unwrap_or(1);
                    integers(vec![1; usize::try_from(rows).unwrap_or(1)])?
                }
                // A new text has no rows in its caches.
                _ if first => empty(input)?,
                name => {
                    let at = self.caches.iter().position(|cache| name.strip_prefix(PAST) == Some(cache));
                    let cache = at.and_then(|at| text.caches.get(at)).ok_or_else(|| failed("a cache is missing"))?;
                    binding.bind_input(name, cache).map_err(failed)?;
                    continue;
                }
            };
            binding.bind_input(&input.name, &value).map_err(failed)?;
            bound.push(value);
        }
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default);
        binding.bind_output_to_device(LOGITS, &host.map_err(failed)?).map_err(failed)?;
        let device = self.device()?;
        for cache in &self.caches {
            binding.bind_output_to_device(format!("{PRESENT}{cache}"), &device).map_err(failed)?;
        }
        let mut outputs = decoder.run_binding(&binding).map_err(|e| super::run_error(&e))?;
        for (at, cache) in self.caches.iter().enumerate() {
            let fresh =
                outputs.remove(format!("{PRESENT}{cache}")).ok_or_else(|| failed("a cache did not come back"))?;
            if first {
                text.caches.push(fresh);
            } else if !is_fixed(cache) {
                text.caches[at] = fresh;
            }
        }
        let logits = tensor::output(outputs.get(LOGITS).ok_or_else(|| failed("there are no logits"))?)?;
        text.positions += new;
        last_row(&logits)
    }

    fn choose(&self, text: &Text, logits: &Tensor) -> Result<u32, ServeError> {
        let sampling = &text.options.sampling;
        let history: Vec<i64> = match sampling.needs_history() {
            true => text.history.iter().map(|&id| i64::from(id)).collect(),
            false => vec![-1],
        };
        let history = Tensor::from_slice(&[1, history.len()], &history).map_err(failed)?;
        let params = sampling.params(text.calls, 1).map_err(failed)?;
        let inputs = [(LOGITS, logits.clone()), (PARAMS, params), (HISTORY, history)];
        let chosen = pollster::block_on(self.sampler.run_for(&inputs, &[TOKEN])).map_err(failed)?;
        let token = chosen[0].to_i64_vec().and_then(|ids| ids.first().copied());
        token.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| failed("no token was chosen"))
    }
}

impl Text {
    fn step(&self) -> Step {
        Step { prompt_tokens: self.prompt_tokens, completion_tokens: self.made, ..Step::default() }
    }

    fn end(&mut self, finish: &'static str) -> Result<Step, ServeError> {
        let rest = self.pieces.finish().map_err(writing)?;
        let finish = if self.pieces.stopped() { "stop" } else { finish };
        Ok(Step { text: rest, finish: Some(finish), ..self.step() })
    }
}

/// Whether a cache belongs to cross-attention: made once, from what the encoder gave.
fn is_fixed(cache: &str) -> bool {
    cache.contains("encoder.") && !cache.contains("decoder.")
}

/// A cache without rows.
fn empty(spec: &TensorSpec) -> Result<DynValue, ServeError> {
    let size = |(axis, size): (usize, &Option<usize>)| size.unwrap_or(usize::from(axis == 0));
    let shape: Vec<usize> = spec.shape.iter().enumerate().map(size).collect();
    let allocator = Allocator::default();
    let value = match spec.dtype {
        DType::F32 => ort::value::Tensor::<f32>::new(&allocator, shape).map(|tensor| tensor.into_dyn()),
        DType::F16 => ort::value::Tensor::<half::f16>::new(&allocator, shape).map(|tensor| tensor.into_dyn()),
        other => return Err(failed(format!("the cache {} is of type {other}", spec.name))),
    };
    value.map_err(failed)
}

/// The logits of the last position.
fn last_row(logits: &Tensor) -> Result<Tensor, ServeError> {
    let values = logits.to_f32_vec().ok_or_else(|| failed("the logits are no floats"))?;
    let vocabulary = logits.shape().last().copied().unwrap_or(0);
    let row = values.len().checked_sub(vocabulary).and_then(|from| values.get(from..));
    let row = row.filter(|row| !row.is_empty()).ok_or_else(|| failed("the logits are empty"))?;
    if row.iter().any(|x| x.is_nan()) {
        return Err(ServeError::internal("not_a_number", "the decoder gave logits that are no numbers"));
    }
    Tensor::from_slice(&[1, vocabulary], row).map_err(failed)
}

/// A graph that is nothing but the sampler.
fn sampler(vocabulary: usize) -> Result<Runtime, ServeError> {
    let mut graph = Graph::new();
    let size = i64::try_from(vocabulary).map_err(failed)?;
    let logits = graph.add_input(LOGITS, Fact::new(DType::F32, vec![Dim::Const(1), Dim::Const(size)]));
    append_sampler(&mut graph, logits, true).map_err(failed)?;
    Ok(Runtime::new(graph, SessionOptions { threads: 1, ..SessionOptions::default() }))
}
