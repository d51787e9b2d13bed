//! The computation: scores, softmax, weighted values.
//!
//! Many queries go another way, see [`columns`]. Of few, a task is one head. It multiplies straight from the operands'
//! own layout (the product packs its operands anyway, whatever their strides). A decoding step has one query a head: there
//! the heads that share keys are one task, so that the cache is read once for all of them.

use std::ops::Range;

use super::columns;
use crate::cpu::args::invalid;
use crate::cpu::matmul::gemm;
use crate::cpu::matmul::pack::Matrix;
use crate::cpu::parallel::SharedMut;
use crate::cpu::softmax::softmax_row;
use crate::cpu::{Cpu, math, parallel};
use crate::error::KernelError;
use crate::graph::{HeadLayout, Unary};
use crate::tensor::TensorView;

/// Where the rows of each head of an operand lie.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) batch: usize,
    /// Rows of each head: queries or keys.
    pub(crate) rows: usize,
    /// Elements of a row.
    pub(crate) size: usize,
    /// Elements between rows of the batch, heads, rows of a head, elements of a row.
    pub(crate) strides: [usize; 4],
}

impl<'a> Heads<'a> {
    pub(crate) fn new(
        data: &'a [f32],
        layout: HeadLayout,
        batch: usize,
        heads: usize,
        rows: usize,
        size: usize,
    ) -> Self {
        let whole = heads * rows * size;
        let strides = match layout {
            HeadLayout::Merged => [whole, size, heads * size, 1],
            HeadLayout::Split => [whole, rows * size, size, 1],
            HeadLayout::SplitTransposed => [whole, rows * size, 1, rows],
        };
        Heads { data, batch, rows, size, strides }
    }

    /// Batch, rows, size: for messages.
    pub(crate) fn dims(&self) -> [usize; 3] {
        [self.batch, self.rows, self.size]
    }

    /// Rows of head (b, h).
    pub(super) fn matrix(&self, b: usize, h: usize, rows: Range<usize>) -> Matrix<'a, f32> {
        Matrix::new(self.from(b, h, rows.start), rows.len(), self.size, (self.strides[2], self.strides[3]))
    }

    /// The elements from row `row` of head (b, h) on.
    pub(crate) fn from(&self, b: usize, h: usize, row: usize) -> &'a [f32] {
        self.data.get(b * self.strides[0] + h * self.strides[1] + row * self.strides[2]..).unwrap_or(&[])
    }
}

/// What is added to the scores, broadcast to [batch, heads, queries, keys].
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    pub(super) data: &'a [f32],
    /// Elements between entries of the batch, heads, queries, keys; 0 where all have the same.
    pub(super) strides: [usize; 4],
}

impl<'a> Bias<'a> {
    pub(crate) fn new(op: &'static str, view: TensorView<'a>, scores: [usize; 4]) -> Result<Self, KernelError> {
        let data = view.as_slice::<f32>()?;
        let mut strides = [0; 4];
        let mut stride = 1;
        let fits = view.shape.len() <= 4
            && view.shape.iter().rev().zip((0..4).rev()).all(|(&dim, d)| {
                strides[d] = if dim == 1 { 0 } else { stride };
                stride *= dim;
                dim == 1 || dim == scores[d]
            });
        if !fits {
            let shape = view.shape;
            return Err(invalid(op, format_args!("a bias of shape {shape:?} does not broadcast to {scores:?}")));
        }
        Ok(Bias { data, strides })
    }

    /// Adds the part for `keys` of one query.
    fn add(&self, [b, h, query]: [usize; 3], keys: Range<usize>, row: &mut [f32]) {
        let [sb, sh, sq, sk] = self.strides;
        let start = b * sb + h * sh + query * sq;
        if sk == 0 {
            let value = self.data[start];
            row.iter_mut().for_each(|s| *s += value);
        } else {
            row.iter_mut().zip(&self.data[start + keys.start..]).for_each(|(s, b)| *s += b);
        }
    }
}

/// The range from the first to the last key that any of `queries` sees.
pub(super) fn union(queries: Range<usize>, visible: impl Fn(usize) -> Range<usize>) -> Range<usize> {
    let seen = queries.map(visible).filter(|seen| !seen.is_empty());
    seen.reduce(|a, seen| a.start.min(seen.start)..a.end.max(seen.end)).unwrap_or(0..0)
}

/// One call of attention.
pub(crate) struct Job<'a> {
    pub(crate) heads: usize,
    /// Heads of the keys and values; divides `heads`.
    pub(crate) kv_heads: usize,
    pub(crate) q: Heads<'a>,
    pub(crate) k: Heads<'a>,
    pub(crate) v: Heads<'a>,
    /// Factor on the scores.
    pub(crate) scale: f32,
    /// softcap * tanh(score / softcap) when not zero.
    pub(crate) softcap: f32,
    pub(crate) bias: Option<Bias<'a>>,
    /// `y` is [batch, queries, heads, size], else [batch, heads, queries, size].
    pub(crate) merged_output: bool,
    /// Zeros for a query that sees no key, else NaN.
    pub(crate) zero_masked_rows: bool,
}

