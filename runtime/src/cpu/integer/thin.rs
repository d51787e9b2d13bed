//! Exact products with few rows: decoding reads each weight once for a token or two, so bytes are widened in registers
//! on their way into the sum, and nothing but the weights moves through memory.

use super::pack::{Bytes, widen};
use crate::cpu::matmul::Context;
use crate::cpu::parallel;

/// Rows up to which this is faster than tiles.
pub(super) const MAX_ROWS: usize = 4;
/// Columns that a task takes, at least a panel.
const COLUMNS: usize = 64;
/// Products from which on a thread is worth waking.
const WORK: usize = 1 << 17;
/// Columns that are summed up together.
const LANES: usize = 8;

/// Whether panels of `nr` columns can be read here.
pub(super) fn serves(m: usize, k: usize, nr: usize) -> bool {
    m <= MAX_ROWS && k > 0 && nr.is_multiple_of(LANES)
}

/// Columns as [`super::pack::pack_columns`] or [`super::quads`] wrote them.
pub(super) struct Panels<'a> {
    /// i8 if they are quads.
    pub(super) bytes: Bytes<'a>,
    pub(super) k: usize,
    pub(super) n: usize,
    /// Columns of a panel.
    pub(super) nr: usize,
    /// Elements of K that lie side by side, 2 or 4.
    pub(super) step: usize,
}

/// Multiplies the rows `a`, each less `a_zero(row)`, by `panels`, each column less `b_zero(column)`;
/// `store(row, column, sums)` gets each part of the result once.
pub(super) fn multiply(
    cx: Context<'_>,
    a: Bytes<'_>,
    a_zero: impl Fn(usize) -> i16,
    panels: &Panels<'_>,
    b_zero: impl Fn(usize) -> i32 + Sync,
    store: impl Fn(usize, usize, &mut [i32]) + Sync,
) {
    let (k, n, nr) = (panels.k.next_multiple_of(panels.step), panels.n, panels.nr);
    let m = a.data.len() / panels.k;
    let mut room = cx.scratch.take(m * k * size_of::<i16>());
    let rows: &mut [i16] = bytemuck::cast_slice_mut(room.as_mut_slice());
    // (w - z) summed is w summed less z times the sum of the row: wrapping sums are exact in any order.
    let mut sums_of_rows = [0i32; MAX_ROWS];
    for (r, (row, bytes)) in rows.chunks_exact_mut(k).zip(a.data.chunks_exact(panels.k)).enumerate() {
        let (row, padding) = row.split_at_mut(panels.k);
        let (flip, zero) = (a.flip(), a_zero(r));
        row.iter_mut().zip(bytes).for_each(|(x, byte)| *x = widen(*byte, flip) - zero);
        padding.fill(0);
        sums_of_rows[r] = row.iter().fold(0i32, |s, &x| s.wrapping_add(x as i32));
    }
    let rows = &*rows;
    let each = (COLUMNS / nr).max(1);
    let threads = if k * n < WORK { 1 } else { cx.threads };
    parallel::for_each(threads, n.div_ceil(nr).div_ceil(each), |task| {
        for panel in (task * each..(task + 1) * each).take_while(|p| p * nr < n) {
            let bytes = Bytes { data: &panels.bytes.data[panel * nr * k..][..nr * k], ..panels.bytes };
            let first = panel * nr;
            for (r, row) in rows.chunks_exact(k).enumerate() {
                for lane in (0..nr).step_by(LANES).take_while(|lane| first + lane < n) {
                    let mut sums = [0i32; LANES];
                    match panels.step {
                        4 => eight_columns_of_quads(row, bytes.data, nr, lane, &mut sums),
                        _ => eight_columns(row, bytes.data, bytes.signed, nr, lane, &mut sums),
                    }
                    let count = LANES.min(n - first - lane);
                    let sums = &mut sums[..count];
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = sum.wrapping_sub(b_zero(first + lane + i).wrapping_mul(sums_of_rows[r]));
                    }
                    store(r, first + lane, sums);
                }
            }
        }
    });
}

/// `sums[j] = row . column (lane + j)` of a panel `[k / 2][nr][2]`.
fn eight_columns(row: &[i16], panel: &[u8], signed: bool, nr: usize, lane: usize, sums: &mut [i32; LANES]) {
    debug_assert!(panel.len() >= row.len() * nr && lane + LANES <= nr && row.len().is_multiple_of(2));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected, and the panel holds nr columns for each element of the row.
        return unsafe {
            match signed {
                true => x86::eight_columns::<true>(row, panel, nr, lane, sums),
                false => x86::eight_columns::<false>(row, panel, nr, lane, sums),
            }
        };
    }
    #[cfg(target_arch = "aarch64")]
    return match signed {
        true => neon::eight_columns::<true>(row, panel, nr, lane, sums),
        false => neon::eight_columns::<false>(row, panel, nr, lane, sums),
    };
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    return match signed {
        true => wasm::eight_columns::<true>(row, panel, nr, lane, sums),
        false => wasm::eight_columns::<false>(row, panel, nr, lane, sums),
    };
    #[allow(unreachable_code, reason = "where there is no other kernel, and as the reference in tests")]
    portable(row, panel, signed, nr, lane, sums);
}

