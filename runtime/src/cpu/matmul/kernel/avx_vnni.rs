//! AVX-VNNI tiles of bytes, 6 rows by two vectors as those of AVX2: for machines that have `vpdpbusd` but not AVX-512.

use std::arch::x86_64::*;

use super::{ByteKernel, Kernel, by_rows};

const MR: usize = 6;
const NR: usize = 16;

/// AVX-VNNI.
pub(super) static BYTES: ByteKernel = ByteKernel {
    tile: Kernel { name: "u8 i8 6x16 avx-vnni", mr: MR, nr: NR, run: byte_tile },
    a_signed: false,
    b_signed: true,
};

/// # Safety
/// The contract of [`Kernel`]'s `run`; AVX2 and AVX-VNNI.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn byte_tile(rows: usize, steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, byte_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows; AVX2 and AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn byte_rows<const R: usize>(steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: a is read below steps * MR * 4, b below steps * NR * 4, c in R rows of NR; the contract gives this room.
    // The four bytes of a are read unaligned.
    unsafe {
        let mut acc = [[_mm256_setzero_si256(); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR * 4);
            let (b0, b1) = (_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast()));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(a.add((p * MR + r) * 4).cast::<i32>().read_unaligned());
                acc[0] = _mm256_dpbusd_avx_epi32(acc[0], x, b0);
                acc[1] = _mm256_dpbusd_avx_epi32(acc[1], x, b1);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + half * 8);
                let sum = if add { _mm256_add_epi32(sum, _mm256_loadu_si256(c.cast())) } else { sum };
                _mm256_storeu_si256(c.cast(), sum);
            }
        }
    }
}
