//! From a picture to the `pixel_values` of a graph, as `preprocessor_config.json` says.
//!
//! The order is that of Hugging Face's image processors: RGB over white, resize, centre crop,
//! rescale, normalise. Everything up to the crop works on 8-bit pixels, as there.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::{Filter, ImageError, Pixels, resize, shortest_edge_size};
use crate::tasks::config::{ConfigError, PREPROCESSOR, PreprocessorConfig, SizeSpec};

/// Graph inputs of more pixels a side are taken for a mistake in the file.
const MAX_SIDE: u32 = 8192;

/// From this size on, ConvNeXt's processor resizes to the square and does not crop.
const CONVNEXT_WHOLE: u32 = 384;

/// How a picture is brought to size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeRule {
    /// To exactly this size, whatever the proportions.
    Exact {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The shorter edge to this many pixels, keeping the proportions.
    ShortestEdge(u32),
}

/// The arithmetic from an 8-bit value to the graph's float, per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    scale: Option<f64>,
    mean_std: Option<([f32; 3], [f32; 3])>,
    /// All 3 x 256 results.
    table: Vec<[f32; 256]>,
}

impl Normalisation {
    /// Scale, then mean and standard deviation; `None` leaves a step out.
    pub fn new(scale: Option<f64>, mean_std: Option<([f32; 3], [f32; 3])>) -> Self {
        let value = |channel: usize, byte: usize| {
            // The product in f64, rounded to f32, and the rest in f32: as transformers computes it.
            let rescaled = scale.map_or(byte as f32, |scale| (byte as f64 * scale) as f32);
            match mean_std {
                Some((mean, std)) => (rescaled - mean[channel]) / std[channel],
                None => rescaled,
            }
        };
        let table = (0..3).map(|channel| std::array::from_fn(|byte| value(channel, byte))).collect();
        Self { scale, mean_std, table }
    }

    /// What a `preprocessor_config.json` says of the arithmetic.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for values that make no sense, [`ConfigError::Missing`] if mean or deviation lack.
    pub fn from_config(config: &PreprocessorConfig) -> Result<Self, ConfigError> {
        let scale = config.do_rescale.unwrap_or(true).then(|| config.rescale_factor.unwrap_or(1.0 / 255.0));
        if let Some(scale) = scale.filter(|scale| !scale.is_finite()) {
            return Err(unsupported("rescale_factor", scale));
        }
        let mean_std = if config.do_normalize.unwrap_or(config.image_mean.is_some()) {
            let mean = channels("image_mean", config.image_mean.as_deref())?;
            let std = channels("image_std", config.image_std.as_deref())?;
            if std.contains(&0.0) {
                return Err(unsupported("image_std", format!("{std:?}")));
            }
            Some((mean, std))
        } else {
            None
        };
        Ok(Self::new(scale, mean_std))
    }

    /// Appends the values of an RGB picture: \[3, height, width\].
    pub(super) fn append(&self, picture: &Pixels, data: &mut Vec<f32>) {
        data.reserve(picture.data().len());
        for (channel, table) in self.table.iter().enumerate() {
            let values = picture.data().iter().skip(channel).step_by(3);
            data.extend(values.map(|&byte| table[usize::from(byte)]));
        }
    }
}

/// One or more pictures as a graph takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelBatch {
    /// Values in the order of `shape`.
    pub data: Vec<f32>,
    /// Pictures, channels (3), height, width.
    pub shape: [usize; 4],
}

impl PixelBatch {
    /// Puts more pictures behind these.
    ///
    /// # Errors
    /// [`ImageError::MixedSizes`] unless all have one size; the batch is then unchanged.
    pub fn append(&mut self, other: Self) -> Result<(), ImageError> {
        if self.shape[0] == 0 {
            *self = other;
            return Ok(());
        }
        let [count, _, height, width] = other.shape;
        let first = [self.shape[2], self.shape[3]];
        if [height, width] != first {
            return Err(ImageError::MixedSizes { first, other: [height, width] });
        }
        self.data.extend(other.data);
        self.shape[0] += count;
        Ok(())
    }
}

