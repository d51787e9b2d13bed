//! A text while it is written.

use std::sync::Arc;

use tokenizers::Tokenizer;

use super::WritingError;
use crate::generate::{Detokenizer, Finish, Generation, State, StopStrings};

/// How many tokens a text took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt; those of a prefix that was there before are not counted.
    pub prompt_tokens: usize,
    /// Of the text.
    pub completion_tokens: usize,
}

/// A text while it is written. Dropping it stops the writing and frees what it holds.
pub struct TextStream<'d> {
    generation: Generation<'d>,
    detokenizer: Detokenizer<Arc<Tokenizer>>,
    stop: StopStrings,
    tokens: Vec<u32>,
    usage: Usage,
    done: bool,
    /// Space in front of the first word belongs to no caption, as the tokenizer writes it.
    at_start: bool,
}

impl<'d> TextStream<'d> {
    pub(super) fn new(
        generation: Generation<'d>,
        tokenizer: Arc<Tokenizer>,
        stop: &[String],
        prompt_tokens: usize,
    ) -> Result<Self, WritingError> {
        let usage = Usage { prompt_tokens, completion_tokens: 0 };
        let stop = StopStrings::new(stop.iter().cloned())?;
        let detokenizer = Detokenizer::new(tokenizer);
        Ok(TextStream { generation, detokenizer, stop, tokens: vec![], usage, done: false, at_start: false })
    }

    /// Leaves out the space in front of the first word.
    pub(super) fn without_leading_space(self) -> Self {
        TextStream { at_start: true, ..self }
    }

    /// The next piece of text, never empty and never half a character, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<String>, WritingError> {
        while !self.done {
            let piece = match self.generation.next().await? {
                Some(choice) => {
                    self.tokens.push(choice.token);
                    self.usage.completion_tokens += 1;
                    let text = self.detokenizer.push(choice.token)?;
                    let text = self.stop.push(&text);
                    self.done = self.stop.stopped().is_some();
                    text
                }
                None => {
                    self.done = true;
                    let rest = self.detokenizer.finish()?;
                    let mut text = self.stop.push(&rest);
                    text.push_str(&self.stop.finish());
                    text
                }
            };
            let piece = match self.at_start {
                true => piece.trim_start().to_owned(),
                false => piece,
            };
            if !piece.is_empty() {
                self.at_start = false;
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// All that is still to come.
    pub async fn rest(&mut self) -> Result<String, WritingError> {
        let mut text = String::new();
        while let Some(piece) = self.next().await? {
            text.push_str(&piece);
        }
        Ok(text)
    }

    /// Tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of prompt and text so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Why the text ended: `stop` at its own end or at a stop string, `length` when as many tokens were written as fit or as
    /// were asked for, `None` while it goes on.
    pub fn finish_reason(&self) -> Option<&'static str> {
        match self.stop.stopped() {
            Some(_) => Some("stop"),
            None => self.generation.finished().map(Finish::reason),
        }
    }

    /// The sequence that was written.
    pub fn state(&self) -> &State {
        self.generation.state()
    }
}
