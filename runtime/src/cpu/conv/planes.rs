//! Channels copied into padded planes, one for each phase of the strides.
//!
//! Element `tap` of the window then reads, for the outputs of a line, as many neighbours at a fixed distance:
//! `x[offset[tap] + i]` for output i, with no edges and no strides. A plane's rows are a little longer than the output's.

use std::ops::Range;

use super::geometry::Geometry;
use crate::cpu::math;

/// Elements that are copied together; copies may reach that far past the last plane.
pub(crate) const CHUNK: usize = 16;

/// Where the planes of a channel lie; the same for all channels.
pub(crate) struct Planes<'a> {
    pub(crate) geometry: &'a Geometry,
    /// Sizes of a phase's plane.
    pub(crate) size: [usize; 3],
    /// Phases that the window reads: not all if it is smaller than its stride, or dilated.
    phases: [usize; 3],
    /// For each element of the window, where it begins.
    pub(crate) offsets: Vec<usize>,
}

impl<'a> Planes<'a> {
    /// The planes of `geometry`.
    pub(crate) fn new(geometry: &'a Geometry) -> Self {
        let g = geometry;
        let size = [0, 1, 2].map(|d| {
            let reach = (g.output[d].max(1) - 1) * g.strides[d] + (g.kernel[d] - 1) * g.dilations[d] + 1;
            reach.div_ceil(g.strides[d])
        });
        let phases = [0, 1, 2].map(|d| {
            let phase = |tap: usize| tap * g.dilations[d] % g.strides[d];
            (0..g.kernel[d]).map(phase).max().unwrap_or(0) + 1
        });
        let len = size.iter().product::<usize>();
        let [_, kh, kw] = g.kernel;
        let offsets = (0..g.taps())
            .map(|tap| {
                let (mut phase, mut offset) = (0, 0);
                for (d, tap) in [tap / kw / kh, tap / kw % kh, tap % kw].into_iter().enumerate() {
                    let position = tap * g.dilations[d];
                    phase = phase * phases[d] + position % g.strides[d];
                    offset = offset * size[d] + position / g.strides[d];
                }
                phase * len + offset
            })
            .collect();
        Planes { geometry, size, phases, offsets }
    }

    /// Elements of a channel's planes.
    pub(crate) fn len(&self) -> usize {
        self.size.iter().product::<usize>() * self.phases.iter().product::<usize>()
    }

    /// Copies the channel `x` into `planes`; what lies outside the input becomes `pad`.
    pub(crate) fn load<S: Copy, T: Copy>(&self, x: &[S], pad: T, convert: impl Fn(S) -> T, planes: &mut [T]) {
        math::dispatch(Load { planes: self, x, pad, convert, out: &mut planes[..self.len()] });
    }

    /// The outputs `columns` line by line: calls `line(first, start, length)` with the first output counted from
    /// `columns.start`, where it lies in a plane, and how many follow.
    #[inline(always)]
    pub(crate) fn lines(&self, columns: Range<usize>, mut line: impl FnMut(usize, usize, usize)) {
        let [_, height, width] = self.geometry.output;
        let [_, ph, pw] = self.size;
        let (row, mut column) = (columns.start / width, columns.start % width);
        let (mut depth, mut h) = (row / height, row % height);
        let mut at = columns.start;
        while at < columns.end {
            let len = (width - column).min(columns.end - at);
            line(at - columns.start, (depth * ph + h) * pw + column, len);
            at += len;
            column = 0;
            h += 1;
            if h == height {
                (depth, h) = (depth + 1, 0);
            }
        }
    }

    /// Whether neighbouring outputs are neighbours in a plane throughout.
    pub(crate) fn is_contiguous(&self) -> bool {
        self.size == self.geometry.output
    }
}

/// A channel on its way into planes.
struct Load<'s, 'a, S, T, F> {
    planes: &'s Planes<'a>,
    x: &'s [S],
    pad: T,
    convert: F,
    out: &'s mut [T],
}

impl<S: Copy, T: Copy, F: Fn(S) -> T> math::Kernel for Load<'_, '_, S, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Load { planes, x, pad, convert, out } = self;
        let g = planes.geometry;
        let [_, height, width] = planes.size;
        let [_, input_height, input_width] = g.input;
        let len: usize = planes.size.iter().product();
        let [p0, p1, p2] = planes.phases;
        out.fill(pad);
        for (plane, out) in out.chunks_exact_mut(len.max(1)).enumerate() {
            let phase = [plane / (p1 * p2) % p0, plane / p2 % p1, plane % p2];
            let [depths, rows, columns] = [0, 1, 2].map(|d| planes.sources(d, phase[d]));
            for depth in 0..depths.count {
                let x = &x[(depths.first + depth * g.strides[0]) * input_height * input_width..];
                let out = &mut out[(depths.at + depth) * height * width..];
                for row in 0..rows.count {
                    let x = &x[(rows.first + row * g.strides[1]) * input_width..][..input_width][columns.first..];
                    let out = &mut out[(rows.at + row) * width + columns.at..][..columns.count];
                    match g.strides[2] {
                        1 => copy::<1, S, T>(x, &convert, out),
                        2 => copy::<2, S, T>(x, &convert, out),
                        stride => out.iter_mut().zip(x.iter().step_by(stride)).for_each(|(out, &x)| *out = convert(x)),
                    }
                }
            }
        }
    }
}

/// The places along one dimension of a phase's plane that have an element of the input.
struct Sources {
    /// The first of them.
    at: usize,
    /// Its element; those of the next ones are a stride apart.
    first: usize,
    count: usize,
}

impl Planes<'_> {
    fn sources(&self, d: usize, phase: usize) -> Sources {
        let (g, stride) = (self.geometry, self.geometry.strides[d]);
        // Input element i lies at i + before in the padded input.
        let at = g.before[d].saturating_sub(phase).div_ceil(stride).min(self.size[d]);
        let first = (at * stride + phase).saturating_sub(g.before[d]).min(g.input[d]);
        Sources { at, first, count: (self.size[d] - at).min((g.input[d] - first).div_ceil(stride)) }
    }
}

/// Copies every `STRIDE`th element until `out` is full.
///
/// Rows are short: a loop of unknown length would copy most of them one by one. So two copies of a fixed length overlap.
#[inline(always)]
fn copy<const STRIDE: usize, S: Copy, T: Copy>(x: &[S], convert: &impl Fn(S) -> T, out: &mut [T]) {
    #[inline(always)]
    fn part<const N: usize, const STRIDE: usize, S: Copy, T: Copy>(
        x: &[S],
        convert: &impl Fn(S) -> T,
        out: &mut [T],
        at: usize,
    ) {
        let (from, to) = (&x[at * STRIDE..][..(N - 1) * STRIDE + 1], &mut out[at..][..N]);
        for i in 0..N {
            to[i] = convert(from[i * STRIDE]);
        }
    }
    macro_rules! in_parts {
        ($n:literal) => {{
            for at in (0..out.len() - $n).step_by($n) {
                part::<$n, STRIDE, S, T>(x, convert, out, at);
            }
            part::<$n, STRIDE, S, T>(x, convert, out, out.len() - $n);
        }};
    }
    match out.len() {
        0..4 => out.iter_mut().zip(x.iter().step_by(STRIDE)).for_each(|(out, &x)| *out = convert(x)),
        4..8 => in_parts!(4),
        8..16 => in_parts!(8),
        16..32 => in_parts!(16),
        _ => in_parts!(32),
    }
}
