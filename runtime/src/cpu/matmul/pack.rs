//! Copies f32 and f16 matrices into the panels of [`super::kernel`].

use std::ops::Range;

use half::f16;

use super::driver::{Columns, RowPanels};
use crate::cpu::parallel;

/// A number that packing widens to f32.
pub(crate) trait Widen: Copy + Send + Sync {
    /// The same number.
    fn widen(self) -> f32;
}

impl Widen for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
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
    data: &'a [S],
    rows: usize,
    columns: usize,
    strides: (usize, usize),
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

    #[inline(always)]
    fn at(&self, r: usize, c: usize) -> f32 {
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
            for (r, row) in panels.range(i).enumerate() {
                if self.strides.1 == 1 {
                    let from = &self.data[row * self.strides.0..][..self.columns];
                    for (out, x) in out[r..].iter_mut().step_by(mr).zip(from) {
                        *out = x.widen();
                    }
                } else {
                    for (c, out) in out[r..].iter_mut().step_by(mr).enumerate() {
                        *out = self.at(row, c);
                    }
                }
            }
        });
    }

    /// Elements that [`Matrix::pack_columns`] writes.
    pub(crate) fn packed_columns_len(&self, nr: usize) -> usize {
        self.columns.div_ceil(nr) * nr * self.rows
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
            for (row, out) in k.zip(out.chunks_exact_mut(nr)) {
                let from = &self.data[row * self.strides.0 + first..][..width];
                for (out, x) in out.iter_mut().zip(from) {
                    *out = x.widen();
                }
                out[width..].fill(0.0);
            }
            return;
        }
        if width < nr {
            out.fill(0.0);
        }
        for c in 0..width {
            if self.strides.0 == 1 {
                let from = &self.data[(first + c) * self.strides.1 + k.start..][..k.len()];
                for (out, x) in out[c..].iter_mut().step_by(nr).zip(from) {
                    *out = x.widen();
                }
            } else {
                for (row, out) in k.clone().zip(out[c..].iter_mut().step_by(nr)) {
                    *out = self.at(row, first + c);
                }
            }
        }
    }
}

/// A matrix that is packed block by block, for right-hand sides that are used once.
impl<S: Widen> Columns<f32> for Matrix<'_, S> {
    fn needs_room(&self) -> bool {
        true
    }

    fn block<'s>(
        &'s self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &'s mut [f32],
    ) -> (&'s [f32], usize) {
        let stride = k.len() * nr;
        for (panel, out) in panels.zip(room.chunks_exact_mut(stride)) {
            self.pack_panel(nr, k.clone(), panel, out);
        }
        (room, stride)
    }
}
