//! What a folder says of how its model writes, whatever runs the decoder.

use std::sync::Arc;

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::{Resume, WritingError, WritingFiles, WritingOptions};
use crate::generate::{GenerateOptions, GenerationConfig};
use crate::tasks::config::ConfigError;
use crate::tasks::text::TextError;

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

/// A tokenizer with the folder's settings.
pub struct Settings {
    /// What tokens mean.
    pub tokenizer: Arc<Tokenizer>,
    /// How tokens are chosen, and which begin and end a text.
    pub generation: GenerationConfig,
    /// Positions that the model has; `usize::MAX` if the folder does not say.
    pub context: usize,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// [`WritingError`] names the file that does not fit.
    pub fn new(files: &WritingFiles<'_>) -> Result<Settings, WritingError> {
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
        let context = lengths.positions().unwrap_or(usize::MAX);
        Ok(Settings { tokenizer: Arc::new(tokenizer), generation, context })
    }

    /// One more than the largest id of the tokenizer.
    pub fn tokens(&self) -> usize {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |last| last as usize + 1)
    }

    /// Ids of a text, not cut.
    ///
    /// # Errors
    /// [`WritingError::Text`].
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, WritingError> {
        let encoding = self.tokenizer.encode(text, special).map_err(|e| TextError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of the text with which a text is to go on; none where it begins here.
    ///
    /// # Errors
    /// [`WritingError::Text`].
    pub fn resumed(&self, asked: &WritingOptions) -> Result<Vec<u32>, WritingError> {
        match &asked.resume {
            None => Ok(vec![]),
            Some(Resume::Tokens(tokens)) => Ok(tokens.clone()),
            Some(Resume::Text(text)) => self.encode(text, false),
        }
    }

    /// The token that every text of an encoder-decoder begins with, unseen.
    ///
    /// # Errors
    /// [`WritingError::Incomplete`] if the folder does not name one.
    pub fn start(&self) -> Result<u32, WritingError> {
        self.generation.decoder_start_token_id.or(self.generation.bos_token_id).ok_or_else(|| {
            WritingError::Incomplete(
                "the model's folder has no decoder_start_token_id in generation_config.json".into(),
            )
        })
    }

    /// The folder's settings, with what the caller asks for in their place. `prompt` tokens are there already.
    ///
    /// # Errors
    /// [`WritingError::Sampling`].
    pub fn options(&self, asked: &WritingOptions, prompt: usize) -> Result<GenerateOptions, WritingError> {
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

    /// Positions that a sequence may take: all of the context, or what is asked for if the context is not known.
    pub fn limit(&self, prompt: usize, options: &GenerateOptions) -> usize {
        self.context.min(prompt.saturating_add(options.max_new_tokens).max(prompt + 1))
    }
}
