//! A decoder: token ids or embeddings in, the logits of the last position out, caches in between.
//!
//! Exporters cut a decoder in three ways: one graph that takes any past, a merged graph whose `If` is resolved when
//! loading, or two files. All become one or two graphs here: `next` continues from a cache, and `first` begins a sequence
//! where `next` cannot.

mod together;

use std::sync::OnceLock;

pub use together::SharedStep;
use together::Sharing;

use super::embedder::Embedder;
use super::error::DecoderError;
use super::sampler::{HISTORY, LOG_PROBABILITY, PARAMS, TOKEN, append_sampler};
use super::sampling::Sampling;
use super::state::State;
use super::trim;
use crate::graph::{Graph, Op, ValueId};
use crate::optimize::{OptimizeError, optimize, share_constants};
use crate::plan::{Held, Ports, Reading};
use crate::tensor::{Bool, DType, Tensor, TensorError};
use crate::{Session, SessionOptions};

/// What the names of caches begin with, as inputs and as outputs.
const PAST: &str = "past_key_values.";
const PRESENT: &str = "present.";

/// A decoder, ready to run any number of sequences.
pub struct Decoder {
    first: Option<Phase>,
    next: Phase,
    /// The part of each cache's name behind the prefix.
    caches: Vec<String>,
    vocabulary: usize,
    embedder: Option<Embedder>,
}

struct Phase {
    session: Session,
    ports: Ports,
    /// The positions of the logits, the chosen token and its log-probability among the outputs.
    logits: usize,
    choice: [usize; 2],
    /// How sequences share a run, once somebody has asked.
    sharing: OnceLock<Option<Sharing>>,
}

/// A token that was chosen for one row of the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its id.
    pub token: u32,
    /// The logarithm of the probability that the sampling gave it.
    pub log_probability: f32,
}

/// A step whose tokens are not waited for yet.
pub(super) struct Pending {
    reading: Reading,
    /// Positions before the step.
    pub(super) before: usize,
}

/// Token ids [batch, positions]: what a caller gave, or what the step before has chosen and nobody has seen yet.
enum Ids<'a> {
    Host(Option<&'a [u32]>),
    Device(Held),
}

/// What is added to a sequence: as many positions for each row of the batch.
pub struct Feed<'a> {
    /// Token ids [batch, positions]; they may be left out where `embeddings` are given and the graph does not read ids. A decoder
    /// with [`Decoder::embed_with`] turns them into embeddings where these are not given.
    pub tokens: Option<&'a [u32]>,
    /// Embeddings f32 [batch, positions, width], for graphs that take `inputs_embeds`.
    pub embeddings: Option<Tensor>,
    /// Which positions [batch, positions] count; padding on the left does not. All count if it is left out. A graph without
    /// `attention_mask` cannot leave any out.
    pub mask: Option<&'a [bool]>,
}

impl<'a> Feed<'a> {
    /// Tokens that all count.
    pub fn tokens(tokens: &'a [u32]) -> Self {
        Feed { tokens: Some(tokens), embeddings: None, mask: None }
    }
}

/// Whether a cache belongs to cross-attention: made once, from what the encoder gave.
fn is_fixed(name: &str) -> bool {
    name.contains("encoder.") && !name.contains("decoder.")
}

impl Decoder {
    /// A decoder of graphs as the importer made them. `first` begins a sequence, if `next` cannot.
    pub fn new(first: Option<Graph>, next: Graph, options: SessionOptions) -> Result<Decoder, DecoderError> {
        let (mut first, mut next) = (first, next);
        for graph in first.iter_mut().chain([&mut next]) {
            prepare(graph)?;
        }
        if let Some(first) = &mut first {
            share_constants(first, &next);
        }
        let mut caches: Vec<String> = names(&next, &next.inputs)
            .chain(first.iter().flat_map(|g| names(g, &g.inputs)))
            .filter_map(|n| n.strip_prefix(PAST))
            .map(str::to_owned)
            .collect();
        let mut seen = std::collections::HashSet::new();
        caches.retain(|name| seen.insert(name.clone()));
        if caches.is_empty() {
            return Err(DecoderError::NotADecoder(format!("it has no inputs {PAST}*")));
        }
        drop_unread_inputs(&mut next);
        first.iter_mut().for_each(drop_unread_inputs);
        let next = Session::new(next, options);
        let first = first.map(|g| Phase::new(next.beside(g), &caches)).transpose()?;
        let next = Phase::new(next, &caches)?;
        let info = &next.session.outputs()[next.logits];
        let vocabulary = info.shape.last().and_then(|d| usize::try_from(d.as_const()?).ok());
        let vocabulary =
            vocabulary.ok_or_else(|| DecoderError::NotADecoder(format!("{info} has no known vocabulary")))?;
        Ok(Decoder { first, next, caches, vocabulary, embedder: None })
    }

