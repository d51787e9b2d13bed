//! Products of bytes by instructions that add up four of them.
//!
//! Such an instruction wants one operand unsigned and the other signed, or both signed, whatever the model has. Turning
//! over a byte's top bit moves its number and its zero point by 128, so any pair of types can be had. Zero points are
//! not subtracted beforehand (a difference needs nine bits); what they contribute is taken off the sums instead:
//! `sum (a - za) (b - zb) = sum a b - za sum b - zb (sum a - K za)`, exact in wrapping 32-bit arithmetic.

use std::ops::Range;

use super::losses::{self, Risks, Rows};
use super::pack::{Bytes, Zeros};
use super::sums::{Correction, Sums};
use super::{Part, Product, thin};
use crate::cpu::matmul::dims::Dims;
use crate::cpu::matmul::driver::{self, PackedColumns, RowPanels};
use crate::cpu::matmul::kernel::ByteKernel;
use crate::cpu::matmul::{Context, over_batches};
use crate::cpu::packed::{Form, Operands};
use crate::cpu::parallel::{self, SharedMut};
use crate::cpu::{Cpu, math};
use crate::tensor::{AlignedBytes, ConstantId, Element};

/// Elements of K that a step takes.
pub(super) const STEP: usize = 4;
/// The top bit.
const TOP: u8 = 0x80;

/// What turns a byte's number into the same number, moved by 128 if that is what another signedness takes.
pub(crate) fn mask(signed: bool, wanted: bool) -> u8 {
    if signed == wanted { 0 } else { TOP }
}

/// Where a zero point goes when its bytes are masked.
pub(crate) fn moved(zero: i16, signed: bool, wanted: bool) -> i32 {
    let by = match (signed, wanted) {
        (true, false) => 128,
        (false, true) => -128,
        _ => 0,
    };
    i32::from(zero) + by
}

/// The sum of the numbers that masked bytes stand for.
struct Sum<'a> {
    bytes: &'a [u8],
    mask: u8,
    signed: bool,
}

impl math::Kernel for Sum<'_> {
    type Output = i32;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> i32 {
        let Sum { bytes, mask, signed } = self;
        let add = |sum: i32, x: i32| sum.wrapping_add(x);
        match signed {
            true => bytes.iter().map(|&x| i32::from((x ^ mask) as i8)).fold(0, add),
            false => bytes.iter().map(|&x| i32::from(x ^ mask)).fold(0, add),
        }
    }
}

/// Bytes of packed rows.
pub(crate) fn rows_len(m: usize, k: usize, mr: usize) -> usize {
    RowPanels::new(m, mr).count * mr * k.next_multiple_of(STEP)
}

/// Writes `m` rows of `k` bytes as panels of `[k / 4][mr][4]` numbers, signed as `wanted`, and the sum of each row unless
/// `sums` is empty. K is padded with zeros to whole steps.
pub(crate) fn pack_rows(
    threads: usize,
    bytes: Bytes<'_>,
    wanted: bool,
    (m, k): (usize, usize),
    mr: usize,
    out: &mut [u8],
    sums: &mut [i32],
) {
    let panels = RowPanels::new(m, mr);
    sums.fill(0);
    if m == 0 || k == 0 {
        return;
    }
    let summed = usize::from(!sums.is_empty());
    let threads = if m * k < 1 << 15 { 1 } else { threads };
    let (mask, size) = (mask(bytes.signed, wanted), mr * k.next_multiple_of(STEP));
    let sums = SharedMut::new(sums);
    parallel::for_each_chunk(threads, &mut out[..panels.count * size], size, |i, out| {
        for (r, row) in panels.range(i).enumerate() {
            let line = &bytes.data[row * k..][..k];
            // SAFETY: each row belongs to one panel.
            let total = unsafe { sums.slice(row * summed, summed) };
            total.fill_with(|| math::dispatch(Sum { bytes: line, mask, signed: wanted }));
            let (quads, rest) = line.as_chunks::<STEP>();
            let mask = u32::from_ne_bytes([mask; STEP]);
            for (place, quad) in out[STEP * r..].chunks_mut(STEP * mr).zip(quads) {
                let quad = u32::from_ne_bytes(*quad) ^ mask;
                place[..STEP].copy_from_slice(&quad.to_ne_bytes());
            }
            if !rest.is_empty() {
                let place = &mut out[(quads.len() * mr + r) * STEP..][..STEP];
                place.fill(0);
                place.iter_mut().zip(rest).for_each(|(place, x)| *place = x ^ mask as u8);
            }
        }
    });
}

