//! The input of a convolution as the right-hand side of a product: a row for each channel and element of the window, a
//! column for each output position. Blocks are gathered when the driver asks for them, so the whole matrix never exists.

use std::ops::Range;

use super::geometry::Geometry;
use crate::cpu::integer::pack::widen;
use crate::cpu::integer::quads;
use crate::cpu::matmul::driver::Columns;
use crate::tensor::BufferPool;

/// Columns that a block has at most; wider requests go in parts.
const WIDTH: usize = 256;

/// The patches of some channels of one image.
pub(crate) struct Patches<'a, T> {
    geometry: &'a Geometry,
    /// The channels, one after another.
    x: &'a [T],
    /// Rows.
    k: usize,
    /// What padding holds.
    pad: T,
    /// For bytes, see [`crate::cpu::integer::pack::widen`].
    flip: i16,
}

impl<'a> Patches<'a, f32> {
    /// The patches of `x`.
    pub(crate) fn new(geometry: &'a Geometry, x: &'a [f32]) -> Self {
        let channels = x.len() / geometry.input_len().max(1);
        Patches { geometry, x, k: channels * geometry.taps(), pad: 0.0, flip: 0 }
    }
}

impl<'a> Patches<'a, u8> {
    /// The patches of the bytes `x`, which stand for `widen(byte, flip) - zero`; padding is 0 then.
    pub(crate) fn new(geometry: &'a Geometry, x: &'a [u8], flip: i16, zero: i16) -> Self {
        let channels = x.len() / geometry.input_len().max(1);
        Patches { geometry, x, k: channels * geometry.taps(), pad: zero as u8, flip }
    }
}

impl Patches<'_, u8> {
    /// Writes the sum of each column, its bytes taken as `i8` as products of bytes take them: the window slides over the sum of
    /// all channels.
    pub(crate) fn sum_columns(&self, scratch: &BufferPool, sums: &mut [i32]) {
        let g = self.geometry;
        let len = g.input_len();
        let mask = self.mask();
        let number = |x: u8| i32::from((x ^ mask) as i8);
        let mut room = scratch.take(len * size_of::<i32>());
        let plane: &mut [i32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        plane.fill(0);
        for channel in self.x.chunks_exact(len.max(1)) {
            plane.iter_mut().zip(channel).for_each(|(sum, &x)| *sum += number(x));
        }
        let channels = (self.k / g.taps()) as i32;
        let plane = Patches { geometry: g, x: &*plane, k: g.taps(), pad: number(self.pad) * channels, flip: 0 };
        sums.fill(0);
        let mut line = [0; WIDTH];
        for from in (0..sums.len()).step_by(WIDTH) {
            let part = from..(from + WIDTH).min(sums.len());
            let sums = &mut sums[part.clone()];
            for tap in 0..g.taps() {
                plane.gather(tap, part.clone(), &mut line);
                sums.iter_mut().zip(&line).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
            }
        }
    }

    /// What makes i8 of the bytes.
    fn mask(&self) -> u8 {
        quads::mask(self.flip != 0, true)
    }
}

impl<T: Copy> Patches<'_, T> {
    /// Gathers columns `columns` of row `k` into `out`.
    fn gather(&self, k: usize, columns: Range<usize>, out: &mut [T]) {
        let g = self.geometry;
        let [_, kh, kw] = g.kernel;
        let (channel, tap) = (k / g.taps(), k % g.taps());
        let taps = [tap / kw / kh, tap / kw % kh, tap % kw];
        let [_, height, width] = g.output;
        let valid = g.valid(2, taps[2]);
        let mut at = columns.start;
        let (mut line, mut ow) = (at / width, at % width);
        while at < columns.end {
            let len = (width - ow).min(columns.end - at);
            let out = &mut out[at - columns.start..][..len];
            let depth = g.source(0, line / height, taps[0]);
            match (depth, g.source(1, line % height, taps[1])) {
                (Some(id), Some(ih)) => {
                    let from = &self.x[((channel * g.input[0] + id) * g.input[1] + ih) * g.input[2]..][..g.input[2]];
                    let (low, high) = (valid.start.clamp(ow, ow + len) - ow, valid.end.clamp(ow, ow + len) - ow);
                    out[..low].fill(self.pad);
                    out[high..].fill(self.pad);
                    if low < high {
                        let first = (ow + low) * g.strides[2] + taps[2] * g.dilations[2] - g.before[2];
                        let out = &mut out[low..high];
                        match g.strides[2] {
                            1 => out.copy_from_slice(&from[first..][..out.len()]),
                            stride => {
                                out.iter_mut().zip(from[first..].iter().step_by(stride)).for_each(|(o, &x)| *o = x)
                            }
                        }
                    }
                }
                _ => out.fill(self.pad),
            }
            at += len;
            line += 1;
            ow = 0;
        }
    }

    /// The output positions of `panels`, in parts of [`WIDTH`] at most that begin at a panel.
    fn parts(&self, nr: usize, panels: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<T> {
        let n = self.geometry.output_len();
        let step = WIDTH / nr * nr;
        let end = (panels.end * nr).min(n);
        (panels.start * nr..end).step_by(step).map(move |from| from..(from + step).min(end))
    }
}