    /// Logits of a position.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Checks that a tokenizer with ids below `tokens` belongs to this decoder. Exporters pad the vocabulary, so fewer is
    /// fine, but not by a tenth.
    pub fn check_vocabulary(&self, tokens: usize) -> Result<(), DecoderError> {
        let fits = tokens <= self.vocabulary && tokens + self.vocabulary / 10 >= self.vocabulary;
        let vocabulary = self.vocabulary;
        if fits { Ok(()) } else { Err(DecoderError::Vocabulary { tokens, vocabulary }) }
    }

    /// The width of `inputs_embeds`, if the decoder takes embeddings instead of ids.
    pub fn embedding_width(&self) -> Option<usize> {
        let input = self.next.session.inputs().iter().find(|i| &*i.name == "inputs_embeds")?;
        usize::try_from(input.shape.last()?.as_const()?).ok()
    }

    /// Gives a decoder that takes embeddings the graph that makes them from token ids: with it, ids alone will do.
    ///
    /// # Errors
    /// [`DecoderError::Mismatch`] if the decoder reads ids by itself, or its embeddings are of another width.
    pub fn embed_with(mut self, session: Session) -> Result<Decoder, DecoderError> {
        let width = self.embedding_width();
        let width =
            width.ok_or_else(|| DecoderError::Mismatch("this decoder takes token ids, not embeddings".into()))?;
        self.embedder = Some(Embedder::new(session, width)?);
        Ok(self)
    }

    /// Whether token ids alone will do: the graph reads them, or [`Decoder::embed_with`] gave what does.
    pub fn takes_tokens(&self) -> bool {
        self.embedding_width().is_none() || self.embedder.is_some()
    }

    /// Embeddings f32 [batch, positions, width] of token ids [batch, positions].
    ///
    /// # Errors
    /// [`DecoderError::Token`], and [`DecoderError::Mismatch`] without [`Decoder::embed_with`].
    pub async fn embed(&self, tokens: &[u32], batch: usize) -> Result<Tensor, DecoderError> {
        let embedder = self.embedder.as_ref();
        let embedder =
            embedder.ok_or_else(|| DecoderError::Mismatch("there is no graph of token embeddings".into()))?;
        self.check_tokens(tokens)?;
        embedder.run(tokens, batch).await
    }

    /// Whether the graph finds the scale of its activations while it runs, one for all positions of a call. What it gives for a
    /// position then depends on the others that share its call.
    pub fn quantizes_while_running(&self) -> bool {
        self.next.session.operators().any(|op| matches!(op, Op::DynamicQuantizeLinear))
    }

    /// Whether the decoder attends to what an encoder gave.
    pub fn has_encoder(&self) -> bool {
        let phases = self.first.iter().chain([&self.next]);
        phases.flat_map(|p| p.session.inputs()).any(|i| i.name.starts_with("encoder_"))
    }

