//! Convolutions with few output positions, turned around: positions are the rows of the product, filters its columns.
//!
//! A tile is many columns wide and a few rows high. 49 positions, seven times seven, fill its columns badly and its rows
//! well, while filters come in multiples of its width. Besides, the filters, the larger operand here, are then read once
//! and in order.

use std::ops::Range;

use super::patches::{self, Patches};
use super::planes::Planes;
use crate::cpu::epilogue::Epilogue;
use crate::cpu::math;
use crate::cpu::matmul::Context;
use crate::cpu::matmul::driver::{self, Block, PackedColumns, RowPanels};
use crate::cpu::matmul::kernel::Kernel;
use crate::cpu::matmul::pack::{Matrix, turn};
use crate::cpu::parallel::{self, SharedMut};

/// Filters whose outputs are turned back together: a cache line of each position.
const FILTERS: usize = 16;

/// Whether turning pays for `m` filters at `n` positions: it saves more than an eighth of the work.
pub(super) fn serves(m: usize, n: usize, nr: usize) -> bool {
    let (filters_first, positions_first) = (m * n.next_multiple_of(nr), n * m.next_multiple_of(nr));
    n <= patches::WIDTH && filters_first > positions_first + positions_first / 8
}

/// Convolves the channels `x` with `m` filters, `panels` of columns of `k` elements each, and writes `out`, m x n, which begins at
/// element `at` of all outputs.
pub(super) fn convolve(
    cx: Context<'_>,
    kernel: &Kernel<f32>,
    planes: &Planes<'_>,
    x: &[f32],
    panels: &[f32],
    (m, n, k): (usize, usize, usize),
    epilogue: Epilogue<'_>,
    at: usize,
    out: &mut [f32],
) {
    let mut room = cx.scratch.take(RowPanels::new(n, kernel.mr).count * kernel.mr * k * size_of::<f32>());
    let rows: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
    if planes.geometry.is_pointwise() {
        Matrix::new(x, n, k, (1, n)).pack_rows(cx.threads, kernel.mr, rows);
    } else {
        let loaded = patches::load(cx.threads, cx.scratch, planes, x, 0.0);
        let patches = &Patches::<f32>::new(planes, &loaded);
        let (out, threads) = (SharedMut::new(&mut *rows), if n * k < 1 << 15 { 1 } else { cx.threads });
        let each = k.div_ceil(threads.max(1)).max(1);
        parallel::for_each(threads, k.div_ceil(each), |part| {
            let part = part * each..(part * each + each).min(k);
            math::dispatch(PackRows { patches, n, k, mr: kernel.mr, part, out: &out });
        });
    }
    let out = SharedMut::new(out);
    driver::multiply_blocks(cx, kernel, (n, m, k), rows, &PackedColumns { data: panels, k }, |block| {
        let Block { rows: positions, columns: filters, sums, stride } = block;
        let count = positions.len();
        let mut room = cx.scratch.take(FILTERS * count * size_of::<f32>());
        let turned: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        for first in filters.clone().step_by(FILTERS) {
            let together = FILTERS.min(filters.end - first);
            turn(&sums[first - filters.start..], stride, (count, together), turned, count);
            for (filter, sums) in (first..first + together).zip(turned.chunks_exact_mut(count)) {
                let start = filter * n + positions.start;
                // SAFETY: the driver stores each part of the n x m sums once.
                let out = unsafe { out.slice(start, count) };
                epilogue.finish(filter, 0, at + start, sums, out);
            }
        }
    });
}

/// Writes the patches at all positions as panels of rows, `[k][mr]`; of k a part.
struct PackRows<'s, 'a> {
    patches: &'s Patches<'a, f32>,
    n: usize,
    k: usize,
    mr: usize,
    part: Range<usize>,
    out: &'s SharedMut<'s, f32>,
}

impl math::Kernel for PackRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let PackRows { patches, n, k, mr, part, out } = self;
        let panels = RowPanels::new(n, mr);
        let mut room = [0.0; patches::LINE];
        for row in part {
            let line = patches.line(row, 0..n, &mut room);
            for panel in 0..panels.count {
                let range = panels.range(panel);
                // SAFETY: each row of each panel is written once.
                math::copy_short(&line[range.clone()], unsafe { out.slice((panel * k + row) * mr, range.len()) });
            }
        }
    }
}