/// The pipeline of one model folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessor {
    resize: Option<(ResizeRule, Filter)>,
    /// Height and width.
    crop: Option<[u32; 2]>,
    normalisation: Normalisation,
}

impl Preprocessor {
    /// A pipeline from its parts; `crop` is height and width in pixels.
    pub fn new(resize: Option<(ResizeRule, Filter)>, crop: Option<[u32; 2]>, normalisation: Normalisation) -> Self {
        Self { resize, crop, normalisation }
    }

    /// Gives meaning to a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for tiling processors and for values that make no sense,
    /// [`ConfigError::Missing`] if a step lacks its parameters.
    pub fn from_config(config: &PreprocessorConfig) -> Result<Self, ConfigError> {
        for (field, value) in [
            ("do_image_splitting", config.do_image_splitting),
            ("do_flip_channel_order", config.do_flip_channel_order),
            ("rescale_offset", config.rescale_offset),
        ] {
            if value == Some(true) {
                return Err(unsupported(field, "true"));
            }
        }
        let (resize, crop) = geometry(config)?;
        if config.do_pad == Some(true) {
            return Err(unsupported("do_pad", "true"));
        }
        Ok(Self::new(resize, crop, Normalisation::from_config(config)?))
    }

    /// Height and width of what comes out, if that does not depend on the picture.
    pub fn output_size(&self) -> Option<[u32; 2]> {
        self.crop.or(match self.resize {
            Some((ResizeRule::Exact { width, height }, _)) => Some([height, width]),
            _ => None,
        })
    }

    /// The facts that decide which numbers come out, in one canonical line. Two configuration files
    /// that mean the same give the same line.
    pub fn facts(&self) -> String {
        let mut line = String::from("rgb over white");
        // Writing to a string cannot fail.
        match self.resize {
            Some((ResizeRule::Exact { width, height }, filter)) => {
                let _ = write!(line, "; resize {width}x{height} {}", filter.name());
            }
            Some((ResizeRule::ShortestEdge(edge), filter)) => {
                let _ = write!(line, "; resize shortest edge {edge} {}", filter.name());
            }
            None => {}
        }
        if let Some([height, width]) = self.crop {
            let _ = write!(line, "; crop {width}x{height}");
        }
        if let Some(scale) = self.normalisation.scale {
            let _ = write!(line, "; scale {scale:e}");
        }
        if let Some((mean, std)) = self.normalisation.mean_std {
            let _ = write!(line, "; mean {mean:?}; std {std:?}");
        }
        line
    }

    /// The picture after conversion, resize and crop: what the model looks at, as 8-bit RGB.
    ///
    /// # Errors
    /// [`ImageError::Proportions`] and [`ImageError::Empty`] for extreme proportions.
    pub fn fit<'a>(&self, pixels: &'a Pixels) -> Result<Cow<'a, Pixels>, ImageError> {
        let mut picture = pixels.over_white();
        if let Some((rule, filter)) = self.resize {
            let (width, height) = match rule {
                ResizeRule::Exact { width, height } => (width.into(), height.into()),
                ResizeRule::ShortestEdge(edge) => shortest_edge_size(picture.width(), picture.height(), edge),
            };
            if (width, height) != (picture.width().into(), picture.height().into()) {
                picture = Cow::Owned(resize(&picture, width, height, filter)?);
            }
        }
        if let Some([height, width]) = self.crop
            && (width, height) != (picture.width(), picture.height())
        {
            picture = Cow::Owned(centre_crop(&picture, height, width)?);
        }
        Ok(picture)
    }

    /// One picture as a batch of one.
    ///
    /// # Errors
    /// As [`Preprocessor::fit`].
    pub fn process(&self, pixels: &Pixels) -> Result<PixelBatch, ImageError> {
        self.process_batch(std::slice::from_ref(pixels))
    }

    /// Several pictures as one batch `[pictures, 3, height, width]`.
    ///
    /// # Errors
    /// As [`Preprocessor::fit`], and [`ImageError::MixedSizes`] if the pipeline keeps proportions
    /// and the pictures differ.
    pub fn process_batch(&self, pictures: &[Pixels]) -> Result<PixelBatch, ImageError> {
        let mut data = Vec::new();
        let mut size = None;
        for pixels in pictures {
            let picture = self.fit(pixels)?;
            let this = [picture.height() as usize, picture.width() as usize];
            let first = *size.get_or_insert(this);
            if this != first {
                return Err(ImageError::MixedSizes { first, other: this });
            }
            self.normalisation.append(&picture, &mut data);
        }
        let [height, width] = size.unwrap_or_default();
        Ok(PixelBatch { data, shape: [pictures.len(), 3, height, width] })
    }
}

