//! The half of a model that looks: from a picture to what the decoder is given of it.

use super::{WritingError, WritingFiles};
use crate::Session;
use crate::tasks::config::{ConfigFiles, FolderConfig, SizeSpec};
use crate::tasks::image::{PixelBatch, Pixels, Preprocessor, TileProcessor};
use crate::tensor::{Bool, DType, Tensor};

/// How a picture is brought to the encoder's size.
enum View {
    Whole(Preprocessor),
    Tiles(TileProcessor),
}

/// An image encoder with its preprocessing.
pub(super) struct Eyes {
    session: Session,
    view: View,
}

/// What an encoder gave.
#[derive(Clone)]
pub(super) struct Seen {
    /// Rows of features: \[squares, rows, width\], or \[1, rows, width\] of an undivided picture.
    pub(super) features: Tensor,
    /// Squares that the picture was cut into, the whole one included.
    pub(super) squares: usize,
    /// Rows and columns of the tiles; 0 where there are none.
    pub(super) grid: [usize; 2],
}

/// The mask of padding inside pictures.
const PIXEL_MASK: &str = "pixel_attention_mask";

impl Eyes {
    /// What `preprocessor_config.json` and `config.json` say decides between tiles and one square.
    pub(super) fn new(session: Session, files: &WritingFiles<'_>) -> Result<Eyes, WritingError> {
        let files = ConfigFiles { model: files.model, preprocessor: files.preprocessor, ..ConfigFiles::default() };
        let config = FolderConfig::parse(&files)?;
        let missing = || WritingError::Incomplete("the model's folder has no preprocessor_config.json".into());
        let preprocessor = config.preprocessor.as_ref().ok_or_else(missing)?;
        let view = if TileProcessor::is_meant(preprocessor) {
            let side = match config.model.vision_config.and_then(|v| v.image_size) {
                Some(SizeSpec::One(side)) => Some(side),
                _ => None,
            };
            View::Tiles(TileProcessor::from_config(preprocessor, side)?)
        } else {
            View::Whole(Preprocessor::from_config(preprocessor)?)
        };
        let pixels = session.inputs().iter().filter(|i| &*i.name != PIXEL_MASK).count();
        if pixels != 1 {
            return Err(WritingError::Incomplete(format!(
                "the image encoder has {pixels} inputs for pictures, not one"
            )));
        }
        Ok(Eyes { session, view })
    }

    /// Looks at a picture. `output` is the one wanted; the graph's first stands in for it.
    pub(super) async fn see(&self, picture: &Pixels, output: &str) -> Result<Seen, WritingError> {
        let (pixels, grid) = match &self.view {
            View::Whole(preprocessor) => (preprocessor.process(picture)?, [0, 0]),
            View::Tiles(tiler) => {
                let tiles = tiler.process(picture)?;
                (tiles.pixels, tiles.grid)
            }
        };
        let squares = pixels.shape[0];
        let inputs = self.inputs(pixels)?;
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        let outputs = self.session.outputs();
        let output = outputs.iter().find(|o| &*o.name == output).or(outputs.first());
        let output = output.ok_or_else(|| WritingError::Incomplete("the image encoder has no output".into()))?;
        let features = self.session.run_for(&inputs, &[&output.name]).await?.remove(0);
        Ok(Seen { features, squares, grid })
    }

    fn inputs(&self, pixels: PixelBatch) -> Result<Vec<(String, Tensor)>, WritingError> {
        let bad = |e| WritingError::Incomplete(format!("the preprocessed picture: {e}"));
        let PixelBatch { data, shape: [squares, channels, height, width] } = pixels;
        let mut inputs = Vec::new();
        for info in self.session.inputs() {
            let tensor = if &*info.name != PIXEL_MASK {
                // Where a sample may hold several pictures, all squares are of the one sample.
                let rank = info.shape.len();
                let shape = [&[1][..], &[squares, channels, height, width]].concat();
                Tensor::from_slice(&shape[5 - rank.clamp(4, 5)..], &data)
            } else {
                // No square is padded: the whole of each is picture.
                let (shape, n) = ([1, squares, height, width], squares * height * width);
                match info.dtype {
                    DType::Bool => Tensor::from_slice(&shape, &vec![Bool::from(true); n]),
                    _ => Tensor::from_slice(&shape, &vec![1i64; n]),
                }
            };
            inputs.push((info.name.to_string(), tensor.map_err(bad)?));
        }
        Ok(inputs)
    }
}
