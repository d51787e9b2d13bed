//! What an instruction loses that adds two products of bytes with saturation to 16 bits, found and put back.
//!
//! With numbers a of u8 and weights b of i8, `a0 b0 + a1 b1` leaves 16 bits only if b0 and b1 have one sign and |b0 + b1| > 128:
//! 255 times 128 still fits. Weights have few such pairs, which are listed when they are packed. Before a product the largest
//! number of each row of K tells which of them could saturate at all; for these, and mostly there are next to none, each sum is
//! looked at, and what it lost is added again. So the result is exact whatever the numbers are. Where many pairs of weights are
//! risky, products of 16 bits are the faster way.

use bytemuck::{Pod, Zeroable};

use super::pack::Bytes;
use super::quads::{STEP, mask};
use crate::cpu::math;

/// The largest |b0 + b1| that never saturates.
const SAFE: u16 = 128;
/// Of this many pairs one may be risky.
const RARE: usize = 16;
/// Bits of an entry that hold a column within its panel.
const COLUMN_BITS: u32 = 8;
/// Bits of an entry that hold by how much |b0 + b1| is larger than one more than is safe.
const EXCESS_BITS: u32 = 7;

/// Whether `count` risky pairs of `all` are so few that it pays to see to them.
fn is_rare(count: usize, all: usize) -> bool {
    count <= all / RARE
}

/// Whether pairs of `k` weights can be listed, and how many of `n` times these there are.
fn pairs_of(k: usize, n: usize) -> Option<usize> {
    let pairs = k.div_ceil(2).checked_mul(n).filter(|pairs| u32::try_from(*pairs).is_ok())?;
    (k.div_ceil(2) >> (32 - COLUMN_BITS - EXCESS_BITS) == 0).then_some(pairs)
}

/// How many pairs of the weights `bytes`, `k` x `n`, are risky; `None` if that is too many, or they cannot be listed.
pub(super) fn count(bytes: Bytes<'_>, k: usize, n: usize) -> Option<usize> {
    let pairs = pairs_of(k, n)?;
    let mask = mask(bytes.signed, true);
    let mut count = 0;
    // A last row without a partner cannot leave 16 bits.
    for pair in bytes.data.chunks_exact((2 * n).max(1)) {
        let (even, odd) = pair.split_at(n);
        count += math::dispatch(Count { even, odd, mask });
        if !is_rare(count, pairs) {
            return None;
        }
    }
    Some(count)
}

/// The same of `m` filters of `k` weights each.
pub(crate) fn count_of_filters(bytes: Bytes<'_>, m: usize, k: usize) -> Option<usize> {
    let pairs = pairs_of(k, m)?;
    let mask = mask(bytes.signed, true);
    let risky = |pair: &[u8; 2]| is_risky(pair[0] ^ mask, pair[1] ^ mask);
    let of = |filter: &[u8]| filter.as_chunks::<2>().0.iter().filter(|pair| risky(pair)).count();
    let count = bytes.data[..m * k].chunks_exact(k.max(1)).map(of).sum();
    is_rare(count, pairs).then_some(count)
}

struct Count<'a> {
    even: &'a [u8],
    odd: &'a [u8],
    mask: u8,
}

/// |even + odd|, of numbers of i8.
#[inline(always)]
fn weight(even: u8, odd: u8) -> u16 {
    (i16::from(even as i8) + i16::from(odd as i8)).unsigned_abs()
}

#[inline(always)]
fn is_risky(even: u8, odd: u8) -> bool {
    weight(even, odd) > SAFE
}

impl math::Kernel for Count<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> usize {
        let Count { even, odd, mask } = self;
        let ((even, even_rest), (odd, odd_rest)) = (even.as_chunks::<16>(), odd.as_chunks::<16>());
        let mut count = 0;
        // Lanes of 16 bits, emptied before they can overflow.
        for (even, odd) in even.chunks(1 << 15).zip(odd.chunks(1 << 15)) {
            let mut lanes = [0u16; 16];
            for (even, odd) in even.iter().zip(odd) {
                for i in 0..16 {
                    lanes[i] += u16::from(is_risky(even[i] ^ mask, odd[i] ^ mask));
                }
            }
            count += lanes.iter().map(|&lane| usize::from(lane)).sum::<usize>();
        }
        count + even_rest.iter().zip(odd_rest).filter(|(x, y)| is_risky(**x ^ mask, **y ^ mask)).count()
    }
}