/// Bytes of packed columns, without their sums.
fn panels_len(k: usize, n: usize, nr: usize) -> usize {
    n.next_multiple_of(nr) * k.next_multiple_of(STEP)
}

/// Bytes of packed columns and, behind them, their sums.
fn columns_len(k: usize, n: usize, nr: usize) -> usize {
    panels_len(k, n, nr) + n.next_multiple_of(nr) * size_of::<i32>()
}

/// Writes `k` x `n` bytes as panels of `[k / 4][nr][4]` numbers of i8, padded with zeros, and behind them the sum of each
/// column.
fn pack_columns(threads: usize, bytes: Bytes<'_>, k: usize, n: usize, nr: usize, out: &mut [u8]) {
    let (panels, sums) = out.split_at_mut(panels_len(k, n, nr));
    let sums: &mut [i32] = bytemuck::cast_slice_mut(sums);
    sums.fill(0);
    if k == 0 || n == 0 {
        return;
    }
    let threads = if k * n < 1 << 15 { 1 } else { threads };
    let sums = SharedMut::new(sums);
    parallel::for_each_chunk(threads, panels, nr * k.next_multiple_of(STEP), |panel, out| {
        let first = panel * nr;
        // SAFETY: each column belongs to one panel.
        let sums = unsafe { sums.slice(first, nr.min(n - first)) };
        pack_panel(bytes, k, n, first, nr, sums, out);
    });
}

/// The columns from `first` on, as many as `sums`.
///
/// Not inlined: a browser replaces a function's first code, which is slow, when the function is called again, and not within a
/// loop.
#[inline(never)]
fn pack_panel(bytes: Bytes<'_>, k: usize, n: usize, first: usize, nr: usize, sums: &mut [i32], out: &mut [u8]) {
    let (width, mask) = (sums.len(), mask(bytes.signed, true));
    for (step, out) in out.chunks_exact_mut(STEP * nr).enumerate() {
        let rows = step * STEP..(step * STEP + STEP).min(k);
        if width < nr || rows.len() < STEP {
            out.fill(0);
        } else if nr.is_multiple_of(TOGETHER) {
            let row = |i: usize| bytes.data[(rows.start + i) * n + first..][..nr].as_chunks::<TOGETHER>().0;
            let rows = row(0).iter().zip(row(1)).zip(row(2).iter().zip(row(3)));
            let out = out.as_chunks_mut::<{ TOGETHER * STEP }>().0.iter_mut();
            for ((((a, b), (c, d)), out), sums) in rows.zip(out).zip(sums.as_chunks_mut().0) {
                pack_quads([a, b, c, d], mask, out, sums);
            }
            continue;
        }
        for (i, row) in rows.enumerate() {
            let row = &bytes.data[row * n + first..][..width];
            for ((quad, x), sum) in out.as_chunks_mut::<STEP>().0.iter_mut().zip(row).zip(&mut *sums) {
                quad[i] = x ^ mask;
                *sum = sum.wrapping_add(i32::from((x ^ mask) as i8));
            }
        }
    }
}

/// Columns that are packed together.
const TOGETHER: usize = 16;

