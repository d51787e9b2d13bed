//! One sequence of calls: its caches, and which positions count.

use super::error::DecoderError;
use crate::plan::Caches;
use crate::tensor::{AlignedBytes, Tensor};

/// A sequence that a decoder has seen so far, with its caches. A clone is cheap and independent: the memory is shared until
/// one of the two goes on.
#[derive(Clone)]
pub struct State {
    pub(crate) caches: Caches,
    /// Which positions of each row count.
    mask: Vec<Vec<bool>>,
    positions: usize,
    limit: usize,
    calls: usize,
    encoder: Vec<(&'static str, Tensor)>,
}

impl State {
    pub(super) fn new(batch: usize, limit: usize, slots: usize, encoder: Vec<(&'static str, Tensor)>) -> State {
        let caches = Caches { slots: vec![Default::default(); slots], ..Caches::default() };
        State { caches, mask: vec![vec![]; batch], positions: 0, limit, calls: 0, encoder }
    }

    /// In the place of a sequence that is elsewhere.
    pub(super) fn nothing() -> State {
        State::new(0, 0, 0, vec![])
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.mask.len()
    }

    /// Positions so far, padding included.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Positions that fit.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Bytes that the caches take.
    pub fn bytes(&self) -> usize {
        self.caches.slots.iter().map(|s| s.bytes()).sum()
    }

    /// Bytes of caches that were copied so far, to make room for more or because the graph cannot grow them in place.
    pub fn bytes_copied(&self) -> u64 {
        self.caches.copied
    }

    /// Makes room for `positions` positions in all when a cache next has to grow, so that it grows once.
    pub fn reserve(&mut self, positions: usize) {
        self.caches.reserve = positions.min(self.limit);
    }

    pub(super) fn encoder(&self) -> &[(&'static str, Tensor)] {
        &self.encoder
    }

    /// The mask with `positions` more, of which those count that `more` says.
    pub(super) fn with(&self, positions: usize, more: Option<&[bool]>) -> Vec<Vec<bool>> {
        let mut mask = self.mask.clone();
        for (row, all) in mask.iter_mut().enumerate() {
            match more {
                Some(more) => all.extend_from_slice(&more[row * positions..][..positions]),
                None => all.resize(all.len() + positions, true),
            }
        }
        mask
    }

    /// Counts calls that were made for this text elsewhere, so that chance goes on where it was.
    #[cfg(feature = "text")]
    pub(crate) fn count_calls(&mut self, calls: usize) {
        self.calls += calls;
    }

    pub(super) fn accept(&mut self, mask: Vec<Vec<bool>>, positions: usize) {
        self.mask = mask;
        self.positions += positions;
        self.calls += 1;
    }

    pub(super) fn truncate(&mut self, positions: usize, names: &[String], fixed: impl Fn(&str) -> bool) {
        self.positions = self.positions.min(positions);
        self.mask.iter_mut().for_each(|row| row.truncate(positions));
        for (slot, name) in self.caches.slots.iter_mut().zip(names) {
            if positions == 0 {
                *slot = Default::default();
            } else if !fixed(name) {
                slot.truncate(positions);
            }
        }
    }

    pub(super) fn select(&mut self, rows: &[usize]) -> Result<(), DecoderError> {
        self.mask = rows.iter().map(|&r| self.mask[r].clone()).collect();
        for (name, tensor) in &mut self.encoder {
            let mut shape = tensor.shape().to_vec();
            let plane = tensor.bytes().len() / shape.first().copied().unwrap_or(1).max(1);
            let picked: Vec<u8> = rows.iter().flat_map(|&r| &tensor.bytes()[r * plane..][..plane]).copied().collect();
            shape[0] = rows.len();
            let mut bytes = AlignedBytes::zeroed(picked.len());
            bytes.as_mut_slice().copy_from_slice(&picked);
            *tensor = Tensor::from_buffer(tensor.dtype(), &shape, bytes)
                .map_err(|e| DecoderError::Mismatch(format!("{name}: {e}")))?;
        }
        Ok(())
    }
}
