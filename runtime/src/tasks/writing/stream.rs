//! A text while it is written.

use std::sync::Arc;

use super::{Pieces, WritingError};
use crate::generate::{BeamGeneration, Finish, Generation, Hypothesis, SharedSteps, State};

/// How many tokens a text took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt; those of a prefix that was there before are not counted.
    pub prompt_tokens: usize,
    /// Of the text.
    pub completion_tokens: usize,
}

/// Where the tokens come from.
pub(super) enum Source<'d> {
    /// One after the other.
    Steps(Generation<'d>),
    /// All at once, from a search; empty once it is over.
    Beams {
        search: Option<Box<BeamGeneration<'d>>>,
        /// The sequences as they were when the search ended.
        state: Option<State>,
        /// The best text, and how many of its tokens were given out.
        best: Option<Hypothesis>,
        given: usize,
    },
}

impl<'d> Source<'d> {
    pub(super) fn beams(search: BeamGeneration<'d>) -> Self {
        Source::Beams { search: Some(Box::new(search)), state: None, best: None, given: 0 }
    }

    /// The next token, or `None` at the end.
    async fn next(&mut self) -> Result<Option<u32>, WritingError> {
        match self {
            Source::Steps(generation) => Ok(generation.next().await?.map(|choice| choice.token)),
            Source::Beams { search, state, best, given } => {
                if let Some(running) = search {
                    while running.step().await? {}
                }
                if let Some(over) = search.take() {
                    *state = Some(over.state().clone());
                    *best = over.finish().into_iter().next();
                }
                let token = best.as_ref().and_then(|b| b.tokens.get(*given)).copied();
                *given += usize::from(token.is_some());
                Ok(token)
            }
        }
    }

    fn finished(&self) -> Option<Finish> {
        match self {
            Source::Steps(generation) => generation.finished(),
            Source::Beams { best, .. } => {
                best.as_ref().map(|b| if b.eos.is_some() { Finish::End } else { Finish::Length })
            }
        }
    }
}

/// A text while it is written. Dropping it stops the writing and frees what it holds.
pub struct TextStream<'d> {
    source: Source<'d>,
    pieces: Pieces,
    tokens: Vec<u32>,
    usage: Usage,
    done: bool,
}

impl<'d> TextStream<'d> {
    /// `pieces` stands behind the tokens that are `written` already.
    pub(super) fn new(source: Source<'d>, pieces: Pieces, written: Vec<u32>, prompt_tokens: usize) -> Self {
        let usage = Usage { prompt_tokens, completion_tokens: written.len() };
        let done = pieces.stopped();
        TextStream { source, pieces, tokens: written, usage, done }
    }

    /// From now on leaves each step on `shared`, to be taken with those of others ([`Generation::share`]). Beam search goes on by
    /// itself.
    pub fn share_steps(&mut self, shared: &Arc<SharedSteps>) {
        if let Source::Steps(generation) = &mut self.source {
            generation.share(shared);
        }
    }

    /// The next piece of text, never empty and never half a character, or `None` at the end. Where beam search looks for the
    /// text, which one it is shows at the end only: it comes as one piece.
    pub async fn next(&mut self) -> Result<Option<String>, WritingError> {
        let whole = matches!(self.source, Source::Beams { .. });
        let mut text = String::new();
        while !self.done {
            match self.source.next().await? {
                Some(token) => {
                    self.tokens.push(token);
                    self.usage.completion_tokens += 1;
                    text.push_str(&self.pieces.push(token)?);
                    self.done = self.pieces.stopped();
                }
                None => {
                    self.done = true;
                    text.push_str(&self.pieces.finish()?);
                }
            };
            if !whole && !text.is_empty() {
                break;
            }
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// All that is still to come.
    pub async fn rest(&mut self) -> Result<String, WritingError> {
        let mut text = String::new();
        while let Some(piece) = self.next().await? {
            text.push_str(&piece);
        }
        Ok(text)
    }

    /// Tokens so far, those among them with which the text was resumed.
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
        if self.pieces.stopped() { Some("stop") } else { self.source.finished().map(Finish::reason) }
    }

    /// The sequence that was written; of a beam search, all its rows.
    pub fn state(&self) -> Option<&State> {
        match &self.source {
            Source::Steps(generation) => Some(generation.state()),
            Source::Beams { search, state, .. } => search.as_deref().map(BeamGeneration::state).or(state.as_ref()),
        }
    }
}
