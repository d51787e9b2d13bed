//! From texts to token ids, as `tokenizer.json` and the configuration beside it say.
//!
//! Normalising, splitting and the special tokens are the tokenizer file's matter. Length is the
//! configuration's: where the text is cut, and what fills a batch.

use std::borrow::Cow;

use tokenizers::{PostProcessor as _, Tokenizer, TruncationDirection};

use super::config::{FolderConfig, Side};
use super::tokens::TokenBatch;

/// A text that cannot become tokens, or a tokenizer that cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// `tokenizer.json` is damaged, or of a kind that the tokenizers crate does not know.
    #[error("tokenizer.json cannot be read: {0}")]
    Load(String),
    /// The context is shorter than the special tokens that frame every text.
    #[error("a context of {limit} tokens has no room for the {special} special tokens")]
    Context {
        /// Longest sequence that the configuration allows.
        limit: usize,
        /// Tokens that the tokenizer adds to every text.
        special: usize,
    },
    /// The tokenizer failed on a text.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// The tokenizer failed on ids.
    #[error("the tokens cannot be turned into text: {0}")]
    Decode(String),
}

impl TextError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Load(_) => "tokenizer_load",
            Self::Context { .. } => "tokenizer_context",
            Self::Encode(_) => "tokenizer_encode",
            Self::Decode(_) => "tokenizer_decode",
        }
    }
}

/// How far the sequences of a batch are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// To the longest text of the batch. Right for graphs that take an attention mask.
    Longest,
    /// To this many tokens. Right for graphs that see their padding.
    Fixed(usize),
}

/// A tokenizer with the lengths of one model.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    limit: Option<usize>,
    /// The limit without the special tokens.
    room: Option<usize>,
    direction: TruncationDirection,
    padding: Padding,
    padding_side: Side,
    pad_id: i64,
    lower_case: bool,
}

