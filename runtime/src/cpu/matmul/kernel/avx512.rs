//! AVX-512 tiles of 14 rows by two vectors: 28 accumulators, two vectors of b and one broadcast fill 31 of the 32
//! registers.

use std::arch::x86_64::*;

use super::{ByteKernel, Kernel, by_rows};

const MR: usize = 14;
const NR: usize = 32;
/// Bytes ahead of which a panel of b is asked for. Where few rows meet a panel, it comes straight from memory, and the
/// processor's own prefetcher does not look that far.
const AHEAD: usize = 4096;

/// AVX-512F.
pub(super) static F32: Kernel<f32> = Kernel { name: "f32 14x32 avx512", mr: MR, nr: NR, run: f32_tile };
/// AVX-512 VNNI: `vpdpbusd` adds four products of an unsigned and a signed byte to each of 16 sums, without saturation.
pub(super) static BYTES: ByteKernel = ByteKernel {
    tile: Kernel { name: "u8 i8 14x32 avx512-vnni", mr: MR, nr: NR, run: byte_tile },
    a_signed: false,
    b_signed: true,
};

/// # Safety
/// The contract of [`Kernel`]'s `run`; AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn f32_tile(rows: usize, steps: usize, a: *const f32, b: *const f32, c: *mut f32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, f32_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows; AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn f32_rows<const R: usize>(
    steps: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    c_stride: usize,
    add: bool,
) {
    // SAFETY: a is read below steps * MR, b below steps * NR, c in R rows of NR; the contract gives this room.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR);
            // An address past the panel's end is never read.
            _mm_prefetch::<_MM_HINT_T0>(b.cast::<i8>().wrapping_add(AHEAD));
            _mm_prefetch::<_MM_HINT_T0>(b.cast::<i8>().wrapping_add(AHEAD + 64));
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(p * MR + r));
                acc[0] = _mm512_fmadd_ps(x, b0, acc[0]);
                acc[1] = _mm512_fmadd_ps(x, b1, acc[1]);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + half * 16);
                let sum = if add { _mm512_add_ps(sum, _mm512_loadu_ps(c)) } else { sum };
                _mm512_storeu_ps(c, sum);
            }
        }
    }
}

/// # Safety
/// The contract of [`Kernel`]'s `run`; AVX-512F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn byte_tile(rows: usize, steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, byte_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6 7 8 9 10 11 12 13 14) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows; AVX-512F and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn byte_rows<const R: usize>(steps: usize, a: *const u8, b: *const u8, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: a is read below steps * MR * 4, b below steps * NR * 4, c in R rows of NR; the contract gives this room.
    // The four bytes of a are read unaligned.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR * 4);
            _mm_prefetch::<_MM_HINT_T0>(b.cast::<i8>().wrapping_add(AHEAD));
            _mm_prefetch::<_MM_HINT_T0>(b.cast::<i8>().wrapping_add(AHEAD + 64));
            let (b0, b1) = (_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(64).cast()));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(a.add((p * MR + r) * 4).cast::<i32>().read_unaligned());
                acc[0] = _mm512_dpbusd_epi32(acc[0], x, b0);
                acc[1] = _mm512_dpbusd_epi32(acc[1], x, b1);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + half * 16);
                let sum = if add { _mm512_add_epi32(sum, _mm512_loadu_si512(c.cast())) } else { sum };
                _mm512_storeu_si512(c.cast(), sum);
            }
        }
    }
}
