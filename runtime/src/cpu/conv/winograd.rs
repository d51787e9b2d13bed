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
use crate::graph::Conv;

/// Numbers of a transformed tile.
const TILE: usize = 16;
/// Tiles that are transformed together.
const LANES: usize = 16;
/// Tiles of a task at most.
const MAX_TILES: usize = 256;
/// Bytes of the transformed inputs and sums of a task, about: they stay in the second-level cache.
const ROOM: usize = 1 << 20;
/// Elements between what belongs to one of the 16 numbers and to the next: without them, all 16 would fall into the same few
/// sets of the cache, as their lengths are powers of two more often than not.
const GAP: usize = 48;
/// Elements of a panel of inputs that meet the filters together: they stay in the first-level cache.
const STRETCH: usize = 4 << 10;

/// Whether the transforms pay for a convolution with filters of shape `w`.
///
/// It depends on nothing that changes from run to run, because the transformed filters take the place of the others. They
/// are 16/9 as large: many channels meet few positions as a rule, and then reading filters is most of the work.
pub(super) fn serves(op: &Conv, w: &[usize]) -> bool {
    let [m, channels, 3, 3] = *w else { return false };
    op.groups == 1
        && op.window.strides == [1, 1]
        && op.window.dilations == [1, 1]
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
        for (r, row) in panels.range(panel).enumerate() {
            let filter = filters[row * channels * 9..][..channels * 9].as_chunks::<9>().0;
            // SAFETY: no other row has these places in its panel.
            let write = |i: usize, channel: usize, x| unsafe {
                out.slice(i * size + (panel * channels + channel) * mr + r, 1)[0] = x;
            };
            pack_filter(filter, write);
        }
    });
}

/// Transforms the channels of a filter and has each number written. Not inlined: a browser replaces a function's first code, which
/// is slow, when the function is called again.
#[inline(never)]
fn pack_filter<S: Widen>(filter: &[[S; 9]], write: impl Fn(usize, usize, f32)) {
    for (channel, g) in filter.iter().enumerate() {
        for (i, x) in transform_filter(g).into_iter().enumerate() {
            write(i, channel, x);
        }
    }
}

/// G g G^T.
fn transform_filter<S: Widen>(g: &[S; 9]) -> [f32; TILE] {
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
        let fitting = ROOM / ((self.channels + self.m) * TILE * size_of::<f32>()) / nr;
        let panels = tiles.div_ceil(nr);
        // A panel alone would read the filters anew for each.
        let together = fitting.clamp(2, MAX_TILES / nr);
        let blocks = panels.div_ceil(together).next_multiple_of(cx.threads).min(panels);
        let together = panels.div_ceil(blocks);
        let blocks = panels.div_ceil(together);
        // Threads without tiles of their own share filters, and each transforms the inputs for itself.
        let each = rows.count.div_ceil(cx.threads.div_ceil(blocks));
        let parts = rows.count.div_ceil(each);
        let width = together * nr;
        let init = || {
            let inputs = cx.scratch.take(TILE * (self.channels * width + GAP) * size_of::<f32>());
            let sums = cx.scratch.take(TILE * (each * self.kernel.mr * width + GAP) * size_of::<f32>());
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
            let inputs = &inputs[number * (k * width + GAP)..][..k * width];
            let sums = &mut sums[number * (height * width + GAP)..];
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
        let (across, line) = (planes.geometry.output[2], planes.size[2]);
        let size = out.len() / TILE;
        let mut offsets = [0; TILE];
        offsets.copy_from_slice(&planes.offsets);
        let mut room = [[0.0f32; MAX_TILES + LANES]; TILE];
        for (channel, x) in (0..channels).map(|channel| (channel, &x[channel * planes.len()..])) {
            for (tile, len) in lines(tiles.clone(), across) {
                let x = &x[tile / across * line + tile % across..];
                for at in (0..len).step_by(LANES) {
                    let mut d: [Vector; TILE] = [[0.0; LANES]; TILE];
                    for i in 0..TILE {
                        d[i].copy_from_slice(&x[offsets[i] + at..][..LANES]);
                    }
                    let d = transform_input(&d);
                    // What lies past the line is overwritten by the next.
                    for i in 0..TILE {
                        room[i][tile - tiles.start + at..][..LANES].copy_from_slice(&d[i]);
                    }
                }
            }
            for (room, out) in room.iter().zip(out.chunks_exact_mut(size)) {
                for (panel, room) in room[..tiles.len().next_multiple_of(nr)].chunks_exact(nr).enumerate() {
                    out[(panel * channels + channel) * nr..][..nr].copy_from_slice(room);
                }
            }
        }
    }
}

