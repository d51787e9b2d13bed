//! 128-bit tiles of 4 rows by two vectors for WebAssembly: eight accumulators, two vectors of b and a broadcast fit the
//! sixteen registers that an x86 engine has.

use std::arch::wasm32::*;

use super::{Kernel, by_rows};

const MR: usize = 4;
const NR: usize = 8;

/// simd128; fused multiply-add with relaxed-simd.
pub(super) static F32: Kernel<f32> = Kernel { name: "f32 4x8 simd128", mr: MR, nr: NR, run: f32_tile };
/// simd128: a product of pairs of 16-bit numbers, exact.
pub(super) static I16: Kernel<i16> = Kernel { name: "i16 4x8 simd128", mr: MR, nr: NR, run: i16_tile };

/// `x * y + z`.
#[inline(always)]
fn multiply_add(x: v128, y: v128, z: v128) -> v128 {
    #[cfg(target_feature = "relaxed-simd")]
    return f32x4_relaxed_madd(x, y, z);
    #[cfg(not(target_feature = "relaxed-simd"))]
    return f32x4_add(f32x4_mul(x, y), z);
}

/// # Safety
/// The contract of [`Kernel`]'s `run`.
unsafe fn f32_tile(rows: usize, steps: usize, a: *const f32, b: *const f32, c: *mut f32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, f32_rows, (steps, a, b, c, c_stride, add), 1 2 3 4) }
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
    // SAFETY: a is read below steps * MR, b below steps * NR, c in R rows of NR; the contract gives this room. Vector
    // loads and stores of WebAssembly need no alignment.
    unsafe {
        let mut acc = [[f32x4_splat(0.0); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR);
            let (b0, b1) = (v128_load(b.cast()), v128_load(b.add(4).cast()));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = v128_load32_splat(a.add(p * MR + r).cast());
                acc[0] = multiply_add(x, b0, acc[0]);
                acc[1] = multiply_add(x, b1, acc[1]);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + half * 4).cast::<v128>();
                v128_store(c, if add { f32x4_add(sum, v128_load(c)) } else { sum });
            }
        }
    }
}

/// # Safety
/// The contract of [`Kernel`]'s `run`.
unsafe fn i16_tile(rows: usize, steps: usize, a: *const i16, b: *const i16, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, i16_rows, (steps, a, b, c, c_stride, add), 1 2 3 4) }
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
    // SAFETY: a is read below steps * MR * 2, b below steps * NR * 2, c in R rows of NR; the contract gives this room.
    unsafe {
        let mut acc = [[i32x4_splat(0); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR * 2);
            let (b0, b1) = (v128_load(b.cast()), v128_load(b.add(8).cast()));
            for (r, acc) in acc.iter_mut().enumerate() {
                let pair = v128_load32_splat(a.add((p * MR + r) * 2).cast());
                acc[0] = i32x4_add(acc[0], i32x4_dot_i16x8(pair, b0));
                acc[1] = i32x4_add(acc[1], i32x4_dot_i16x8(pair, b1));
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
