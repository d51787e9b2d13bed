//! Convolutions with windows of 3 x 3 by fewer multiplications: Winograd's F(2 x 2, 3 x 3), after Lavin and Gray, "Fast
//! Algorithms for Convolutional Networks" (CVPR 2016).
//!
//! Four outputs side by side depend on 4 x 4 inputs. Filters and inputs are transformed to 16 numbers each; for each of the
//! 16 the channels are added up in a matrix product of its own; the 16 sums are transformed back to four outputs: 16
//! multiplications where the definition takes 36. The transforms only add and halve, so that rounding is no worse than a
//! few units of the sums' last place.

use std::ops::Range;

use super::geometry::Geometry;
use super::patches;
use super::planes::{CHUNK, Planes};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::math;
use crate::cpu::matmul::Context;
use crate::cpu::matmul::driver::RowPanels;
use crate::cpu::matmul::kernel::Kernel;
use crate::cpu::matmul::pack::Widen;
use crate::cpu::parallel::{self, SharedMut};

/// Numbers of a transformed tile.
const TILE: usize = 16;
/// Tiles that are transformed together.
const LANES: usize = 16;
/// Tiles of a task at most.
const MAX_TILES: usize = 256;
/// Bytes of the transformed inputs and sums of a task, about: they stay in the second-level cache.
const ROOM: usize = 1 << 20;
/// Elements of a panel of inputs that meet the filters together: they stay in the first-level cache.
const STRETCH: usize = 4 << 10;

/// Whether the transforms pay for `m` filters of `channels` channels.
///
/// It depends on nothing that changes from run to run, because the transformed filters take the place of the others. They
/// are 16/9 as large: many channels meet few positions as a rule, and then reading filters is most of the work.
pub(super) fn serves(g: &Geometry, groups: usize, m: usize, channels: usize) -> bool {
    let flat = g.kernel == [1, 3, 3] && g.input[0] == 1 && g.output[0] == 1;
    flat && g.strides == [1; 3]
        && g.dilations == [1; 3]
        && groups == 1
        && m.min(channels) >= 16
        && m * channels <= 1 << 16
}

/// Elements of `m` transformed filters of `channels` channels, in panels of `mr` rows.
pub(super) fn filters_len(m: usize, channels: usize, mr: usize) -> usize {
    TILE * RowPanels::new(m, mr).count * mr * channels
}

/// Transforms `m` filters of `channels` x 3 x 3 elements: for each of the 16 numbers, panels of rows `[channels][mr]`.
pub(super) fn pack_filters<S: Widen>(
    threads: usize,
    filters: &[S],
    (m, channels): (usize, usize),
    mr: usize,
    out: &mut [f32],
) {
    let panels = RowPanels::new(m, mr);
    let size = panels.count * mr * channels;
    let out = SharedMut::new(out);
    parallel::for_each(threads, panels.count, |panel| {
        for channel in 0..channels {
            for (r, row) in panels.range(panel).enumerate() {
                let filter = &filters[(row * channels + channel) * 9..][..9];
                let at = (panel * channels + channel) * mr + r;
                for (i, x) in transform_filter(filter).into_iter().enumerate() {
                    // SAFETY: each element is written once.
                    let out = unsafe { out.slice(i * size + at, 1) };
                    out[0] = x;
                }
            }
        }
    });
}

/// What [`pack_filters`] transformed, but for rounding.
pub(super) fn unpack_filters((m, channels): (usize, usize), mr: usize, packed: &[f32], out: &mut [f32]) {
    let panels = RowPanels::new(m, mr);
    let size = panels.count * mr * channels;
    for (row, out) in out.chunks_exact_mut(9 * channels).enumerate() {
        let (panel, r) = panels.place(row);
        for (channel, out) in out.chunks_exact_mut(9).enumerate() {
            let at = |i: usize| packed[i * size + (panel * channels + channel) * mr + r];
            // Of three numbers a, b, c a transform makes a, (a + b + c) / 2, (a - b + c) / 2 and c.
            let across = |i: usize| [at(4 * i), at(4 * i + 1) - at(4 * i + 2), at(4 * i + 3)];
            let rows = [across(0), across(1), across(2), across(3)];
            for j in 0..3 {
                (out[j], out[3 + j], out[6 + j]) = (rows[0][j], rows[1][j] - rows[2][j], rows[3][j]);
            }
        }
    }
}

