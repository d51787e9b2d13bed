//! NEON tiles of 8 rows. aarch64 has 32 vector registers and instructions that multiply a vector by one element of
//! another, so that a step's column of `a` is loaded whole and stays in two registers.

use std::arch::aarch64::*;

use super::{Kernel, by_rows};

const MR: usize = 8;

/// Three vectors of columns: 24 accumulators, three vectors of b and two of a fill 29 registers.
const F32_NR: usize = 12;
/// Two vectors of columns: as many as panels of [`crate::cpu::integer`]'s products with few rows come in.
const I16_NR: usize = 8;

/// NEON.
pub(super) static F32: Kernel<f32> = Kernel { name: "f32 8x12 neon", mr: MR, nr: F32_NR, run: f32_tile };
/// NEON: `smlal` multiplies 16-bit numbers into 32-bit sums, exactly.
pub(super) static I16: Kernel<i16> = Kernel { name: "i16 8x8 neon", mr: MR, nr: I16_NR, run: i16_tile };

/// Repeats a block of code for each row of a tile with the row's number as a constant, as the instructions that name an
/// element want it.
macro_rules! for_each_row {
    ($rows:ident, $row:ident => $body:block) => {
        for_each_row!(@each $rows, $row, $body, 0 1 2 3 4 5 6 7)
    };
    (@each $rows:ident, $row:ident, $body:block, $($r:literal)*) => {
        $(if $r < $rows {
            const $row: usize = $r;
            $body
        })*
    };
}
pub(super) use for_each_row;

/// # Safety
/// The contract of [`Kernel`]'s `run`.
unsafe fn f32_tile(rows: usize, steps: usize, a: *const f32, b: *const f32, c: *mut f32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, f32_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6 7 8) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows.
#[inline]
unsafe fn f32_rows<const R: usize>(
    steps: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    add: bool,
) {
    // SAFETY: a is read below steps * MR, b below steps * F32_NR, c in R rows of F32_NR; the contract gives this room.
    // Vector loads and stores need only the alignment of an element.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); 3]; MR];
        for p in 0..steps {
            let (a, b) = (a.add(p * MR), b.add(p * F32_NR));
            let a = [vld1q_f32(a), vld1q_f32(a.add(4))];
            let b = [vld1q_f32(b), vld1q_f32(b.add(4)), vld1q_f32(b.add(8))];
            for_each_row!(R, ROW => {
                acc[ROW][0] = vfmaq_laneq_f32::<{ ROW as i32 % 4 }>(acc[ROW][0], b[0], a[ROW / 4]);
                acc[ROW][1] = vfmaq_laneq_f32::<{ ROW as i32 % 4 }>(acc[ROW][1], b[1], a[ROW / 4]);
                acc[ROW][2] = vfmaq_laneq_f32::<{ ROW as i32 % 4 }>(acc[ROW][2], b[2], a[ROW / 4]);
            });
        }
        for (r, acc) in acc[..R].iter().enumerate() {
            for (part, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + part * 4);
                vst1q_f32(c, if add { vaddq_f32(sum, vld1q_f32(c)) } else { sum });
            }
        }
    }
}

/// # Safety
/// The contract of [`Kernel`]'s `run`.
unsafe fn i16_tile(rows: usize, steps: usize, a: *const i16, b: *const i16, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, i16_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6 7 8) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows.
#[inline]
unsafe fn i16_rows<const R: usize>(
    steps: usize,
    a: *const i16,
    b: *const i16,
    c: *mut i32,
    c_stride: usize,
    add: bool,
) {
    // SAFETY: a is read below steps * MR * 2, b below steps * I16_NR * 2, c in R rows of I16_NR; the contract gives this
    // room. Vector loads and stores need only the alignment of an element.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); 2]; MR];
        for p in 0..steps {
            let (a, b) = (a.add(p * MR * 2), b.add(p * I16_NR * 2));
            let a = [vld1q_s16(a), vld1q_s16(a.add(8))];
            // The load takes pairs apart: products of one element of K lie in lanes as their sums do.
            let int16x8x2_t(even, odd) = vld2q_s16(b);
            for_each_row!(R, ROW => {
                const EVEN: i32 = ROW as i32 % 4 * 2;
                let pair = a[ROW / 4];
                acc[ROW][0] = vmlal_laneq_s16::<EVEN>(acc[ROW][0], vget_low_s16(even), pair);
                acc[ROW][1] = vmlal_high_laneq_s16::<EVEN>(acc[ROW][1], even, pair);
                acc[ROW][0] = vmlal_laneq_s16::<{ EVEN + 1 }>(acc[ROW][0], vget_low_s16(odd), pair);
                acc[ROW][1] = vmlal_high_laneq_s16::<{ EVEN + 1 }>(acc[ROW][1], odd, pair);
            });
        }
        for (r, acc) in acc[..R].iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + half * 4);
                vst1q_s32(c, if add { vaddq_s32(sum, vld1q_s32(c)) } else { sum });
            }
        }
    }
}
