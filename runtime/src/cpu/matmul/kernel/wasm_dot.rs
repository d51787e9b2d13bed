//! Tiles of bytes for WebAssembly with relaxed SIMD.
//!
//! `i32x4.relaxed_dot_i8x16_i7x16_add` takes the first operand as i8. Of the second, the specification fixes only seven
//! bits; with the eighth set an engine may take the byte as u8 (x86 with VNNI), as i8 (Arm), or add pairs of products
//! with saturation to 16 bits (x86 without VNNI). Each engine always does the same, so asking it once tells. Where it
//! saturates, 16-bit products are not only exact but as fast: the engine then multiplies twice for each dot product.
//!
//! The tile is as small as those of [`super::wasm`]: with twelve sums V8 runs out of registers.

use std::arch::wasm32::*;
use std::hint::black_box;

use super::{ByteKernel, Kernel, by_rows};

const MR: usize = 4;
const NR: usize = 8;

/// Where the second operand is u8.
static UNSIGNED: ByteKernel =
    ByteKernel { tile: Kernel { name: "u8 i8 4x8 relaxed dot", mr: MR, nr: NR, run: byte_tile }, a_signed: false };
/// Where the second operand is i8.
static SIGNED: ByteKernel =
    ByteKernel { tile: Kernel { name: "i8 i8 4x8 relaxed dot", mr: MR, nr: NR, run: byte_tile }, a_signed: true };

/// The kernel that is exact on this engine, if one is.
pub(super) fn bytes() -> Option<&'static ByteKernel> {
    let dot = |first: i8, second: u8| {
        // Hidden from the compiler, which might have an opinion of its own.
        let (first, second) = (i8x16_splat(black_box(first)), u8x16_splat(black_box(second)));
        i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(first, second, i32x4_splat(0)))
    };
    let exact = |read: fn(u8) -> i32| {
        // Sums of two products that leave 16 bits, in both directions.
        [(127, 255), (-128, 255), (-128, 128), (127, 128)].iter().all(|&(x, y)| dot(x, y) == 4 * x as i32 * read(y))
    };
    if exact(|y| y as i32) {
        Some(&UNSIGNED)
    } else if exact(|y| y as i8 as i32) {
        Some(&SIGNED)
    } else {
        None
    }
}

/// # Safety
/// The contract of [`Kernel`]'s `run`.
unsafe fn byte_tile(rows: usize, steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, byte_rows, (steps, a, b, c, c_stride, add), 1 2 3 4) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows.
#[inline]
unsafe fn byte_rows<const R: usize>(steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: a is read below steps * MR * 4, b below steps * NR * 4, c in R rows of NR; the contract gives this room.
    unsafe {
        let mut acc = [[i32x4_splat(0); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR * 4);
            let (b0, b1) = (v128_load(b.cast()), v128_load(b.add(16).cast()));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = v128_load32_splat(a.add((p * MR + r) * 4).cast());
                acc[0] = i32x4_relaxed_dot_i8x16_i7x16_add(b0, x, acc[0]);
                acc[1] = i32x4_relaxed_dot_i8x16_i7x16_add(b1, x, acc[1]);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + half * 4).cast::<v128>();
                v128_store(c, if add { i32x4_add(sum, v128_load(c)) } else { sum });
            }
        }
    }
}
