//! Copies f32 and f16 matrices into the panels of [`super::kernel`].

use std::ops::Range;

use half::f16;

use super::driver::{Columns, RowPanels};
use crate::cpu::{math, parallel};

/// A number that packing widens to f32.
pub(crate) trait Widen: Copy + Send + Sync {
    /// The same number.
    fn widen(self) -> f32;

    /// Widens `from` into the beginning of `to`.
    #[inline(always)]
    fn copy(from: &[Self], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = x.widen());
    }
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn copy(from: &[f32], to: &mut [f32]) {
        math::copy_short(from, to);
    }
}

impl Widen for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// A matrix whose element (r, c) is `data[r * strides.0 + c * strides.1]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, S> {
    pub(super) data: &'a [S],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) strides: (usize, usize),
}

impl<'a, S: Widen> Matrix<'a, S> {
    /// Panics if an element lies past the end of `data`; callers check shapes first.
    pub(crate) fn new(data: &'a [S], rows: usize, columns: usize, strides: (usize, usize)) -> Self {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * strides.0 + (columns - 1) * strides.1;
            assert!(last < data.len(), "a matrix reaches past its data");
        }
        Matrix { data, rows, columns, strides }
    }

    /// The same elements with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Matrix { rows: self.columns, columns: self.rows, strides: (self.strides.1, self.strides.0), ..self }
    }

    #[inline(always)]
    pub(super) fn at(&self, r: usize, c: usize) -> f32 {
        self.data[r * self.strides.0 + c * self.strides.1].widen()
    }

    /// Elements that [`Matrix::pack_rows`] writes.
    pub(crate) fn packed_rows_len(&self, mr: usize) -> usize {
        RowPanels::new(self.rows, mr).count * mr * self.columns
    }

    /// Writes the rows as the left-hand side of a product: panels of `[columns][mr]`. What lies beyond a panel's height
    /// is left as it is, since no kernel reads it into a result.
    pub(crate) fn pack_rows(&self, threads: usize, mr: usize, out: &mut [f32]) {
        let panels = RowPanels::new(self.rows, mr);
        assert!(out.len() >= panels.count * mr * self.columns);
        if out.is_empty() || self.columns == 0 {
            return;
        }
        // A thread is worth waking from some ten thousand elements on.
        let threads = if self.rows * self.columns < 1 << 15 { 1 } else { threads };
        parallel::for_each_chunk(threads, &mut out[..panels.count * mr * self.columns], mr * self.columns, |i, out| {
            let range = panels.range(i);
            if self.strides.1 == 1 {
                let from = &self.data[range.start * self.strides.0..];
                turn(from, self.strides.0, (range.len(), self.columns), out, mr);
            } else if self.strides.0 == 1 {
                math::dispatch(Gather { matrix: self, first: range.start, width: range.len(), out, stride: mr });
            } else {
                for (r, row) in range.enumerate() {
                    for (c, out) in out[r..].iter_mut().step_by(mr).enumerate() {
                        *out = self.at(row, c);
                    }
                }
            }
        });
    }

    /// Writes the columns as the right-hand side of a product: panels of `[rows][nr]`, padded with zeros.
    pub(crate) fn pack_columns(&self, threads: usize, nr: usize, out: &mut [f32]) {
        if self.rows == 0 {
            return;
        }
        parallel::for_each_chunk(threads, out, nr * self.rows, |i, out| self.pack_panel(nr, 0..self.rows, i, out));
    }

    /// Panel `panel` of the rows `k`.
    fn pack_panel(&self, nr: usize, k: Range<usize>, panel: usize, out: &mut [f32]) {
        let first = panel * nr;
        let width = nr.min(self.columns - first);
        if self.strides.1 == 1 {
            math::dispatch(Panels { matrix: self, nr, k, panels: panel..panel + 1, out });
            return;
        }
        if width < nr {
            out.fill(0.0);
        }
        if self.strides.0 == 1 {
            let from = &self.data[first * self.strides.1 + k.start..];
            turn(from, self.strides.1, (width, k.len()), out, nr);
            return;
        }
        for c in 0..width {
            for (row, out) in k.clone().zip(out[c..].iter_mut().step_by(nr)) {
                *out = self.at(row, first + c);
            }
        }
    }
}

/// What [`Matrix::pack_rows`] made panels of, `rows` x `columns`, row by row.
pub(crate) fn unpack_rows((rows, columns): (usize, usize), mr: usize, packed: &[f32], out: &mut [f32]) {
    let panels = RowPanels::new(rows, mr);
    for panel in 0..panels.count {
        let range = panels.range(panel);
        let packed = &packed[panel * mr * columns..][..mr * columns];
        turn(packed, mr, (columns, range.len()), &mut out[range.start * columns..], columns);
    }
}

