//! Copies 8-bit matrices into the 16-bit panels of [`crate::cpu::matmul::kernel`].
//!
//! Zero points are subtracted on the way: a difference of two numbers of one 8-bit type fits 16 bits, so that no
//! correction by row and column sums is needed. Constants stay packed in bytes, half the memory, and are widened block
//! by block.

use std::ops::Range;

use crate::cpu::matmul::driver::{Columns, RowPanels};
use crate::cpu::parallel;
use crate::error::KernelError;
use crate::tensor::{DType, TensorView};

/// The elements of a tensor of bytes, and whether they are signed.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a> {
    /// As stored.
    pub(crate) data: &'a [u8],
    /// `i8`, else `u8`.
    pub(crate) signed: bool,
}

impl<'a> Bytes<'a> {
    /// The elements of `view`; an error unless it is u8 or i8.
    pub(crate) fn of(op: &'static str, view: &TensorView<'a>) -> Result<Self, KernelError> {
        match view.dtype {
            DType::U8 => Ok(Bytes { data: view.bytes, signed: false }),
            DType::I8 => Ok(Bytes { data: view.bytes, signed: true }),
            other => Err(KernelError::unsupported_type("cpu", op, other)),
        }
    }

    /// The elements from `at` on.
    pub(crate) fn part(self, at: usize, len: usize) -> Self {
        Bytes { data: &self.data[at..][..len], ..self }
    }

    /// What turns a byte into a number after zero-extension: `(byte ^ flip) - flip`.
    #[inline(always)]
    pub(crate) fn flip(self) -> i16 {
        if self.signed { 128 } else { 0 }
    }

    /// Element `i`.
    #[inline(always)]
    pub(crate) fn at(self, i: usize) -> i16 {
        widen(self.data[i], self.flip())
    }

    /// All elements.
    pub(crate) fn to_vec(self) -> Vec<i16> {
        (0..self.data.len()).map(|i| self.at(i)).collect()
    }
}

/// A byte as a number: `flip` is 0 for u8, 128 for i8.
#[inline(always)]
pub(crate) fn widen(byte: u8, flip: i16) -> i16 {
    (byte as i16 ^ flip) - flip
}

/// Zero points of rows or columns: one for all, or one each, or one for each of all matrices of a batch.
#[derive(Clone)]
pub(crate) struct Zeros(Vec<i16>);

impl Zeros {
    /// The zero points in `view` (absent: 0) of type `dtype`, for `matrices` matrices of `each` rows or columns.
    pub(crate) fn of(
        op: &'static str,
        view: Option<TensorView<'_>>,
        dtype: DType,
        each: usize,
        matrices: usize,
    ) -> Result<Self, KernelError> {
        let Some(view) = view else { return Ok(Zeros::none()) };
        if view.dtype != dtype {
            let why = format!("{op}: a zero point is {}, what it belongs to is {dtype}", view.dtype);
            return Err(KernelError::Invalid(why));
        }
        let zeros = Bytes::of(op, &view)?.to_vec();
        let len = zeros.len();
        if len != 1 && len != each && Some(len) != each.checked_mul(matrices) {
            return Err(KernelError::Invalid(format!("{op}: {len} zero points for {each} rows or columns")));
        }
        // An empty matrix may have an empty list.
        Ok(Zeros(if len == 0 { vec![0] } else { zeros }))
    }

    /// Zero points that are 0.
    pub(crate) fn none() -> Self {
        Zeros(vec![0])
    }

