//! Channels copied into padded planes, one for each phase of the strides.
//!
//! Element `tap` of the window then reads, for the outputs of a line, as many neighbours at a fixed distance:
//! `x[offset[tap] + i]` for output i, with no edges and no strides. A plane's rows are a little longer than the output's.

use std::ops::Range;

use super::geometry::Geometry;

/// Elements that are copied together; copies may reach that far past the last plane.
pub(crate) const CHUNK: usize = 16;

/// Where the planes of a channel lie; the same for all channels.
pub(crate) struct Planes<'a> {
    pub(crate) geometry: &'a Geometry,
    /// Sizes of a phase's plane.
    pub(crate) size: [usize; 3],
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
        let len = size.iter().product::<usize>();
        let [_, kh, kw] = g.kernel;
        let offsets = (0..g.taps())
            .map(|tap| {
                let (mut phase, mut offset) = (0, 0);
                for (d, tap) in [tap / kw / kh, tap / kw % kh, tap % kw].into_iter().enumerate() {
                    let position = tap * g.dilations[d];
                    phase = phase * g.strides[d] + position % g.strides[d];
                    offset = offset * size[d] + position / g.strides[d];
                }
                phase * len + offset
            })
            .collect();
        Planes { geometry, size, offsets }
    }

    /// Elements of a channel's planes.
    pub(crate) fn len(&self) -> usize {
        self.size.iter().product::<usize>() * self.geometry.strides.iter().product::<usize>()
    }

    /// Copies the channel `x` into `planes`; what lies outside the input becomes `pad`.
    pub(crate) fn load<S: Copy, T: Copy>(&self, x: &[S], pad: T, convert: impl Fn(S) -> T, planes: &mut [T]) {
        let g = self.geometry;
        let [_, ph, pw] = self.size;
        let len: usize = self.size.iter().product();
        let [sd, sh, sw] = g.strides;
        let planes = &mut planes[..self.len()];
        planes.fill(pad);
        for (line, x) in x.chunks_exact(g.input[2].max(1)).enumerate() {
            let (d, h) = (line / g.input[1] + g.before[0], line % g.input[1] + g.before[1]);
            if d / sd >= self.size[0] || h / sh >= ph {
                continue;
            }
            for phase in 0..sw {
                // Input element i lies at i + before in the padded row.
                let first = (phase + sw - g.before[2] % sw) % sw;
                let column = (first + g.before[2]) / sw;
                if column >= pw {
                    continue;
                }
                let plane = ((d % sd * sh + h % sh) * sw + phase) * len;
                let out = &mut planes[plane + (d / sd * ph + h / sh) * pw..][column..pw];
                if sw == 1 {
                    out.iter_mut().zip(x).for_each(|(out, &x)| *out = convert(x));
                } else if let Some(x) = x.get(first..) {
                    out.iter_mut().zip(x.iter().step_by(sw)).for_each(|(out, &x)| *out = convert(x));
                }
            }
        }
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