/// G g G^T.
fn transform_filter<S: Widen>(g: &[S]) -> [f32; TILE] {
    let along = |a: f32, b: f32, c: f32| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
    let columns = [0, 1, 2].map(|j| along(g[j].widen(), g[3 + j].widen(), g[6 + j].widen()));
    let mut out = [0.0; TILE];
    for (i, out) in out.chunks_exact_mut(4).enumerate() {
        out.copy_from_slice(&along(columns[0][i], columns[1][i], columns[2][i]));
    }
    out
}

/// Where the 4 x 4 inputs of each 2 x 2 outputs of `g` lie: as those of a window of four that moves by two.
pub(super) fn tiles_of(g: &Geometry) -> Geometry {
    let [_, height, width] = g.output;
    Geometry { kernel: [1, 4, 4], strides: [1, 2, 2], output: [1, height.div_ceil(2), width.div_ceil(2)], ..g.clone() }
}

/// A convolution of one image.
pub(super) struct Convolution<'a> {
    pub(super) kernel: &'static Kernel<f32>,
    /// The planes of [`tiles_of`] the convolution.
    pub(super) planes: &'a Planes<'a>,
    /// Height and width of the output.
    pub(super) output: [usize; 2],
    /// See [`pack_filters`].
    pub(super) filters: &'a [f32],
    /// Filters.
    pub(super) m: usize,
    pub(super) channels: usize,
    pub(super) epilogue: Epilogue<'a>,
    /// Where the image's outputs begin in the whole output.
    pub(super) at: usize,
}

impl Convolution<'_> {
    /// Convolves the channels `x` and writes `out`, m x height x width.
    pub(super) fn run(&self, cx: Context<'_>, x: &[f32], out: &mut [f32]) {
        let loaded = patches::load(cx.threads, cx.scratch, self.planes, x, 0.0);
        let x = loaded.elements();
        let (nr, rows) = (self.kernel.nr, RowPanels::new(self.m, self.kernel.mr));
        let tiles = self.planes.geometry.output_len();
        let fitting = ROOM / ((self.channels + self.m) * TILE * size_of::<f32>()) / nr * nr;
        let panels = tiles.div_ceil(nr);
        // A panel alone would read the filters anew for each.
        let together = (fitting / nr).clamp(2, MAX_TILES / nr).min(panels);
        let blocks = panels.div_ceil(together);
        let together = panels.div_ceil(blocks);
        // Threads without tiles of their own share filters, and each transforms the inputs for itself.
        let wanted = if cx.threads > 1 { 2 * cx.threads } else { 1 };
        let parts = wanted.div_ceil(blocks).min(rows.count).min(if blocks < wanted { wanted } else { 1 });
        let each = rows.count.div_ceil(parts.max(1));
        let parts = rows.count.div_ceil(each);
        let width = together * nr;
        let init = || {
            let inputs = cx.scratch.take(TILE * self.channels * width * size_of::<f32>());
            let sums = cx.scratch.take((TILE * each * self.kernel.mr * width + LANES) * size_of::<f32>());
            (inputs, sums)
        };
        let out = SharedMut::new(out);
        parallel::for_each_with(cx.threads, blocks * parts, init, |(inputs, sums), task| {
            let (block, part) = (task / parts, task % parts);
            let tiles = block * width..((block + 1) * width).min(tiles);
            let panels = part * each..((part + 1) * each).min(rows.count);
            let inputs: &mut [f32] = bytemuck::cast_slice_mut(inputs.as_mut_slice());
            let sums: &mut [f32] = bytemuck::cast_slice_mut(sums.as_mut_slice());
            math::dispatch(TransformInputs { of: self, x, tiles: tiles.clone(), nr, out: inputs });
            self.multiply(inputs, tiles.len().div_ceil(nr), rows, panels.clone(), width, sums);
            let rows = rows.start(panels.start)..rows.start(panels.end);
            math::dispatch(TransformSums { of: self, sums, width, tiles, rows, out: &out });
        });
    }

    /// The sums of the panels `chosen` of filters: for each of the 16 numbers, for each filter, `width` tiles.
    fn multiply(
        &self,
        inputs: &[f32],
        columns: usize,
        rows: RowPanels,
        chosen: Range<usize>,
        width: usize,
        sums: &mut [f32],
    ) {
        let (k, mr, nr) = (self.channels, self.kernel.mr, self.kernel.nr);
        let first = rows.start(chosen.start);
        let height = rows.start(chosen.end) - first;
        let stretches = (k * nr).div_ceil(STRETCH);
        let stretch = k.div_ceil(stretches);
        for number in 0..TILE {
            let inputs = &inputs[number * k * width..][..k * width];
            let sums = &mut sums[number * height * width..];
            for from in (0..k).step_by(stretch) {
                let len = stretch.min(k - from);
                for panel in chosen.clone() {
                    let a = &self.filters[((number * rows.count + panel) * k + from) * mr..][..len * mr];
                    let range = rows.range(panel);
                    for column in 0..columns {
                        let b = &inputs[(column * k + from) * nr..][..len * nr];
                        let c = &mut sums[(range.start - first) * width + column * nr..];
                        self.kernel.run(range.len(), len, a, b, c, width, from > 0);
                    }
                }
            }
        }
    }
}