impl TextEncoder {
    /// Loads a `tokenizer.json` and takes lengths and padding from the folder's configuration.
    ///
    /// Texts are cut to [`FolderConfig::context_length`]; only if the folder states none, to what
    /// `tokenizer.json` itself says. Its own padding is not used: a mask makes it needless, and
    /// [`TextEncoder::with_padding`] is there for graphs without one. Padding starts out as
    /// [`Padding::Longest`], unless the configuration says that the tokenizer makes no attention
    /// mask (`model_input_names`, as SigLIP's): then it is fixed at the context length.
    ///
    /// # Errors
    /// [`TextError::Load`] and [`TextError::Context`].
    pub fn new(tokenizer_json: &[u8], config: &FolderConfig) -> Result<Self, TextError> {
        let mut tokenizer =
            Tokenizer::from_bytes(tokenizer_json).map_err(|error| TextError::Load(error.to_string()))?;
        let own_limit = tokenizer.get_truncation().map(|truncation| truncation.max_length);
        let own_pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        tokenizer.with_padding(None);

        // The number that is added to a single text.
        let special = tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        // The tokenizer's own limit is one of those that the folder states, except that sentence-transformers, where it
        // configures a model, goes by its own file.
        let stated = config.context_length();
        let limit = match config.sentence.max_seq_length {
            Some(_) => stated,
            None => stated.into_iter().chain(own_limit).min(),
        };
        if let Some(limit) = limit.filter(|&limit| limit <= special) {
            return Err(TextError::Context { limit, special });
        }
        // Done here rather than there, so that both the cut and the whole ids are to be had.
        tokenizer.with_truncation(None).map_err(|error| TextError::Load(error.to_string()))?;
        let room = limit.map(|limit| limit - special);
        let direction = match config.tokenizer.truncation_side {
            Side::Left => TruncationDirection::Left,
            Side::Right => TruncationDirection::Right,
        };

        let special = &config.tokenizer.special;
        let id = |token: &Option<String>| token.as_deref().and_then(|token| tokenizer.token_to_id(token));
        let section = config.model.text_config.as_ref();
        let pad_id = id(&special.pad_token)
            .or(own_pad)
            .or(section.and_then(|section| section.pad_token_id))
            .or(config.model.pad_token_id)
            .or_else(|| id(&special.eos_token))
            .unwrap_or(0);
        let makes_mask = config
            .tokenizer
            .model_input_names
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name == "attention_mask"));
        Ok(Self {
            padding: match limit {
                Some(limit) if !makes_mask => Padding::Fixed(limit),
                _ => Padding::Longest,
            },
            tokenizer,
            limit,
            room,
            direction,
            padding_side: config.tokenizer.padding_side,
            pad_id: pad_id.into(),
            lower_case: config.sentence.do_lower_case,
        })
    }

    /// The same with another padding. A fixed length never exceeds the context length.
    #[must_use]
    pub fn with_padding(mut self, padding: Padding) -> Self {
        self.set_padding(padding);
        self
    }

    pub(crate) fn set_padding(&mut self, padding: Padding) {
        self.padding = match (padding, self.limit) {
            (Padding::Fixed(length), Some(limit)) => Padding::Fixed(length.min(limit)),
            (padding, _) => padding,
        };
    }

    /// How far batches are filled.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// Longest sequence, special tokens included; `None` if nothing limits it.
    pub fn context_length(&self) -> Option<usize> {
        self.limit
    }

    /// The id that fills short rows.
    pub fn pad_id(&self) -> i64 {
        self.pad_id
    }

    /// The tokenizer itself, for decoders that stream.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Token ids of one text, special tokens included, cut to the context, not padded.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.ids_within(text, self.room)
    }

    /// Token ids of one text, special tokens included, however many they are.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn whole_ids(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.ids_within(text, None)
    }

    fn ids_within(&self, text: &str, room: Option<usize>) -> Result<Vec<u32>, TextError> {
        let failed = |error: tokenizers::Error| TextError::Encode(error.to_string());
        let text = if self.lower_case { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) };
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(failed)?;
        if let Some(room) = room {
            encoding.truncate(room, 0, self.direction);
        }
        let encoding = self.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Texts as one padded batch.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn encode<S: AsRef<str>>(&self, texts: &[S]) -> Result<TokenBatch, TextError> {
        let rows: Vec<_> = texts.iter().map(|text| self.ids(text.as_ref())).collect::<Result<_, _>>()?;
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        // A graph cannot run on rows of no tokens, which an empty text without special tokens gives.
        let length = match self.padding {
            Padding::Longest => longest.max(1),
            Padding::Fixed(length) => length.max(longest),
        };
        let mut batch = TokenBatch {
            input_ids: Vec::with_capacity(rows.len() * length),
            attention_mask: Vec::with_capacity(rows.len() * length),
            texts: rows.len(),
            length,
            counts: rows.iter().map(Vec::len).collect(),
        };
        for row in &rows {
            let fill = length - row.len();
            let (before, after) = match self.padding_side {
                Side::Left => (fill, 0),
                Side::Right => (0, fill),
            };
            batch.input_ids.extend(std::iter::repeat_n(self.pad_id, before));
            batch.attention_mask.extend(std::iter::repeat_n(0, before));
            batch.input_ids.extend(row.iter().map(|&id| i64::from(id)));
            batch.attention_mask.extend(std::iter::repeat_n(1, row.len()));
            batch.input_ids.extend(std::iter::repeat_n(self.pad_id, after));
            batch.attention_mask.extend(std::iter::repeat_n(0, after));
        }
        Ok(batch)
    }

    /// Text of token ids, without the special tokens.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        self.tokenizer.decode(ids, true).map_err(|error| TextError::Decode(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::config::ConfigFiles;

    /// Whole words, lower-cased, framed by `<s>` and `</s>`; made by hand.
    const WORDS: &[u8] = include_bytes!("testdata/tokenizer_words.json");

    fn encoder(tokenizer: &str, sentence: &str) -> Result<TextEncoder, TextError> {
        let files = ConfigFiles {
            tokenizer: Some(tokenizer.as_bytes()),
            sentence: Some(sentence.as_bytes()),
            ..Default::default()
        };
        TextEncoder::new(WORDS, &FolderConfig::parse(&files).unwrap())
    }

    #[test]
    fn pads_to_the_longest_on_the_side_that_the_file_names() {
        let right = encoder(r#"{"pad_token": "<pad>"}"#, "{}").unwrap();
        let batch = right.encode(&["a cat", "A photo of a cat"]).unwrap();
        assert_eq!(batch.shape(), [2, 7]);
        assert_eq!(batch.input_ids[..7], [1, 4, 5, 2, 0, 0, 0]);
        assert_eq!(batch.input_ids[7..], [1, 4, 6, 7, 4, 5, 2]);
        assert_eq!(batch.attention_mask[..7], [1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(batch.counts, [4, 7]);
        let left = encoder(r#"{"pad_token": "<pad>", "padding_side": "left"}"#, "{}").unwrap();
        let batch = left.encode(&["a cat", "a photo of a cat"]).unwrap();
        assert_eq!(batch.input_ids[..7], [0, 0, 0, 1, 4, 5, 2]);
        assert_eq!(batch.attention_mask[..7], [0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn long_texts_are_cut_and_keep_the_end_token() {
        let encoder = encoder(r#"{"model_max_length": 9}"#, r#"{"max_seq_length": 5}"#).unwrap();
        assert_eq!(encoder.context_length(), Some(5));
        assert_eq!(encoder.ids("a cat of a photo of a cat").unwrap(), [1, 4, 5, 7, 2]);
        assert_eq!(encoder.ids(&"cat ".repeat(100_000)).unwrap().len(), 5);
        assert_eq!(encoder.whole_ids("a cat of a photo of a cat").unwrap().len(), 10);
        let json = r#"{"model_max_length": 5, "truncation_side": "left"}"#;
        let left = super::tests::encoder(json, "{}").unwrap();
        assert_eq!(left.ids("a cat of a photo of a cat").unwrap(), [1, 7, 4, 5, 2]);
    }

    #[test]
    fn without_a_limit_the_tokenizer_file_decides() {
        // The fixture says 12 tokens and padding to 12; only the first is used.
        let encoder = encoder("{}", "{}").unwrap();
        assert_eq!(encoder.context_length(), Some(12));
        assert_eq!(encoder.encode(&["cat"]).unwrap().shape(), [1, 3]);
    }

    #[test]
    fn a_tokenizer_without_mask_pads_to_the_context() {
        let json = r#"{"model_max_length": 8, "model_input_names": ["input_ids"]}"#;
        let encoder = encoder(json, "{}").unwrap();
        assert_eq!(encoder.padding(), Padding::Fixed(8));
        assert_eq!(encoder.encode(&["cat"]).unwrap().input_ids, [1, 5, 2, 0, 0, 0, 0, 0]);
        let longest = encoder.clone().with_padding(Padding::Longest);
        assert_eq!(longest.encode(&["cat"]).unwrap().length, 3);
        assert_eq!(encoder.with_padding(Padding::Fixed(99)).padding(), Padding::Fixed(8));
    }

    #[test]
    fn lower_case_is_the_configurations_matter_too() {
        let encoder = encoder("{}", r#"{"do_lower_case": true}"#).unwrap();
        assert_eq!(encoder.ids("CAT").unwrap(), [1, 5, 2]);
    }

    #[test]
    fn decodes_without_special_tokens() {
        let encoder = encoder("{}", "{}").unwrap();
        assert_eq!(encoder.decode(&[1, 4, 5, 2]).unwrap(), "a cat");
        assert_eq!(encoder.decode(&[4_000_000_000]).unwrap(), "");
    }

    #[test]
    fn empty_batches_and_texts() {
        let encoder = encoder("{}", "{}").unwrap();
        assert_eq!(encoder.encode::<&str>(&[]).unwrap().texts, 0);
        assert_eq!(encoder.encode(&[""]).unwrap().input_ids, [1, 2]);
    }

    #[test]
    fn impossible_files_are_errors() {
        let config = FolderConfig::default();
        assert_eq!(TextEncoder::new(b"{", &config).unwrap_err().kind(), "tokenizer_load");
        assert_eq!(TextEncoder::new(b"{}", &config).unwrap_err().kind(), "tokenizer_load");
        let error = encoder(r#"{"model_max_length": 2}"#, "{}").unwrap_err();
        assert_eq!(error, TextError::Context { limit: 2, special: 2 });
    }
}
