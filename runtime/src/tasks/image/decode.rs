//! Picture files to pixels, upright and within limits.
//!
//! The size is read from the header and checked before anything is allocated for it, because a file
//! of a few bytes can claim any size.

use std::io::Cursor;

use image::error::ImageError as CrateError;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{ImageError, Pixels, check_size};

/// What the decoders may allocate: [`super::MAX_PIXELS`] of four 16-bit channels, and room for
/// their working memory.
const MAX_ALLOC: u64 = 1 << 30;

/// Decodes a PNG, JPEG, WebP, GIF (first frame) or BMP file.
///
/// The result is upright: the orientation that a camera wrote into the file (EXIF) is applied. 16-bit,
/// grey, palette and CMYK forms come out as 8-bit RGB, or RGBA where the file has alpha. Colour
/// profiles are ignored, as Pillow does unless asked.
///
/// # Errors
/// [`ImageError::UnknownFormat`], [`ImageError::TooLarge`] and [`ImageError::Empty`] from the
/// header alone; [`ImageError::Corrupt`] and [`ImageError::Unsupported`] from the decoder.
pub fn decode(bytes: &[u8]) -> Result<Pixels, ImageError> {
    let format = image::guess_format(bytes).map_err(|_| ImageError::UnknownFormat)?;
    let name = format_name(format).ok_or(ImageError::UnknownFormat)?;
    if let Some((width, height)) = claimed_size(format, bytes) {
        check_size(width, height)?;
    }

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| convert(name, error))?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;

    // A picture with damaged metadata is still a picture.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| convert(name, error))?;
    picture.apply_orientation(orientation);

    let (width, height) = (picture.width(), picture.height());
    if picture.color().has_alpha() {
        Pixels::from_rgba(width, height, picture.into_rgba8().into_raw())
    } else {
        Pixels::from_rgb(width, height, picture.into_rgb8().into_raw())
    }
}

fn format_name(format: ImageFormat) -> Option<&'static str> {
    Some(match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        _ => return None,
    })
}

fn convert(format: &'static str, error: CrateError) -> ImageError {
    match error {
        CrateError::Unsupported(error) => ImageError::Unsupported { format, detail: error.to_string() },
        other => ImageError::Corrupt { format, detail: other.to_string() },
    }
}

/// Width and height from the header, where they stand at a place that is easily found. The decoders
/// report zero and absurd sizes in their own words, or after allocating.
fn claimed_size(format: ImageFormat, bytes: &[u8]) -> Option<(u64, u64)> {
    match format {
        // Signature (8), chunk length and name (8), then two big-endian words.
        ImageFormat::Png => Some((be32(bytes, 16)?, be32(bytes, 20)?)),
        ImageFormat::Gif => Some((le16(bytes, 6)?, le16(bytes, 8)?)),
        ImageFormat::Bmp => match le32(bytes, 14)? {
            12 => Some((le16(bytes, 18)?, le16(bytes, 20)?)),
            _ => {
                // A negative height means that rows run from the top.
                let height = le32(bytes, 22)? as i32;
                Some((u64::from(le32(bytes, 18)?), u64::from(height.unsigned_abs())))
            }
        },
        ImageFormat::Jpeg => jpeg_size(bytes),
        _ => None,
    }
}

