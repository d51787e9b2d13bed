//! Tiles of bytes for aarch64 with the dot product extension (optional from ARMv8.2 on, always there from ARMv8.4 on).

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::for_each_row;
use super::{ByteKernel, Kernel, by_rows};

const MR: usize = 8;
/// Three vectors of columns, as in [`super::neon`]'s tile of f32.
const NR: usize = 12;

/// The dot product extension: `sdot` adds four products of signed bytes to each of four sums, without saturation.
pub(super) static BYTES: ByteKernel = ByteKernel {
    tile: Kernel { name: "i8 i8 8x12 neon-dot", mr: MR, nr: NR, run: byte_tile },
    a_signed: true,
    b_signed: true,
};

/// `sums[j] += b[j] . a[LANE]`, four bytes each.
///
/// Rust has no stable intrinsic for the instruction yet (`stdarch_neon_dotprod`).
#[inline]
#[target_feature(enable = "dotprod")]
fn dot<const LANE: usize>(mut sums: int32x4_t, b: uint8x16_t, a: uint8x16_t) -> int32x4_t {
    const { assert!(LANE < 4) };
    // SAFETY: the instruction works on registers only, and the function's feature says that it is there.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]",
            sums = inlateout(vreg) sums,
            b = in(vreg) b,
            a = in(vreg) a,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// # Safety
/// The contract of [`Kernel`]'s `run`; the dot product extension.
#[target_feature(enable = "dotprod")]
unsafe fn byte_tile(rows: usize, steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, byte_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6 7 8) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows; the dot product extension.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn byte_rows<const R: usize>(steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: a is read below steps * MR * 4, b below steps * NR * 4, c in R rows of NR; the contract gives this room.
    // Vector loads and stores need only the alignment of an element.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); 3]; MR];
        for p in 0..steps {
            let (a, b) = (a.add(p * MR * 4), b.add(p * NR * 4));
            let a = [vld1q_u8(a), vld1q_u8(a.add(16))];
            let b = [vld1q_u8(b), vld1q_u8(b.add(16)), vld1q_u8(b.add(32))];
            for_each_row!(R, ROW => {
                acc[ROW][0] = dot::<{ ROW % 4 }>(acc[ROW][0], b[0], a[ROW / 4]);
                acc[ROW][1] = dot::<{ ROW % 4 }>(acc[ROW][1], b[1], a[ROW / 4]);
                acc[ROW][2] = dot::<{ ROW % 4 }>(acc[ROW][2], b[2], a[ROW / 4]);
            });
        }
        for (r, acc) in acc[..R].iter().enumerate() {
            for (part, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + part * 4);
                vst1q_s32(c, if add { vaddq_s32(sum, vld1q_s32(c)) } else { sum });
            }
        }
    }
}