/// The same of a panel `[k / 4][nr][4]` of i8, on machines that have [`crate::cpu::matmul::kernel::Kernels::pairs`].
fn eight_columns_of_quads(row: &[i16], panel: &[u8], nr: usize, lane: usize, sums: &mut [i32; LANES]) {
    debug_assert!(panel.len() >= row.len() * nr && lane + LANES <= nr && row.len().is_multiple_of(4));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected, and the panel holds nr columns for each element of the row.
        return unsafe { x86::eight_columns_of_quads(row, panel, nr, lane, sums) };
    }
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    return wasm::eight_columns_of_quads(row, panel, nr, lane, sums);
    #[allow(unreachable_code, reason = "as the reference in tests")]
    portable_quads(row, panel, nr, lane, sums);
}

fn portable(row: &[i16], panel: &[u8], signed: bool, nr: usize, lane: usize, sums: &mut [i32; LANES]) {
    let widen = |x: u8| if signed { x as i8 as i32 } else { x as i32 };
    for (pair, step) in row.as_chunks::<2>().0.iter().zip(panel.chunks_exact(2 * nr)) {
        let step = &step[2 * lane..][..2 * LANES];
        for (sum, w) in sums.iter_mut().zip(step.as_chunks::<2>().0) {
            let product = pair[0] as i32 * widen(w[0]) + pair[1] as i32 * widen(w[1]);
            *sum = sum.wrapping_add(product);
        }
    }
}

