//! Steps of several sequences in one run of the graph, so that its weights are read once for all of them.
//!
//! Each sequence keeps its own [`State`]; which of them share a step is decided anew for each, so joining and leaving cost
//! nothing. A row of a shared step is computed as it would be alone: see `plan/ragged.rs` for how rows of different lengths
//! meet, and [`Decoder::most_together`] for who cannot.

use super::{Choice, Decoder, DecoderError, Feed, HISTORY, Ids, PARAMS, Phase, is_fixed, padded_history};
use crate::generate::{Sampling, State};
use crate::graph::SAMPLE_PARAMS;
use crate::plan::{Held, Ragged, stack};
use crate::tensor::{Tensor, TensorError};

/// How the sequences of a graph share a run.
pub(super) struct Sharing {
    ragged: Ragged,
    /// Rows of a run at most.
    most: usize,
}

/// One sequence's part in a step: it grows by a token.
pub struct SharedStep<'a> {
    /// The sequence, of one row.
    pub state: &'a mut State,
    /// The token to add.
    pub token: u32,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// The tokens that a repetition penalty counts.
    pub history: &'a [u32],
}

impl<'a> SharedStep<'a> {
    /// The tokens that matter to the choice.
    fn counted(&self) -> &'a [u32] {
        if self.sampling.needs_history() { self.history } else { &[] }
    }
}

impl Decoder {
    /// How many sequences share one run of the graph at most; 1 if each runs alone. That is so on a GPU, where the graph quantizes
    /// activations while it runs (one scale for a whole batch), and where its caches do not grow in place.
    pub fn most_together(&self) -> usize {
        self.sharing().map_or(1, |sharing| sharing.most)
    }

    fn sharing(&self) -> Option<&Sharing> {
        let find = || {
            if self.quantizes_while_running() {
                return None;
            }
            let (session, ports) = (&self.next.session, &self.next.ports);
            let most = session.rows_alike();
            Some(Sharing { ragged: session.ragged(ports)?, most }).filter(|_| most > 1)
        };
        self.next.sharing.get_or_init(find).as_ref()
    }

