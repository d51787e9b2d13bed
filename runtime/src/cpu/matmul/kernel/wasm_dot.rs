//! Tiles of bytes for WebAssembly with relaxed SIMD.
//!
//! `i32x4.relaxed_dot_i8x16_i7x16_add` takes the first operand as i8. Of the second, the specification fixes only seven
//! bits; with the eighth set an engine may take the byte as u8 (x86 with VNNI), as i8 (Arm), or add pairs of products
//! with saturation to 16 bits (x86 without VNNI). Each engine always does the same, so asking it once tells. Where it
//! saturates, `i16x8.relaxed_dot_i8x16_i7x16` is the one multiplication that does it, and widening its sums here costs less
//! than in the instruction of four, for which engines make the ones anew each time.
//!
//! The tiles are as small as those of [`super::wasm`]: with twelve sums V8 runs out of registers. The ones that sums of
//! pairs are multiplied by take one more; of four rows' numbers, which compilers load all at once, they would then have to
//! spill one, of two or three rows' they do not.

use std::arch::wasm32::*;
use std::hint::black_box;

use super::{ByteKernel, Kernel, PairKernels, by_rows};

/// Where the second operand is u8.
static UNSIGNED: ByteKernel = ByteKernel {
    tile: Kernel { name: "u8 i8 4x8 relaxed dot", mr: 4, nr: 8, run: byte_tile },
    a_signed: false,
    b_signed: true,
};
/// Where the second operand is i8.
static SIGNED: ByteKernel = ByteKernel {
    tile: Kernel { name: "i8 i8 4x8 relaxed dot", mr: 4, nr: 8, run: byte_tile },
    a_signed: true,
    b_signed: true,
};

/// Where the second operand is u8 and two products are added with saturation.
static PAIRS: PairKernels = PairKernels {
    columns: ByteKernel {
        tile: Kernel { name: "u8 i8 2x16 relaxed pairs", mr: 2, nr: 16, run: columns_tile },
        a_signed: false,
        b_signed: true,
    },
    rows: ByteKernel {
        tile: Kernel { name: "i8 u8 3x8 relaxed pairs", mr: 3, nr: 8, run: rows_tile },
        a_signed: true,
        b_signed: false,
    },
};

/// Sums of two products that leave 16 bits, in both directions, and sums that just do not.
const PROBES: [(i8, u8); 5] = [(127, 255), (-128, 255), (-128, 128), (127, 128), (64, 255)];

/// The kernel that saturates on this engine, if it does as x86 has it.
pub(super) fn pairs() -> Option<&'static PairKernels> {
    let dot = |first: i8, second: u8| {
        let (first, second) = (i8x16_splat(black_box(first)), u8x16_splat(black_box(second)));
        i16x8_extract_lane::<0>(i16x8_relaxed_dot_i8x16_i7x16(first, second))
    };
    let saturated = |x: i8, y: u8| (2 * i32::from(x) * i32::from(y)).clamp(-0x8000, 0x7fff) as i16;
    PROBES.iter().all(|&(x, y)| dot(x, y) == saturated(x, y)).then_some(&PAIRS)
}

/// The kernel that is exact on this engine, if one is.
pub(super) fn bytes() -> Option<&'static ByteKernel> {
    let dot = |first: i8, second: u8| {
        // Hidden from the compiler, which might have an opinion of its own.
        let (first, second) = (i8x16_splat(black_box(first)), u8x16_splat(black_box(second)));
        i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(first, second, i32x4_splat(0)))
    };
    let exact = |read: fn(u8) -> i32| PROBES.iter().all(|&(x, y)| dot(x, y) == 4 * x as i32 * read(y));
    if exact(|y| y as i32) {
        Some(&UNSIGNED)
    } else if exact(|y| y as i8 as i32) {
        Some(&SIGNED)
    } else {
        None
    }
}

macro_rules! tile {
    ($tile:ident, $rows_fn:ident, $mr:literal x $vectors:literal, [$($rows:literal)*], $ones:expr, $step:expr) => {
        /// # Safety
        /// The contract of [`Kernel`]'s `run`.
        unsafe fn $tile(rows: usize, steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
            // SAFETY: the same contract.
            unsafe { by_rows!(rows, $rows_fn, (steps, a, b, c, c_stride, add), $($rows)*) }
        }

        /// # Safety
        /// The contract of [`Kernel`]'s `run` with `R` rows.
        #[inline]
        unsafe fn $rows_fn<const R: usize>(
            steps: usize,
            a: *const u8,
            b: *const u8,
            c: *mut i32,
            c_stride: usize,
            add: bool,
        ) {
            let (ones, step) = ($ones, $step);
            // SAFETY: a is read below steps * MR * 4, b below steps * NR * 4, c in R rows of NR; the contract gives this
            // room.
            unsafe {
                let mut acc = [[i32x4_splat(0); $vectors]; R];
                for p in 0..steps {
                    let b = b.add(p * $vectors * 16);
                    let b: [v128; $vectors] = std::array::from_fn(|i| v128_load(b.add(i * 16).cast()));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let x = v128_load32_splat(a.add((p * $mr + r) * 4).cast());
                        for (acc, b) in acc.iter_mut().zip(b) {
                            *acc = step(b, x, *acc, ones);
                        }
                    }
                }
                for (r, acc) in acc.iter().enumerate() {
                    for (i, &sum) in acc.iter().enumerate() {
                        let c = c.add(r * c_stride + i * 4).cast::<v128>();
                        v128_store(c, if add { i32x4_add(sum, v128_load(c)) } else { sum });
                    }
                }
            }
        }
    };
}

tile!(byte_tile, byte_rows, 4 x 2, [1 2 3 4], (), |b, x, sum, ()| i32x4_relaxed_dot_i8x16_i7x16_add(b, x, sum));
// The ones are hidden from the compiler, which would otherwise find the instruction that adds pairs.
tile!(columns_tile, columns_rows, 2 x 4, [1 2], i16x8_splat(black_box(1)), |b, x, sum, ones| {
    i32x4_add(sum, i32x4_dot_i16x8(i16x8_relaxed_dot_i8x16_i7x16(b, x), ones))
});
// Narrow, because the last convolutions of a network have few positions.
tile!(rows_tile, rows_rows, 3 x 2, [1 2 3], i16x8_splat(black_box(1)), |b, x, sum, ones| {
    i32x4_add(sum, i32x4_dot_i16x8(i16x8_relaxed_dot_i8x16_i7x16(x, b), ones))
});