/// Four rows of some columns.
#[inline(always)]
fn pack_quads(rows: [&[u8; TOGETHER]; STEP], mask: u8, out: &mut [u8; TOGETHER * STEP], sums: &mut [i32; TOGETHER]) {
    for j in 0..TOGETHER {
        for i in 0..STEP {
            out[j * STEP + i] = rows[i][j] ^ mask;
        }
    }
    for j in 0..TOGETHER {
        let number = |i: usize| i16::from((rows[i][j] ^ mask) as i8);
        sums[j] = sums[j].wrapping_add(i32::from(number(0) + number(1) + number(2) + number(3)));
    }
}

/// Zero points of the columns of one product.
#[derive(Clone, Copy)]
pub(crate) enum ColumnZeros<'a> {
    /// One for all.
    One(i32),
    /// One each.
    Each(&'a [i32]),
}

impl<'a> ColumnZeros<'a> {
    /// What zero points contributed to the sums of `range` of a row: the row's zero point, its sum less K times that, and
    /// the sums of all columns.
    pub(crate) fn correction(self, range: Range<usize>, zero: i32, rest: i32, columns: &'a [i32]) -> Correction<'a> {
        match self {
            ColumnZeros::One(column_zero) => {
                let constant = column_zero.wrapping_mul(rest);
                match zero {
                    0 => Correction::Constant(constant),
                    _ => Correction::Columns { zero, columns: &columns[range], constant },
                }
            }
            ColumnZeros::Each(zeros) => {
                Correction::Zeros { zero, columns: &columns[range.clone()], zeros: &zeros[range], rest }
            }
        }
    }
}

/// The panels of `matrices` matrices of `k` x `n`, of which `matrix` gives each, with their sums.
pub(super) fn packed_columns<'a>(
    cpu: &Cpu,
    nr: usize,
    constant: Option<ConstantId>,
    matrices: usize,
    (k, n): (usize, usize),
    matrix: impl Fn(usize) -> Bytes<'a>,
) -> Operands<impl Fn(usize, usize, &mut [u8])> {
    let constant = constant.map(|id| (id, Form::Quads { matrices, k, n }));
    Operands::new(cpu, constant, matrices, columns_len(k, n, nr), move |threads, i, out| {
        pack_columns(threads, matrix(i), k, n, nr, out);
    })
}

/// The panels of the constant `id` with their sums and, behind them, a list of its `risks` risky pairs: for [`super::losses`].
pub(super) fn listed_columns(
    cpu: &Cpu,
    nr: usize,
    (id, risks): (ConstantId, usize),
    (k, n): (usize, usize),
    bytes: Bytes<'_>,
) -> Operands<impl Fn(usize, usize, &mut [u8])> {
    let len = columns_len(k, n, nr);
    let all_len = len + losses::list_len(risks, n.div_ceil(nr));
    let constant = Some((id, Form::Quads { matrices: 1, k, n }));
    Operands::new(cpu, constant, 1, all_len, move |threads, _, out| {
        let (columns, list) = out.split_at_mut(len);
        pack_columns(threads, bytes, k, n, nr, columns);
        losses::list(&columns[..panels_len(k, n, nr)], nr, k.div_ceil(STEP), list);
    })
}

/// Packed columns and what is behind them.
#[derive(Clone, Copy)]
struct Columns<'a> {
    panels: &'a [u8],
    /// The sum of each.
    sums: &'a [i32],
    /// A list of risky pairs, if they were packed with one.
    list: &'a [u8],
}

impl<'a> Columns<'a> {
    fn new(packed: &'a [u8], k: usize, n: usize, nr: usize) -> Self {
        let (panels, rest) = packed.split_at(panels_len(k, n, nr));
        let (sums, list) = rest.split_at(n.next_multiple_of(nr) * size_of::<i32>());
        Columns { panels, sums: bytemuck::cast_slice(sums), list }
    }
}

