//! Tokens to the pieces of text that can be shown.

use std::sync::Arc;

use tokenizers::Tokenizer;

use super::WritingError;
use crate::generate::{Detokenizer, StopStrings};

/// Turns tokens into text that is never half a character and never the beginning of a stop string.
pub struct Pieces {
    detokenizer: Detokenizer<Arc<Tokenizer>>,
    stop: StopStrings,
    /// Space in front of the first word belongs to no caption, as the tokenizer writes it.
    at_start: bool,
}

impl Pieces {
    /// Pieces of a text that ends at any of these strings.
    ///
    /// # Errors
    /// [`WritingError::Stop`] for an empty one.
    pub fn new(tokenizer: Arc<Tokenizer>, stop: &[String]) -> Result<Pieces, WritingError> {
        let stop = StopStrings::new(stop.iter().cloned())?;
        Ok(Pieces { detokenizer: Detokenizer::new(tokenizer), stop, at_start: false })
    }

    /// Leaves out the space in front of the first word.
    #[must_use]
    pub fn without_leading_space(self) -> Self {
        Pieces { at_start: true, ..self }
    }

    /// Goes on behind tokens whose text is shown already: it does not come again.
    ///
    /// # Errors
    /// [`WritingError::Detokenize`].
    pub fn resume(&mut self, tokens: &[u32]) -> Result<(), WritingError> {
        tokens.iter().try_for_each(|&token| self.push(token).map(drop))
    }

    /// Takes a token, and returns what can be shown now; often nothing.
    ///
    /// # Errors
    /// [`WritingError::Detokenize`].
    pub fn push(&mut self, token: u32) -> Result<String, WritingError> {
        let piece = self.detokenizer.push(token)?;
        let text = self.stop.push(&piece);
        Ok(self.trimmed(text))
    }

    /// What was held back, at the end of the tokens.
    ///
    /// # Errors
    /// [`WritingError::Detokenize`].
    pub fn finish(&mut self) -> Result<String, WritingError> {
        let rest = self.detokenizer.finish()?;
        let mut text = self.stop.push(&rest);
        // It ended at a stop string in its last piece, or not at all.
        if self.stop.stopped().is_none() {
            text.push_str(&self.stop.finish());
        }
        Ok(self.trimmed(text))
    }

    /// Whether a stop string came. Nothing is shown any more then.
    pub fn stopped(&self) -> bool {
        self.stop.stopped().is_some()
    }

    /// A piece of nothing but space in front of the first word is no piece.
    fn trimmed(&mut self, mut text: String) -> String {
        if self.at_start {
            text.drain(..text.len() - text.trim_start().len());
            self.at_start = text.is_empty();
        }
        text
    }
}
