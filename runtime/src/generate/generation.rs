//! The loop: a prompt, then one token after another, until the model or the caller has had enough.

use std::sync::Arc;

use super::decoder::{Choice, Decoder, Feed, Pending};
use super::error::DecoderError;
use super::sampling::Sampling;
use super::shared::{SharedSteps, Step, Ticket};
use super::state::State;
use crate::tensor::Tensor;

/// When to stop, and how to choose.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Tokens to make at most.
    pub max_new_tokens: usize,
    /// Tokens that end the text; they are not part of it.
    pub end: Vec<u32>,
}

/// Why there are no more tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its text.
    End,
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
}

impl Finish {
    /// The name that OpenAI's interface gives it: `stop` or `length`.
    pub fn reason(self) -> &'static str {
        match self {
            Finish::End => "stop",
            Finish::Length | Finish::Context => "length",
        }
    }
}

/// One text while it is made. Dropping it stops; what it computed stays in its [`State`].
pub struct Generation<'d> {
    decoder: &'d Decoder,
    state: State,
    options: GenerateOptions,
    /// Tokens before and since, for a repetition penalty.
    history: Vec<u32>,
    made: usize,
    /// The step that is under way.
    pending: Option<UnderWay>,
    /// Where steps are left for others to take.
    shared: Option<Arc<SharedSteps>>,
    finish: Option<Finish>,
}

/// A step whose token is not there yet.
enum UnderWay {
    /// It was submitted to the device.
    Alone(Pending),
    /// It was left to be taken with others', and the sequence with it.
    Shared(Ticket),
}

/// A prompt: token ids, and embeddings where the decoder takes these.
pub struct Prompt {
    /// Ids, for the history, and as input of decoders that read ids.
    pub tokens: Vec<u32>,
    /// Embeddings f32 [1, tokens, width].
    pub embeddings: Option<Tensor>,
    /// Ids that the sequence holds already. They are not read again; a repetition penalty counts them.
    pub before: Vec<u32>,
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Prompt { tokens, embeddings: None, before: vec![] }
    }
}

impl<'d> Generation<'d> {
    /// Reads the prompt into `state` (of one row).
    pub async fn begin(
        decoder: &'d Decoder,
        mut state: State,
        prompt: Prompt,
        options: GenerateOptions,
    ) -> Result<Generation<'d>, DecoderError> {
        options.sampling.validate().map_err(|e| DecoderError::Mismatch(e.to_string()))?;
        state.reserve(state.positions() + prompt.tokens.len() + options.max_new_tokens);
        let feed = Feed { tokens: Some(&prompt.tokens), embeddings: prompt.embeddings, mask: None };
        let history = [prompt.before, prompt.tokens.clone()].concat();
        let seen: &[&[u32]] = if options.sampling.needs_history() { &[&history] } else { &[] };
        let pending = Some(UnderWay::Alone(decoder.submit(&mut state, feed, &options.sampling, seen).await?));
        Ok(Generation { decoder, state, history, made: 0, pending, shared: None, finish: None, options })
    }

    /// From now on leaves each step on `shared`, for [`SharedSteps::run`] to take with those of others: [`Generation::next`] waits
    /// for that. Changes nothing where the decoder's texts do not share runs ([`Decoder::most_together`]).
    pub fn share(&mut self, shared: &Arc<SharedSteps>) {
        self.shared = (self.decoder.most_together() > 1).then(|| shared.clone());
    }

    /// The next token, or `None` once the text has ended.
    pub async fn next(&mut self) -> Result<Option<Choice>, DecoderError> {
        if self.finish.is_some() {
            return Ok(None);
        }
        if self.made == self.options.max_new_tokens {
            self.finish = Some(Finish::Length);
            return Ok(None);
        }
        if self.pending.is_none() {
            if self.state.positions() >= self.state.limit() {
                self.finish = Some(Finish::Context);
                return Ok(None);
            }
            self.pending = Some(self.begin_step().await?);
        }
        let (choice, ahead) = self.finish_step().await?;
        if self.options.end.contains(&choice.token) {
            if let Some(ahead) = ahead {
                // The step behind the end is taken back.
                self.decoder.truncate(&mut self.state, ahead.before);
            }
            self.finish = Some(Finish::End);
            return Ok(None);
        }
        self.pending = ahead.map(UnderWay::Alone);
        self.history.push(choice.token);
        self.made += 1;
        Ok(Some(choice))
    }

    /// Begins the step that adds the last token.
    async fn begin_step(&mut self) -> Result<UnderWay, DecoderError> {
        let sampling = self.options.sampling;
        let token = *self.history.last().unwrap_or(&0);
        if let Some(shared) = &self.shared {
            let history = if sampling.needs_history() { self.history.clone() } else { vec![] };
            let state = std::mem::replace(&mut self.state, State::nothing());
            return Ok(UnderWay::Shared(shared.leave(Step { state, token, sampling, history })));
        }
        let seen: &[&[u32]] = if sampling.needs_history() { &[&self.history] } else { &[] };
        let pending = self.decoder.submit(&mut self.state, Feed::tokens(&[token]), &sampling, seen).await?;
        Ok(UnderWay::Alone(pending))
    }

    /// Waits for the token of the step that is under way. On a GPU the next step is begun before.
    async fn finish_step(&mut self) -> Result<(Choice, Option<Pending>), DecoderError> {
        // A step that others take is waited for where it lies: who gives up waiting may come back.
        if let Some(UnderWay::Shared(ticket)) = &self.pending {
            let (state, choice) = ticket.taken().await;
            (self.state, self.pending) = (state, None);
            return Ok((choice?, None));
        }
        let Some(UnderWay::Alone(pending)) = self.pending.take() else {
            return Err(DecoderError::Mismatch("no step is under way".into()));
        };
        // A penalty has to see the token before the next step.
        let sampling = self.options.sampling;
        let more = self.made + 1 < self.options.max_new_tokens && self.state.positions() < self.state.limit();
        let ahead = match more && !sampling.needs_history() {
            // What fails ahead of time is tried, and told, in its own turn.
            true => self.decoder.submit_behind(&mut self.state, &pending, &sampling).await.unwrap_or(None),
            false => None,
        };
        Ok((self.decoder.resolve(&mut self.state, pending).await?[0], ahead))
    }

    /// Why the text has ended, if it has.
    pub fn finished(&self) -> Option<Finish> {
        self.finish
    }

    /// Tokens made so far.
    pub fn made(&self) -> usize {
        self.made
    }

    /// The sequence so far, to go on with; nothing if a shared step is being taken right now.
    pub fn into_state(self) -> State {
        match self.pending {
            Some(UnderWay::Shared(ticket)) => ticket.into_state().unwrap_or(self.state),
            _ => self.state,
        }
    }

    /// The sequence so far; nothing while a shared step is under way.
    pub fn state(&self) -> &State {
        &self.state
    }
}
