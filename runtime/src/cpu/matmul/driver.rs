//! The blocked product that all matrix and convolution kernels share.
//!
//! The output is cut into blocks, one task each. A task goes over K in stretches; for each it takes the panels of `b`
//! (packed beforehand, or filled then and there) and multiplies them with all its panels of `a` into an accumulator
//! block that stays in the second-level cache. When K is through, each row of the block goes to `store`, which scales,
//! adds the bias and so on, and writes to the output: so the epilogue reads warm cache, whatever it does. The scheme is
//! Goto and van de Geijn's ("Anatomy of High-Performance Matrix Multiplication", 2008).

use std::ops::Range;

use super::kernel::{Kernel, Kernels, Number};
use crate::cpu::parallel;
use crate::tensor::BufferPool;

/// Threads, scratch memory and micro-kernels for one product.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Threads that may work on it.
    pub(crate) threads: usize,
    /// Memory to borrow.
    pub(crate) scratch: &'a BufferPool,
    /// The machine's micro-kernels.
    pub(crate) kernels: &'static Kernels,
}

impl Context<'_> {
    /// The same memory, this thread only: for work that is split further out.
    pub(crate) fn single(self) -> Self {
        Context { threads: 1, ..self }
    }
}

/// Rows cut into panels whose heights differ by one at most, so that no tile is left nearly empty: 50 rows are five
/// panels of 6 and four of 5.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPanels {
    rows: usize,
    /// How many.
    pub(crate) count: usize,
}

impl RowPanels {
    /// `rows` rows in the fewest panels of up to `mr`.
    pub(crate) fn new(rows: usize, mr: usize) -> Self {
        RowPanels { rows, count: rows.div_ceil(mr) }
    }

    /// The first row of panel `i`; for `i = count` the end.
    pub(crate) fn start(self, i: usize) -> usize {
        let (height, more) = (self.rows / self.count.max(1), self.rows % self.count.max(1));
        i * height + i.min(more)
    }

    /// The panel of row `row` and its place in it.
    pub(crate) fn place(self, row: usize) -> (usize, usize) {
        let (height, more) = (self.rows / self.count.max(1), self.rows % self.count.max(1));
        let panel = if row < more * (height + 1) { row / (height + 1) } else { (row - more) / height };
        (panel, row - self.start(panel))
    }

    /// The rows of panel `i`.
    pub(crate) fn range(self, i: usize) -> Range<usize> {
        self.start(i)..self.start(i + 1)
    }
}

/// The right-hand side of a product, in panels of `nr` columns.
pub(crate) trait Columns<T: Number>: Sync {
    /// Whether `block` writes into `room`.
    fn needs_room(&self) -> bool;

    /// Panels that are best asked for together, of `all` that a task needs: one by default, which the tiles then find
    /// in the first-level cache.
    fn together(&self, all: usize) -> usize {
        let _ = all;
        1
    }

    /// The memory that `block` will read for `panel`, if it pays to fetch it ahead.
    fn source(&self, nr: usize, k: Range<usize>, panel: usize) -> &[u8] {
        let _ = (nr, k, panel);
        &[]
    }

    /// The elements `k` (a range that starts at a multiple of the step; its end may lie in the padding of K) of the
    /// panels `panels`: panel i of them starts at i times the second result and is `[k / STEP][nr][STEP]`. `room` holds
    /// `panels.len() * k.len() * nr` elements if `needs_room`. Padding must be zero.
    fn block<'s>(&'s self, nr: usize, k: Range<usize>, panels: Range<usize>, room: &'s mut [T]) -> (&'s [T], usize);
}

/// Panels packed over the whole of K.
pub(crate) struct PackedColumns<'a, T> {
    /// The panels, one after another.
    pub(crate) data: &'a [T],
    /// K, rounded up to a multiple of the step.
    pub(crate) k: usize,
}