/// Resize and crop of a configuration.
type Geometry = (Option<(ResizeRule, Filter)>, Option<[u32; 2]>);

fn geometry(config: &PreprocessorConfig) -> Result<Geometry, ConfigError> {
    let code = config.resample.unwrap_or(2);
    let filter = Filter::from_code(code).ok_or_else(|| unsupported("resample", code))?;
    let resizes = config.do_resize.unwrap_or(config.size.is_some());
    let crops = config.do_center_crop.unwrap_or(config.crop_size.is_some());

    // ConvNeXt's processor has one size and the share of the resized picture that the crop keeps,
    // 224/256 unless the file says otherwise.
    let convnext = config.image_processor_type.as_deref().is_some_and(|name| name.starts_with("ConvNext"));
    if resizes && !crops && (config.crop_pct.is_some() || convnext) {
        let edge = match config.size {
            Some(SizeSpec::One(edge) | SizeSpec::Edges { shortest_edge: Some(edge), .. }) => edge,
            other => return Err(unsupported("size", format!("{other:?} with crop_pct"))),
        };
        let edge = side("size", edge)?;
        if edge >= CONVNEXT_WHOLE {
            return Ok((Some((ResizeRule::Exact { width: edge, height: edge }, filter)), None));
        }
        let share = config.crop_pct.unwrap_or(224.0 / 256.0);
        if !(0.01..=1.0).contains(&share) {
            return Err(unsupported("crop_pct", share));
        }
        let resized = (f64::from(edge) / share) as u32;
        return Ok((Some((ResizeRule::ShortestEdge(resized), filter)), Some([edge, edge])));
    }

    let resize = if resizes {
        let size = config.size.ok_or(ConfigError::Missing { file: PREPROCESSOR, field: "size" })?;
        Some((resize_rule(size, config.default_to_square.unwrap_or(!crops))?, filter))
    } else {
        None
    };
    let crop = if crops {
        let missing = ConfigError::Missing { file: PREPROCESSOR, field: "crop_size" };
        Some(match config.crop_size.ok_or(missing)? {
            SizeSpec::One(edge) => [side("crop_size", edge)?; 2],
            SizeSpec::Pair([height, width]) | SizeSpec::Edges { height: Some(height), width: Some(width), .. } => {
                [side("crop_size", height)?, side("crop_size", width)?]
            }
            other => return Err(unsupported("crop_size", format!("{other:?}"))),
        })
    } else {
        None
    };
    Ok((resize, crop))
}

fn resize_rule(size: SizeSpec, square: bool) -> Result<ResizeRule, ConfigError> {
    Ok(match size {
        SizeSpec::One(edge) if square => {
            let edge = side("size", edge)?;
            ResizeRule::Exact { width: edge, height: edge }
        }
        SizeSpec::One(edge) | SizeSpec::Edges { shortest_edge: Some(edge), longest_edge: None, .. } => {
            ResizeRule::ShortestEdge(side("size", edge)?)
        }
        SizeSpec::Pair([height, width]) | SizeSpec::Edges { height: Some(height), width: Some(width), .. } => {
            ResizeRule::Exact { width: side("size", width)?, height: side("size", height)? }
        }
        // Processors that bound the longer edge cut the picture into tiles or pad it.
        other @ SizeSpec::Edges { .. } => {
            return Err(unsupported("size", format!("{other:?}")));
        }
    })
}

pub(super) fn side(field: &'static str, value: u32) -> Result<u32, ConfigError> {
    if (1..=MAX_SIDE).contains(&value) { Ok(value) } else { Err(unsupported(field, value)) }
}

