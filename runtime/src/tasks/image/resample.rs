//! The two passes of a resize, in Pillow's own arithmetic.
//!
//! Each output value is a weighted sum over a window of the input, in integers with 22 fractional bits,
//! rounded to 8 bits after each pass (Pillow, `src/libImaging/Resample.c`). Faster libraries use
//! 16-bit weights and are off by one or two levels in one pixel of two hundred. Fp32 towers do not
//! notice; a dynamically quantized one turned that into a cosine of 0.994.

/// Fractional bits of the weights: 32 less 8 for the pixel and 2 for the overshoot.
const BITS: u32 = 32 - 8 - 2;

/// Half of the last place, for rounding.
const HALF: i32 = 1 << (BITS - 1);

/// A convolution kernel: its function, and the distance beyond which that is zero.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) weight: fn(f64) -> f64,
    pub(super) support: f64,
}

pub(super) const BOX: Kernel = Kernel { weight: |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }, support: 0.5 };

pub(super) const BILINEAR: Kernel = Kernel { weight: |x| (1.0 - x.abs()).max(0.0), support: 1.0 };

pub(super) const HAMMING: Kernel = Kernel {
    weight: |x| match x.abs() {
        0.0 => 1.0,
        x if x >= 1.0 => 0.0,
        x => sinc(x) * (0.54 + 0.46 * (x * std::f64::consts::PI).cos()),
    },
    support: 1.0,
};

/// Keys 1981, with a = -0.5.
pub(super) const BICUBIC: Kernel = Kernel {
    weight: |x| {
        const A: f64 = -0.5;
        match x.abs() {
            x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    },
    support: 2.0,
};

pub(super) const LANCZOS: Kernel = Kernel {
    weight: |x| {
        if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
    },
    support: 3.0,
};

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// The input values that make one output value.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// Windows of all output positions along one axis.
fn windows(from: usize, to: usize, kernel: Kernel) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    // Growing interpolates; shrinking widens the kernel, so that every input value counts.
    let stretch = scale.max(1.0);
    let support = kernel.support * stretch;
    (0..to)
        .map(|position| {
            let centre = (position as f64 + 0.5) * scale;
            // Casts cut towards zero and saturate there.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> =
                (start..end).map(|at| (kernel.weight)((at as f64 - centre + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: f64| {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                (weight * f64::from(1 << BITS) + 0.5f64.copysign(weight)) as i32
            };
            Window { start, weights: weights.into_iter().map(fixed).collect() }
        })
        .collect()
}

fn round(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes the rows of an interleaved picture of `N` channels from `from` to `to` pixels.
pub(super) fn horizontal<const N: usize>(data: &[u8], from: usize, to: usize, kernel: Kernel) -> Vec<u8> {
    let windows = windows(from, to, kernel);
    let (pixels, _) = data.as_chunks::<N>();
    let mut out = Vec::with_capacity(pixels.len() / from.max(1) * to * N);
    for row in pixels.chunks_exact(from) {
        for window in &windows {
            let mut sums = [HALF; N];
            for (pixel, &weight) in row[window.start..].iter().zip(&window.weights) {
                for channel in 0..N {
                    sums[channel] += i32::from(pixel[channel]) * weight;
                }
            }
            out.extend(sums.map(round));
        }
    }
    out
}

/// Resizes the columns of a picture with rows of `stride` bytes from `from` to `to` pixels.
pub(super) fn vertical(data: &[u8], stride: usize, from: usize, to: usize, kernel: Kernel) -> Vec<u8> {
    let mut out = Vec::with_capacity(to * stride);
    let mut sums = vec![0; stride];
    for window in windows(from, to, kernel) {
        sums.fill(HALF);
        let rows = data[window.start * stride..].chunks_exact(stride);
        for (row, &weight) in rows.zip(&window.weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().copied().map(round));
    }
    out
}

/// Which of `from` pixels each of `to` pixels takes, without a filter.
pub(super) fn nearest(from: usize, to: usize) -> impl Iterator<Item = usize> + Clone {
    let scale = from as f64 / to as f64;
    // Pillow adds the step up rather than multiplying; the rounding shows at ties.
    std::iter::successors(Some(scale * 0.5), move |at| Some(at + scale))
        .take(to)
        .map(move |at| (at as usize).min(from - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one() {
        for kernel in [BOX, BILINEAR, HAMMING, BICUBIC, LANCZOS] {
            for (from, to) in [(1, 1), (1, 9), (9, 1), (37, 16), (16, 37), (1000, 7)] {
                for window in windows(from, to, kernel) {
                    assert!(window.start + window.weights.len() <= from);
                    let sum: i32 = window.weights.iter().sum();
                    // Each weight is off by half of the last place at most.
                    assert!((sum - (1 << BITS)).unsigned_abs() as usize <= window.weights.len());
                }
            }
        }
    }

    #[test]
    fn a_plain_picture_stays_plain() {
        for kernel in [BOX, BILINEAR, HAMMING, BICUBIC, LANCZOS] {
            for value in [0, 1, 127, 255] {
                assert_eq!(horizontal::<3>(&[value; 15], 5, 3, kernel), [value; 9]);
                assert_eq!(vertical(&[value; 15], 3, 5, 8, kernel), [value; 24]);
            }
        }
    }

    #[test]
    fn nearest_takes_the_pixel_under_the_centre() {
        assert_eq!(nearest(4, 2).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(nearest(2, 4).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_eq!(nearest(1, 3).collect::<Vec<_>>(), [0, 0, 0]);
    }
}