impl Job<'_> {
    /// Writes all of `y`. `visible(b, i)` are the keys that query i sees.
    pub(crate) fn run(&self, cpu: &Cpu, visible: impl Fn(usize, usize) -> Range<usize> + Sync, y: &mut [f32]) {
        let (batch, queries, size) = (self.q.batch, self.q.rows, self.v.size);
        if y.is_empty() {
            return;
        }
        if columns::serves(cpu, queries) {
            return columns::run(self, cpu, visible, y);
        }
        let group = self.heads / self.kv_heads;
        // With one query a head, rows of a task are the heads of a group; else they are queries of one head.
        let share = queries == 1 && group > 1;
        let (units, rows) = if share { (self.kv_heads, group) } else { (self.heads, queries) };
        let y = SharedMut::new(y);
        let cx = cpu.context().single();
        let take = || cpu.scratch.take(rows * (self.k.rows + size) * size_of::<f32>());
        parallel::for_each_with(cpu.threads(), batch * units, take, |room, task| {
            let (b, unit) = (task / units, task % units);
            let first_head = if share { unit * group } else { unit };
            let place = |r: usize| if share { (first_head + r, 0) } else { (first_head, r) };
            let kv = first_head / group;
            let keys = union(0..queries, |query| visible(b, query));
            let width = keys.len();
            let room: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
            let (scores, room) = room.split_at_mut(rows * width);
            let out = &mut room[..rows * size];

            let q_step = if share { self.q.strides[1] } else { self.q.strides[2] };
            let q = self.q.from(b, first_head, 0);
            let [_, _, k_row, k_column] = self.k.strides;
            let k = self.k.from(b, kv, keys.start);
            let dims = (rows, width, self.q.size);
            gemm(cx, dims, self.scale, q, (q_step, self.q.strides[3]), k, (k_column, k_row), scores, width, false);
            for r in 0..rows {
                let (head, query) = place(r);
                let row = &mut scores[r * width..][..width];
                self.weights(row, [b, head, query], visible(b, query), keys.clone());
            }
            let [_, _, v_row, v_column] = self.v.strides;
            let v = self.v.from(b, kv, keys.start);
            if width > 0 {
                gemm(cx, (rows, size, width), 1.0, scores, (width, 1), v, (v_row, v_column), out, size, false);
            } else {
                out.fill(0.0);
            }
            for r in 0..rows {
                let (head, query) = place(r);
                let row = &mut out[r * size..][..size];
                if visible(b, query).is_empty() && !self.zero_masked_rows {
                    row.fill(f32::NAN);
                }
                // SAFETY: each (batch, head, query) belongs to one task, and rows of y do not overlap.
                unsafe { y.slice(self.row_of_output(b, head, query), size) }.copy_from_slice(row);
            }
        });
    }

    /// Bounds scores by the soft cap, if there is one.
    pub(super) fn cap(&self, scores: &mut [f32]) {
        if self.softcap != 0.0 {
            scores.iter_mut().for_each(|s| *s /= self.softcap);
            math::apply_unary(Unary::Tanh, scores);
            scores.iter_mut().for_each(|s| *s *= self.softcap);
        }
    }

    /// Where the output of a query begins.
    pub(super) fn row_of_output(&self, b: usize, head: usize, query: usize) -> usize {
        let row = if self.merged_output {
            (b * self.q.rows + query) * self.heads + head
        } else {
            (b * self.heads + head) * self.q.rows + query
        };
        row * self.v.size
    }

    /// Scores of one query, over `keys`, into weights: those outside `seen` become 0.
    fn weights(&self, row: &mut [f32], at: [usize; 3], seen: Range<usize>, keys: Range<usize>) {
        let seen = if seen.is_empty() { keys.start..keys.start } else { seen };
        let (from, to) = (seen.start - keys.start, seen.end - keys.start);
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        let row = &mut row[from..to];
        if row.is_empty() {
            return;
        }
        self.cap(row);
        if let Some(bias) = &self.bias {
            bias.add(at, seen, row);
        }
        softmax_row(row, self.zero_masked_rows);
    }
}

/// Writes the rows of `past` [batch, heads, past, size] and then those of `new` into `out` [batch, heads, rows, size].
pub(crate) fn append(cpu: &Cpu, past: &[f32], new: &Heads<'_>, heads: usize, rows: usize, out: &mut [f32]) {
    let size = new.size;
    let before = rows - new.rows;
    parallel::for_each_chunk(cpu.threads(), out, rows * size, |i, out| {
        let (old, fresh) = out.split_at_mut(before * size);
        old.copy_from_slice(&past[i * before * size..][..before * size]);
        copy_rows(new, i / heads, i % heads, fresh);
    });
}

/// The rows of one head, contiguous.
pub(crate) fn copy_rows(from: &Heads<'_>, b: usize, h: usize, out: &mut [f32]) {
    for (r, out) in out.chunks_exact_mut(from.size.max(1)).enumerate() {
        let row = from.from(b, h, r);
        match from.strides[3] {
            1 => out.copy_from_slice(&row[..from.size]),
            step => out.iter_mut().zip(row.iter().step_by(step)).for_each(|(o, &v)| *o = v),
        }
    }
}