impl Product<'_> {
    /// Multiplies with `kernel`, which is exact; see [`Product::run`].
    pub(super) fn run_quads<O: Element>(
        &self,
        cpu: &Cpu,
        kernel: &ByteKernel,
        out: &mut [O],
        finish: impl Fn(Part<'_>, &mut [O]) + Sync,
    ) {
        let (n, k) = (self.dims.n, self.dims.k);
        let b_matrix = |i: usize| self.b.part(i * k * n, k * n);
        let (constant, matrices) = (self.b_view.constant, self.dims.b_matrices);
        let b = packed_columns(cpu, kernel.tile.nr, constant, matrices, (k, n), b_matrix);
        self.run_packed(cpu, kernel, &b, out, finish);
    }

    /// Multiplies the constant `id` with `kernel`, which adds pairs with saturation; see [`Product::run`].
    pub(super) fn run_pairs<O: Element>(
        &self,
        cpu: &Cpu,
        kernel: &ByteKernel,
        (id, risks): (ConstantId, usize),
        out: &mut [O],
        finish: impl Fn(Part<'_>, &mut [O]) + Sync,
    ) {
        let Dims { m, n, k, ref batches, .. } = self.dims;
        let nr = kernel.tile.nr;
        let b = listed_columns(cpu, nr, (id, risks), (k, n), self.b);
        if !thin::serves(m, k, nr) {
            return self.run_packed(cpu, kernel, &b, out, finish);
        }
        over_batches(cpu, batches.len(), m * n, out, |cx: Context<'_>, batch: usize, out: &mut [O]| {
            let packed = b.get(cx, 0);
            let data = Columns::new(packed.as_slice(), k, n, nr).panels;
            let panels = thin::Panels { bytes: Bytes { data, signed: true }, k, n, nr, step: STEP };
            let ai = batches[batch].0;
            let a_zero = |row: usize| self.a_zeros.at(ai * m + row);
            let b_zero = |column: usize| moved(self.b_zeros.at(column), self.b.signed, true);
            let out = SharedMut::new(out);
            thin::multiply(cx, self.a.part(ai * m * k, m * k), a_zero, &panels, b_zero, |row, column, sums| {
                let at = row * n + column;
                // SAFETY: each part of the m x n outputs is stored once.
                let out = unsafe { out.slice(at, sums.len()) };
                let sums = Sums { data: sums, correction: Correction::None };
                finish(Part { at: batch * m * n + at, row, column, sums }, out);
            });
        });
    }

    /// Multiplies packed columns.
    fn run_packed<O: Element>(
        &self,
        cpu: &Cpu,
        kernel: &ByteKernel,
        b: &Operands<impl Fn(usize, usize, &mut [u8]) + Sync>,
        out: &mut [O],
        finish: impl Fn(Part<'_>, &mut [O]) + Sync,
    ) {
        let (m, n, k) = (self.dims.m, self.dims.n, self.dims.k);
        let (tile, a_signed) = (&kernel.tile, kernel.a_signed);
        // Sums of rows only count if a column has a zero point.
        let column_zero = self.b_zeros.one().map(|zero| moved(zero, self.b.signed, true));
        let summed = if column_zero == Some(0) { 0 } else { m };
        over_batches(cpu, self.dims.batches.len(), m * n, out, |cx: Context<'_>, batch: usize, out: &mut [O]| {
            let (ai, bi) = self.dims.batches[batch];
            let rows_len = rows_len(m, k, tile.mr);
            let mut room = cx.scratch.take(rows_len + summed * size_of::<i32>());
            let (rows, sums) = room.as_mut_slice().split_at_mut(rows_len);
            let sums: &mut [i32] = bytemuck::cast_slice_mut(sums);
            let a = self.a.part(ai * m * k, m * k);
            pack_rows(cx.threads, a, a_signed, (m, k), tile.mr, rows, sums);
            let packed = b.get(cx, bi);
            let Columns { panels, sums: columns, list } = Columns::new(packed.as_slice(), k, n, tile.nr);
            let rows_of_a = Rows { bytes: a.data, mask: mask(a.signed, a_signed), k };
            let risks = Risks::new(list, n.div_ceil(tile.nr));
            let mut room = cx.scratch.take(risks.map_or(0, |risks| risks.room() + k.next_multiple_of(STEP)));
            let losses = risks.map(|risks| {
                let (room, largest) = room.as_mut_slice().split_at_mut(risks.room());
                rows_of_a.largest(largest);
                risks.losses(panels, tile.nr, largest, room)
            });
            let room = self.column_zeros(&cx, bi);
            let column_zeros = match &room {
                Some(room) => ColumnZeros::Each(bytemuck::cast_slice(room.as_slice())),
                None => ColumnZeros::One(column_zero.unwrap_or_default()),
            };
            let row_zero = |row: usize| moved(self.a_zeros.at(ai * m + row), self.a.signed, a_signed);
            let panels = PackedColumns { data: panels, k: k.next_multiple_of(STEP) };
            let out = SharedMut::new(out);
            driver::multiply(cx, tile, (m, n, k), rows, &panels, |row, column, part| {
                let range = column..column + part.len();
                if let Some(losses) = &losses {
                    rows_of_a.put_back(losses, row, column / tile.nr, tile.nr, part);
                }
                let zero = row_zero(row);
                let sum = sums.get(row).copied().unwrap_or_default();
                let rest = sum.wrapping_sub((k as i32).wrapping_mul(zero));
                let correction = column_zeros.correction(range, zero, rest, columns);
                let at = row * n + column;
                // SAFETY: the driver stores each part of the m x n outputs once.
                let out = unsafe { out.slice(at, part.len()) };
                let sums = Sums { data: part, correction };
                finish(Part { at: batch * m * n + at, row, column, sums }, out);
            });
        });
    }

    /// The zero points of the columns of matrix `index` of b, if they differ.
    fn column_zeros(&self, cx: &Context<'_>, index: usize) -> Option<AlignedBytes> {
        if self.b_zeros.one().is_some() {
            return None;
        }
        let n = self.dims.n;
        let mut room = cx.scratch.take(n * size_of::<i32>());
        let zeros: &mut [i32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        for (j, zero) in zeros.iter_mut().enumerate() {
            *zero = moved(self.b_zeros.at(index * n + j), self.b.signed, true);
        }
        Some(room)
    }
}

/// Filters packed as rows, with what their zero points take off.
pub(crate) struct Filters<'a> {
    pub(crate) bytes: Bytes<'a>,
    pub(crate) zeros: &'a Zeros,
}

