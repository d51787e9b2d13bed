//! Beam search through a decoder: the rows of its batch are the beams of one text.
//!
//! The search itself is bookkeeping ([`super::beam`]). Here the decoder says how likely each next token is, and its caches
//! follow the beams. The prompt is read once, in one row; the first step spreads that row over all beams.

use super::beam::{BeamOptions, BeamSearch, Candidate, Hypothesis};
use super::decoder::{Decoder, Feed};
use super::error::DecoderError;
use super::generation::Prompt;
use super::state::State;
use crate::tensor::Tensor;

/// One text while beam search looks for it. Dropping it stops the search.
pub struct BeamGeneration<'d> {
    decoder: &'d Decoder,
    state: State,
    search: BeamSearch,
    repetition_penalty: f32,
    /// The tokens of each row, the prompt's included: what a repetition penalty counts.
    history: Vec<Vec<u32>>,
    /// Of the last position of each row.
    logits: Tensor,
    done: bool,
}

impl<'d> BeamGeneration<'d> {
    /// Reads the prompt into `state` (of one row). A `repetition_penalty` of 1 changes nothing.
    ///
    /// # Errors
    /// [`DecoderError::Beams`] for settings out of range, and what [`Decoder::run`] returns.
    pub async fn begin(
        decoder: &'d Decoder,
        mut state: State,
        prompt: Prompt,
        options: BeamOptions,
        repetition_penalty: f32,
    ) -> Result<BeamGeneration<'d>, DecoderError> {
        if state.batch() != 1 {
            return Err(DecoderError::Mismatch(format!("beam search begins with one row, not {}", state.batch())));
        }
        state.reserve((state.positions() + prompt.tokens.len()).saturating_add(options.max_new_tokens));
        let search = BeamSearch::new(1, options)?;
        let feed = Feed { tokens: Some(&prompt.tokens), embeddings: prompt.embeddings, mask: None };
        let logits = decoder.run(&mut state, feed).await?;
        let history = vec![[prompt.before, prompt.tokens].concat()];
        Ok(BeamGeneration { decoder, state, search, repetition_penalty, history, logits, done: false })
    }

    /// Lets every beam grow by one token. `false` once the search has ended: because of its rules, or because the context is
    /// full.
    ///
    /// # Errors
    /// What [`Decoder::select`] and [`Decoder::run`] return, and [`DecoderError::Beams`] for broken logits.
    pub async fn step(&mut self) -> Result<bool, DecoderError> {
        if self.done {
            return Ok(false);
        }
        let count = self.search.candidates_per_row();
        let mut candidates = Vec::new();
        let logits = self.logits.as_slice::<f32>().map_err(|e| DecoderError::Mismatch(format!("the logits: {e}")))?;
        for (row, logits) in logits.chunks_exact(self.decoder.vocabulary()).enumerate() {
            let mut scores = log_softmax(logits);
            penalise(&mut scores, &self.history[row], self.repetition_penalty);
            candidates.extend(likeliest(&scores, count).map(|(token, log_probability)| Candidate {
                row,
                token,
                log_probability,
            }));
        }
        let next = self.search.step(&candidates)?;
        if next.done || self.state.positions() >= self.state.limit() {
            self.done = true;
            return Ok(false);
        }
        // Copying the caches of all beams is what a step of beam search costs beside the decoder: spare it where none moves.
        if !next.parents.iter().copied().eq(0..self.state.batch()) {
            self.decoder.select(&mut self.state, &next.parents).await?;
        }
        let grown = next.parents.iter().zip(&next.tokens);
        self.history = grown.map(|(&row, &token)| [&self.history[row][..], &[token]].concat()).collect();
        self.logits = self.decoder.run(&mut self.state, Feed::tokens(&next.tokens)).await?;
        Ok(true)
    }

    /// Ends the search, however far it is: the sequences that it found, best first, at most as many as beams.
    pub fn finish(self) -> Vec<Hypothesis> {
        self.search.finish().into_iter().next().unwrap_or_default()
    }

    /// The sequences so far, a row each.
    pub fn state(&self) -> &State {
        &self.state
    }
}

/// The logarithm of each token's probability. Sums are f64, so that a vocabulary of any size loses nothing.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
    let shift = f64::from(most) + sum.ln();
    logits.iter().map(|&x| (f64::from(x) - shift) as f32).collect()
}

/// Makes tokens less likely that were there before: Keskar et al. 2019, as transformers applies it to beam scores. They are
/// logarithms of probabilities, never above 0.
fn penalise(scores: &mut [f32], history: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = history.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(score) = scores.get_mut(token as usize) {
            *score *= penalty;
        }
    }
}

/// The `count` greatest, of equals the first; in no order.
fn likeliest(scores: &[f32], count: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
    let mut tokens: Vec<u32> = (0..scores.len() as u32).collect();
    if count < tokens.len() {
        // Not a number stands in front, so that the search sees and refuses it.
        tokens
            .select_nth_unstable_by(count, |&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
        tokens.truncate(count);
    }
    tokens.into_iter().map(|t| (t, scores[t as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_extremes_do_not_overflow() {
        let scores = log_softmax(&[1e30, 0.0, f32::NEG_INFINITY]);
        assert_eq!(scores, [0.0, -1e30, f32::NEG_INFINITY]);
        let sum: f64 = log_softmax(&[1.0, 2.0, -3.0]).iter().map(|&s| f64::from(s).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        assert!(log_softmax(&[f32::NEG_INFINITY; 2]).iter().all(|s| s.is_nan()));
    }

    #[test]
    fn the_likeliest_are_found_and_equals_go_by_their_id() {
        let mut got: Vec<_> = likeliest(&[0.5, 2.0, 1.0, 2.0, 1.0], 3).collect();
        got.sort_unstable_by_key(|g| g.0);
        assert_eq!(got, [(1, 2.0), (2, 1.0), (3, 2.0)]);
        assert_eq!(likeliest(&[1.0, 2.0], 5).count(), 2);
        assert!(likeliest(&[1.0, f32::NAN, 2.0], 1).any(|(t, s)| t == 1 && s.is_nan()));
    }

    #[test]
    fn a_repetition_counts_once() {
        let mut scores = [-1.0, -2.0, -3.0];
        penalise(&mut scores, &[1, 1, 9], 2.0);
        assert_eq!(scores, [-1.0, -4.0, -3.0]);
    }
}