fn channels(field: &'static str, values: Option<&[f64]>) -> Result<[f32; 3], ConfigError> {
    match values {
        Some(&[r, g, b]) => Ok([r as f32, g as f32, b as f32]),
        Some(&[value]) => Ok([value as f32; 3]),
        Some(other) => Err(unsupported(field, format!("{other:?}"))),
        None => Err(ConfigError::Missing { file: PREPROCESSOR, field }),
    }
}

pub(super) fn unsupported(field: &'static str, value: impl ToString) -> ConfigError {
    ConfigError::Unsupported { file: PREPROCESSOR, field, value: value.to_string() }
}

/// Cuts `height` x `width` pixels out of the middle. Where the picture is smaller it is surrounded by
/// zeros (black before normalising), with the odd pixel on the side where `center_crop` of
/// transformers puts it.
fn centre_crop(picture: &Pixels, height: u32, width: u32) -> Result<Pixels, ImageError> {
    let (rows, row_target) = window(picture.height(), height);
    let (columns, column_target) = window(picture.width(), width);
    let channels = picture.channels().count();
    let mut data = vec![0; height as usize * width as usize * channels];
    let length = columns.len() * channels;
    for (index, row) in rows.enumerate() {
        let from = (row * picture.width() as usize + columns.start) * channels;
        let to = ((row_target + index) * width as usize + column_target) * channels;
        data[to..to + length].copy_from_slice(&picture.data()[from..from + length]);
    }
    Pixels::new(width, height, picture.channels(), data)
}

