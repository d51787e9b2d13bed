//! Text from decoders: captions, answers, chats, piece by piece.
//!
//! A folder as on the Hugging Face hub says how a model writes: `generation_config.json` how tokens are chosen and which end a
//! text, `config.json` how long a text can be, `tokenizer.json` what tokens mean, a chat template how a conversation is
//! written down.

pub mod answerer;
pub mod captioner;
mod eyes;
mod image_prompt;
pub mod pieces;
pub mod settings;
pub mod stream;
pub mod text_generator;

pub use answerer::{Answerer, Work};
pub use captioner::Captioner;
pub use pieces::Pieces;
pub use settings::Settings;
pub use stream::{TextStream, Usage};
pub use text_generator::TextGenerator;

use super::config::ConfigError;
use super::image::ImageError;
use super::text::TextError;
use crate::error::RunError;
use crate::generate::{
    BeamGeneration, BeamOptions, Decoder, DecoderError, DetokenizeError, Feed, GenerateOptions, Generation, Prompt,
    Sampling, SamplingError, State, StopError,
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
    /// Beam search decides on the whole text at its end, so it cannot have begun elsewhere.
    #[error("{beams} beams cannot go on with a text that was begun elsewhere; leave them out")]
    BeamsAndResume {
        /// Beams asked for.
        beams: usize,
    },
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
            Self::BeamsAndResume { .. } => "beams_and_resume",
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
    /// `chat_template.json`, where processors of older versions wrote the template.
    pub chat_template_json: Option<&'a [u8]>,
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
    /// What of the text was written elsewhere, and is shown already. It counts as written, and is not given out again.
    pub resume: Option<Resume>,
}

/// The beginning of a text that goes on here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Its tokens, where a model with the same tokenizer wrote them.
    Tokens(Vec<u32>),
    /// Its words, where another model did.
    Text(String),
}

/// The folder's chat template, if it has one.
#[cfg(feature = "chat")]
fn chat_template(files: &WritingFiles<'_>) -> Result<Option<ChatTemplate>, WritingError> {
    let files = ChatFiles {
        jinja: files.chat_template,
        json: files.chat_template_json,
        tokenizer_config: files.tokenizer_config,
        special_tokens: files.special_tokens,
    };
    match ChatTemplate::from_files(&files, None) {
        Ok(template) => Ok(Some(template)),
        Err(ChatError::Missing) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A decoder with its tokenizer and the folder's settings.
pub(crate) struct Writer {
    pub(crate) decoder: Decoder,
    pub(crate) settings: Settings,
}

impl Writer {
    pub(crate) fn new(decoder: Decoder, files: &WritingFiles<'_>) -> Result<Writer, WritingError> {
        let settings = Settings::new(files)?;
        decoder.check_vocabulary(settings.tokens())?;
        Ok(Writer { decoder, settings })
    }

    /// How beam search goes, if that is asked for by the caller, or else by the folder.
    fn beams(&self, asked: &WritingOptions, options: &GenerateOptions) -> Result<Option<BeamOptions>, WritingError> {
        let greedy = options.sampling.is_greedy();
        let beams = match asked.beams {
            Some(beams) if beams > 1 && asked.resume.is_some() => return Err(WritingError::BeamsAndResume { beams }),
            // The folder's beams are for its own way of choosing; a caller who draws, or goes on with a text, has left that.
            None if greedy && asked.resume.is_none() => self.settings.generation.num_beams.unwrap_or(1),
            None => 1,
            Some(beams) => beams,
        };
        if beams == 1 {
            return Ok(None);
        }
        if let (Some(Sampling { temperature, .. }), false) = (asked.sampling, greedy) {
            return Err(WritingError::BeamsAndTemperature { beams, temperature });
        }
        let configured = &self.settings.generation;
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

    /// Begins the text behind `prompt`, which goes on from `state`. Of the prompt, `counted` tokens are its usage. `pieces` is
    /// at the beginning of the text.
    pub(crate) async fn begin(
        &self,
        mut state: State,
        mut prompt: Prompt,
        counted: usize,
        mut options: GenerateOptions,
        asked: &WritingOptions,
        mut pieces: Pieces,
    ) -> Result<TextStream<'_>, WritingError> {
        let decoder = &self.decoder;
        let written = self.settings.resumed(asked)?;
        pieces.resume(&written)?;
        if !written.is_empty() {
            options.max_new_tokens = options.max_new_tokens.saturating_sub(written.len());
            prompt = self.read_again(&mut state, prompt, &written).await?;
        }
        let source = match self.beams(asked, &options)? {
            Some(beams) => {
                let penalty = options.sampling.repetition_penalty;
                stream::Source::beams(BeamGeneration::begin(decoder, state, prompt, beams, penalty).await?)
            }
            None => stream::Source::Steps(Generation::begin(decoder, state, prompt, options).await?),
        };
        Ok(TextStream::new(source, pieces, written, counted))
    }

    /// The pieces of a text that is about to begin.
    pub(crate) fn pieces(&self, asked: &WritingOptions) -> Result<Pieces, WritingError> {
        Pieces::new(self.settings.tokenizer.clone(), &asked.stop)
    }

    /// Reads a prompt and the beginning of its text into `state`, all but the part behind which the next token stands: that
    /// is returned.
    async fn read_again(&self, state: &mut State, prompt: Prompt, written: &[u32]) -> Result<Prompt, WritingError> {
        let decoder = &self.decoder;
        state.reserve(state.positions() + prompt.tokens.len() + written.len());
        let feed = Feed { tokens: Some(&prompt.tokens), embeddings: prompt.embeddings, mask: None };
        decoder.run(state, feed).await?;
        let mut before = [prompt.before, prompt.tokens].concat();
        let mut rest = written;
        // One scale for several tokens would give other numbers than were there when each was written by itself.
        while let ([token, behind @ ..], true) = (rest, decoder.quantizes_while_running() && rest.len() > 1) {
            decoder.run(state, Feed::tokens(&[*token])).await?;
            before.push(*token);
            rest = behind;
        }
        // The prompt's own call is behind; the next one chooses the token behind all that are written.
        let calls = rest.len() - 1;
        state.count_calls(calls);
        Ok(Prompt { tokens: rest.to_vec(), embeddings: None, before })
    }
}