    /// The zero point of all rows or columns, if there is one for all.
    pub(crate) fn one(&self) -> Option<i16> {
        match self.0[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The zero point of row or column `i`, counted over all matrices.
    #[inline]
    pub(crate) fn at(&self, i: usize) -> i16 {
        self.0[i % self.0.len()]
    }

    /// The zero points of `count` columns from `first` on, doubled for pairs and padded with zeros to panels of `nr`;
    /// empty if all are 0.
    fn pairs(&self, first: usize, count: usize, nr: usize) -> Vec<i16> {
        if self.0.iter().all(|&z| z == 0) {
            return Vec::new();
        }
        let mut pairs = vec![0; count.next_multiple_of(nr) * 2];
        for i in 0..count {
            let z = self.at(first + i);
            pairs[2 * i..2 * i + 2].copy_from_slice(&[z, z]);
        }
        pairs
    }
}

/// Elements of packed rows.
pub(crate) fn rows_len(m: usize, k: usize, mr: usize) -> usize {
    RowPanels::new(m, mr).count * mr * k.next_multiple_of(2)
}

/// Writes `m` rows of `k` bytes as panels of `[k / 2][mr][2]`, each less `zero(row)`; odd K is padded with zeros, so that
/// the other side's padding does not matter.
pub(crate) fn pack_rows(
    threads: usize,
    bytes: Bytes<'_>,
    m: usize,
    k: usize,
    mr: usize,
    zero: impl Fn(usize) -> i16 + Sync,
    out: &mut [i16],
) {
    let panels = RowPanels::new(m, mr);
    let padded = k.next_multiple_of(2);
    if m == 0 || k == 0 {
        return;
    }
    let threads = if m * k < 1 << 15 { 1 } else { threads };
    let flip = bytes.flip();
    parallel::for_each_chunk(threads, &mut out[..panels.count * mr * padded], mr * padded, |i, out| {
        for (r, row) in panels.range(i).enumerate() {
            let z = zero(row);
            let row = &bytes.data[row * k..][..k];
            let (pairs, rest) = row.as_chunks::<2>();
            let places = out[2 * r..].chunks_mut(2 * mr);
            for (place, pair) in places.zip(pairs) {
                place[0] = widen(pair[0], flip) - z;
                place[1] = widen(pair[1], flip) - z;
            }
            if let [last] = rest {
                let at = pairs.len() * 2 * mr + 2 * r;
                out[at] = widen(*last, flip) - z;
                out[at + 1] = 0;
            }
        }
    });
}

/// Bytes of packed columns.
pub(crate) fn columns_len(k: usize, n: usize, nr: usize) -> usize {
    n.div_ceil(nr) * nr * k.next_multiple_of(2)
}

/// Writes `k` x `n` bytes as panels of `[k / 2][nr][2]` bytes, padded with zeros.
pub(crate) fn pack_columns(threads: usize, data: &[u8], k: usize, n: usize, nr: usize, out: &mut [u8]) {
    let padded = k.next_multiple_of(2);
    if k == 0 || n == 0 {
        return;
    }
    let threads = if k * n < 1 << 15 { 1 } else { threads };
    parallel::for_each_chunk(threads, &mut out[..columns_len(k, n, nr)], nr * padded, |panel, out| {
        let first = panel * nr;
        let width = nr.min(n - first);
        for (step, out) in out.chunks_exact_mut(2 * nr).enumerate() {
            let row = |p: usize| if p < k { Some(&data[p * n + first..][..width]) } else { None };
            let (even, odd) = (row(2 * step), row(2 * step + 1));
            if width < nr || odd.is_none() {
                out.fill(0);
            }
            let (pairs, _) = out.as_chunks_mut::<2>();
            if let Some(even) = even {
                pairs.iter_mut().zip(even).for_each(|(pair, &x)| pair[0] = x);
            }
            if let Some(odd) = odd {
                pairs.iter_mut().zip(odd).for_each(|(pair, &x)| pair[1] = x);
            }
        }
    });
}

/// Columns packed in bytes, widened and freed of their zero points block by block.
pub(crate) struct ByteColumns<'a> {
    panels: Bytes<'a>,
    k: usize,
    zeros: Vec<i16>,
}

impl<'a> ByteColumns<'a> {
    /// The columns of matrix `index` of a batch: `panels` as [`pack_columns`] wrote them, of `k` x `n`.
    pub(crate) fn new(panels: Bytes<'a>, k: usize, n: usize, nr: usize, zeros: &Zeros, index: usize) -> Self {
        ByteColumns { panels, k: k.next_multiple_of(2), zeros: zeros.pairs(index * n, n, nr) }
    }
}

impl Columns<i16> for ByteColumns<'_> {
    fn needs_room(&self) -> bool {
        true
    }

