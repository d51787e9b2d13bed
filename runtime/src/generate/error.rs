//! Why a decoder cannot be made or cannot go on.

use super::beam::BeamError;
use crate::error::RunError;

/// Why a decoder cannot be made or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The graph is not a decoder.
    #[error(
        "this graph is not a decoder: {0}. Export it with optimum-cli, task text-generation-with-past or image-to-text"
    )]
    NotADecoder(String),
    /// Tokenizer and graph do not belong together.
    #[error("the tokenizer has {tokens} tokens, the decoder {vocabulary}: they are not of one model")]
    Vocabulary {
        /// One more than the greatest id of the tokenizer.
        tokens: usize,
        /// Logits of a position.
        vocabulary: usize,
    },
    /// A token id that the decoder does not have.
    #[error("token {token} is outside a vocabulary of {vocabulary}")]
    Token {
        /// The id.
        token: u32,
        /// Logits of a position.
        vocabulary: usize,
    },
    /// The sequence has no room for what is to come.
    #[error("{held} tokens and {more} more do not fit a context of {limit}; shorten the prompt or raise max_length")]
    Full {
        /// Tokens so far.
        held: usize,
        /// Tokens to be added.
        more: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// What is given does not fit the sequence so far.
    #[error("{0}")]
    Mismatch(String),
    /// The model computed something that is not a number.
    #[error(
        "the logits of step {step} are not numbers; the first layer with such values is {layer}. The weights are damaged, or overflow in half precision: try another variant of the model"
    )]
    NotANumber {
        /// Calls before this one.
        step: usize,
        /// The layer, or what is behind the last.
        layer: String,
    },
    /// Settings of a beam search, or scores that it cannot compare.
    #[error(transparent)]
    Beams(#[from] BeamError),
    /// The graph could not run.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl DecoderError {
    /// A stable name for programs: JavaScript error classes and HTTP statuses follow it.
    pub fn kind(&self) -> &'static str {
        match self {
            DecoderError::NotADecoder(_) => "not_a_decoder",
            DecoderError::Vocabulary { .. } => "vocabulary_mismatch",
            DecoderError::Token { .. } => "unknown_token",
            DecoderError::Full { .. } => "context_full",
            DecoderError::Mismatch(_) => "decoder_mismatch",
            DecoderError::NotANumber { .. } => "not_a_number",
            DecoderError::Beams(e) => e.kind(),
            DecoderError::Run(e) => e.kind(),
        }
    }
}
