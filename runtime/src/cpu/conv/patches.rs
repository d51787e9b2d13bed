//! The input of a convolution as the right-hand side of a product: a row for each channel and element of the window, a
//! column for each output position. Blocks are gathered from the channels' [`Planes`] when the driver asks for them, so
//! the whole matrix never exists.

use std::ops::Range;

use super::planes::{CHUNK, Planes};
use crate::cpu::integer::losses::Loss;
use crate::cpu::integer::pack::widen;
use crate::cpu::integer::quads;
use crate::cpu::math::{self, Kernel};
use crate::cpu::matmul::driver::Columns;
use crate::cpu::parallel;
use crate::tensor::{AlignedBytes, BufferPool};

/// Columns that a block has at most; wider requests go in parts.
pub(super) const WIDTH: usize = 256;
/// Elements of a line, with room for what is copied past its end.
pub(super) const LINE: usize = WIDTH + CHUNK;

/// The planes of some channels of one image in memory.
pub(crate) struct Loaded(AlignedBytes);

impl Loaded {
    /// The planes of the channels, one after another, and [`CHUNK`] elements more.
    pub(super) fn elements<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.0.as_slice())
    }
}

/// The patches of some channels of one image.
pub(crate) struct Patches<'a, T> {
    planes: &'a Planes<'a>,
    /// The planes of the channels, one after another, and [`CHUNK`] elements more.
    x: &'a [T],
    channels: usize,
    /// What padding holds.
    pad: T,
    /// For bytes, see [`crate::cpu::integer::pack::widen`].
    flip: i16,
    /// Whether quads of bytes are i8; else they are u8.
    signed: bool,
}

/// Copies the channels `x` into planes, padded with `pad`.
pub(crate) fn load<T: bytemuck::Pod + Send + Sync>(
    threads: usize,
    scratch: &BufferPool,
    planes: &Planes<'_>,
    x: &[T],
    pad: T,
) -> Loaded {
    let (image, len) = (planes.geometry.input_len().max(1), planes.len().max(1));
    let count = x.len() / image;
    let mut room = scratch.take((count * len + CHUNK) * size_of::<T>());
    let out: &mut [T] = bytemuck::cast_slice_mut(room.as_mut_slice());
    let (out, rest) = out.split_at_mut(count * len);
    rest.fill(pad);
    let threads = if x.len() < 1 << 15 { 1 } else { threads };
    parallel::for_each_chunk(threads, out, len, |i, out| planes.load(&x[i * image..][..image], pad, |x| x, out));
    Loaded(room)
}

impl<'a> Patches<'a, f32> {
    /// The patches of the channels in `loaded`, padded with zeros.
    pub(crate) fn new(planes: &'a Planes<'a>, loaded: &'a Loaded) -> Self {
        Self::of(planes, loaded, 0.0, 0)
    }
}

impl<'a> Patches<'a, u8> {
    /// The patches of the bytes in `loaded`, padded with `pad`. They stand for `widen(byte, flip)`, less the zero point
    /// `pad` where they are widened; quads of them are i8.
    pub(crate) fn new(planes: &'a Planes<'a>, loaded: &'a Loaded, pad: u8, flip: i16) -> Self {
        Self::of(planes, loaded, pad, flip)
    }

    /// The same with quads of i8 if `signed`, else of u8.
    pub(crate) fn quads(planes: &'a Planes<'a>, loaded: &'a Loaded, pad: u8, flip: i16, signed: bool) -> Self {
        Patches { signed, ..Self::of(planes, loaded, pad, flip) }
    }

    /// Writes the sum of each column, its bytes taken as products of quads take them: the window slides over the sum of
    /// all channels.
    pub(crate) fn sum_columns(&self, scratch: &BufferPool, sums: &mut [i32]) {
        let len = self.planes.len();
        let mask = self.mask();
        let mut room = scratch.take(len * size_of::<i32>());
        let plane: &mut [i32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        plane.fill(0);
        for channel in self.x.chunks_exact(len.max(1)).take(self.channels) {
            match self.signed {
                true => plane.iter_mut().zip(channel).for_each(|(sum, &x)| *sum += i32::from((x ^ mask) as i8)),
                false => plane.iter_mut().zip(channel).for_each(|(sum, &x)| *sum += i32::from(x ^ mask)),
            }
        }
        sums.fill(0);
        for &offset in &self.planes.offsets {
            self.planes.lines(0..sums.len(), |first, start, len| {
                let from = &plane[offset + start..][..len];
                sums[first..][..len].iter_mut().zip(from).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
            });
        }
    }

    /// Adds what pairs of the weights of one filter lost, with the numbers in the columns `columns`, to their `sums`.
    pub(crate) fn put_back<'l>(
        &self,
        losses: impl Iterator<Item = &'l Loss> + Clone,
        columns: Range<usize>,
        sums: &mut [i32],
    ) {
        let mut rooms = [[self.pad; LINE]; 2];
        for (part, sums) in columns.clone().step_by(WIDTH).zip(sums.chunks_mut(WIDTH)) {
            let part = part..part + sums.len();
            for loss in losses.clone() {
                let [even, odd] = &mut rooms;
                let pair = loss.pair as usize * 2;
                let (even, odd) = (self.line(pair, part.clone(), even), self.line(pair + 1, part.clone(), odd));
                math::dispatch(PutBack { loss, lines: [even, odd], mask: self.mask(), sums });
            }
        }
    }

    /// What turns the bytes into quads.
    fn mask(&self) -> u8 {
        quads::mask(self.flip != 0, self.signed)
    }
}