/// B^T d B of the tiles `tiles` of each channel: for each of the 16 numbers, panels of columns `[channels][nr]`.
struct TransformInputs<'s> {
    of: &'s Convolution<'s>,
    /// The planes of all channels, and some elements more.
    x: &'s [f32],
    tiles: Range<usize>,
    nr: usize,
    out: &'s mut [f32],
}

impl math::Kernel for TransformInputs<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let TransformInputs { of, x, tiles, nr, out } = self;
        let (channels, planes) = (of.channels, of.planes);
        let size = out.len() / TILE;
        let mut room = [[0.0f32; MAX_TILES + LANES]; TILE];
        for channel in 0..channels {
            planes.lines(tiles.clone(), |first, start, len| {
                for at in (0..len).step_by(LANES) {
                    let from = &x[channel * planes.len() + start + at..];
                    let mut d: [Vector; TILE] = [[0.0; LANES]; TILE];
                    for (d, &offset) in d.iter_mut().zip(&planes.offsets) {
                        d.copy_from_slice(&from[offset..][..LANES]);
                    }
                    transform_input(&mut d);
                    // What lies past the line is overwritten by the next.
                    for (room, d) in room.iter_mut().zip(&d) {
                        room[first + at..][..LANES].copy_from_slice(d);
                    }
                }
            });
            for (room, out) in room.iter().zip(out.chunks_exact_mut(size)) {
                for (panel, room) in room[..tiles.len().next_multiple_of(nr)].chunks_exact(nr).enumerate() {
                    out[(panel * channels + channel) * nr..][..nr].copy_from_slice(room);
                }
            }
        }
    }
}

/// The same number of some tiles.
type Vector = [f32; LANES];

/// Loops over arrays of one length become one instruction each.
#[inline(always)]
fn add(a: &Vector, b: &Vector) -> Vector {
    let mut sum = [0.0; LANES];
    for lane in 0..LANES {
        sum[lane] = a[lane] + b[lane];
    }
    sum
}

#[inline(always)]
fn subtract(a: &Vector, b: &Vector) -> Vector {
    let mut difference = [0.0; LANES];
    for lane in 0..LANES {
        difference[lane] = a[lane] - b[lane];
    }
    difference
}