    /// `gpu` or `cpu`.
    pub fn device(&self) -> &'static str {
        self.next.session.device()
    }

    /// How many caches grow with each position, and how many of them do so in place.
    pub fn caches(&self) -> (usize, usize) {
        let growing: Vec<_> = (0..self.caches.len()).filter(|&c| !is_fixed(&self.caches[c])).collect();
        (growing.len(), growing.iter().filter(|&&c| self.next.ports.grows(c)).count())
    }

    /// The graph that continues a sequence.
    pub fn session(&self) -> &Session {
        &self.next.session
    }

    /// A new sequence of `batch` rows and at most `limit` positions. `encoder` holds `encoder_hidden_states` and, if the graph
    /// has it, `encoder_attention_mask`.
    pub fn start(&self, batch: usize, limit: usize, encoder: Vec<(&'static str, Tensor)>) -> State {
        State::new(batch, limit, self.caches.len(), encoder)
    }

    /// Adds to a sequence and returns the logits f32 [batch, vocabulary] of the last position. After an error the sequence is
    /// as it was.
    pub async fn run(&self, state: &mut State, feed: Feed<'_>) -> Result<Tensor, DecoderError> {
        let pending = self.add(state, feed, (&Sampling::default(), &[]), |phase| vec![phase.logits]).await?;
        let before = pending.before;
        let logits = self.outputs(state, pending).await?.remove(0);
        if logits.as_slice::<f32>().is_ok_and(|l| l.iter().any(|x| x.is_nan())) {
            return Err(self.not_a_number(state, before).await);
        }
        let shape = [state.batch(), self.vocabulary];
        logits.reshaped(&shape).map_err(|e| DecoderError::Mismatch(format!("the logits: {e}")))
    }

    /// Adds to a sequence and chooses a token for each row of the batch, where the logits lie. `history` holds the tokens of each
    /// row that a repetition penalty counts. After an error the sequence is as it was.
    pub async fn choose(
        &self,
        state: &mut State,
        feed: Feed<'_>,
        sampling: &Sampling,
        history: &[&[u32]],
    ) -> Result<Vec<Choice>, DecoderError> {
        let pending = self.submit(state, feed, sampling, history).await?;
        self.resolve(state, pending).await
    }

    /// Like [`Decoder::choose`], without waiting for the tokens. The sequence counts what was added from now on.
    pub(super) async fn submit(
        &self,
        state: &mut State,
        feed: Feed<'_>,
        sampling: &Sampling,
        history: &[&[u32]],
    ) -> Result<Pending, DecoderError> {
        self.add(state, feed, (sampling, history), |phase| phase.choice.to_vec()).await
    }

    /// Submits a step for the outputs that `wanted` lists. The sequence counts what was added from now on.
    async fn add(
        &self,
        state: &mut State,
        feed: Feed<'_>,
        chosen_by: (&Sampling, &[&[u32]]),
        wanted: impl Fn(&Phase) -> Vec<usize>,
    ) -> Result<Pending, DecoderError> {
        let positions = self.check(state, &feed)?;
        let mask = state.with(positions, feed.mask);
        let feed = self.embedded(state, feed).await?;
        let (before, ids) = (state.positions(), Ids::Host(feed.tokens));
        let phase = self.phase(before);
        let reading = phase.run(state, &feed, ids, (positions, &mask), chosen_by, &wanted(phase)).await?;
        state.accept(mask, positions);
        Ok(Pending { reading, before })
    }

    /// Waits for the outputs of a step. After an error the sequence is as it was before that step.
    async fn outputs(&self, state: &mut State, pending: Pending) -> Result<Vec<Tensor>, DecoderError> {
        let Pending { reading, before } = pending;
        let outputs = self.phase(before).session.finish(reading).await;
        outputs.map_err(|e| {
            self.truncate(state, before);
            e.into()
        })
    }

    /// Submits the step behind one whose token is still on the device, so that the device need not wait for the host between
    /// two tokens. `None` where the tokens are on the host anyway, or have to be looked up there.
    pub(super) async fn submit_behind(
        &self,
        state: &mut State,
        pending: &Pending,
        sampling: &Sampling,
    ) -> Result<Option<Pending>, DecoderError> {
        let token = pending.reading.held(0);
        let (None, Some(device), None) = (&token.host, &token.device, self.embedding_width()) else { return Ok(None) };
        let ids = device.reshaped(&[state.batch(), 1]);
        let ids = ids.map_err(|e| DecoderError::Mismatch(format!("the chosen tokens: {e}")))?;
        let phase = &self.next;
        let mask = state.with(1, None);
        let feed = Feed { tokens: None, embeddings: None, mask: None };
        let ids = Ids::Device(Held { host: None, device: Some(ids) });
        let reading = phase.run(state, &feed, ids, (1, &mask), (sampling, &[]), &phase.choice).await?;
        let before = state.positions();
        state.accept(mask, 1);
        Ok(Some(Pending { reading, before }))
    }

    /// Waits for the tokens of a step. After an error the sequence is as it was before that step.
    pub(super) async fn resolve(&self, state: &mut State, pending: Pending) -> Result<Vec<Choice>, DecoderError> {
        let before = pending.before;
        let outputs = self.outputs(state, pending).await?;
        let (Some(tokens), Some(scores)) = (outputs[0].to_i64_vec(), outputs[1].to_f32_vec()) else {
            return Err(DecoderError::Mismatch("the chosen tokens are not numbers".into()));
        };
        if scores.iter().any(|s| s.is_nan()) {
            return Err(self.not_a_number(state, before).await);
        }
        let choice = |(token, log_probability)| Choice { token: token as u32, log_probability };
        Ok(tokens.into_iter().zip(scores).map(choice).collect())
    }

    /// Takes back all positions behind the first `before`, and says where what is no number came from.
    async fn not_a_number(&self, state: &mut State, before: usize) -> DecoderError {
        let layer = self.first_broken_layer(self.phase(before), state).await;
        let step = state.calls().saturating_sub(1);
        self.truncate(state, before);
        match layer {
            Ok(layer) => DecoderError::NotANumber { step, layer },
            Err(e) => e,
        }
    }

    /// The graph for a step behind `positions` positions.
    fn phase(&self, positions: usize) -> &Phase {
        match &self.first {
            Some(first) if positions == 0 => first,
            _ => &self.next,
        }
    }

    /// Embeddings in the place of ids, where the graph wants these.
    async fn embedded<'a>(&self, state: &State, mut feed: Feed<'a>) -> Result<Feed<'a>, DecoderError> {
        if let (Some(embedder), Some(tokens), None) = (&self.embedder, feed.tokens, &feed.embeddings) {
            feed.embeddings = Some(embedder.run(tokens, state.batch()).await?);
        }
        Ok(feed)
    }

    /// Forgets all positions behind the first `positions`; what they are computed from stays.
    pub fn truncate(&self, state: &mut State, positions: usize) {
        state.truncate(positions, &self.caches, is_fixed);
    }

    /// Puts the rows of the batch into another order, as beam search does; a row may be taken more than once.
    pub async fn select(&self, state: &mut State, rows: &[usize]) -> Result<(), DecoderError> {
        if let Some(row) = rows.iter().find(|r| **r >= state.batch()) {
            return Err(DecoderError::Mismatch(format!("row {row} of a batch of {}", state.batch())));
        }
        self.next.session.select_rows(&mut state.caches, rows).await?;
        state.select(rows)?;
        Ok(())
    }

    fn check(&self, state: &State, feed: &Feed<'_>) -> Result<usize, DecoderError> {
        let batch = state.batch();
        let mismatch = |what: String| Err(DecoderError::Mismatch(what));
        let positions = match (feed.tokens, &feed.embeddings) {
            (_, Some(e)) => match *e.shape() {
                [b, positions, _] if b == batch => positions,
                _ => return mismatch(format!("embeddings of shape {:?} for a batch of {batch}", e.shape())),
            },
            (Some(tokens), None) if batch > 0 && tokens.len() % batch == 0 => tokens.len() / batch,
            (Some(tokens), None) => return mismatch(format!("{} tokens for a batch of {batch}", tokens.len())),
            (None, None) => return mismatch("neither tokens nor embeddings".into()),
        };
        if let Some(mask) = feed.mask
            && mask.len() != batch * positions
        {
            return mismatch(format!("a mask of {} for {batch} x {positions} positions", mask.len()));
        }
        let padded = feed.mask.is_some_and(|mask| mask.contains(&false));
        if padded && !self.next.session.inputs().iter().any(|i| &*i.name == "attention_mask") {
            return mismatch(
                "this decoder has no attention_mask: padding would count; run such rows one by one".into(),
            );
        }
        if positions == 0 {
            return mismatch("no position is added".into());
        }
        if let (Some(tokens), None) = (feed.tokens, &feed.embeddings) {
            self.check_tokens(tokens)?;
        }
        if state.positions() + positions > state.limit() {
            return Err(DecoderError::Full { held: state.positions(), more: positions, limit: state.limit() });
        }
        Ok(positions)
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), DecoderError> {
        let vocabulary = self.vocabulary;
        match tokens.iter().find(|t| **t as usize >= vocabulary) {
            Some(&token) => Err(DecoderError::Token { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// The first layer whose keys or values are not numbers. Each layer's are computed from what the layer before gave.
    async fn first_broken_layer(&self, phase: &Phase, state: &State) -> Result<String, DecoderError> {
        for (slot, name) in self.caches.iter().enumerate() {
            let tensor = phase.session.read_cache(&state.caches, slot).await?;
            if tensor.and_then(|t| t.to_f32_vec()).is_some_and(|v| v.iter().any(|x| x.is_nan())) {
                return Ok(name.split('.').next().unwrap_or(name).to_owned());
            }
        }
        Ok("behind the last one with a cache".into())
    }
}

impl Phase {
    fn new(session: Session, caches: &[String]) -> Result<Phase, DecoderError> {
        let output = |name: &str| {
            let at = session.outputs().iter().position(|o| &*o.name == name);
            at.ok_or_else(|| DecoderError::NotADecoder(format!("it has no output {name}")))
        };
        let (logits, choice) = (output("logits")?, [output(TOKEN)?, output(LOG_PROBABILITY)?]);
        let takes_fixed = session.inputs().iter().any(|i| i.name.strip_prefix(PAST).is_some_and(is_fixed));
        let names: Vec<(String, String)> = caches
            .iter()
            .map(|name| {
                // What the encoder gave is handed in; what comes out again is a placeholder or the same.
                let made = !(takes_fixed && is_fixed(name));
                (format!("{PAST}{name}"), if made { format!("{PRESENT}{name}") } else { String::new() })
            })
            .collect();
        let ports = session.ports(names.iter().map(|(i, o)| (i.as_str(), o.as_str())));
        Ok(Phase { session, ports, logits, choice, sharing: OnceLock::new() })
    }

    async fn run(
        &self,
        state: &mut State,
        feed: &Feed<'_>,
        ids: Ids<'_>,
        (positions, mask): (usize, &[Vec<bool>]),
        (sampling, history): (&Sampling, &[&[u32]]),
        wanted: &[usize],
    ) -> Result<Reading, DecoderError> {
        let mut inputs = self.inputs(state.encoder(), feed, ids, positions, mask)?;
        let bad = |e: TensorError| DecoderError::Mismatch(e.to_string());
        let (batch, step) = (state.batch(), state.calls() as u64);
        inputs.push((PARAMS.into(), Held::host(sampling.params(step, batch).map_err(bad)?)));
        inputs.push((HISTORY.into(), Held::host(padded_history(history, batch).map_err(bad)?)));
        Ok(self.session.run_with_caches(inputs, wanted, &self.ports, &mut state.caches).await?)
    }

    /// The graph's inputs, caches apart, for `positions` more positions; `mask` covers them and all before, for each row of the
    /// batch.
    fn inputs(
        &self,
        encoder: &[(&'static str, Tensor)],
        feed: &Feed<'_>,
        mut ids: Ids<'_>,
        positions: usize,
        mask: &[Vec<bool>],
    ) -> Result<Vec<(String, Held)>, DecoderError> {
        let batch = mask.len();
        let mut list = Vec::new();
        for info in self.session.inputs() {
            let name = info.name.to_string();
            let integers = |values: Vec<i64>, shape: [usize; 2]| integers(&name, info.dtype, values, &shape);
            let tensor = match name.as_str() {
                "input_ids" => match std::mem::replace(&mut ids, Ids::Host(None)) {
                    Ids::Device(held) => {
                        list.push((name, held));
                        continue;
                    }
                    Ids::Host(Some(tokens)) => {
                        integers(tokens.iter().map(|&t| t as i64).collect(), [batch, positions])?
                    }
                    Ids::Host(None) => {
                        return Err(DecoderError::Mismatch("this decoder takes token ids, not embeddings".into()));
                    }
                },
                "inputs_embeds" => feed
                    .embeddings
                    .clone()
                    .ok_or_else(|| DecoderError::Mismatch("this decoder takes embeddings, not token ids".into()))?,
                "attention_mask" => {
                    let values = mask.iter().flatten().map(|&m| m as i64).collect();
                    integers(values, [batch, mask.first().map_or(0, Vec::len)])?
                }
                "position_ids" => integers(position_ids(mask, positions), [batch, positions])?,
                _ if name.starts_with(PAST) || name == PARAMS || name == HISTORY => continue,
                _ => match encoder.iter().find(|(n, _)| *n == name) {
                    Some((_, tensor)) => tensor.clone(),
                    None => {
                        let given: Vec<_> = encoder.iter().map(|(n, _)| *n).collect();
                        return Err(DecoderError::Mismatch(format!("input {info} is not given, only {given:?}")));
                    }
                },
            };
            list.push((name, Held::host(tensor)));
        }
        Ok(list)
    }
}

/// The tokens of each row as one tensor [batch, longest, at least 1], filled with -1.
fn padded_history(history: &[&[u32]], batch: usize) -> Result<Tensor, TensorError> {
    let longest = history.iter().map(|h| h.len()).max().unwrap_or(0).max(1);
    let mut all = vec![-1i64; batch * longest];
    for (row, tokens) in all.chunks_exact_mut(longest).zip(history) {
        row.iter_mut().zip(*tokens).for_each(|(slot, &t)| *slot = t as i64);
    }
    Tensor::from_slice(&[batch, longest], &all)
}

/// The number of each of the last `positions` positions among those that count.
fn position_ids(mask: &[Vec<bool>], positions: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for row in mask {
        let mut count = 0;
        let all: Vec<i64> = row
            .iter()
            .map(|&m| {
                count += m as i64;
                (count - 1).max(0)
            })
            .collect();
        ids.extend_from_slice(&all[all.len() - positions..]);
    }
    ids
}

fn integers(name: &str, dtype: DType, values: Vec<i64>, shape: &[usize]) -> Result<Tensor, DecoderError> {
    let tensor = match dtype {
        DType::I64 => Tensor::from_slice(shape, &values),
        DType::I32 => Tensor::from_slice(shape, &values.iter().map(|&v| v as i32).collect::<Vec<_>>()),
        DType::F32 => Tensor::from_slice(shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        DType::Bool => Tensor::from_slice(shape, &values.iter().map(|&v| Bool::from(v != 0)).collect::<Vec<_>>()),
        _ => return Err(DecoderError::NotADecoder(format!("its input {name} is of type {dtype}"))),
    };
    tensor.map_err(|e| DecoderError::Mismatch(format!("{name}: {e}")))
}

fn names<'g>(graph: &'g Graph, values: &'g [ValueId]) -> impl Iterator<Item = &'g str> {
    values.iter().map(|&v| &*graph.value(v).name)
}

/// Optimises, and lets the output layer see the last position only.
fn prepare(graph: &mut Graph) -> Result<(), DecoderError> {
    let failed = |e: OptimizeError| DecoderError::NotADecoder(e.to_string());
    optimize(graph).map_err(failed)?;
    let last = trim::last_position(graph, "logits");
    let logits = last.ok_or_else(|| DecoderError::NotADecoder("it has no output logits of three dimensions".into()))?;
    append_sampler(graph, logits, true).map_err(DecoderError::NotADecoder)?;
    if graph.sort() { Ok(()) } else { Err(DecoderError::NotADecoder("its graph has a cycle".into())) }
}

/// Inputs of the branch that was not taken are not asked for.
fn drop_unread_inputs(graph: &mut Graph) {
    let readers = graph.consumers();
    let outputs = graph.outputs.clone();
    graph.inputs.retain(|i| !readers[i.0 as usize].is_empty() || outputs.contains(i));
}

/// How a decoder's file is to be read: what its inputs say.
#[cfg(feature = "onnx")]
mod load {
    use std::collections::HashMap;

    use super::*;
    use crate::Error;
    use crate::onnx::{ExternalData, ImportOptions, import, input_names};

    impl Decoder {
        /// Reads a decoder from one ONNX file: one that takes any past, or a merged one.
        pub fn from_onnx(file: &[u8], data: &dyn ExternalData, options: SessionOptions) -> Result<Decoder, Error> {
            let merged = input_names(file)?.iter().any(|n| n == "use_cache_branch");
            if !merged {
                let next = import(file, data, &ImportOptions::default())?;
                return Ok(Decoder::new(None, next, options)?);
            }
            let branch = |cached: bool| {
                let flag = Tensor::vector(&[Bool::from(cached)]);
                let fixed = HashMap::from([("use_cache_branch".to_owned(), flag)]);
                import(file, data, &ImportOptions { fixed_inputs: fixed })
            };
            Ok(Decoder::new(Some(branch(false)?), branch(true)?, options)?)
        }

        /// Reads a decoder from two ONNX files: one that begins a sequence, one that continues it.
        pub fn from_onnx_pair(
            first: &[u8],
            next: &[u8],
            data: &dyn ExternalData,
            options: SessionOptions,
        ) -> Result<Decoder, Error> {
            let read = |file| import(file, data, &ImportOptions::default());
            Ok(Decoder::new(Some(read(first)?), read(next)?, options)?)
        }
    }
}
