//! Convolutions whose filters each see one channel.
//!
//! A channel is copied into zero-padded planes, one for each phase of the strides, so that each element of the window
//! reads one plane at a fixed distance: `y[i] = sum over taps of w[tap] * plane[offset[tap] + i]`, with no edges and no
//! strides. The plane's rows are a little longer than the output's; what falls between is computed and left out.

use super::geometry::Geometry;

/// Outputs that are summed in registers at a time.
const CHUNK: usize = if cfg!(target_arch = "wasm32") { 32 } else { 64 };

/// Planes and offsets of a convolution; the same for all channels.
pub(crate) struct Depthwise<'a> {
    geometry: &'a Geometry,
    /// Sizes of a phase's plane.
    plane: [usize; 3],
    offsets: Vec<usize>,
}

impl<'a> Depthwise<'a> {
    /// Prepares the convolution of `geometry`.
    pub(crate) fn new(geometry: &'a Geometry) -> Self {
        let g = geometry;
        let size = |d: usize| {
            let reach = (g.output[d].max(1) - 1) * g.strides[d] + (g.kernel[d] - 1) * g.dilations[d] + 1;
            reach.div_ceil(g.strides[d])
        };
        let plane = [size(0), size(1), size(2)];
        let len = plane.iter().product::<usize>();
        let [_, kh, kw] = g.kernel;
        let offsets = (0..g.taps())
            .map(|tap| {
                let (mut phase, mut offset) = (0, 0);
                for (d, tap) in [tap / kw / kh, tap / kw % kh, tap % kw].into_iter().enumerate() {
                    let position = tap * g.dilations[d];
                    phase = phase * g.strides[d] + position % g.strides[d];
                    offset = offset * plane[d] + position / g.strides[d];
                }
                phase * len + offset
            })
            .collect();
        Depthwise { geometry, plane, offsets }
    }

    /// Elements of scratch memory that a channel needs.
    pub(crate) fn room(&self) -> usize {
        let phases: usize = self.geometry.strides.iter().product();
        let len: usize = self.plane.iter().product();
        // The last chunk may read and write past its end.
        len * phases + CHUNK + self.sums() + CHUNK
    }

    /// Sums computed for a channel, the ones between rows included.
    fn sums(&self) -> usize {
        let [d, h, w] = self.geometry.output;
        ((d.max(1) - 1) * self.plane[1] + h.max(1) - 1) * self.plane[2] + w
    }

    /// Copies the channel `x` into the planes in `room`.
    pub(crate) fn load<T: Copy>(&self, x: &[T], widen: impl Fn(T) -> f32, room: &mut [f32]) {
        let g = self.geometry;
        let [_, ph, pw] = self.plane;
        let len: usize = self.plane.iter().product();
        let [sd, sh, sw] = g.strides;
        let planes = &mut room[..len * sd * sh * sw + CHUNK];
        planes.fill(0.0);
        for (line, x) in x.chunks_exact(g.input[2].max(1)).enumerate() {
            let (d, h) = (line / g.input[1] + g.before[0], line % g.input[1] + g.before[1]);
            if d / sd >= self.plane[0] || h / sh >= ph {
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
                    out.iter_mut().zip(x).for_each(|(out, &x)| *out = widen(x));
                } else if let Some(x) = x.get(first..) {
                    out.iter_mut().zip(x.iter().step_by(sw)).for_each(|(out, &x)| *out = widen(x));
                }
            }
        }
    }

    /// The sums of the loaded channel with the filter `w`: calls `row(first output of the row, sums of the row)`.
    pub(crate) fn run(&self, w: &[f32], room: &mut [f32], mut row: impl FnMut(usize, &mut [f32])) {
        let g = self.geometry;
        let (planes, sums) = {
            let at = room.len() - self.sums() - CHUNK;
            room.split_at_mut(at)
        };
        multiply(w, &self.offsets, planes, self.sums(), sums);
        let [_, height, width] = g.output;
        for line in 0..g.output[0] * height {
            let at = (line / height * self.plane[1] + line % height) * self.plane[2];
            row(line * width, &mut sums[at..][..width]);
        }
    }
}

/// `sums[i] = sum over t of w[t] * x[offsets[t] + i]` for `i` below `count`; `sums` has room for a chunk more.
fn multiply(w: &[f32], offsets: &[usize], x: &[f32], count: usize, sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: AVX2 and FMA were just detected.
        return unsafe { multiply_avx2(w, offsets, x, count, sums) };
    }
    multiply_any::<{ cfg!(target_arch = "aarch64") }>(w, offsets, x, count, sums);
}

/// The same, compiled for AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(w: &[f32], offsets: &[usize], x: &[f32], count: usize, sums: &mut [f32]) {
    multiply_any::<true>(w, offsets, x, count, sums);
}

#[inline(always)]
fn multiply_any<const FUSED: bool>(w: &[f32], offsets: &[usize], x: &[f32], count: usize, sums: &mut [f32]) {
    for at in (0..count).step_by(CHUNK) {
        let mut acc = [0f32; CHUNK];
        for (&w, &offset) in w.iter().zip(offsets) {
            let x: &[f32; CHUNK] = x[at + offset..].first_chunk().expect("the planes end with a spare chunk");
            for i in 0..CHUNK {
                acc[i] = if FUSED { w.mul_add(x[i], acc[i]) } else { w * x[i] + acc[i] };
            }
        }
        sums[at..][..CHUNK].copy_from_slice(&acc);
    }
}