/// Bytes that are looked at together.
const GROUP: usize = 32;

/// The largest [`weight`] of a group's pairs.
#[inline(always)]
fn heaviest(quads: &[u8; GROUP]) -> u16 {
    let mut lanes = [0; GROUP / 2];
    for (lane, pair) in lanes.iter_mut().zip(quads.as_chunks::<2>().0) {
        // As one number of 16 bits: vectors need not sort even bytes from odd ones.
        let pair = i16::from_le_bytes(*pair);
        *lane = ((pair << 8 >> 8) + (pair >> 8)).unsigned_abs();
    }
    lanes.into_iter().fold(0, u16::max)
}

/// Bytes that a list of `count` pairs takes.
pub(crate) fn list_len(count: usize, panels: usize) -> usize {
    (panels + 1 + count) * size_of::<u32>()
}

/// Lists the risky pairs of `panels`, each `[steps][width][4]` numbers of i8, in `out`, which has room for as many as there are.
pub(super) fn list(panels: &[u8], width: usize, steps: usize, out: &mut [u8]) {
    assert!(width <= 1 << COLUMN_BITS);
    let size = width * steps * STEP;
    if size == 0 {
        // Without K all lists are empty, as zeros say.
        return;
    }
    let (starts, entries) = bytemuck::cast_slice_mut::<u8, u32>(out).split_at_mut(panels.len().div_ceil(size) + 1);
    let mut at = 0;
    for (panel, start) in panels.chunks(size).zip(&mut *starts) {
        *start = at as u32;
        at += list_panel(panel, width, &mut entries[at..]);
    }
    starts[starts.len() - 1] = at as u32;
    debug_assert_eq!(at, entries.len());
}

/// Lists the risky pairs of one panel, and returns how many they are. Not inlined, as [`super::quads`] says of its own.
#[inline(never)]
fn list_panel(panel: &[u8], width: usize, entries: &mut [u32]) -> usize {
    let mut at = 0;
    for (step, quads) in panel.chunks_exact(width * STEP).enumerate() {
        for (group, quads) in quads.chunks(GROUP).enumerate() {
            // Most groups have none, and vectors see that at once.
            if quads.try_into().is_ok_and(|quads: &[u8; GROUP]| heaviest(quads) <= SAFE) {
                continue;
            }
            for (column, quad) in quads.as_chunks::<STEP>().0.iter().enumerate() {
                for (i, pair) in quad.as_chunks::<2>().0.iter().enumerate() {
                    let weight = weight(pair[0], pair[1]);
                    if weight > SAFE {
                        let place = (step * 2 + i) << COLUMN_BITS | (group * GROUP / STEP + column);
                        entries[at] = (place as u32) << EXCESS_BITS | u32::from(weight - SAFE - 1);
                        at += 1;
                    }
                }
            }
        }
    }
    at
}

/// The risky pairs of packed weights, panel by panel.
#[derive(Clone, Copy)]
pub(crate) struct Risks<'a> {
    /// Where each panel's entries begin, and their end.
    starts: &'a [u32],
    /// A pair's number along K, its column within the panel, and [`weight`] less the least that is risky: what a first look
    /// needs, since the weights themselves may be far away in memory.
    entries: &'a [u32],
}

impl<'a> Risks<'a> {
    /// The list that [`list`] wrote for `panels` panels; none if it is empty.
    pub(crate) fn new(list: &'a [u8], panels: usize) -> Option<Self> {
        if list.is_empty() {
            return None;
        }
        let (starts, entries) = bytemuck::cast_slice(list).split_at(panels + 1);
        Some(Risks { starts, entries })
    }

    /// Bytes that [`Risks::losses`] needs.
    pub(crate) fn room(self) -> usize {
        self.entries.len() * size_of::<Loss>() + size_of_val(self.starts)
    }

