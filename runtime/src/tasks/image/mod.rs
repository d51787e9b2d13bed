//! Pictures: decoding, resizing, and the pipeline from pixels to a graph's `pixel_values`.

#[cfg(feature = "image")]
mod decode;
mod preprocess;
mod resample;
mod resize;
mod tiles;

use std::borrow::Cow;

#[cfg(feature = "image")]
pub use decode::decode;
pub use preprocess::{Normalisation, PixelBatch, Preprocessor, ResizeRule};
pub use resize::{Filter, resize, shortest_edge_size};
pub use tiles::{TileProcessor, Tiles};

/// Pictures of more pixels than this are refused: 100 megapixels.
pub const MAX_PIXELS: u64 = 100_000_000;

/// A picture that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The header claims more than [`MAX_PIXELS`]; nothing was decoded.
    #[error(
        "the picture says it is {width} x {height} pixels, more than the limit of {} megapixels",
        MAX_PIXELS / 1_000_000
    )]
    TooLarge {
        /// Width that the header claims.
        width: u64,
        /// Height that the header claims.
        height: u64,
    },
    /// Width or height is zero.
    #[error("the picture is empty: {width} x {height} pixels")]
    Empty {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
    },
    /// Not one of the formats that are built in.
    #[error("not a PNG, JPEG, WebP, GIF or BMP file")]
    UnknownFormat,
    /// Damaged or cut off.
    #[error("damaged {format} file: {detail}")]
    Corrupt {
        /// Format that the first bytes announce.
        format: &'static str,
        /// What the decoder found.
        detail: String,
    },
    /// A valid file that uses a part of its format which the decoder lacks.
    #[error("unsupported {format} file: {detail}")]
    Unsupported {
        /// Format that the first bytes announce.
        format: &'static str,
        /// What the decoder lacks.
        detail: String,
    },
    /// The number of bytes does not follow from width, height and channels.
    #[error("{width} x {height} pixels of {channels} bytes were announced, but {found} bytes came")]
    BufferSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes a pixel.
        channels: usize,
        /// Length of the buffer.
        found: usize,
    },
    /// The proportions of the picture make the resized one, or the work on the way to it, too
    /// large (see [`MAX_PIXELS`]).
    #[error("a picture of {width} x {height} pixels would be resized to {to_width} x {to_height}")]
    Proportions {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Width it would get.
        to_width: u64,
        /// Height it would get.
        to_height: u64,
    },
    /// Pictures of one batch come out in different sizes, because the preprocessing keeps their
    /// proportions and does not crop.
    #[error("pictures of one batch differ after resizing: {first:?} and {other:?} (height, width)")]
    MixedSizes {
        /// Height and width of the first picture.
        first: [usize; 2],
        /// Height and width of the one that differs.
        other: [usize; 2],
    },
}

impl ImageError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "image_too_large",
            Self::Empty { .. } => "image_empty",
            Self::UnknownFormat => "image_unknown_format",
            Self::Corrupt { .. } => "image_corrupt",
            Self::Unsupported { .. } => "image_unsupported",
            Self::BufferSize { .. } => "image_buffer_size",
            Self::Proportions { .. } => "image_proportions",
            Self::MixedSizes { .. } => "image_mixed_sizes",
        }
    }
}

/// Checks a claimed size before memory is spent on it.
pub(crate) fn check_size(width: u64, height: u64) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    if width.checked_mul(height).is_none_or(|pixels| pixels > MAX_PIXELS) {
        return Err(ImageError::TooLarge { width, height });
    }
    Ok(())
}

/// Channels of a [`Pixels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Red, green, blue, alpha (not premultiplied).
    Rgba,
}

impl Channels {
    /// Bytes a pixel.
    pub fn count(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// A decoded picture: 8 bits a channel, interleaved, rows from the top, no padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    width: u32,
    height: u32,
    channels: Channels,
    data: Vec<u8>,
}

impl Pixels {
    /// Wraps a buffer of `height * width * channels` bytes.
    ///
    /// # Errors
    /// [`ImageError::Empty`], [`ImageError::TooLarge`], or [`ImageError::BufferSize`] if the length
    /// does not fit.
    pub fn new(width: u32, height: u32, channels: Channels, data: Vec<u8>) -> Result<Self, ImageError> {
        check_size(width.into(), height.into())?;
        // Cannot overflow: check_size bounds the number of pixels.
        if data.len() as u64 != u64::from(width) * u64::from(height) * channels.count() as u64 {
            return Err(ImageError::BufferSize { width, height, channels: channels.count(), found: data.len() });
        }
        Ok(Self { width, height, channels, data })
    }

    /// Wraps the bytes of a browser's `ImageData` (RGBA, not premultiplied).
    ///
    /// # Errors
    /// As [`Pixels::new`].
    pub fn from_rgba(width: u32, height: u32, data: Vec<u8>) -> Result<Self, ImageError> {
        Self::new(width, height, Channels::Rgba, data)
    }

    /// Wraps RGB bytes.
    ///
    /// # Errors
    /// As [`Pixels::new`].
    pub fn from_rgb(width: u32, height: u32, data: Vec<u8>) -> Result<Self, ImageError> {
        Self::new(width, height, Channels::Rgb, data)
    }

    /// Width in pixels, never zero.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, never zero.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Which channels there are.
    pub fn channels(&self) -> Channels {
        self.channels
    }

    /// The bytes, `height * width * channels`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The picture without alpha: as it looks on white paper.
    pub fn over_white(&self) -> Cow<'_, Self> {
        if self.channels == Channels::Rgb {
            return Cow::Borrowed(self);
        }
        let data = self
            .data
            .chunks_exact(4)
            .flat_map(|pixel| {
                let alpha = u32::from(pixel[3]);
                // Rounded division by 255 of a value up to 255 * 255, as Pillow's MULDIV255.
                let blend = |colour: u8| {
                    let sum = u32::from(colour) * alpha + 255 * (255 - alpha) + 128;
                    (((sum >> 8) + sum) >> 8) as u8
                };
                [blend(pixel[0]), blend(pixel[1]), blend(pixel[2])]
            })
            .collect();
        Cow::Owned(Self { width: self.width, height: self.height, channels: Channels::Rgb, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert_eq!(Pixels::from_rgb(0, 3, vec![]).unwrap_err().kind(), "image_empty");
        assert_eq!(Pixels::from_rgb(1, 1, vec![0; 4]).unwrap_err().kind(), "image_buffer_size");
        let large = Pixels::from_rgba(u32::MAX, u32::MAX, vec![]).unwrap_err();
        assert_eq!(large.kind(), "image_too_large");
        assert!(large.to_string().contains("4294967295 x 4294967295"), "{large}");
        assert!(check_size(10_000, 10_000).is_ok());
        assert!(check_size(10_000, 10_001).is_err());
    }

    #[test]
    fn alpha_goes_over_white() {
        let pixels = Pixels::from_rgba(3, 1, vec![10, 20, 30, 255, 1, 2, 3, 0, 0, 100, 255, 128]).unwrap();
        let flat = pixels.over_white();
        assert_eq!(flat.data(), [10, 20, 30, 255, 255, 255, 127, 177, 255]);
        assert_eq!(flat.channels(), Channels::Rgb);
        assert!(matches!(flat.over_white(), Cow::Borrowed(_)));
    }
}