    /// Adds one token to each of several sequences and chooses the next one for each, as [`Decoder::choose`] does for one. They
    /// share as few runs of the graph as they can ([`Decoder::most_together`]); one that cannot share its step takes it alone. Returns
    /// the results in the order of the steps, and how many sequences each run served that succeeded. After an error
    /// a sequence is as it was, and its error is its own.
    pub async fn choose_together(
        &self,
        steps: &mut [SharedStep<'_>],
    ) -> (Vec<Result<Choice, DecoderError>>, Vec<usize>) {
        let mut results: Vec<Option<Result<Choice, DecoderError>>> = steps.iter().map(|_| None).collect();
        let mut runs = Vec::new();
        let (mut alone, mut groups): (Vec<usize>, Vec<(Sizes, Vec<usize>)>) = (vec![], vec![]);
        let most = self.most_together();
        for (at, step) in steps.iter().enumerate() {
            let fits = step.state.batch() == 1 && !step.state.is_empty() && self.takes_tokens();
            if most == 1 || !fits || self.check(step.state, &Feed::tokens(&[step.token])).is_err() {
                // What is wrong with a step is told where it is taken.
                alone.push(at);
                continue;
            }
            let sizes = self.sizes(step.state);
            match groups.iter_mut().find(|(s, _)| *s == sizes) {
                Some((_, group)) => group.push(at),
                None => groups.push((sizes, vec![at])),
            }
        }
        for (_, group) in groups {
            for members in group.chunks(group.len().div_ceil(group.len().div_ceil(most))) {
                match self.share(steps, members).await {
                    Some(choices) => {
                        runs.push(members.len());
                        members.iter().zip(choices).for_each(|(&at, choice)| results[at] = Some(choice));
                    }
                    // One alone, or what failed together: each then has its own result.
                    None => alone.extend(members),
                }
            }
        }
        for at in alone {
            let step = &mut steps[at];
            let (token, sampling, history) = ([step.token], step.sampling, [step.counted()]);
            let choices = self.choose(step.state, Feed::tokens(&token), &sampling, &history).await;
            runs.extend(choices.is_ok().then_some(1));
            results[at] = Some(choices.map(|c| c[0]));
        }
        (results.into_iter().flatten().collect(), runs)
    }

    /// What must be equal for sequences to share a run: the sizes of all that comes from an encoder.
    fn sizes(&self, state: &State) -> Sizes {
        let fixed = self.caches.iter().zip(&state.caches.slots).filter(|(name, _)| is_fixed(name));
        let encoder = state.encoder().iter().map(|(_, tensor)| tensor.shape().to_vec());
        encoder.chain(fixed.map(|(_, cache)| cache.filled().1)).collect()
    }

    /// One run for the steps that `members` lists. `None` if there is but one, or if the run failed: all is then as it was.
    async fn share(
        &self,
        steps: &mut [SharedStep<'_>],
        members: &[usize],
    ) -> Option<Vec<Result<Choice, DecoderError>>> {
        let sharing = self.sharing().filter(|_| members.len() > 1)?;
        let mut rows: Vec<&mut SharedStep<'_>> =
            steps.iter_mut().enumerate().filter(|(at, _)| members.contains(at)).map(|(_, step)| step).collect();
        let before: Vec<usize> = rows.iter().map(|row| row.state.positions()).collect();
        let (tokens, scores) = self.run_shared(sharing, &mut rows).await.ok()?;
        let mut choices = Vec::with_capacity(rows.len());
        for (row, (before, (token, log_probability))) in
            rows.into_iter().zip(before.into_iter().zip(tokens.into_iter().zip(scores)))
        {
            choices.push(match log_probability.is_nan() {
                true => Err(self.not_a_number(row.state, before).await),
                false => Ok(Choice { token: token as u32, log_probability }),
            });
        }
        Some(choices)
    }

    /// The tokens and their log-probabilities. The sequences count what was added once this has succeeded.
    async fn run_shared(
        &self,
        sharing: &Sharing,
        rows: &mut [&mut SharedStep<'_>],
    ) -> Result<(Vec<i64>, Vec<f32>), DecoderError> {
        let phase = &self.next;
        let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
        let embeddings = match &self.embedder {
            Some(embedder) => Some(embedder.run(&tokens, rows.len()).await?),
            None => None,
        };
        let feed = Feed { tokens: Some(&tokens), embeddings, mask: None };
        let masks: Vec<Vec<bool>> = rows.iter().map(|row| row.state.with(1, None).remove(0)).collect();
        let inputs = phase.shared_inputs(rows, &feed, &masks)?;
        let mut caches: Vec<_> = rows.iter_mut().map(|row| &mut row.state.caches).collect();
        let ports = (&phase.ports, &sharing.ragged);
        let outputs = phase.session.run_ragged(inputs, &phase.choice, ports, &mut caches).await?;
        let (Some(tokens), Some(scores)) = (outputs[0].to_i64_vec(), outputs[1].to_f32_vec()) else {
            return Err(DecoderError::Mismatch("the chosen tokens are not numbers".into()));
        };
        for (row, mask) in rows.iter_mut().zip(masks) {
            row.state.accept(vec![mask], 1);
        }
        Ok((tokens, scores))
    }
}

/// Shapes of what comes from an encoder.
type Sizes = Vec<Vec<usize>>;

impl Phase {
    /// The inputs of a shared step, caches apart: rows padded on the left up to the longest of `masks`.
    fn shared_inputs(
        &self,
        rows: &[&mut SharedStep<'_>],
        feed: &Feed<'_>,
        masks: &[Vec<bool>],
    ) -> Result<Vec<(String, Held)>, DecoderError> {
        let longest = masks.iter().map(Vec::len).max().unwrap_or(0);
        let padded = |mask: &Vec<bool>| [&vec![false; longest - mask.len()][..], mask].concat();
        let masks: Vec<Vec<bool>> = masks.iter().map(padded).collect();
        let mut encoder = Vec::new();
        for (name, _) in rows[0].state.encoder() {
            if self.session.inputs().iter().any(|input| *input.name == **name) {
                let of = |row: &&mut SharedStep<'_>| {
                    row.state.encoder().iter().find(|(n, _)| n == name).map(|e| e.1.clone())
                };
                let all: Vec<Tensor> = rows.iter().filter_map(of).collect();
                encoder.push((*name, stack(&all).map_err(|e| DecoderError::Mismatch(format!("{name}: {e}")))?));
            }
        }
        let mut inputs = self.inputs(&encoder, feed, Ids::Host(feed.tokens), 1, &masks)?;
        let bad = |e: TensorError| DecoderError::Mismatch(e.to_string());
        // Each row draws as the only one of its batch.
        let params: Vec<f32> =
            rows.iter().flat_map(|row| row.sampling.params_row(row.state.calls() as u64, 0)).collect();
        inputs
            .push((PARAMS.into(), Held::host(Tensor::from_slice(&[rows.len(), SAMPLE_PARAMS], &params).map_err(bad)?)));
        let history: Vec<&[u32]> = rows.iter().map(|row| row.counted()).collect();
        inputs.push((HISTORY.into(), Held::host(padded_history(&history, rows.len()).map_err(bad)?)));
        Ok(inputs)
    }
}
