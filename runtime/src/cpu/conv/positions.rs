//! Convolutions with few output positions, turned around: positions are the rows of the product, filters its columns.
//!
//! A tile is many columns wide and a few rows high. 49 positions, seven times seven, fill its columns badly and its rows
//! well, while filters come in multiples of its width. Besides, the filters, the larger operand here, are then read once
//! and in order.

use super::patches::{self, Patches};
use super::planes::Planes;
use crate::cpu::epilogue::Epilogue;
use crate::cpu::math;
use crate::cpu::matmul::Context;
use crate::cpu::matmul::driver::{self, PackedColumns, RowPanels};
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
        math::dispatch(PackRows { patches, n, k, mr: kernel.mr, out: &mut *rows });
    }
    let mut room = cx.scratch.take(m * n * size_of::<f32>());
    let turned: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
    let shared = SharedMut::new(&mut *turned);
    driver::multiply(cx, kernel, (n, m, k), rows, &PackedColumns { data: panels, k }, |position, filter, sums| {
        // SAFETY: the driver stores each part of the n x m sums once.
        unsafe { shared.slice(position * m + filter, sums.len()) }.copy_from_slice(sums);
    });
    let turned = &*turned;
    parallel::for_each_chunk(cx.threads, out, FILTERS * n, |block, out| {
        let (first, count) = (block * FILTERS, out.len() / n);
        let mut room = cx.scratch.take(count * n * size_of::<f32>());
        let sums: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        turn(&turned[first..], m, (n, count), sums, n);
        for (i, (sums, out)) in sums.chunks_exact_mut(n).zip(out.chunks_exact_mut(n)).enumerate() {
            epilogue.finish(first + i, 0, at + (first + i) * n, sums, out);
        }
    });
}

/// Writes the patches at all positions as panels of rows, `[k][mr]`.
struct PackRows<'s, 'a> {
    patches: &'s Patches<'a, f32>,
    n: usize,
    k: usize,
    mr: usize,
    out: &'s mut [f32],
}

impl math::Kernel for PackRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let PackRows { patches, n, k, mr, out } = self;
        let panels = RowPanels::new(n, mr);
        let mut room = [0.0; patches::LINE];
        for row in 0..k {
            let line = patches.line(row, 0..n, &mut room);
            for panel in 0..panels.count {
                math::copy_short(&line[panels.range(panel)], &mut out[(panel * k + row) * mr..]);
            }
        }
    }
}
