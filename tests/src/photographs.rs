//! Photographs from JPEG file to embedding, against what ONNX Runtime makes of the same files decoded by Pillow
//! (`tests/goldens/photo-search-jpeg.json`). `tests/browser/pictures` does the same with the browser's own decoder.

use lenslet::tasks::dual_tower::DualTower;
use lenslet::tasks::image::decode;
use lenslet::tasks::similarity::cosine;
use lenslet::tasks::tower::SessionTower;
use serde::Deserialize;

/// Least cosine of a photograph's embedding. JPEG decoders round colours differently, and a model sees that; the strict test of
/// preprocessing and model is the one on PNG files (`tests/bundled.rs`).
pub const LEAST_COSINE: f32 = 0.998;

/// What a model must make of some photographs.
#[derive(Debug, Deserialize)]
pub struct Photographs {
    /// The bundled model's name.
    pub model: String,
    /// The graph of its image tower, in the model's folder.
    pub vision: String,
    /// Files below the repository's root.
    pub pictures: Vec<String>,
    /// An embedding of unit length for each picture.
    pub embeddings: Vec<Vec<f32>>,
}

impl Photographs {
    /// Reads the golden.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let golden: Self = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if golden.pictures.is_empty() || golden.pictures.len() != golden.embeddings.len() {
            return Err("the golden does not list one embedding a picture".into());
        }
        Ok(golden)
    }

    /// Brings picture `n` from its file to its embedding. Returns the cosine.
    ///
    /// # Errors
    /// Says what went wrong or differs.
    pub async fn check(&self, tower: &DualTower<SessionTower>, n: usize, file: &[u8]) -> Result<f32, String> {
        let pixels = decode(file).map_err(|e| e.to_string())?;
        let got = tower.encode_images(&[pixels]).await.map_err(|e| e.to_string())?;
        let want = &self.embeddings[n];
        if got[0].len() != want.len() {
            return Err(format!("the embedding has {} numbers instead of {}", got[0].len(), want.len()));
        }
        let cosine = cosine(&got[0], want);
        // A NaN must fail too.
        if cosine >= LEAST_COSINE { Ok(cosine) } else { Err(format!("cosine {cosine:.6} is below {LEAST_COSINE}")) }
    }
}