impl<'a, T: bytemuck::Pod> Patches<'a, T> {
    fn of(planes: &'a Planes<'a>, loaded: &'a Loaded, pad: T, flip: i16) -> Self {
        let x: &[T] = loaded.elements();
        let channels = (x.len() - CHUNK) / planes.len().max(1);
        Patches { planes, x, channels, pad, flip, signed: true }
    }

    /// Rows.
    fn k(&self) -> usize {
        self.channels * self.planes.offsets.len()
    }

    /// Columns `columns` of row `row` and some elements more: where they lie, if they lie together, else copied to `room`.
    #[inline(always)]
    pub(super) fn line<'s>(&'s self, row: usize, columns: Range<usize>, room: &'s mut [T; LINE]) -> &'s [T] {
        let taps = self.planes.offsets.len();
        let x = &self.x[row / taps * self.planes.len() + self.planes.offsets[row % taps]..];
        if self.planes.is_contiguous()
            && let Some(line) = x.get(columns.start..columns.start + WIDTH)
        {
            return line;
        }
        self.planes.lines(columns, |first, start, len| {
            for i in (0..len).step_by(CHUNK) {
                room[first + i..][..CHUNK].copy_from_slice(&x[start + i..][..CHUNK]);
            }
        });
        &room[..WIDTH]
    }

    /// The output positions of `panels`, in parts of [`WIDTH`] at most that begin at a panel.
    fn parts(&self, nr: usize, panels: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<T> {
        let n = self.planes.geometry.output_len();
        let step = WIDTH / nr * nr;
        let end = (panels.end * nr).min(n);
        (panels.start * nr..end).step_by(step).map(move |from| from..(from + step).min(end))
    }

    /// Calls `write(lines, panel, out)` for each `STEP` rows of `k` and each panel; `out` are the panel's places in `room`, of
    /// `STEP * nr` elements, and the panel's columns begin at `panel * nr` of each line. Rows beyond the last one hold
    /// anything: the other side is zero there. So do columns beyond the last one, which no output reads.
    #[inline(always)]
    fn fill<const STEP: usize, O>(
        &self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &mut [O],
        write: impl Fn([&[T]; STEP], &mut [O]),
    ) {
        let stride = k.len() * nr;
        let mut lines = [[self.pad; LINE]; STEP];
        for part in self.parts(nr, panels.clone()) {
            let first = part.start / nr - panels.start;
            for (step, rows) in k.clone().step_by(STEP).enumerate() {
                // Not `array::map`, whose closure is compiled apart, without this copy's vector instructions.
                let mut found: [&[T]; STEP] = [&[]; STEP];
                for (i, (line, room)) in found.iter_mut().zip(&mut lines).enumerate() {
                    let row = rows + i;
                    *line = if row < self.k() { self.line(row, part.clone(), room) } else { &room[..WIDTH] };
                }
                for panel in 0..part.len().div_ceil(nr) {
                    let out = &mut room[(first + panel) * stride + step * nr * STEP..][..nr * STEP];
                    let mut columns: [&[T]; STEP] = [&[]; STEP];
                    for (columns, line) in columns.iter_mut().zip(&found) {
                        *columns = &line[panel * nr..][..nr];
                    }
                    write(columns, out);
                }
            }
        }
    }
}

/// Adds what a pair of weights lost with the numbers of two rows.
struct PutBack<'a> {
    loss: &'a Loss,
    lines: [&'a [u8]; 2],
    mask: u8,
    sums: &'a mut [i32],
}

impl Kernel for PutBack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let PutBack { loss, lines: [even, odd], mask, sums } = self;
        for ((sum, x), y) in sums.iter_mut().zip(even).zip(odd) {
            *sum = sum.wrapping_add(loss.of([x ^ mask, y ^ mask]));
        }
    }
}

/// A request of the driver.
struct Fill<'s, 'a, T, O> {
    patches: &'s Patches<'a, T>,
    nr: usize,
    k: Range<usize>,
    panels: Range<usize>,
    room: &'s mut [O],
}

impl Kernel for Fill<'_, '_, f32, f32> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        self.patches.fill(self.nr, self.k, self.panels, self.room, |[line], out| {
            // Tiles are whole numbers of four columns wide.
            let ((out, out_rest), (line, line_rest)) = (out.as_chunks_mut::<8>(), line.as_chunks::<8>());
            for (out, line) in out.iter_mut().zip(line) {
                *out = *line;
            }
            for (out, line) in out_rest.as_chunks_mut::<4>().0.iter_mut().zip(line_rest.as_chunks::<4>().0) {
                *out = *line;
            }
        });
    }
}

impl Kernel for Fill<'_, '_, u8, i16> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let flip = self.patches.flip;
        let zero = widen(self.patches.pad, flip);
        self.patches.fill(self.nr, self.k, self.panels, self.room, |[even, odd], out| {
            for ((out, &x), &y) in out.as_chunks_mut::<2>().0.iter_mut().zip(even).zip(odd) {
                *out = [widen(x, flip) - zero, widen(y, flip) - zero];
            }
        });
    }
}

impl Kernel for Fill<'_, '_, u8, u8> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let mask = self.patches.mask();
        self.patches.fill(self.nr, self.k, self.panels, self.room, |[a, b, c, d], out| {
            for ((((out, a), b), c), d) in out.as_chunks_mut::<4>().0.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *out = [a ^ mask, b ^ mask, c ^ mask, d ^ mask];
            }
        });
    }
}

macro_rules! columns {
    ($from:ty, $to:ty) => {
        impl Columns<$to> for Patches<'_, $from> {
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
                room: &'s mut [$to],
            ) -> (&'s [$to], usize) {
                let stride = k.len() * nr;
                math::dispatch(Fill { patches: self, nr, k, panels, room: &mut *room });
                (room, stride)
            }
        }
    };
}

columns!(f32, f32);
columns!(u8, i16);
columns!(u8, u8);
