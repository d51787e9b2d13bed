//! Text from decoders: captions, answers, chats, piece by piece.
//!
//! A folder as on the Hugging Face hub says how a model writes: `generation_config.json` how tokens are chosen and which end a
//! text, `config.json` how long a text can be, `tokenizer.json` what tokens mean, a chat template how a conversation is
//! written down.

pub mod answerer;
pub mod captioner;
mod eyes;
mod image_prompt;
pub mod stream;
pub mod text_generator;

use std::sync::Arc;

use serde::Deserialize;
use tokenizers::Tokenizer;

pub use answerer::{Answerer, Work};
pub use captioner::Captioner;
pub use stream::{TextStream, Usage};
pub use text_generator::TextGenerator;

use super::config::ConfigError;
use super::image::ImageError;
use super::text::TextError;
use crate::error::RunError;
use crate::generate::{
    BeamGeneration, BeamOptions, Decoder, DecoderError, DetokenizeError, GenerateOptions, Generation, GenerationConfig,
    Prompt, Sampling, SamplingError, State, StopError,
};
#[cfg(feature = "chat")]
use crate::generate::{ChatError, ChatFiles, ChatTemplate};

/// Why a text could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WritingError {
    /// The decoder.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `generation_config.json`, or settings that the caller gave.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Tokens that cannot become text.
    #[error(transparent)]
    Detokenize(#[from] DetokenizeError),
    /// Stop strings.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The chat template.
    #[cfg(feature = "chat")]
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The picture.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The question has the text that stands for a picture: where the picture belongs would be a guess.
    #[error("the question contains {token}, which stands for the picture; leave it out")]
    ImageToken {
        /// The text.
        token: String,
    },
    /// Beams compare whole texts, a draw follows one.
    #[error("{beams} beams and a temperature of {temperature} exclude each other; leave one out")]
    BeamsAndTemperature {
        /// Beams asked for.
        beams: usize,
        /// Temperature asked for.
        temperature: f32,
    },
    /// The image encoder.
    #[error("the image encoder failed: {0}")]
    Encoder(#[from] RunError),
    /// A file of the folder does not say what is needed.
    #[error("{0}")]
    Incomplete(String),
}

impl WritingError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Decoder(e) => e.kind(),
            Self::Config(e) => e.kind(),
            Self::Sampling(e) => e.kind(),
            Self::Text(e) => e.kind(),
            Self::Detokenize(e) => e.kind(),
            Self::Stop(e) => e.kind(),
            #[cfg(feature = "chat")]
            Self::Chat(e) => e.kind(),
            Self::Image(e) => e.kind(),
            Self::ImageToken { .. } => "question_image_token",
            Self::BeamsAndTemperature { .. } => "beams_and_temperature",
            Self::Encoder(e) => e.kind(),
            Self::Incomplete(_) => "model_incomplete",
        }
    }
}

/// The bytes of the files beside a decoder; all but the tokenizer may be absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct WritingFiles<'a> {
    /// `config.json`.
    pub model: Option<&'a [u8]>,
    /// `generation_config.json`.
    pub generation: Option<&'a [u8]>,
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens: Option<&'a [u8]>,
    /// `chat_template.jinja`.
    pub chat_template: Option<&'a [u8]>,
    /// `preprocessor_config.json`, of models that take pictures.
    pub preprocessor: Option<&'a [u8]>,
}

/// What a caller may ask for; what is left out, the folder says.
#[derive(Debug, Clone, Default)]
pub struct WritingOptions {
    /// How tokens are chosen.
    pub sampling: Option<Sampling>,
    /// Tokens at most.
    pub max_new_tokens: Option<usize>,
    /// Texts that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Texts that beam search follows at once; 1 takes one token after the other. A text found by more comes whole, at its end.
    pub beams: Option<usize>,
    /// See [`BeamOptions::length_penalty`].
    pub length_penalty: Option<f32>,
}

/// The folder's chat template, if it has one.
#[cfg(feature = "chat")]
fn chat_template(files: &WritingFiles<'_>) -> Result<Option<ChatTemplate>, WritingError> {
    let files = ChatFiles {
        jinja: files.chat_template,
        json: None,
        tokenizer_config: files.tokenizer_config,
        special_tokens: files.special_tokens,
    };
    match ChatTemplate::from_files(&files, None) {
        Ok(template) => Ok(Some(template)),
        Err(ChatError::Missing) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The tokens of a text when nobody says how many.
const NEW_TOKENS: usize = 256;

/// `config.json`: what it says of positions and of tokens that begin and end.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Lengths {
    max_position_embeddings: Option<usize>,
    n_positions: Option<usize>,
    #[serde(rename = "decoder")]
    decoder: Option<Box<Lengths>>,
    text_config: Option<Box<Lengths>>,
}

impl Lengths {
    fn positions(&self) -> Option<usize> {
        let inner = self.decoder.as_ref().or(self.text_config.as_ref());
        inner.and_then(|d| d.positions()).or(self.max_position_embeddings).or(self.n_positions)
    }
}

/// A decoder with its tokenizer and the folder's settings.
pub(crate) struct Writer {
    pub(crate) decoder: Decoder,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) generation: GenerationConfig,
    /// Positions that the model has.
    pub(crate) context: usize,
}

