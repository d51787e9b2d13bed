//! Heap memory aligned for every kernel, and the pool that hands it out again.

use std::sync::{Arc, Mutex};

/// The alignment, in bytes, of every buffer: a cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGNMENT]);

/// Bytes aligned to [`ALIGNMENT`].
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
    pool: Option<Arc<PoolShared>>,
}

/// Their number: they may be many.
impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBytes").field("len", &self.len).finish_non_exhaustive()
    }
}

impl AlignedBytes {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let lines = vec![Line([0; ALIGNMENT]); len.div_ceil(ALIGNMENT)];
        AlignedBytes { lines, len, pool: None }
    }

    /// `len` zero bytes for the elements of a weight, in memory with room for what they may be packed into: panels are filled up
    /// to whole ones, and bytes have sums and a list beside them.
    pub fn for_weight(len: usize) -> Self {
        let mut bytes = Self::zeroed(Self::room_of(len));
        bytes.len = len;
        bytes
    }

    /// Bytes that a weight of `len` has room for.
    fn room_of(len: usize) -> usize {
        if len < 1 << 16 { len } else { len + len / 20 }
    }

    /// A copy of `bytes`, the elements of a weight; see [`AlignedBytes::for_weight`].
    pub(crate) fn of_weight(bytes: &[u8]) -> Self {
        let count = Self::room_of(bytes.len()).div_ceil(ALIGNMENT);
        let mut lines = Vec::with_capacity(count);
        let (whole, rest) = bytes.as_chunks::<ALIGNMENT>();
        // Not zeroed first: weights are most of what is loaded.
        lines.extend(whole.iter().map(|line| Line(*line)));
        lines.resize(count, Line([0; ALIGNMENT]));
        let mut copy = AlignedBytes { lines, len: bytes.len(), pool: None };
        copy.as_mut_slice()[bytes.len() - rest.len()..].copy_from_slice(rest);
        copy
    }

    /// Bytes that it has room for.
    pub(crate) fn room(&self) -> usize {
        self.lines.len() * ALIGNMENT
    }

    /// The same memory holding `len` bytes, whatever they are, if it has room for them.
    pub(crate) fn holding(mut self, len: usize) -> Option<Self> {
        self.len = len;
        (len.div_ceil(ALIGNMENT) <= self.lines.len()).then_some(self)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.put(std::mem::take(&mut self.lines));
        }
    }
}

/// Free buffers of one session, handed out again instead of going back to the allocator.
///
/// A steady-state run asks for the same sizes each time, so after the first run nothing is allocated.
#[derive(Clone, Default)]
pub struct BufferPool {
    shared: Arc<PoolShared>,
}

#[derive(Default)]
struct PoolShared {
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    /// Sorted by length in lines.
    free: Vec<Vec<Line>>,
    allocated: u64,
}

impl PoolShared {
    fn put(&self, lines: Vec<Line>) {
        if lines.is_empty() {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let at = state.free.partition_point(|b| b.len() < lines.len());
        state.free.insert(at, lines);
    }
}

impl BufferPool {
    /// A buffer of `len` bytes whose content is unspecified: the smallest free one that holds it and is not
    /// more than twice as large, else a new one.
    pub fn take(&self, len: usize) -> AlignedBytes {
        let want = len.div_ceil(ALIGNMENT);
        let mut state = self.shared.state.lock().unwrap_or_else(|e| e.into_inner());
        let at = state.free.partition_point(|b| b.len() < want);
        let fits = state.free.get(at).is_some_and(|b| b.len() <= want * 2);
        let lines = if fits {
            state.free.remove(at)
        } else {
            state.allocated += 1;
            drop(state);
            vec![Line([0; ALIGNMENT]); want]
        };
        AlignedBytes { lines, len, pool: Some(self.shared.clone()) }
    }

    /// How many buffers this pool had to ask the allocator for so far.
    pub fn allocations(&self) -> u64 {
        self.shared.state.lock().unwrap_or_else(|e| e.into_inner()).allocated
    }

    /// Bytes that lie free in the pool.
    pub fn free_bytes(&self) -> usize {
        let state = self.shared.state.lock().unwrap_or_else(|e| e.into_inner());
        state.free.iter().map(|b| b.len() * ALIGNMENT).sum()
    }

    /// Gives all free buffers back to the allocator.
    pub fn clear(&self) {
        self.shared.state.lock().unwrap_or_else(|e| e.into_inner()).free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_reused() {
        let pool = BufferPool::default();
        let a = pool.take(100);
        assert_eq!(a.as_slice().len(), 100);
        assert_eq!(a.as_slice().as_ptr() as usize % ALIGNMENT, 0);
        drop(a);
        assert_eq!(pool.free_bytes(), 128);
        let b = pool.take(120);
        assert_eq!(pool.allocations(), 1);
        let c = pool.take(120);
        assert_eq!(pool.allocations(), 2);
        drop((b, c));
        // A buffer more than twice as large as asked for stays where it is.
        let _small = pool.take(1);
        assert_eq!(pool.free_bytes(), 128);
        pool.clear();
        assert_eq!(pool.free_bytes(), 0);
    }
}