/// Along one axis of `have` pixels cropped to `want`: which of them remain, and where the first of
/// these lands.
fn window(have: u32, want: u32) -> (std::ops::Range<usize>, usize) {
    let (have, want) = (have as usize, want as usize);
    if have >= want {
        let start = (have - want) / 2;
        return (start..start + want, 0);
    }
    // transformers pads by ceil((want - have) / 2) in front and then cuts from
    // floor((have - want) / 2) plus that, which is zero.
    (0..have, (want - have).div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_json(json: &str) -> Result<Preprocessor, ConfigError> {
        Preprocessor::from_config(&PreprocessorConfig::parse(json.as_bytes()).unwrap())
    }

    const CLIP: &str = r#""do_center_crop": true, "resample": 3, "do_rescale": true,
        "rescale_factor": 0.00392156862745098, "do_normalize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]"#;

    #[test]
    fn old_and_new_spellings_mean_the_same() {
        let old = from_json(&format!(r#"{{"size": 224, "crop_size": 224, {CLIP}}}"#)).unwrap();
        let new = from_json(&format!(
            r#"{{"size": {{"shortest_edge": 224}}, "crop_size": {{"height": 224, "width": 224}},
                "do_convert_rgb": true, "do_resize": true, {CLIP}}}"#
        ))
        .unwrap();
        assert_eq!(old, new);
        assert_eq!(old.facts(), new.facts());
        assert_eq!(
            new.facts(),
            "rgb over white; resize shortest edge 224 bicubic; crop 224x224; \
             scale 3.92156862745098e-3; mean [0.48145467, 0.4578275, 0.40821072]; \
             std [0.26862955, 0.2613026, 0.2757771]"
        );
        assert_eq!(new.output_size(), Some([224, 224]));
    }

    #[test]
    fn one_number_without_a_crop_is_a_square() {
        let vit = from_json(r#"{"size": 32, "image_mean": [0.5], "image_std": [0.5]}"#).unwrap();
        let square = ResizeRule::Exact { width: 32, height: 32 };
        assert_eq!(vit.resize, Some((square, Filter::Bilinear)));
        let edge = from_json(r#"{"size": 32, "default_to_square": false}"#).unwrap();
        assert_eq!(edge.resize, Some((ResizeRule::ShortestEdge(32), Filter::Bilinear)));
        assert_eq!(edge.output_size(), None);
    }

    #[test]
    fn convnext_keeps_a_share_of_the_resized_picture() {
        let small = from_json(r#"{"size": 224, "crop_pct": 0.875, "resample": 3}"#).unwrap();
        assert_eq!(small.resize, Some((ResizeRule::ShortestEdge(256), Filter::Bicubic)));
        assert_eq!(small.crop, Some([224, 224]));
        let named =
            from_json(r#"{"size": {"shortest_edge": 224}, "image_processor_type": "ConvNextImageProcessor"}"#).unwrap();
        assert_eq!(named.crop, Some([224, 224]));
        let large = from_json(r#"{"size": 384, "crop_pct": 0.875}"#).unwrap();
        assert_eq!(large.output_size(), Some([384, 384]));
        assert_eq!(large.crop, None);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for json in [
            r#"{"size": {"longest_edge": 32}}"#,
            r#"{"size": 32, "do_image_splitting": true}"#,
            r#"{"size": 32, "do_flip_channel_order": true}"#,
            r#"{"size": 32, "do_pad": true}"#,
            r#"{"size": 32, "resample": 9}"#,
            r#"{"size": 0}"#,
            r#"{"size": 1000000}"#,
            r#"{"size": 32, "image_mean": [1, 2], "image_std": [1, 1]}"#,
            r#"{"size": 32, "image_mean": [0, 0, 0], "image_std": [1, 0, 1]}"#,
            r#"{"size": 32, "crop_pct": 0.0}"#,
            r#"{"size": 32, "do_center_crop": true, "crop_size": {"shortest_edge": 3}}"#,
        ] {
            assert_eq!(from_json(json).unwrap_err().kind(), "config_unsupported", "{json}");
        }
        for json in [
            r#"{"do_resize": true}"#,
            r#"{"size": 32, "do_center_crop": true}"#,
            r#"{"size": 32, "do_normalize": true}"#,
        ] {
            assert_eq!(from_json(json).unwrap_err().kind(), "config_missing", "{json}");
        }
    }

    #[test]
    fn crop_pads_where_transformers_does() {
        assert_eq!(window(7, 4), (1..5, 0));
        assert_eq!(window(4, 4), (0..4, 0));
        assert_eq!(window(4, 7), (0..4, 2));
        assert_eq!(window(3, 5), (0..3, 1));
    }

    #[test]
    fn batches_need_one_size() {
        let keep = Preprocessor::new(None, None, Normalisation::new(None, None));
        let wide = Pixels::from_rgb(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let tall = Pixels::from_rgb(1, 2, vec![0; 6]).unwrap();
        let batch = keep.process_batch(&[wide.clone(), wide.clone()]).unwrap();
        assert_eq!(batch.shape, [2, 3, 1, 2]);
        assert_eq!(batch.data[..6], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(keep.process_batch(&[wide, tall]).unwrap_err().kind(), "image_mixed_sizes");
        assert_eq!(keep.process_batch(&[]).unwrap().shape, [0, 3, 0, 0]);
    }

    #[test]
    fn extreme_proportions_are_an_error() {
        let clip = from_json(&format!(r#"{{"size": 224, "crop_size": 224, {CLIP}}}"#)).unwrap();
        let strip = Pixels::from_rgb(1, 60_000, vec![0; 180_000]).unwrap();
        assert_eq!(clip.process(&strip).unwrap_err().kind(), "image_proportions");
    }

    /// Against numbers that numpy computed from Pillow's pixels; see testdata/README.md.
    #[cfg(feature = "image")]
    #[test]
    fn equals_the_reference_pipeline() {
        let source = crate::tasks::image::decode(include_bytes!("../testdata/gradient_37x23.png")).unwrap();
        let mut expected = include_bytes!("../testdata/preprocessed.bin")
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let half = r#""image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]"#;
        for (json, shape) in [
            (format!(r#"{{"size": 16, "crop_size": 16, {CLIP}}}"#), [1, 3, 16, 16]),
            (format!(r#"{{"size": {{"height": 14, "width": 12}}, {half}}}"#), [1, 3, 14, 12]),
            (format!(r#"{{"size": 12, "crop_size": [17, 14], {CLIP}}}"#), [1, 3, 17, 14]),
        ] {
            let batch = from_json(&json).unwrap().process(&source).unwrap();
            assert_eq!(batch.shape, shape);
            for (at, found) in batch.data.iter().enumerate() {
                let expected = expected.next().unwrap();
                assert_eq!(found.to_bits(), expected.to_bits(), "{json} at {at}");
            }
        }
        assert_eq!(expected.next(), None);
    }
}