/// What [`Matrix::pack_columns`] made panels of, `rows` x `columns`, column by column.
pub(crate) fn unpack_columns((rows, columns): (usize, usize), nr: usize, packed: &[f32], out: &mut [f32]) {
    for (packed, out) in packed.chunks_exact((nr * rows).max(1)).zip(out.chunks_mut((nr * rows).max(1))) {
        turn(packed, nr, (rows, nr.min(out.len() / rows)), out, rows);
    }
    debug_assert_eq!(out.len(), rows * columns);
}

/// Some of the rows `first..first + width` of a matrix whose columns are contiguous: `out[c * stride + r]` for all columns.
struct Gather<'s, 'a, S> {
    matrix: &'s Matrix<'a, S>,
    first: usize,
    width: usize,
    out: &'s mut [f32],
    stride: usize,
}

impl<S: Widen> math::Kernel for Gather<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Gather { matrix, first, width, out, stride } = self;
        for (c, out) in out.chunks_exact_mut(stride).enumerate() {
            let from = &matrix.data[c * matrix.strides.1 + first..][..width];
            S::copy(from, out);
        }
    }
}

/// Panels of a matrix whose rows are contiguous, row by row: memory is then read in long stretches, where panel by panel
/// each row would be a stretch of its own, often on a page of its own.
struct Panels<'s, 'a, S> {
    matrix: &'s Matrix<'a, S>,
    nr: usize,
    k: Range<usize>,
    panels: Range<usize>,
    out: &'s mut [f32],
}

impl<S: Widen> math::Kernel for Panels<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Panels { matrix, nr, k, panels, out } = self;
        let (first, size) = (panels.start * nr, k.len() * nr);
        let width = (panels.end * nr).min(matrix.columns) - first;
        for (i, row) in k.enumerate() {
            let from = &matrix.data[row * matrix.strides.0 + first..][..width];
            let mut whole = from.chunks_exact(nr);
            let mut at = i * nr;
            for from in &mut whole {
                let out = &mut out[at..][..nr];
                out.iter_mut().zip(from).for_each(|(out, x)| *out = x.widen());
                at += size;
            }
            let rest = whole.remainder();
            if !rest.is_empty() {
                let out = &mut out[at..][..nr];
                out.iter_mut().zip(rest).for_each(|(out, x)| *out = x.widen());
                out[rest.len()..].fill(0.0);
            }
        }
    }
}

/// `out[c * out_stride + r] = from[r * stride + c]` for `rows` rows of `columns` elements; what lies between is left.
pub(crate) fn turn<S: Widen>(
    from: &[S],
    stride: usize,
    (rows, columns): (usize, usize),
    out: &mut [f32],
    out_stride: usize,
) {
    math::dispatch(Turn { from, stride, rows, columns, out, out_stride });
}

struct Turn<'a, S> {
    from: &'a [S],
    stride: usize,
    rows: usize,
    columns: usize,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<S: Widen> math::Kernel for Turn<'_, S> {
    type Output = ();

    /// In blocks of 4 by 4, which fit registers: each is read and written in vectors.
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Turn { from, stride, rows, columns, out, out_stride } = self;
        let whole = columns / 4 * 4;
        let mut r = 0;
        while r < rows {
            let height = (rows - r).min(4);
            if height == 4 {
                let lines: [&[S]; 4] = std::array::from_fn(|i| &from[(r + i) * stride..][..columns]);
                for c in (0..whole).step_by(4) {
                    let block: [[f32; 4]; 4] =
                        std::array::from_fn(|i| std::array::from_fn(|j| lines[i][c..c + 4][j].widen()));
                    for j in 0..4 {
                        let out = &mut out[(c + j) * out_stride + r..][..4];
                        out.copy_from_slice(&[block[0][j], block[1][j], block[2][j], block[3][j]]);
                    }
                }
            }
            let done = if height == 4 { whole } else { 0 };
            for i in r..r + height {
                let line = &from[i * stride..][..columns];
                for c in done..columns {
                    out[c * out_stride + i] = line[c].widen();
                }
            }
            r += height;
        }
    }
}

/// A matrix that is packed block by block, for right-hand sides that are used once.
impl<S: Widen> Columns<f32> for Matrix<'_, S> {
    fn needs_room(&self) -> bool {
        true
    }

    fn together(&self, all: usize) -> usize {
        if self.strides.1 == 1 { all } else { 1 }
    }

    fn block<'s>(
        &'s self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &'s mut [f32],
    ) -> (&'s [f32], usize) {
        let stride = k.len() * nr;
        if self.strides.1 == 1 {
            math::dispatch(Panels { matrix: self, nr, k, panels, out: &mut *room });
        } else {
            for (panel, out) in panels.zip(room.chunks_exact_mut(stride)) {
                self.pack_panel(nr, k.clone(), panel, out);
            }
        }
        (room, stride)
    }
}
