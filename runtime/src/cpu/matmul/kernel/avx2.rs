//! AVX2 tiles of 6 rows by two vectors: twelve accumulators, two vectors of b and one broadcast fill the sixteen
//! registers (Van Zee and van de Geijn, "BLIS", 2015, chooses the same shape for Haswell).

use std::arch::x86_64::*;

use super::{ByteKernel, Kernel, PairKernels, by_rows};

const MR: usize = 6;
const NR: usize = 16;

/// AVX2 and FMA.
pub(super) static F32: Kernel<f32> = Kernel { name: "f32 6x16 avx2", mr: MR, nr: NR, run: f32_tile };
/// AVX2: `vpmaddwd` multiplies 16 pairs of 16-bit numbers and adds neighbours, exactly for differences of bytes.
pub(super) static I16: Kernel<i16> = Kernel { name: "i16 6x16 avx2", mr: MR, nr: NR, run: i16_tile };

/// AVX2: `vpmaddubsw` multiplies 32 pairs of u8 and i8 and adds neighbours with saturation to 16 bits.
pub(super) static PAIRS: PairKernels = PairKernels {
    columns: ByteKernel {
        tile: Kernel { name: "u8 i8 6x16 avx2 pairs", mr: MR, nr: NR, run: pair_tile::<true> },
        a_signed: false,
        b_signed: true,
    },
    rows: ByteKernel {
        tile: Kernel { name: "i8 u8 6x16 avx2 pairs", mr: MR, nr: NR, run: pair_tile::<false> },
        a_signed: true,
        b_signed: false,
    },
};

/// # Safety
/// The contract of [`Kernel`]'s `run`; AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_tile(rows: usize, steps: usize, a: *const f32, b: *const f32, c: *mut f32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, f32_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows; AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
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
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR);
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(p * MR + r));
                acc[0] = _mm256_fmadd_ps(x, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(x, b1, acc[1]);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(r * c_stride + half * 8);
                let sum = if add { _mm256_add_ps(sum, _mm256_loadu_ps(c)) } else { sum };
                _mm256_storeu_ps(c, sum);
            }
        }
    }
}

/// # Safety
/// The contract of [`Kernel`]'s `run`; AVX2.
#[target_feature(enable = "avx2")]
unsafe fn i16_tile(rows: usize, steps: usize, a: *const i16, b: *const i16, c: *mut i32, c_stride: usize, add: bool) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, i16_rows, (steps, a, b, c, c_stride, add), 1 2 3 4 5 6) }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn i16_rows<const R: usize>(
    steps: usize,
    a: *const i16,
    b: *const i16,
    c: *mut i32,
    c_stride: usize,
    add: bool,
) {
    // SAFETY: a is read below steps * MR * 2, b below steps * NR * 2, c in R rows of NR; the contract gives this room.
    // The pair of a is read unaligned.
    unsafe {
        let mut acc = [[_mm256_setzero_si256(); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR * 2);
            let (b0, b1) = (_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(16).cast()));
            for (r, acc) in acc.iter_mut().enumerate() {
                let pair = _mm256_set1_epi32(a.add((p * MR + r) * 2).cast::<i32>().read_unaligned());
                acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(pair, b0));
                acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(pair, b1));
            }
        }
        store(&acc, c, c_stride, add);
    }
}

/// With the i8 in `b` or in `a`.
///
/// # Safety
/// The contract of [`Kernel`]'s `run`; AVX2.
#[target_feature(enable = "avx2")]
unsafe fn pair_tile<const B_SIGNED: bool>(
    rows: usize,
    steps: usize,
    a: *const u8,
    b: *const u8,
    c: *mut i32,
    c_stride: usize,
    add: bool,
) {
    // SAFETY: the same contract.
    unsafe {
        match rows {
            1 => pair_rows::<1, B_SIGNED>(steps, a, b, c, c_stride, add),
            2 => pair_rows::<2, B_SIGNED>(steps, a, b, c, c_stride, add),
            3 => pair_rows::<3, B_SIGNED>(steps, a, b, c, c_stride, add),
            4 => pair_rows::<4, B_SIGNED>(steps, a, b, c, c_stride, add),
            5 => pair_rows::<5, B_SIGNED>(steps, a, b, c, c_stride, add),
            _ => pair_rows::<6, B_SIGNED>(steps, a, b, c, c_stride, add),
        }
    }
}

/// # Safety
/// The contract of [`Kernel`]'s `run` with `R` rows; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pair_rows<const R: usize, const B_SIGNED: bool>(
    steps: usize,
    a: *const u8,
    b: *const u8,
    c: *mut i32,
    c_stride: usize,
    add: bool,
) {
    // SAFETY: a is read below steps * MR * 4, b below steps * NR * 4, c in R rows of NR; the contract gives this room.
    // The quad of a is read unaligned.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut acc = [[_mm256_setzero_si256(); 2]; R];
        for p in 0..steps {
            let b = b.add(p * NR * 4);
            let b = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(32).cast())];
            for (r, acc) in acc.iter_mut().enumerate() {
                let quad = _mm256_set1_epi32(a.add((p * MR + r) * 4).cast::<i32>().read_unaligned());
                for (acc, b) in acc.iter_mut().zip(b) {
                    let pairs = if B_SIGNED { _mm256_maddubs_epi16(quad, b) } else { _mm256_maddubs_epi16(b, quad) };
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        store(&acc, c, c_stride, add);
    }
}

/// Stores the sums of `R` rows, or adds them to what is there.
///
/// # Safety
/// `c` has room for `R` rows of NR, `c_stride` apart; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const R: usize>(acc: &[[__m256i; 2]; R], c: *mut i32, c_stride: usize, add: bool) {
    for (r, acc) in acc.iter().enumerate() {
        for (half, &sum) in acc.iter().enumerate() {
            // SAFETY: the caller vouches for the room; neither access needs alignment.
            unsafe {
                let c = c.add(r * c_stride + half * 8);
                let sum = if add { _mm256_add_epi32(sum, _mm256_loadu_si256(c.cast())) } else { sum };
                _mm256_storeu_si256(c.cast(), sum);
            }
        }
    }
}