impl Writer {
    pub(crate) fn new(decoder: Decoder, files: &WritingFiles<'_>) -> Result<Writer, WritingError> {
        let parse = |file, bytes: Option<&[u8]>| -> Result<Lengths, ConfigError> {
            let bytes = bytes.unwrap_or(b"{}");
            serde_json::from_slice(bytes).map_err(|e| ConfigError::Parse { file, detail: e.to_string() })
        };
        let lengths = parse("config.json", files.model)?;
        let of_model = files.model.map(GenerationConfig::parse).transpose()?.unwrap_or_default();
        let mut generation = match files.generation {
            Some(bytes) => GenerationConfig::parse(bytes)?,
            None => of_model.clone(),
        };
        if generation.eos_token_id.is_empty() {
            generation.eos_token_id = of_model.eos_token_id;
        }
        let start = generation.decoder_start_token_id.or(of_model.decoder_start_token_id);
        generation.decoder_start_token_id = start;
        generation.bos_token_id = generation.bos_token_id.or(of_model.bos_token_id);
        let tokenizer = Tokenizer::from_bytes(files.tokenizer).map_err(|e| TextError::Load(e.to_string()))?;
        let last = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        decoder.check_vocabulary(last as usize + 1)?;
        let context = lengths.positions().unwrap_or(usize::MAX);
        Ok(Writer { decoder, tokenizer: Arc::new(tokenizer), generation, context })
    }

    /// Ids of a text, not cut.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, WritingError> {
        let encoding = self.tokenizer.encode(text, special).map_err(|e| TextError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The folder's settings, with what the caller asks for in their place. `prompt` tokens are there already.
    pub(crate) fn options(&self, asked: &WritingOptions, prompt: usize) -> Result<GenerateOptions, WritingError> {
        let sampling = match asked.sampling {
            Some(sampling) => sampling,
            None => self.generation.sampling(0)?,
        };
        sampling.validate()?;
        let whole = self.generation.max_length.map(|n| n.saturating_sub(prompt));
        let configured = self.generation.max_new_tokens.or(whole.filter(|n| *n > 0));
        let max_new_tokens = asked.max_new_tokens.or(configured).unwrap_or(NEW_TOKENS);
        Ok(GenerateOptions { sampling, max_new_tokens, end: self.generation.eos_token_id.clone() })
    }

    /// How beam search goes, if that is asked for by the caller, or else by the folder.
    fn beams(&self, asked: &WritingOptions, options: &GenerateOptions) -> Result<Option<BeamOptions>, WritingError> {
        let greedy = options.sampling.is_greedy();
        let beams = match asked.beams {
            // The folder's beams are for its own way of choosing; a caller who draws has left that.
            None if greedy => self.generation.num_beams.unwrap_or(1),
            None => 1,
            Some(beams) => beams,
        };
        if beams == 1 {
            return Ok(None);
        }
        if let (Some(Sampling { temperature, .. }), false) = (asked.sampling, greedy) {
            return Err(WritingError::BeamsAndTemperature { beams, temperature });
        }
        let configured = &self.generation;
        let eos = options.end.clone();
        Ok(Some(BeamOptions {
            beams,
            length_penalty: asked.length_penalty.or(configured.length_penalty).unwrap_or(1.0),
            early_stopping: configured.early_stopping,
            max_new_tokens: options.max_new_tokens,
            pad: configured.pad_token_id.or(eos.first().copied()).unwrap_or(0),
            eos,
        }))
    }

    /// Begins the text behind `prompt`, which goes on from `state`. Of the prompt, `counted` tokens are its usage.
    pub(crate) async fn begin(
        &self,
        state: State,
        prompt: Prompt,
        counted: usize,
        options: GenerateOptions,
        asked: &WritingOptions,
    ) -> Result<TextStream<'_>, WritingError> {
        let decoder = &self.decoder;
        let source = match self.beams(asked, &options)? {
            Some(beams) => {
                let penalty = options.sampling.repetition_penalty;
                stream::Source::beams(BeamGeneration::begin(decoder, state, prompt, beams, penalty).await?)
            }
            None => stream::Source::Steps(Generation::begin(decoder, state, prompt, options).await?),
        };
        TextStream::new(source, self.tokenizer.clone(), &asked.stop, counted)
    }

    /// Positions that a sequence may take: all of the context, or what is asked for if the context is not known.
    pub(crate) fn limit(&self, prompt: usize, options: &GenerateOptions) -> usize {
        self.context.min(prompt.saturating_add(options.max_new_tokens).max(prompt + 1))
    }
}