impl<T: Number> Columns<T> for PackedColumns<'_, T> {
    fn needs_room(&self) -> bool {
        false
    }

    fn block<'s>(&'s self, nr: usize, k: Range<usize>, panels: Range<usize>, _: &'s mut [T]) -> (&'s [T], usize) {
        let stride = self.k * nr;
        (&self.data[panels.start * stride + k.start * nr..], stride)
    }

    fn source(&self, nr: usize, k: Range<usize>, panel: usize) -> &[u8] {
        bytemuck::cast_slice(&self.data[panel * self.k * nr + k.start * nr..][..k.len() * nr])
    }
}

/// Asks for the cache lines of part `part` of `parts` of `bytes`, without waiting for them. The hardware's own prefetcher
/// stops at each page and starts anew with each panel.
#[inline]
fn fetch_ahead(bytes: &[u8], part: usize, parts: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let lines = bytes.len().div_ceil(64);
        for line in part * lines / parts..(part + 1) * lines / parts {
            // SAFETY: the address lies inside `bytes`, and a prefetch does not access memory.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().add(line * 64).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, part, parts);
}

/// Panels of rows and of columns that a task takes.
#[derive(Debug, PartialEq, Eq)]
struct Blocking {
    rows: usize,
    columns: usize,
}

/// Rows of a block at most: their share of a stretch of `a` fits the second-level cache.
const MAX_ROWS: usize = 384;
/// Columns of a block at most.
const MAX_COLUMNS: usize = 256;
/// Bytes of a panel of columns at most, so that it stays in the first-level cache beside the rows it meets.
const PANEL: usize = 16 << 10;
/// Elements of K in a stretch at most.
pub(crate) const MAX_STRETCH: usize = 1024;
/// Elements of the accumulator block at most.
const MAX_ACCUMULATORS: usize = 48 << 10;

/// Bytes of columns at most that are filled for all blocks of rows at once: what the caches between the first and memory hold.
const MAX_FILLED: usize = 2 << 20;

/// Rows up to which columns are read in longer stretches; up to here, each row is added up in the same order.
pub(crate) const fn few_rows(mr: usize) -> usize {
    2 * mr
}

/// Chooses blocks for `m` x `n` outputs, given the tile and the threads.
fn blocking(m: usize, n: usize, mr: usize, nr: usize, threads: usize) -> Blocking {
    let (row_panels, column_panels) = (m.div_ceil(mr).max(1), n.div_ceil(nr).max(1));
    let even = |panels: usize, blocks: usize| panels.div_ceil(blocks.clamp(1, panels));
    let rows = even(row_panels, m.div_ceil(MAX_ROWS));
    let room = (MAX_ACCUMULATORS / (rows * mr)).min(MAX_COLUMNS) / nr;
    let mut blocks = column_panels.div_ceil(room.max(1));
    let row_blocks = row_panels.div_ceil(rows);
    let wanted = if threads > 1 { threads * 3 } else { 1 };
    if row_blocks * blocks < wanted {
        blocks = wanted.div_ceil(row_blocks);
    }
    let columns = even(column_panels, blocks);
    // Narrower blocks where all threads then end at once: of 16 panels in blocks of three, one of two threads gets nine.
    let busiest = |columns: usize| (row_blocks * column_panels.div_ceil(columns)).div_ceil(threads.max(1)) * columns;
    let narrowest = if threads > 1 { columns.div_ceil(2) } else { columns };
    let columns = (narrowest..=columns).rev().min_by_key(|&columns| busiest(columns)).unwrap_or(columns);
    let column_blocks = column_panels.div_ceil(columns);
    let rows =
        if row_blocks * column_blocks < wanted { even(row_panels, wanted.div_ceil(column_blocks)) } else { rows };
    Blocking { rows, columns }
}

/// Multiplies `m` x `k` by `k` x `n`. `a` is packed in [`RowPanels`] over the whole of K rounded up to the step.
///
/// `store(row, column, sums)` is called once for each row and each of its blocks; it may use `sums` as it likes.
pub(crate) fn multiply<T: Number>(
    cx: Context<'_>,
    kernel: &Kernel<T>,
    sizes: (usize, usize, usize),
    a: &[T],
    b: &(impl Columns<T> + ?Sized),
    store: impl Fn(usize, usize, &mut [T::Acc]) + Sync,
) {
    multiply_blocks(cx, kernel, sizes, a, b, |block| {
        let Block { rows, columns, sums, stride } = block;
        for (sums, row) in sums.chunks_mut(stride).zip(rows) {
            store(row, columns.start, &mut sums[..columns.len()]);
        }
    });
}

/// Finished sums of a part of a product.
pub(crate) struct Block<'a, A> {
    pub(crate) rows: Range<usize>,
    pub(crate) columns: Range<usize>,
    /// The rows, `stride` elements apart. Whoever takes them may use them as they like.
    pub(crate) sums: &'a mut [A],
    pub(crate) stride: usize,
}