    /// The pairs of `panels` that saturate with numbers up to those in `largest`, one for each row of K, in whole steps.
    pub(crate) fn losses<'r>(self, panels: &[u8], width: usize, largest: &[u8], room: &'r mut [u8]) -> Losses<'r> {
        let (losses, starts) = room.split_at_mut(self.entries.len() * size_of::<Loss>());
        let (losses, starts): (&mut [Loss], &mut [u32]) =
            (bytemuck::cast_slice_mut(losses), bytemuck::cast_slice_mut(starts));
        let mut found = 0;
        let size = largest.len() * width;
        let largest = largest.as_chunks::<2>().0;
        for (panel, (range, start)) in self.starts.windows(2).zip(&mut *starts).enumerate() {
            *start = found as u32;
            let weights = panels[panel * size..][..size].as_chunks::<2>().0;
            for &entry in &self.entries[range[0] as usize..range[1] as usize] {
                let excess = entry & ((1 << EXCESS_BITS) - 1);
                let pair = (entry >> (COLUMN_BITS + EXCESS_BITS)) as usize;
                let a = largest[pair];
                if u32::from(a[0].max(a[1])) * (u32::from(SAFE) + 1 + excess) <= i16::MAX as u32 {
                    continue;
                }
                let column = entry >> EXCESS_BITS & ((1 << COLUMN_BITS) - 1);
                let b = weights[(pair / 2 * width + column as usize) * 2 + pair % 2].map(|b| i16::from(b as i8));
                let loss = Loss { pair: pair as u32, column, b };
                if loss.of(a) != 0 {
                    losses[found] = loss;
                    found += 1;
                }
            }
        }
        starts[self.starts.len() - 1] = found as u32;
        Losses { starts, all: &losses[..found] }
    }
}

/// Rows of numbers of u8: bytes, each with the bits of a mask turned over.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) mask: u8,
    pub(super) k: usize,
}

impl Rows<'_> {
    /// Writes the largest number of each column to `largest`, which is as long as a row in whole steps.
    pub(super) fn largest(self, largest: &mut [u8]) {
        largest.fill(0);
        math::dispatch(Largest { rows: self, largest });
    }

    /// Adds to `sums`, the columns from panel `panel` of `width` on of row `row`, what they lost.
    pub(super) fn put_back(self, losses: &Losses<'_>, row: usize, panel: usize, width: usize, sums: &mut [i32]) {
        let row = &self.bytes[row * self.k..][..self.k];
        for (panel, sums) in sums.chunks_mut(width).enumerate().map(|(i, sums)| (panel + i, sums)) {
            for loss in losses.of_panel(panel) {
                // A risky pair is whole: padding is zero.
                let pair = loss.pair as usize * 2;
                let sum = &mut sums[loss.column as usize];
                *sum = sum.wrapping_add(loss.of([row[pair] ^ self.mask, row[pair + 1] ^ self.mask]));
            }
        }
    }
}

struct Largest<'a, 'b> {
    rows: Rows<'a>,
    largest: &'b mut [u8],
}

impl math::Kernel for Largest<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Largest { rows: Rows { bytes, mask, k }, largest } = self;
        for row in bytes.chunks_exact(k.max(1)) {
            largest.iter_mut().zip(row).for_each(|(largest, x)| *largest = (*largest).max(x ^ mask));
        }
    }
}

/// A pair of weights that saturates with some numbers.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Loss {
    /// Its number along K.
    pub(crate) pair: u32,
    /// Its column (of filters: row) within the panel.
    pub(crate) column: u32,
    b: [i16; 2],
}

impl Loss {
    /// What saturation takes off the sum of its products with `a`.
    #[inline(always)]
    pub(crate) fn of(&self, a: [u8; 2]) -> i32 {
        let sum = i32::from(a[0]) * i32::from(self.b[0]) + i32::from(a[1]) * i32::from(self.b[1]);
        sum - sum.clamp(i16::MIN.into(), i16::MAX.into())
    }
}

/// The pairs that saturate with some numbers, panel by panel.
pub(crate) struct Losses<'a> {
    starts: &'a [u32],
    all: &'a [Loss],
}

