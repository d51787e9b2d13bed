//! A language model with real weights, token by token behind prompts that ONNX Runtime has continued.

use std::collections::BTreeMap;

use lenslet::generate::{Decoder, Feed};
use serde::Deserialize;

use crate::greedy::argmax;

/// `greedy.json` of SmolLM2: prompts by name, for each file.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Continuations(BTreeMap<String, serde_json::Value>);

/// A prompt and its greedy continuation.
#[derive(Debug, Clone, Deserialize)]
pub struct Continuation {
    prompt_ids: Vec<u32>,
    tokens: Vec<u32>,
}

/// Where a model would go on with another token than ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// The position in the continuation.
    pub at: usize,
    /// The model's token.
    pub got: u32,
    /// ONNX Runtime's.
    pub wanted: u32,
    /// By how much the model prefers its own.
    pub gap: f32,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token {} is {}, ONNX Runtime {}, logits {:.4} apart", self.at, self.got, self.wanted, self.gap)
    }
}

impl Continuations {
    /// Reads the file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|e| format!("greedy.json: {e}"))
    }

    /// The prompts for a graph.
    ///
    /// # Errors
    /// If there are none.
    pub fn of(&self, file: &str) -> Result<BTreeMap<String, Continuation>, String> {
        let cases = self.0.get(file).ok_or_else(|| format!("greedy.json has no {file}"))?;
        serde_json::from_value(cases.clone()).map_err(|e| format!("greedy.json: {file}: {e}"))
    }
}

impl Continuation {
    /// Feeds the prompt and then ONNX Runtime's tokens, `most` of them, and tells wherever the model would choose another. So
    /// one difference does not hide the next.
    ///
    /// # Errors
    /// Says what failed.
    pub async fn follow(&self, decoder: &Decoder, most: usize) -> Result<Vec<Difference>, String> {
        let wanted = &self.tokens[..self.tokens.len().min(most)];
        let limit = self.prompt_ids.len() + wanted.len();
        let mut state = decoder.start(1, limit, vec![]);
        state.reserve(limit);
        let mut tokens = self.prompt_ids.clone();
        let mut differences = Vec::new();
        for (at, &wanted) in wanted.iter().enumerate() {
            let logits = decoder.run(&mut state, Feed::tokens(&tokens)).await.map_err(|e| e.to_string())?;
            let logits = logits.as_slice::<f32>().map_err(|e| e.to_string())?;
            let got = argmax(logits);
            if got != wanted {
                differences.push(Difference { at, got, wanted, gap: logits[got as usize] - logits[wanted as usize] });
            }
            tokens = vec![wanted];
        }
        Ok(differences)
    }

    /// Tokens of the continuation.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// Whether the first `least` tokens are the same and all later differences ties within `tie`.
///
/// # Errors
/// Names the first difference that is neither.
pub fn judge(differences: &[Difference], least: usize, tie: f32) -> Result<(), String> {
    match differences.iter().find(|d| d.at < least || d.gap.is_nan() || d.gap >= tie) {
        None => Ok(()),
        Some(difference) => Err(difference.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_late_ties_may_differ() {
        let at = |at, gap| Difference { at, got: 1, wanted: 2, gap };
        assert!(judge(&[], 24, 1e-2).is_ok());
        assert!(judge(&[at(24, 5e-3)], 24, 1e-2).is_ok());
        for bad in [at(23, 5e-3), at(24, 1e-2), at(30, f32::NAN)] {
            assert!(judge(&[at(25, 0.0), bad], 24, 1e-2).is_err(), "{bad}");
        }
    }
}
