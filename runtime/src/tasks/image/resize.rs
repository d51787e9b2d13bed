//! Resizing as Pillow does it.
//!
//! The models were trained on pictures that Pillow resized: a separable convolution whose window
//! widens with the scale when shrinking (antialiasing), rounded to 8 bits after the horizontal and
//! again after the vertical pass. Other libraries' "bicubic" looks alike and is not: without the
//! antialiasing the embeddings move.

use std::borrow::Cow;

use super::resample::{self, Kernel};
use super::{Channels, ImageError, MAX_PIXELS, Pixels};

/// Longer sides are refused: the windows along them would take more memory than the picture.
const MAX_SIDE: u32 = 1 << 20;

/// A resampling filter, by Pillow's definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// One source pixel a target pixel.
    Nearest,
    /// Windowed sinc over six source pixels.
    Lanczos,
    /// Triangle.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    Bicubic,
    /// Plain average.
    Box,
    /// Hamming-windowed sinc over two source pixels.
    Hamming,
}

impl Filter {
    /// The filter of a `resample` code in `preprocessor_config.json`: Pillow's constants 0 to 5.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    /// A stable name, part of the canonical facts behind a fingerprint.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Lanczos => "lanczos",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Box => "box",
            Self::Hamming => "hamming",
        }
    }

    /// `None` for [`Filter::Nearest`], which has no kernel.
    fn kernel(self) -> Option<Kernel> {
        Some(match self {
            Self::Nearest => return None,
            Self::Lanczos => resample::LANCZOS,
            Self::Bilinear => resample::BILINEAR,
            Self::Bicubic => resample::BICUBIC,
            Self::Box => resample::BOX,
            Self::Hamming => resample::HAMMING,
        })
    }
}

/// Width and height after a resize of the shorter edge to `edge` pixels; the longer one follows from
/// the proportions and is cut to a whole number, as `get_resize_output_image_size` of Hugging Face's
/// transformers does.
pub fn shortest_edge_size(width: u32, height: u32, edge: u32) -> (u64, u64) {
    let (short, long) = if width <= height { (width, height) } else { (height, width) };
    // Python computes int(edge * long / short) with one correctly rounded division; a quotient of
    // numbers of this size is never so close below a whole number that it rounds up to it.
    let other = u64::from(edge) * u64::from(long) / u64::from(short.max(1));
    if width <= height { (edge.into(), other) } else { (other, edge.into()) }
}

/// Resizes an RGB or RGBA picture to exactly `width` x `height` pixels. Alpha is treated as one more
/// colour; flatten it first ([`Pixels::over_white`]).
///
/// # Errors
/// [`ImageError::Empty`] if a side is zero, [`ImageError::Proportions`] if the result would have more
/// than [`MAX_PIXELS`] or the picture is a strip of absurd length.
pub fn resize(pixels: &Pixels, width: u64, height: u64, filter: Filter) -> Result<Pixels, ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    let too_large = || ImageError::Proportions {
        width: pixels.width(),
        height: pixels.height(),
        to_width: width,
        to_height: height,
    };
    let (Ok(to_width), Ok(to_height)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(too_large());
    };
    let from = (pixels.width(), pixels.height());
    let between = between(from, (to_width, to_height));
    let between_area = u64::from(between.0) * u64::from(between.1);
    if width * height > MAX_PIXELS || between_area > MAX_PIXELS || from.0.max(from.1) > MAX_SIDE {
        return Err(too_large());
    }
    if (to_width, to_height) == from {
        return Ok(pixels.clone());
    }
    let data = match filter.kernel() {
        None => take_nearest(pixels, to_width, to_height),
        Some(kernel) => {
            let first = pass(pixels.data(), pixels.channels(), from, between, kernel);
            pass(&first, pixels.channels(), between, (to_width, to_height), kernel).into_owned()
        }
    };
    Pixels::new(to_width, to_height, pixels.channels(), data)
}

/// Size of the picture between the two passes, which says which comes first. Pillow (13 and later;
/// earlier versions always began with the rows) does the vertical pass first where the height
/// shrinks by more than twice as many pixels as the width.
fn between(from: (u32, u32), to: (u32, u32)) -> (u32, u32) {
    let removed = |from: u32, to: u32| i64::from(from) - i64::from(to);
    if to.1 < from.1 && removed(from.1, to.1) > 2 * removed(from.0, to.0) { (from.0, to.1) } else { (to.0, from.1) }
}