impl<'a> Losses<'a> {
    /// Those of panel `panel`.
    pub(crate) fn of_panel(&self, panel: usize) -> &'a [Loss] {
        &self.all[self.starts[panel] as usize..self.starts[panel + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{naive, view};
    use super::*;
    use crate::cpu::Cpu;
    use crate::cpu::random::Random;
    use crate::tensor::{ConstantId, DType, Tensor};

    #[test]
    fn pairs_are_risky_from_where_they_can_saturate() {
        for (even, odd) in [(127i8, 127i8), (64, 64), (65, 64), (-128, -1), (-128, 0), (127, 2), (127, 1), (-128, 127)]
        {
            let b = [i16::from(even), i16::from(odd)];
            let loss = Loss { pair: 0, column: 0, b };
            // With unlike signs one product is largest alone.
            let leaves = [[255, 255], [255, 0], [0, 255]].iter().any(|&a| loss.of(a) != 0);
            assert_eq!(is_risky(even as u8, odd as u8), leaves, "{even} {odd}");
        }
    }

    #[test]
    fn counts_and_lists_agree() {
        let mut random = Random(7);
        for (k, n) in [(2, 1), (3, 16), (40, 33), (9, 70)] {
            let data: Vec<u8> = (0..k * n).map(|_| if random.below(9) == 0 { 127 } else { 20 }).collect();
            let naive = (0..k / 2)
                .flat_map(|p| (0..n).map(move |j| (p, j)))
                .filter(|&(p, j)| is_risky(data[2 * p * n + j], data[(2 * p + 1) * n + j]));
            let naive: Vec<_> = naive.collect();
            let bytes = Bytes { data: &data, signed: true };
            if naive.len() > k.div_ceil(2) * n / RARE {
                assert_eq!(count(bytes, k, n), None);
                continue;
            }
            assert_eq!(count(bytes, k, n), Some(naive.len()));
            let steps = k.div_ceil(STEP);
            let nr = 8;
            let mut panels = vec![0u8; n.next_multiple_of(nr) * steps * STEP];
            for (i, &x) in data.iter().enumerate() {
                let (p, j) = (i / n, i % n);
                panels[(j / nr * steps * nr + p / STEP * nr + j % nr) * STEP + p % STEP] = x;
            }
            let mut out = vec![0u8; list_len(naive.len(), n.div_ceil(nr))];
            list(&panels, nr, steps, &mut out);
            let risks = Risks::new(&out, n.div_ceil(nr)).unwrap();
            let mut found: Vec<_> = (0..n.div_ceil(nr))
                .flat_map(|panel| {
                    let range = risks.starts[panel] as usize..risks.starts[panel + 1] as usize;
                    risks.entries[range].iter().map(move |e| ((e >> 15) as usize, panel * nr + (e >> 7 & 255) as usize))
                })
                .collect();
            found.sort_unstable();
            assert_eq!(found, naive);
        }
    }

    /// Weights of which few pairs are risky, with numbers that make these saturate.
    #[test]
    fn products_are_exact_where_pairs_saturate() {
        let mut random = Random(0x10_55e5);
        let cpus: Vec<Cpu> = Cpu::of_every_kind().collect();
        for case in 0..64 {
            let (m, k, n) = (1 + random.below(21), 2 + random.below(70), 1 + random.below(70));
            let (a_signed, b_signed) = (case & 1 == 1, case & 2 == 2);
            // Mostly the largest number, whichever way it is read.
            let largest = if a_signed { 0x7f } else { 0xff };
            let data = (0..m * k).map(|_| if random.below(3) == 0 { random.below(256) as u8 } else { largest });
            let dtype = if a_signed { DType::I8 } else { DType::U8 };
            let a = Tensor::from_bytes(dtype, &[m, k], &data.collect::<Vec<_>>()).unwrap();
            let b = random.weights(&[k, n], b_signed);
            let risks = count(Bytes { data: b.bytes(), signed: b_signed }, k, n);
            assert!(k * n < 1000 || risks.is_some_and(|risks| risks > 0), "{k} x {n}: {risks:?}");
            let zeros = [random.zeros(m, a_signed), random.zeros(n, b_signed)];
            let numbers = |zero: &Option<Tensor>| zero.as_ref().map_or(vec![0], |zero| zero.to_i64_vec().unwrap());
            let want = naive(&a, &b, &numbers(&zeros[0]), &numbers(&zeros[1]));
            let mut b_view = b.view();
            b_view.constant = Some(ConstantId(case));
            let inputs = [
                Some(a.view()),
                Some(b_view),
                zeros[0].as_ref().map(Tensor::view),
                zeros[1].as_ref().map(Tensor::view),
            ];
            for cpu in &cpus {
                let mut out = vec![-1i32; want.len()];
                super::super::run(cpu, &inputs, &mut [view(&mut out, &[want.len()])]).unwrap();
                assert_eq!(out, want, "case {case}, {}: {m} x {k} x {n}", cpu.kernels().name);
            }
        }
    }
}
