//! Products with few rows, of right-hand sides that are not packed: decoding reads each element of `b` once or so, and
//! packing it would cost more than the product.

use super::Context;
use super::pack::{Matrix, Widen};
use crate::cpu::parallel;

/// Rows up to which this is faster than packing.
const MAX_ROWS: usize = 4;
/// Columns that a task takes at least.
const COLUMNS: usize = 64;
/// Products from which on a thread is worth waking.
const WORK: usize = 1 << 17;

/// Whether `multiply` serves this product.
pub(crate) fn serves<S: Widen>(m: usize, b: &Matrix<'_, S>) -> bool {
    m <= MAX_ROWS && (b.strides.0 == 1 || b.strides.1 == 1)
}

/// Multiplies `a` by `b`; `store` is called as [`super::driver::multiply`] calls it.
pub(crate) fn multiply<S: Widen>(
    cx: Context<'_>,
    a: Matrix<'_, f32>,
    b: Matrix<'_, S>,
    store: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    let mut room = cx.scratch.take(m * k * size_of::<f32>());
    let rows: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
    for (i, x) in rows.iter_mut().enumerate() {
        *x = a.at(i / k, i % k);
    }
    let rows = &*rows;
    let threads = if k * n < WORK { 1 } else { cx.threads };
    parallel::for_each(threads, n.div_ceil(COLUMNS), |task| {
        let first = task * COLUMNS;
        let count = COLUMNS.min(n - first);
        for row in 0..m {
            let mut sums = [0f32; COLUMNS];
            stretch(&rows[row * k..][..k], &b, first, &mut sums[..count]);
            store(row, first, &mut sums[..count]);
        }
    });
}

/// `sums[j] = a . column (first + j) of b`; `sums` holds zeros.
fn stretch<S: Widen>(a: &[f32], b: &Matrix<'_, S>, first: usize, sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        // SAFETY: AVX2, FMA and F16C were just detected.
        return unsafe { stretch_avx2(a, b, first, sums) };
    }
    stretch_any::<S, { cfg!(target_arch = "aarch64") }>(a, b, first, sums);
}

/// The same, compiled for AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn stretch_avx2<S: Widen>(a: &[f32], b: &Matrix<'_, S>, first: usize, sums: &mut [f32]) {
    stretch_any::<S, true>(a, b, first, sums);
}

#[inline(always)]
fn stretch_any<S: Widen, const FUSED: bool>(a: &[f32], b: &Matrix<'_, S>, first: usize, sums: &mut [f32]) {
    let add = |x: f32, y: f32, z: f32| if FUSED { x.mul_add(y, z) } else { x * y + z };
    if b.strides.1 == 1 {
        if let Some(all) = sums.first_chunk_mut::<COLUMNS>() {
            // Accumulators of a known number stay in registers.
            let mut acc = [0f32; COLUMNS];
            for (p, &x) in a.iter().enumerate() {
                let b: &[S; COLUMNS] = b.data[p * b.strides.0 + first..].first_chunk().expect("the row is that long");
                for j in 0..COLUMNS {
                    acc[j] = add(x, b[j].widen(), acc[j]);
                }
            }
            *all = acc;
            return;
        }
        for (p, &x) in a.iter().enumerate() {
            let b = &b.data[p * b.strides.0 + first..][..sums.len()];
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum = add(x, b.widen(), *sum));
        }
        return;
    }
    for (j, sum) in sums.iter_mut().enumerate() {
        let column = &b.data[(first + j) * b.strides.1..][..a.len()];
        let mut lanes = [0f32; 32];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), column.as_chunks::<32>());
        for (a, b) in a.iter().zip(b) {
            for i in 0..32 {
                lanes[i] = add(a[i], b[i].widen(), lanes[i]);
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b.widen()).sum();
        // In halves: one sum after the other would take longer than the products of a short column.
        for half in [16, 8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        *sum = lanes[0] + rest;
    }
}