/// Walks a JPEG's segments to its frame header (ITU-T T.81, B.2.2).
fn jpeg_size(bytes: &[u8]) -> Option<(u64, u64)> {
    let mut at = 2;
    loop {
        if *bytes.get(at)? != 0xff {
            return None;
        }
        match *bytes.get(at + 1)? {
            // Fill byte, or a marker without a segment.
            0xff => at += 1,
            0x01 | 0xd0..=0xd7 => at += 2,
            // SOF0 to SOF15; DHT, JPG and DAC share the range.
            marker @ 0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                return Some((be16(bytes, at + 7)?, be16(bytes, at + 5)?));
            }
            // Picture data or the end came before a frame header.
            0xd9 | 0xda => return None,
            _ => at += 2 + usize::try_from(be16(bytes, at + 2)?).ok()?,
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(|array| u16::from_be_bytes(array).into())
}

fn be32(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(|array| u32::from_be_bytes(array).into())
}

fn le16(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(|array| u16::from_le_bytes(array).into())
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::image::Channels;

    const PNG: &[u8] = include_bytes!("../testdata/gradient_37x23.png");

    fn fixture(name: &str) -> &'static [u8] {
        match name {
            "grey16" => include_bytes!("../testdata/grey16_8x6.png"),
            "palette" => include_bytes!("../testdata/palette_8x6.png"),
            "rgba" => include_bytes!("../testdata/rgba_8x6.png"),
            "gif" => include_bytes!("../testdata/palette_8x6.gif"),
            "webp" => include_bytes!("../testdata/lossless_8x6.webp"),
            "bmp" => include_bytes!("../testdata/rgb_8x6.bmp"),
            "jpeg" => include_bytes!("../testdata/rotated_8x16.jpg"),
            _ => unreachable!("no such fixture"),
        }
    }

    /// Pixel (x, y) of the 8 x 6 fixtures before they were stored.
    fn small(x: u32, y: u32) -> [u8; 3] {
        [(x * 36) as u8, (y * 51) as u8, ((x + y) * 20) as u8]
    }

    fn pixel(pixels: &Pixels, x: u32, y: u32) -> &[u8] {
        let channels = pixels.channels().count();
        let at = (y * pixels.width() + x) as usize * channels;
        &pixels.data()[at..at + channels]
    }

    #[test]
    fn lossless_formats_keep_every_pixel() {
        for name in ["palette", "gif", "webp", "bmp"] {
            let pixels = decode(fixture(name)).unwrap();
            assert_eq!((pixels.width(), pixels.height()), (8, 6), "{name}");
            for y in 0..6 {
                for x in 0..8 {
                    assert_eq!(pixel(&pixels.over_white(), x, y), small(x, y), "{name} {x} {y}");
                }
            }
        }
    }

    #[test]
    fn sixteen_bit_grey_becomes_eight_bit_rgb() {
        let pixels = decode(fixture("grey16")).unwrap();
        assert_eq!(pixels.channels(), Channels::Rgb);
        // Stored: (x * 8192 + y * 1024).
        assert_eq!(pixel(&pixels, 0, 0), [0, 0, 0]);
        let expected = ((7 * 8192 + 5 * 1024) as f32 / 257.0).round() as u8;
        assert_eq!(pixel(&pixels, 7, 5), [expected; 3]);
    }

    #[test]
    fn alpha_is_kept_until_asked() {
        let pixels = decode(fixture("rgba")).unwrap();
        assert_eq!(pixels.channels(), Channels::Rgba);
        // Stored: small(x, y) with alpha x * 36.
        assert_eq!(pixel(&pixels, 2, 1), [72, 51, 60, 72]);
        assert_eq!(pixel(&pixels.over_white(), 0, 3), [255, 255, 255]);
    }

    #[test]
    fn camera_orientation_is_applied() {
        // Stored 16 wide and 8 high, red on the left half, blue on the right; EXIF says to turn it
        // clockwise, so red is on top.
        let pixels = decode(fixture("jpeg")).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (8, 16));
        let (top, bottom) = (pixel(&pixels, 4, 2), pixel(&pixels, 4, 13));
        assert!(top[0] > 200 && top[2] < 50, "{top:?}");
        assert!(bottom[2] > 200 && bottom[0] < 50, "{bottom:?}");
    }

    #[test]
    fn absurd_claims_are_refused_from_the_header() {
        let mut png = PNG.to_vec();
        png[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0, 1, 0, 0]);
        let error = decode(&png).unwrap_err();
        assert_eq!(error.kind(), "image_too_large");
        assert!(error.to_string().contains("2147483647 x 65536"), "{error}");

        png[16..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(decode(&png).unwrap_err(), ImageError::Empty { width: 0, height: 9 });

        let mut bmp = fixture("bmp").to_vec();
        bmp[18..26].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(decode(&bmp).unwrap_err().kind(), "image_too_large");

        let mut gif = fixture("gif").to_vec();
        gif[6..10].copy_from_slice(&[0xff; 4]);
        assert_eq!(decode(&gif).unwrap_err().kind(), "image_too_large");

        let mut jpeg = fixture("jpeg").to_vec();
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
        assert_eq!(decode(&jpeg).unwrap_err().kind(), "image_too_large");
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0, 0, 0, 8]);
        assert_eq!(decode(&jpeg).unwrap_err().kind(), "image_empty");
    }

    #[test]
    fn other_files_are_named_as_such() {
        assert_eq!(decode(b"").unwrap_err().kind(), "image_unknown_format");
        assert_eq!(decode(b"hello, world").unwrap_err().kind(), "image_unknown_format");
        assert_eq!(decode(b"II*\0\x08\0\0\0").unwrap_err().kind(), "image_unknown_format");
    }

    #[test]
    fn cut_files_are_errors_and_never_panics() {
        for name in ["grey16", "palette", "rgba", "gif", "webp", "bmp"] {
            let bytes = fixture(name);
            for len in 0..bytes.len() * 3 / 4 {
                assert!(decode(&bytes[..len]).is_err(), "{name} cut to {len}");
            }
        }
        // The JPEG decoder fills the rest of a cut scan with grey, as browsers do: no panic is all
        // that is asked.
        let jpeg = fixture("jpeg");
        for len in 0..jpeg.len() {
            let _ = decode(&jpeg[..len]);
        }
        assert!(decode(&jpeg[..jpeg.len() / 3]).is_err());
    }

    #[test]
    fn flipped_bits_never_panic() {
        for name in ["grey16", "palette", "rgba", "gif", "webp", "bmp", "jpeg"] {
            let mut bytes = fixture(name).to_vec();
            for at in 0..bytes.len() {
                bytes[at] ^= 1 << (at % 8);
                let _ = decode(&bytes);
                bytes[at] ^= 1 << (at % 8);
            }
        }
    }
}