/// B^T d B, in place.
#[inline(always)]
fn transform_input(d: &mut [Vector; TILE]) {
    // Down the columns, then along the rows.
    for (step, starts) in [(4, [0, 1, 2, 3]), (1, [0, 4, 8, 12])] {
        for at in starts {
            let [a, b, c, e] = [d[at], d[at + step], d[at + 2 * step], d[at + 3 * step]];
            d[at] = subtract(&a, &c);
            d[at + step] = add(&b, &c);
            d[at + 2 * step] = subtract(&c, &b);
            d[at + 3 * step] = subtract(&b, &e);
        }
    }
}

/// A^T s A of the sums of the filters `rows` and the tiles `tiles`, finished and written.
struct TransformSums<'s> {
    of: &'s Convolution<'s>,
    /// For each of the 16 numbers, for each filter, `width` tiles; some elements more.
    sums: &'s [f32],
    width: usize,
    tiles: Range<usize>,
    rows: Range<usize>,
    out: &'s SharedMut<'s, f32>,
}

impl math::Kernel for TransformSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let TransformSums { of, sums, width, tiles, rows, out } = self;
        let [height, line] = of.output;
        let across = of.planes.geometry.output[2];
        let size = rows.len() * width;
        let mut room = [[0.0f32; 2 * (MAX_TILES + LANES)]; 2];
        for (r, filter) in rows.enumerate() {
            let mut tile = tiles.start;
            while tile < tiles.end {
                let (y, x) = (tile / across * 2, tile % across * 2);
                let len = (across - tile % across).min(tiles.end - tile);
                let from = &sums[r * width + tile - tiles.start..];
                for at in (0..len).step_by(LANES) {
                    let mut s: [Vector; TILE] = [[0.0; LANES]; TILE];
                    for (i, s) in s.iter_mut().enumerate() {
                        s.copy_from_slice(&from[i * size + at..][..LANES]);
                    }
                    for (room, [even, odd]) in room.iter_mut().zip(&transform_sums(&s)) {
                        let pairs = room[2 * at..][..2 * LANES].chunks_exact_mut(2);
                        for (pair, (&even, &odd)) in pairs.zip(even.iter().zip(odd)) {
                            (pair[0], pair[1]) = (even, odd);
                        }
                    }
                }
                let columns = (2 * len).min(line - x);
                for (y, room) in (y..height).zip(&mut room) {
                    let start = (filter * height + y) * line + x;
                    // SAFETY: each tile's outputs are written once.
                    let out = unsafe { out.slice(start, columns) };
                    of.epilogue.finish(filter, 0, of.at + start, &mut room[..columns], out);
                }
                tile += len;
            }
        }
    }
}

/// A^T s A: rows of two.
#[inline(always)]
fn transform_sums(s: &[Vector; TILE]) -> [[Vector; 2]; 2] {
    let mut rows = [[[0.0; LANES]; 4]; 2];
    for j in 0..4 {
        let [a, b, c, d] = [&s[j], &s[4 + j], &s[8 + j], &s[12 + j]];
        rows[0][j] = add(&add(a, b), c);
        rows[1][j] = subtract(&subtract(b, c), d);
    }
    let mut out = [[[0.0; LANES]; 2]; 2];
    for (out, [a, b, c, d]) in out.iter_mut().zip(&rows) {
        out[0] = add(&add(a, b), c);
        out[1] = subtract(&subtract(b, c), d);
    }
    out
}

const _: () = assert!(CHUNK >= LANES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_back() {
        let (m, channels, mr) = (5, 3, 4);
        let filters: Vec<f32> = (0..m * channels * 9).map(|i| (i * 7 % 23) as f32 - 11.0).collect();
        let mut packed = vec![0.0; filters_len(m, channels, mr)];
        pack_filters(1, &filters, (m, channels), mr, &mut packed);
        let mut back = vec![0.0; filters.len()];
        unpack_filters((m, channels), mr, &packed, &mut back);
        assert_eq!(back, filters);
    }
}