impl Filters<'_> {
    /// Bytes that [`Filters::pack`] writes for a group of `m` filters of `k` numbers.
    pub(crate) fn len(m: usize, k: usize, mr: usize) -> usize {
        rows_len(m, k, mr) + m.next_multiple_of(STEP) * size_of::<i32>()
    }

    /// Writes the rows of group `group` and, behind them, their sums.
    pub(crate) fn pack(
        &self,
        threads: usize,
        kernel: &ByteKernel,
        group: usize,
        (m, k): (usize, usize),
        out: &mut [u8],
    ) {
        let (rows, sums) = out.split_at_mut(rows_len(m, k, kernel.tile.mr));
        let bytes = self.bytes.part(group * m * k, m * k);
        pack_rows(threads, bytes, kernel.a_signed, (m, k), kernel.tile.mr, rows, bytemuck::cast_slice_mut(sums));
    }

    /// What [`Filters::pack`] writes and, behind it, a list of risky pairs: for [`super::losses`].
    pub(crate) fn pack_listed(&self, threads: usize, kernel: &ByteKernel, (m, k): (usize, usize), out: &mut [u8]) {
        let mr = kernel.tile.mr;
        let (packed, list) = out.split_at_mut(Filters::len(m, k, mr));
        self.pack(threads, kernel, 0, (m, k), packed);
        losses::list(&packed[..rows_len(m, k, mr)], mr, k.div_ceil(STEP), list);
    }

    /// The zero point of filter `filter` as the kernel sees it.
    pub(crate) fn zero(&self, kernel: &ByteKernel, filter: usize) -> i32 {
        moved(self.zeros.at(filter), self.bytes.signed, kernel.a_signed)
    }
}