/// One pass: along the rows if the widths differ, along the columns if the heights do.
fn pass(data: &[u8], channels: Channels, from: (u32, u32), to: (u32, u32), kernel: Kernel) -> Cow<'_, [u8]> {
    let (width, height) = (from.0 as usize, from.1 as usize);
    let (to_width, to_height) = (to.0 as usize, to.1 as usize);
    if width != to_width {
        Cow::Owned(match channels {
            Channels::Rgb => resample::horizontal::<3>(data, width, to_width, kernel),
            Channels::Rgba => resample::horizontal::<4>(data, width, to_width, kernel),
        })
    } else if height != to_height {
        let stride = width * channels.count();
        Cow::Owned(resample::vertical(data, stride, height, to_height, kernel))
    } else {
        Cow::Borrowed(data)
    }
}

fn take_nearest(pixels: &Pixels, width: u32, height: u32) -> Vec<u8> {
    let channels = pixels.channels().count();
    let columns = resample::nearest(pixels.width() as usize, width as usize);
    let mut data = Vec::with_capacity(width as usize * height as usize * channels);
    for row in resample::nearest(pixels.height() as usize, height as usize) {
        for column in columns.clone() {
            let at = (row * pixels.width() as usize + column) * channels;
            data.extend_from_slice(&pixels.data()[at..at + channels]);
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_edge_cuts_to_whole_pixels() {
        assert_eq!(shortest_edge_size(640, 480, 224), (298, 224));
        assert_eq!(shortest_edge_size(480, 640, 224), (224, 298));
        assert_eq!(shortest_edge_size(500, 333, 256), (384, 256));
        assert_eq!(shortest_edge_size(7, 7, 32), (32, 32));
        assert_eq!(shortest_edge_size(1, 100_000_000, 224), (224, 22_400_000_000));
    }

    #[test]
    fn the_pass_that_removes_most_comes_first() {
        assert_eq!(between((640, 480), (341, 256)), (341, 480));
        assert_eq!(between((480, 640), (256, 341)), (256, 640));
        assert_eq!(between((40, 40), (20, 1)), (20, 40));
        assert_eq!(between((40, 40), (23, 5)), (40, 5));
        assert_eq!(between((40, 40), (60, 60)), (60, 40));
        assert_eq!(between((40, 40), (60, 30)), (40, 30));
    }

    #[test]
    fn impossible_targets_are_errors() {
        let pixels = Pixels::from_rgb(1, 2, vec![0; 6]).unwrap();
        assert_eq!(resize(&pixels, 0, 1, Filter::Box).unwrap_err().kind(), "image_empty");
        let error = resize(&pixels, 224, 22_400_000_000, Filter::Bicubic).unwrap_err();
        assert_eq!(error.kind(), "image_proportions");
        assert_eq!(resize(&pixels, 20_000, 20_000, Filter::Bicubic).unwrap_err().kind(), "image_proportions");
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let pixels = Pixels::from_rgb(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(resize(&pixels, 2, 1, Filter::Lanczos).unwrap(), pixels);
    }

    /// Every filter against Pillow's own output, shrinking and growing, odd sizes. See
    /// testdata/README.md for the script that made the files.
    #[cfg(feature = "image")]
    #[test]
    fn equals_pillow() {
        use crate::tasks::image::decode;

        let source = decode(include_bytes!("../testdata/gradient_37x23.png")).unwrap();
        let sheet = decode(include_bytes!("../testdata/pillow_resized.png")).unwrap();
        // The sheet holds the results below one another, each in its own rows from the left.
        let mut top = 0;
        for code in 0..6 {
            let filter = Filter::from_code(code).unwrap();
            for (width, height) in [(16, 11), (53, 41), (37, 9), (5, 23), (80, 7)] {
                let resized = resize(&source, width, height, filter).unwrap();
                let mut worst = 0;
                for y in 0..height as usize {
                    for x in 0..width as usize * 3 {
                        let expected = sheet.data()[(top + y) * sheet.width() as usize * 3 + x];
                        let found = resized.data()[y * width as usize * 3 + x];
                        worst = worst.max(expected.abs_diff(found));
                    }
                }
                assert!(worst <= 1, "{} to {width} x {height}: {worst}", filter.name());
                top += height as usize;
            }
        }
        assert_eq!(top, sheet.height() as usize);
        assert_eq!(Filter::from_code(6), None);
    }
}