impl Columns<f32> for Patches<'_, f32> {
    fn needs_room(&self) -> bool {
        true
    }

    fn together(&self, all: usize) -> usize {
        all
    }

    fn block<'s>(
        &'s self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &'s mut [f32],
    ) -> (&'s [f32], usize) {
        let stride = k.len() * nr;
        let mut line = [0f32; WIDTH];
        for part in self.parts(nr, panels.clone()) {
            let first = part.start / nr - panels.start;
            for (i, row) in k.clone().enumerate() {
                self.gather(row, part.clone(), &mut line);
                // Behind the last column lie numbers of the row before, which no output reads.
                for (panel, line) in line.chunks(nr).take(part.len().div_ceil(nr)).enumerate() {
                    room[(first + panel) * stride + i * nr..][..nr].copy_from_slice(line);
                }
            }
        }
        (room, stride)
    }
}

impl Columns<i16> for Patches<'_, u8> {
    fn needs_room(&self) -> bool {
        true
    }

    fn together(&self, all: usize) -> usize {
        all
    }

    fn block<'s>(
        &'s self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &'s mut [i16],
    ) -> (&'s [i16], usize) {
        let stride = k.len() * nr;
        let zero = widen(self.pad, self.flip);
        let mut lines = [[self.pad; WIDTH]; 2];
        for part in self.parts(nr, panels.clone()) {
            let first = part.start / nr - panels.start;
            for step in 0..k.len() / 2 {
                for (i, line) in lines.iter_mut().enumerate() {
                    // K is padded to an even number; the other side is zero there.
                    let row = k.start + 2 * step + i;
                    if row < self.k {
                        self.gather(row, part.clone(), line);
                    }
                }
                let [even, odd] = &lines;
                for panel in 0..part.len().div_ceil(nr) {
                    let (even, odd) = (&even[panel * nr..][..nr], &odd[panel * nr..][..nr]);
                    let out = &mut room[(first + panel) * stride + step * nr * 2..][..nr * 2];
                    for ((out, &x), &y) in out.as_chunks_mut::<2>().0.iter_mut().zip(even).zip(odd) {
                        *out = [widen(x, self.flip) - zero, widen(y, self.flip) - zero];
                    }
                }
            }
        }
        (room, stride)
    }
}

impl Columns<u8> for Patches<'_, u8> {
    fn needs_room(&self) -> bool {
        true
    }

    fn together(&self, all: usize) -> usize {
        all
    }

    fn block<'s>(
        &'s self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &'s mut [u8],
    ) -> (&'s [u8], usize) {
        let stride = k.len() * nr;
        let mask = self.mask();
        let mut lines = [[0; WIDTH]; 4];
        for part in self.parts(nr, panels.clone()) {
            let first = part.start / nr - panels.start;
            for step in 0..k.len() / 4 {
                for (i, line) in lines.iter_mut().enumerate() {
                    // K is padded to whole steps; the other side is zero there.
                    let row = k.start + 4 * step + i;
                    if row < self.k {
                        self.gather(row, part.clone(), line);
                    }
                }
                let [a, b, c, d] = &lines;
                for panel in 0..part.len().div_ceil(nr) {
                    let out = &mut room[(first + panel) * stride + step * nr * 4..][..nr * 4];
                    let [a, b, c, d] = [a, b, c, d].map(|line| &line[panel * nr..][..nr]);
                    for ((((out, a), b), c), d) in out.as_chunks_mut::<4>().0.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                        *out = [a ^ mask, b ^ mask, c ^ mask, d ^ mask];
                    }
                }
            }
        }
        (room, stride)
    }
}
