//! Large pictures as squares: a grid of tiles for the details, and the whole picture once more, small.
//!
//! Vision encoders look at one size of square. Processors that bound the longest edge (Idefics3's and SmolVLM's) bring the
//! picture to that edge, stretch it to whole tiles, and cut; without splitting the model sees the squeezed picture alone.
//! Arithmetic and order are those of their documentation, with the filter that the file names.

use super::preprocess::{side, unsupported};
use super::{Filter, ImageError, Normalisation, PixelBatch, Pixels, resize};
use crate::tasks::config::{ConfigError, PREPROCESSOR, PreprocessorConfig, SizeSpec};

/// The longest edge that a picture is brought to.
const MAX_EDGE: u32 = 4096;

/// The pipeline of a folder whose pictures are cut into tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct TileProcessor {
    /// The longest edge after the first resize, in pixels.
    edge: Option<u32>,
    filter: Filter,
    /// Side of a tile in pixels.
    side: u32,
    splits: bool,
    normalisation: Normalisation,
}

/// A picture as its tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// \[rows * columns + 1, 3, side, side\]: the tiles row by row, then the whole picture. Without a grid, that alone.
    pub pixels: PixelBatch,
    /// Rows and columns of the grid; both 0 where the picture was not cut.
    pub grid: [usize; 2],
}

impl TileProcessor {
    /// Whether a `preprocessor_config.json` describes this pipeline: it bounds the longest edge, and says whether to split.
    pub fn is_meant(config: &PreprocessorConfig) -> bool {
        config.do_image_splitting.is_some() && (config.max_image_size.is_some() || longest(config.size).is_some())
    }

    /// Gives meaning to a `preprocessor_config.json`. `encoder` is the side of the encoder's pictures, which stands in where
    /// the file does not say how large a tile is.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for values that make no sense, [`ConfigError::Missing`] if a size lacks.
    pub fn from_config(config: &PreprocessorConfig, encoder: Option<u32>) -> Result<Self, ConfigError> {
        let missing = |field| ConfigError::Missing { file: PREPROCESSOR, field };
        let code = config.resample.unwrap_or(1);
        let filter = Filter::from_code(code).ok_or_else(|| unsupported("resample", code))?;
        let tile = match config.max_image_size {
            Some(size) => longest(Some(size)).ok_or_else(|| unsupported("max_image_size", format!("{size:?}")))?,
            None => encoder.ok_or_else(|| missing("max_image_size"))?,
        };
        let edge = if config.do_resize.unwrap_or(true) {
            let size = config.size.ok_or_else(|| missing("size"))?;
            let edge = longest(Some(size)).ok_or_else(|| unsupported("size", format!("{size:?}")))?;
            if !(1..=MAX_EDGE).contains(&edge) {
                return Err(unsupported("size", edge));
            }
            Some(edge)
        } else {
            None
        };
        Ok(TileProcessor {
            edge,
            filter,
            side: side("max_image_size", tile)?,
            splits: config.do_image_splitting.unwrap_or(true),
            normalisation: Normalisation::from_config(config)?,
        })
    }

    /// Cuts one picture.
    ///
    /// # Errors
    /// [`ImageError::Proportions`] for pictures that would become too large.
    pub fn process(&self, pixels: &Pixels) -> Result<Tiles, ImageError> {
        let mut picture = pixels.over_white();
        if let Some(edge) = self.edge {
            let (width, height) = bounded(picture.width(), picture.height(), edge);
            picture = std::borrow::Cow::Owned(resize(&picture, width, height, self.filter)?);
        }
        let side = u64::from(self.side);
        let mut data = Vec::new();
        let mut grid = [0, 0];
        if self.splits {
            let (width, height) = whole_tiles(picture.width(), picture.height(), side);
            picture = std::borrow::Cow::Owned(resize(&picture, width, height, self.filter)?);
            if (width, height) != (side, side) {
                grid = [(height / side) as usize, (width / side) as usize];
            }
            for tile in 0..grid[0] * grid[1] {
                let at = (tile / grid[1], tile % grid[1]);
                self.normalisation.append(&cut(&picture, at, self.side as usize)?, &mut data);
            }
        }
        let whole = resize(&picture, side, side, self.filter)?;
        self.normalisation.append(&whole, &mut data);
        let side = self.side as usize;
        Ok(Tiles { pixels: PixelBatch { data, shape: [grid[0] * grid[1] + 1, 3, side, side] }, grid })
    }
}