fn portable_quads(row: &[i16], panel: &[u8], nr: usize, lane: usize, sums: &mut [i32; LANES]) {
    for (quad, step) in row.as_chunks::<4>().0.iter().zip(panel.chunks_exact(4 * nr)) {
        let step = &step[4 * lane..][..4 * LANES];
        for (sum, w) in sums.iter_mut().zip(step.as_chunks::<4>().0) {
            let product: i32 = quad.iter().zip(w).map(|(x, w)| *x as i32 * *w as i8 as i32).sum();
            *sum = sum.wrapping_add(product);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::LANES;

    /// # Safety
    /// `panel` holds `nr` bytes for each element of `row`, and `lane + 8 <= nr`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn eight_columns<const SIGNED: bool>(
        row: &[i16],
        panel: &[u8],
        nr: usize,
        lane: usize,
        sums: &mut [i32; LANES],
    ) {
        // Two sums, so that one addition need not wait for the one before.
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let steps = row.len() / 2;
        let step = |p: usize| {
            // SAFETY: p < steps; the caller vouches for the panel's length. Neither load needs alignment.
            unsafe {
                let bytes = _mm_loadu_si128(panel.as_ptr().add(p * 2 * nr + 2 * lane).cast());
                let wide = if SIGNED { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) };
                let pair = _mm256_set1_epi32(row.as_ptr().add(2 * p).cast::<i32>().read_unaligned());
                _mm256_madd_epi16(wide, pair)
            }
        };
        for p in 0..steps / 2 {
            even = _mm256_add_epi32(even, step(2 * p));
            odd = _mm256_add_epi32(odd, step(2 * p + 1));
        }
        if steps % 2 == 1 {
            even = _mm256_add_epi32(even, step(steps - 1));
        }
        // SAFETY: sums has room for eight.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi32(even, odd)) };
    }

    /// # Safety
    /// `panel` holds `nr` bytes for each element of `row`, and `lane + 8 <= nr`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn eight_columns_of_quads(
        row: &[i16],
        panel: &[u8],
        nr: usize,
        lane: usize,
        sums: &mut [i32; LANES],
    ) {
        // Of each column two sums side by side; of the first four columns and of the others.
        let mut acc = [_mm256_setzero_si256(); 2];
        for (p, quad) in row.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: the caller vouches for the panel's length. No load needs alignment.
            unsafe {
                let quad = _mm256_set1_epi64x(quad.as_ptr().cast::<i64>().read_unaligned());
                let bytes = panel.as_ptr().add(p * 4 * nr + 4 * lane);
                for (half, acc) in acc.iter_mut().enumerate() {
                    let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.add(16 * half).cast()));
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(wide, quad));
                }
            }
        }
        // Horizontal additions leave pairs of columns in the order 0, 2, 1, 3.
        let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(acc[0], acc[1]));
        // SAFETY: sums has room for eight.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), pairs) };
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::LANES;

    pub(super) fn eight_columns<const SIGNED: bool>(
        row: &[i16],
        panel: &[u8],
        nr: usize,
        lane: usize,
        sums: &mut [i32; LANES],
    ) {
        // SAFETY: every aarch64 processor that Rust's targets with a standard library run on has NEON; each step reads
        // the sixteen bytes that it borrows, and sums has room for eight.
        unsafe {
            // A sum for each element of a pair, so that additions need not wait for the ones before.
            let mut acc = [[vdupq_n_s32(0); 2]; 2];
            for (pair, step) in row.as_chunks::<2>().0.iter().zip(panel.chunks_exact(2 * nr)) {
                let bytes: &[u8; 16] = step[2 * lane..].first_chunk().expect("a panel has eight more columns");
                let uint8x8x2_t(even, odd) = vld2_u8(bytes.as_ptr());
                for ((acc, x), bytes) in acc.iter_mut().zip(pair).zip([even, odd]) {
                    let wide = match SIGNED {
                        true => vmovl_s8(vreinterpret_s8_u8(bytes)),
                        false => vreinterpretq_s16_u16(vmovl_u8(bytes)),
                    };
                    acc[0] = vmlal_n_s16(acc[0], vget_low_s16(wide), *x);
                    acc[1] = vmlal_high_n_s16(acc[1], wide, *x);
                }
            }
            vst1q_s32(sums.as_mut_ptr(), vaddq_s32(acc[0][0], acc[1][0]));
            vst1q_s32(sums.as_mut_ptr().add(4), vaddq_s32(acc[0][1], acc[1][1]));
        }
    }
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm {
    use std::arch::wasm32::*;

    use super::LANES;

    pub(super) fn eight_columns<const SIGNED: bool>(
        row: &[i16],
        panel: &[u8],
        nr: usize,
        lane: usize,
        sums: &mut [i32; LANES],
    ) {
        let (mut low, mut high) = (i32x4_splat(0), i32x4_splat(0));
        for (pair, step) in row.as_chunks::<2>().0.iter().zip(panel.chunks_exact(2 * nr)) {
            let bytes: &[u8; 16] = step[2 * lane..].first_chunk().expect("a panel has eight more columns");
            // SAFETY: sixteen bytes are there; the load needs no alignment.
            let bytes = unsafe { v128_load(bytes.as_ptr().cast()) };
            let (a, b) = match SIGNED {
                true => (i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes)),
                false => (u16x8_extend_low_u8x16(bytes), u16x8_extend_high_u8x16(bytes)),
            };
            let pair = i32x4_splat(pair[0] as u16 as i32 | (pair[1] as i32) << 16);
            low = i32x4_add(low, i32x4_dot_i16x8(a, pair));
            high = i32x4_add(high, i32x4_dot_i16x8(b, pair));
        }
        // SAFETY: sums has room for eight.
        unsafe {
            v128_store(sums.as_mut_ptr().cast(), low);
            v128_store(sums.as_mut_ptr().add(4).cast(), high);
        }
    }

    pub(super) fn eight_columns_of_quads(row: &[i16], panel: &[u8], nr: usize, lane: usize, sums: &mut [i32; LANES]) {
        // Of each column two sums side by side, two columns a vector.
        let mut acc = [i32x4_splat(0); 4];
        for (quad, step) in row.as_chunks::<4>().0.iter().zip(panel.chunks_exact(4 * nr)) {
            let bytes: &[u8; 32] = step[4 * lane..].first_chunk().expect("a panel has eight more columns");
            // SAFETY: four numbers of 16 bits and twice sixteen bytes are there; the loads need no alignment.
            let (quad, low, high) = unsafe {
                let bytes = bytes.as_ptr().cast::<v128>();
                (v128_load64_splat(quad.as_ptr().cast()), v128_load(bytes), v128_load(bytes.add(1)))
            };
            acc[0] = i32x4_add(acc[0], i32x4_dot_i16x8(i16x8_extend_low_i8x16(low), quad));
            acc[1] = i32x4_add(acc[1], i32x4_dot_i16x8(i16x8_extend_high_i8x16(low), quad));
            acc[2] = i32x4_add(acc[2], i32x4_dot_i16x8(i16x8_extend_low_i8x16(high), quad));
            acc[3] = i32x4_add(acc[3], i32x4_dot_i16x8(i16x8_extend_high_i8x16(high), quad));
        }
        let sum = |a, b| i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b));
        // SAFETY: sums has room for eight.
        unsafe {
            v128_store(sums.as_mut_ptr().cast(), sum(acc[0], acc[1]));
            v128_store(sums.as_mut_ptr().add(4).cast(), sum(acc[2], acc[3]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_kernel_equals_the_portable_one() {
        for (k, nr, lane) in [(2, 8, 0), (6, 16, 8), (34, 16, 0), (130, 32, 16)] {
            let row: Vec<i16> = (0..k).map(|i| (i as i16 * 37) % 511 - 255).collect();
            let panel: Vec<u8> = (0..k * nr).map(|i| (i * 89 % 256) as u8).collect();
            for signed in [false, true] {
                let (mut got, mut want) = ([0; LANES], [0; LANES]);
                eight_columns(&row, &panel, signed, nr, lane, &mut got);
                portable(&row, &panel, signed, nr, lane, &mut want);
                assert_eq!(got, want, "{k} {nr} {lane} {signed}");
            }
            let (row, panel) = (&row[..k & !3], &panel[..(k & !3) * nr]);
            let (mut got, mut want) = ([0; LANES], [0; LANES]);
            eight_columns_of_quads(row, panel, nr, lane, &mut got);
            portable_quads(row, panel, nr, lane, &mut want);
            assert_eq!(got, want, "{k} {nr} {lane} in quads");
        }
    }
}