/// [`multiply`], but `store` is called for each block.
pub(crate) fn multiply_blocks<T: Number>(
    cx: Context<'_>,
    kernel: &Kernel<T>,
    (m, n, k): (usize, usize, usize),
    a: &[T],
    b: &(impl Columns<T> + ?Sized),
    store: impl Fn(Block<'_, T::Acc>) + Sync,
) {
    if m == 0 || n == 0 {
        return;
    }
    let (mr, nr) = (kernel.mr, kernel.nr);
    let k = k.next_multiple_of(T::STEP);
    let block = blocking(m, n, mr, nr, cx.threads);
    let row_panels = RowPanels::new(m, mr);
    let column_panels = n.div_ceil(nr);
    let (row_blocks, column_blocks) = (row_panels.count.div_ceil(block.rows), column_panels.div_ceil(block.columns));
    // With few rows a panel is used up at once; reading columns in longer stretches then suits memory better.
    let panel = if m <= few_rows(mr) { 8 * PANEL } else { PANEL };
    let stretches = k.div_ceil((panel / (nr * size_of::<T>())).min(MAX_STRETCH)).max(1);
    let stretch = k.div_ceil(stretches).next_multiple_of(T::STEP);
    // Blocks of rows share columns, which are then filled once, and not by each.
    let size = column_panels * nr * k * size_of::<T>();
    let shared = b.needs_room() && row_blocks > 1 && size <= MAX_FILLED;
    let mut filled = cx.scratch.take(if shared { size } else { 0 });
    if shared {
        fill(cx.threads, b, nr, k, column_panels, bytemuck::cast_slice_mut(filled.as_mut_slice()));
    }
    let filled: &[T] = bytemuck::cast_slice(filled.as_slice());
    let together = if shared { 1 } else { b.together(block.columns).clamp(1, block.columns) };
    let room = if b.needs_room() && !shared { together * nr * stretch } else { 0 };
    // A cache line more, so that the rows of a tile do not fall into the same few sets of the cache.
    let width = block.columns * nr + 64 / size_of::<T::Acc>();
    let init = || {
        let accumulators = cx.scratch.take(block.rows * mr * width * size_of::<T::Acc>());
        (accumulators, cx.scratch.take(room * size_of::<T>()))
    };
    parallel::for_each_with(cx.threads, row_blocks * column_blocks, init, |(accumulators, room), task| {
        // Neighbouring tasks share columns: b, the larger operand as a rule, is then read from memory once.
        let (column_block, row_block) = (task / row_blocks, task % row_blocks);
        let rows = row_block * block.rows..((row_block + 1) * block.rows).min(row_panels.count);
        let columns = column_block * block.columns..((column_block + 1) * block.columns).min(column_panels);
        let first_row = row_panels.start(rows.start);
        let accumulators: &mut [T::Acc] = bytemuck::cast_slice_mut(accumulators.as_mut_slice());
        if k == 0 {
            accumulators.fill(T::Acc::default());
        }
        let mut from = 0;
        while from < k {
            let to = (from + stretch).min(k);
            for group in columns.clone().step_by(together) {
                let panels = group..(group + together).min(columns.end);
                let room = bytemuck::cast_slice_mut(room.as_mut_slice());
                let (panel_data, b_stride) = match shared {
                    true => (&filled[(panels.start * k + from) * nr..], k * nr),
                    false => b.block(nr, from..to, panels.clone(), room),
                };
                for (j, panel) in panels.enumerate() {
                    let next = match panel + 1 {
                        next if next < columns.end => b.source(nr, from..to, next),
                        _ if to < k => b.source(nr, to..(to + stretch).min(k), columns.start),
                        _ => &[],
                    };
                    let panel_data = &panel_data[j * b_stride..][..(to - from) * nr];
                    for i in rows.clone() {
                        fetch_ahead(next, i - rows.start, rows.len());
                        let range = row_panels.range(i);
                        let a = &a[i * k * mr + from * mr..][..(to - from) * mr];
                        let c = &mut accumulators[(range.start - first_row) * width + (panel - columns.start) * nr..];
                        kernel.run(range.len(), to - from, a, panel_data, c, width, from > 0);
                    }
                }
            }
            from = to;
        }
        let first_column = columns.start * nr;
        let used = (columns.end * nr).min(n) - first_column;
        let rows = first_row..row_panels.start(rows.end);
        let sums = &mut accumulators[..rows.len() * width];
        store(Block { rows, columns: first_column..first_column + used, sums, stride: width });
    });
}

/// Fills all `panels` panels of `b` over the whole of K.
fn fill<T: Number>(threads: usize, b: &(impl Columns<T> + ?Sized), nr: usize, k: usize, panels: usize, out: &mut [T]) {
    let threads = if out.len() < 1 << 14 { 1 } else { threads };
    let each = parallel::even_chunks(threads, panels, panels.div_ceil(4 * threads.max(1)));
    parallel::for_each_chunk(threads, out, each * k * nr, |i, out| {
        let panels = i * each..(i * each + each).min(panels);
        let (data, stride) = b.block(nr, 0..k, panels, out);
        debug_assert!(stride == k * nr && data.len() >= stride);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_even() {
        let p = RowPanels::new(50, 6);
        let heights: Vec<usize> = (0..p.count).map(|i| p.range(i).len()).collect();
        assert_eq!(heights, [6, 6, 6, 6, 6, 5, 5, 5, 5]);
        assert_eq!(p.start(p.count), 50);
        assert_eq!(RowPanels::new(0, 6).start(0), 0);
        for rows in [1, 6, 7, 50, 53] {
            let p = RowPanels::new(rows, 6);
            let places = (0..p.count).flat_map(|i| (0..p.range(i).len()).map(move |r| (i, r)));
            assert!(places.eq((0..rows).map(|row| p.place(row))));
        }
    }

    #[test]
    fn blocks_cover_and_feed_all_threads() {
        for (m, n) in [(1, 1), (1, 4096), (50, 768), (50, 3072), (400, 3072), (4096, 16), (64, 12544), (2048, 49)] {
            for threads in [1, 2, 8] {
                let b = blocking(m, n, 6, 16, threads);
                assert!(b.rows >= 1 && b.columns >= 1 && b.rows * 6 <= MAX_ROWS + 6 && b.columns * 16 <= MAX_COLUMNS);
                assert!(b.rows * 6 * b.columns * 16 <= MAX_ACCUMULATORS + 6 * MAX_COLUMNS);
                let tasks = m.div_ceil(6).div_ceil(b.rows) * n.div_ceil(16).div_ceil(b.columns);
                assert!(tasks >= threads.min(m.div_ceil(6) * n.div_ceil(16)), "{m}x{n} {threads}: {b:?}");
            }
        }
    }
}