/// The parts of `tiles` that lie in one line each, of `across` tiles: the first tile and how many.
fn lines(tiles: Range<usize>, across: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = tiles.start;
    std::iter::from_fn(move || {
        let (first, len) = (at, (across - at % across).min(tiles.end - at));
        at += len;
        (len > 0).then_some((first, len))
    })
}

/// The same number of some tiles. Loops over all of it become single instructions.
type Vector = [f32; LANES];

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

/// B^T d B.
#[inline(always)]
fn transform_input(d: &[Vector; TILE]) -> [Vector; TILE] {
    #[inline(always)]
    fn along(a: &Vector, b: &Vector, c: &Vector, d: &Vector) -> [Vector; 4] {
        [subtract(a, c), add(b, c), subtract(c, b), subtract(b, d)]
    }
    let [a0, a1, a2, a3] = along(&d[0], &d[4], &d[8], &d[12]);
    let [b0, b1, b2, b3] = along(&d[1], &d[5], &d[9], &d[13]);
    let [c0, c1, c2, c3] = along(&d[2], &d[6], &d[10], &d[14]);
    let [e0, e1, e2, e3] = along(&d[3], &d[7], &d[11], &d[15]);
    let [y0, y1, y2, y3] = along(&a0, &b0, &c0, &e0);
    let [y4, y5, y6, y7] = along(&a1, &b1, &c1, &e1);
    let [y8, y9, y10, y11] = along(&a2, &b2, &c2, &e2);
    let [y12, y13, y14, y15] = along(&a3, &b3, &c3, &e3);
    [y0, y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11, y12, y13, y14, y15]
}

/// A^T s A of the sums of the filters `rows` and the tiles `tiles`, finished and written.
struct TransformSums<'s> {
    of: &'s Convolution<'s>,
    /// For each of the 16 numbers, for each filter, `width` tiles, and a gap.
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
        let size = rows.len() * width + GAP;
        let mut room = [[0.0f32; 2 * (MAX_TILES + LANES)]; 2];
        for (r, filter) in rows.enumerate() {
            for (tile, len) in lines(tiles.clone(), across) {
                let (y, x) = (tile / across * 2, tile % across * 2);
                let from = &sums[r * width + tile - tiles.start..];
                for at in (0..len).step_by(LANES) {
                    let mut s: [Vector; TILE] = [[0.0; LANES]; TILE];
                    for i in 0..TILE {
                        s[i].copy_from_slice(&from[i * size + at..][..LANES]);
                    }
                    let [a, b, c, d] = transform_sums(&s);
                    room[0][2 * at..][..2 * LANES].copy_from_slice(&interleave(&a, &b));
                    room[1][2 * at..][..2 * LANES].copy_from_slice(&interleave(&c, &d));
                }
                let columns = (2 * len).min(line - x);
                for (y, room) in (y..height).zip(&mut room) {
                    let start = (filter * height + y) * line + x;
                    // SAFETY: each tile's outputs are written once.
                    let out = unsafe { out.slice(start, columns) };
                    of.epilogue.finish(filter, 0, of.at + start, &mut room[..columns], out);
                }
            }
        }
    }
}

/// A^T s A.
#[inline(always)]
fn transform_sums(s: &[Vector; TILE]) -> [Vector; 4] {
    #[inline(always)]
    fn along(a: &Vector, b: &Vector, c: &Vector, d: &Vector) -> [Vector; 2] {
        [add(&add(a, b), c), subtract(&subtract(b, c), d)]
    }
    let [a0, a1] = along(&s[0], &s[4], &s[8], &s[12]);
    let [b0, b1] = along(&s[1], &s[5], &s[9], &s[13]);
    let [c0, c1] = along(&s[2], &s[6], &s[10], &s[14]);
    let [d0, d1] = along(&s[3], &s[7], &s[11], &s[15]);
    let [y0, y1] = along(&a0, &b0, &c0, &d0);
    let [y2, y3] = along(&a1, &b1, &c1, &d1);
    [y0, y1, y2, y3]
}

#[inline(always)]
fn interleave(even: &Vector, odd: &Vector) -> [f32; 2 * LANES] {
    let mut both = [0.0; 2 * LANES];
    for lane in 0..LANES {
        both[2 * lane] = even[lane];
        both[2 * lane + 1] = odd[lane];
    }
    both
}

// Vectors reach past the end of what they are about.
const _: () = assert!(CHUNK >= LANES && GAP >= LANES);
