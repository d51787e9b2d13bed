//! Convolutions whose filters each see one channel.
//!
//! Each element of the window reads the channel's [`Planes`] at a fixed distance, so that
//! `y[i] = sum over taps of w[tap] * plane[offset[tap] + i]`. What falls between the rows of the output is computed and
//! left out.

use super::geometry::Geometry;
use super::planes::Planes;

/// Outputs that are summed in registers at a time.
const CHUNK: usize = if cfg!(target_arch = "wasm32") { 32 } else { 64 };

/// Planes and offsets of a convolution; the same for all channels.
pub(crate) struct Depthwise<'a> {
    planes: Planes<'a>,
}

impl<'a> Depthwise<'a> {
    /// Prepares the convolution of `geometry`.
    pub(crate) fn new(geometry: &'a Geometry) -> Self {
        Depthwise { planes: Planes::new(geometry) }
    }

    /// Elements of scratch memory that a channel needs.
    pub(crate) fn room(&self) -> usize {
        // The last chunk may read and write past its end.
        self.planes.len() + CHUNK + self.sums() + CHUNK
    }

    /// Sums computed for a channel, the ones between rows included.
    fn sums(&self) -> usize {
        let [d, h, w] = self.planes.geometry.output;
        let [_, ph, pw] = self.planes.size;
        ((d.max(1) - 1) * ph + h.max(1) - 1) * pw + w
    }

    /// Copies the channel `x` into the planes in `room`.
    pub(crate) fn load<T: Copy>(&self, x: &[T], widen: impl Fn(T) -> f32, room: &mut [f32]) {
        self.planes.load(x, 0.0, widen, room);
        room[self.planes.len()..][..CHUNK].fill(0.0);
    }

    /// The sums of the loaded channel with the filter `w`: calls `row(first output of the row, sums of the row)`.
    pub(crate) fn run(&self, w: &[f32], room: &mut [f32], mut row: impl FnMut(usize, &mut [f32])) {
        let g = self.planes.geometry;
        let (planes, sums) = {
            let at = room.len() - self.sums() - CHUNK;
            room.split_at_mut(at)
        };
        multiply(w, &self.planes.offsets, planes, self.sums(), sums);
        let [_, height, width] = g.output;
        let [_, ph, pw] = self.planes.size;
        for line in 0..g.output[0] * height {
            let at = (line / height * ph + line % height) * pw;
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