    fn block<'s>(
        &'s self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &'s mut [i16],
    ) -> (&'s [i16], usize) {
        let stride = k.len() * nr;
        for (panel, out) in panels.zip(room.chunks_exact_mut(stride)) {
            let from = &self.panels.data[panel * self.k * nr + k.start * nr..][..stride];
            let zeros = self.zeros.get(panel * nr * 2..(panel + 1) * nr * 2);
            widen_panel(from, self.panels.flip(), zeros, out);
        }
        (room, stride)
    }

    fn source(&self, nr: usize, k: Range<usize>, panel: usize) -> &[u8] {
        &self.panels.data[panel * self.k * nr + k.start * nr..][..k.len() * nr]
    }
}

/// `out = widen(from) - zeros`, the zeros repeated for each step of K.
fn widen_panel(from: &[u8], flip: i16, zeros: Option<&[i16]>, out: &mut [i16]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected.
        return unsafe { widen_panel_avx2(from, flip, zeros, out) };
    }
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    return match flip {
        0 => widen_panel_simd128::<false>(from, zeros, out),
        _ => widen_panel_simd128::<true>(from, zeros, out),
    };
    #[allow(unreachable_code, reason = "where there is no other kernel")]
    widen_panel_any(from, flip, zeros, out);
}

/// The same in 128-bit vectors. Spelled out, because compilers vectorise the plain loop in one build and not in the next,
/// and it costs as much as the products then.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
fn widen_panel_simd128<const SIGNED: bool>(from: &[u8], zeros: Option<&[i16]>, out: &mut [i16]) {
    use std::arch::wasm32::*;
    // Zero points repeat with each step of K; a panel is at least eight pairs wide.
    let zeros = zeros.unwrap_or(&[0; 16]);
    let (zeros, rest) = zeros.as_chunks::<16>();
    assert!(rest.is_empty() && from.len() == out.len() && from.len().is_multiple_of(16));
    let steps = from.as_chunks::<16>().0.chunks(zeros.len()).zip(out.as_chunks_mut::<16>().0.chunks_mut(zeros.len()));
    for (from, out) in steps {
        for ((from, out), zeros) in from.iter().zip(out).zip(zeros) {
            // SAFETY: each array holds what is read or written of it; the instructions need no alignment.
            unsafe {
                let bytes = v128_load(from.as_ptr().cast());
                let (low, high) = match SIGNED {
                    true => (i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes)),
                    false => (u16x8_extend_low_u8x16(bytes), u16x8_extend_high_u8x16(bytes)),
                };
                let zeros = zeros.as_ptr().cast::<v128>();
                let out = out.as_mut_ptr().cast::<v128>();
                v128_store(out, i16x8_sub(low, v128_load(zeros)));
                v128_store(out.add(1), i16x8_sub(high, v128_load(zeros.add(1))));
            }
        }
    }
}

/// The same, compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_panel_avx2(from: &[u8], flip: i16, zeros: Option<&[i16]>, out: &mut [i16]) {
    widen_panel_any(from, flip, zeros, out);
}

#[inline(always)]
fn widen_panel_any(from: &[u8], flip: i16, zeros: Option<&[i16]>, out: &mut [i16]) {
    match zeros {
        None => out.iter_mut().zip(from).for_each(|(out, &x)| *out = widen(x, flip)),
        Some(zeros) => {
            for (out, from) in out.chunks_exact_mut(zeros.len()).zip(from.chunks_exact(zeros.len())) {
                out.iter_mut().zip(from).zip(zeros).for_each(|((out, &x), z)| *out = widen(x, flip) - z);
            }
        }
    }
}