fn longest(size: Option<SizeSpec>) -> Option<u32> {
    match size? {
        SizeSpec::Edges { longest_edge, shortest_edge: None, height: None, width: None } => longest_edge,
        _ => None,
    }
}

/// Width and height with the longer edge of `edge` pixels; the other is made even. Quotients are f64, as Python computes
/// them, since a last bit decides about a pixel.
fn bounded(width: u32, height: u32, edge: u32) -> (u64, u64) {
    let proportion = f64::from(width) / f64::from(height);
    let even = |length: f64| {
        let length = length as u64;
        (length + length % 2).max(1)
    };
    if width >= height {
        (edge.into(), even(f64::from(edge) / proportion))
    } else {
        (even(f64::from(edge) * proportion), edge.into())
    }
}

/// Width and height stretched to multiples of `side`: first the longer edge, then the other from the old proportions.
fn whole_tiles(width: u32, height: u32, side: u64) -> (u64, u64) {
    let proportion = f64::from(width) / f64::from(height);
    let up = |length: u64| length.div_ceil(side).max(1) * side;
    if width >= height {
        let width = up(width.into());
        (width, up((width as f64 / proportion) as u64))
    } else {
        let height = up(height.into());
        (up((height as f64 * proportion) as u64), height)
    }
}

/// The tile in row and column `at` of an RGB picture.
fn cut(picture: &Pixels, (row, column): (usize, usize), side: usize) -> Result<Pixels, ImageError> {
    let stride = picture.width() as usize * 3;
    let rows = picture.data().chunks_exact(stride).skip(row * side).take(side);
    let data = rows.flat_map(|pixels| &pixels[column * side * 3..][..side * 3]).copied().collect();
    Pixels::from_rgb(side as u32, side as u32, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(json: &str) -> TileProcessor {
        TileProcessor::from_config(&PreprocessorConfig::parse(json.as_bytes()).unwrap(), None).unwrap()
    }

    /// A picture whose pixels all differ from their neighbours.
    fn picture(width: u32, height: u32) -> Pixels {
        let n = width * height * 3;
        Pixels::from_rgb(width, height, (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()).unwrap()
    }

    #[test]
    fn sizes_follow_the_documentation() {
        // Computed by hand: 512 / (640 / 480) = 384; 512 / (1000 / 333) = 170.496; 2048 * (300 / 901) = 681.9, made even.
        assert_eq!(bounded(640, 480, 512), (512, 384));
        assert_eq!(bounded(1000, 333, 512), (512, 170));
        assert_eq!(bounded(300, 901, 2048), (682, 2048));
        assert_eq!(bounded(1000, 1, 512), (512, 1));
        assert_eq!(bounded(33, 33, 33), (33, 34));
        assert_eq!(whole_tiles(512, 384, 512), (512, 512));
        assert_eq!(whole_tiles(2048, 1536, 512), (2048, 1536));
        assert_eq!(whole_tiles(682, 2048, 512), (1024, 2048));
        assert_eq!(whole_tiles(10, 11, 512), (512, 512));
    }

    /// Each value of the tiles against the resized picture, looked up pixel by pixel.
    #[test]
    fn tiles_are_the_resized_picture_cut_up() {
        let tiler = processor(
            r#"{"size": {"longest_edge": 60}, "max_image_size": {"longest_edge": 16}, "do_image_splitting": true,
                "resample": 1, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}"#,
        );
        let source = picture(90, 50);
        let tiles = tiler.process(&source).unwrap();
        // 60 x 33 made even, then stretched to 64 x 48.
        assert_eq!((tiles.grid, tiles.pixels.shape), ([3, 4], [13, 3, 16, 16]));
        let first = resize(&source, 60, 34, Filter::Lanczos).unwrap();
        let large = resize(&first, 64, 48, Filter::Lanczos).unwrap();
        let small = resize(&large, 16, 16, Filter::Lanczos).unwrap();
        let value = |from: &Pixels, x: usize, y: usize, channel: usize| {
            let byte = f32::from(from.data()[(y * from.width() as usize + x) * 3 + channel]);
            (byte / 255.0 - [0.5, 0.4, 0.3][channel]) / [0.5, 0.25, 0.2][channel]
        };
        let mut at = 0;
        for tile in 0..13 {
            for channel in 0..3 {
                for y in 0..16 {
                    for x in 0..16 {
                        let expected = match tile {
                            12 => value(&small, x, y, channel),
                            _ => value(&large, tile % 4 * 16 + x, tile / 4 * 16 + y, channel),
                        };
                        let found = tiles.pixels.data[at];
                        assert!((found - expected).abs() < 1e-5, "tile {tile} at {x}, {y}: {found} and {expected}");
                        at += 1;
                    }
                }
            }
        }
        assert_eq!(at, tiles.pixels.data.len());
    }

    /// Against what transformers' SmolVLMImageProcessor makes of the same picture; see testdata/README.md.
    #[cfg(feature = "image")]
    #[test]
    fn equals_transformers() {
        let wide = crate::tasks::image::decode(include_bytes!("../testdata/gradient_37x23.png")).unwrap();
        let at = |x: usize, y: usize| wide.data()[(y * 37 + x) * 3..][..3].to_vec();
        let tall = (0..37).flat_map(|x| (0..23).flat_map(move |y| at(x, y))).collect();
        let tall = Pixels::from_rgb(23, 37, tall).unwrap();
        let mut expected = &include_bytes!("../testdata/tiles.bin")[..];
        for (source, edge, splits, code, grid) in
            [(&wide, 60, true, 1, [3, 4]), (&tall, 50, true, 3, [4, 3]), (&wide, 60, false, 1, [0, 0])]
        {
            let tiler = processor(&format!(
                r#"{{"size": {{"longest_edge": {edge}}}, "max_image_size": {{"longest_edge": 16}}, "resample": {code},
                    "do_image_splitting": {splits}, "do_rescale": false, "do_normalize": false}}"#
            ));
            let tiles = tiler.process(source).unwrap();
            assert_eq!(tiles.grid, grid);
            let (these, rest) = expected.split_at(tiles.pixels.data.len());
            let worst = tiles.pixels.data.iter().zip(these).map(|(found, byte)| (found - f32::from(*byte)).abs());
            // A rounding that goes the other way in one resize is spread by the next.
            assert!(worst.fold(0.0, f32::max) <= 2.0);
            expected = rest;
        }
        assert!(expected.is_empty());
    }

    #[test]
    fn small_or_undivided_pictures_are_one_square() {
        let sizes = r#""size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}"#;
        let split = processor(&format!(r#"{{{sizes}, "do_image_splitting": true, "resample": 3}}"#));
        let whole = processor(&format!(r#"{{{sizes}, "do_image_splitting": false, "resample": 3}}"#));
        let source = picture(40, 21);
        let tiles = split.process(&source).unwrap();
        assert_eq!((tiles.grid, tiles.pixels.shape), ([0, 0], [1, 3, 32, 32]));
        assert_eq!(tiles, whole.process(&source).unwrap());
        let first = resize(&source, 32, 16, Filter::Bicubic).unwrap();
        let square = resize(&first, 32, 32, Filter::Bicubic).unwrap();
        assert_eq!(tiles.pixels.data[1], f32::from(square.data()[3]) / 255.0);
    }

    #[test]
    fn a_file_without_sizes_is_refused_and_the_encoder_stands_in_for_tiles() {
        let config = |json: &str| PreprocessorConfig::parse(json.as_bytes()).unwrap();
        let half = config(r#"{"size": {"longest_edge": 64}, "do_image_splitting": true}"#);
        assert!(TileProcessor::is_meant(&half));
        assert_eq!(TileProcessor::from_config(&half, None).unwrap_err().kind(), "config_missing");
        let tiler = TileProcessor::from_config(&half, Some(32)).unwrap();
        assert_eq!(tiler.process(&picture(64, 64)).unwrap().grid, [2, 2]);
        let other = config(r#"{"size": {"shortest_edge": 64}, "do_image_splitting": true}"#);
        assert!(!TileProcessor::is_meant(&other));
        assert_eq!(TileProcessor::from_config(&other, Some(32)).unwrap_err().kind(), "config_unsupported");
        let huge = config(r#"{"size": {"longest_edge": 9000}, "do_image_splitting": true}"#);
        assert_eq!(TileProcessor::from_config(&huge, Some(32)).unwrap_err().kind(), "config_unsupported");
    }
}
