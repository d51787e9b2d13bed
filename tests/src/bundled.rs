//! Dual towers from picture files and texts onward, against what Pillow, the tokenizers package and ONNX Runtime made of them
//! (`tests/goldens`).

use std::collections::BTreeMap;

use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tasks::config::{ConfigFiles, FolderConfig};
use lenslet::tasks::dual_tower::{DualTower, Graphs};
use lenslet::tasks::image::decode;
use lenslet::tasks::similarity::cosine;
use lenslet::tasks::tower::SessionTower;
use lenslet::{Session, SessionOptions};
use serde::Deserialize;

/// The models that ship with the project.
pub const MODELS: [&str; 2] = ["photo-search", "emoji-clip"];

/// Files of a model folder besides its graphs that [`load`] wants, where they exist.
pub fn config_files() -> impl Iterator<Item = &'static str> {
    ConfigFiles::NAMES.into_iter().chain(["tokenizer.json"])
}

/// Makes a dual tower of a folder's configuration files, by name, and its graphs.
///
/// # Errors
/// Says what is wrong with the files.
pub fn load(
    files: &BTreeMap<String, Vec<u8>>,
    image: Option<&[u8]>,
    text: Option<&[u8]>,
    options: &SessionOptions,
) -> Result<DualTower<SessionTower>, String> {
    let [model, preprocessor, tokenizer, sentence, pooling, special_tokens] =
        ConfigFiles::NAMES.map(|name| files.get(name).map(Vec::as_slice));
    let config =
        FolderConfig::parse(&ConfigFiles { model, preprocessor, tokenizer, sentence, pooling, special_tokens })
            .map_err(|e| e.to_string())?;
    let open = |bytes: &[u8]| {
        Session::from_onnx(bytes, &NoExternalData, &ImportOptions::default(), options.clone())
            .map(SessionTower::new)
            .map_err(|e| e.to_string())
    };
    let graphs = Graphs::Separate { image: image.map(open).transpose()?, text: text.map(open).transpose()? };
    let tower = DualTower::new(graphs, &config).map_err(|e| e.to_string())?;
    match files.get("tokenizer.json") {
        Some(json) if text.is_some() => tower.with_tokenizer(json, &config).map_err(|e| e.to_string()),
        _ => Ok(tower),
    }
}

/// Which precision of a model a golden is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The graphs that ship: float16 for pictures, dynamic INT8 for texts.
    Bundled,
    /// Their float32 originals.
    Single,
}

impl Precision {
    fn suffix(self) -> &'static str {
        match self {
            Precision::Bundled => "",
            Precision::Single => ".fp32",
        }
    }

    /// Least cosine of a picture's embedding: float16 and float32 keep it.
    pub const IMAGE: f32 = 0.9999;

    /// Least cosine of a text's embedding that counts as the same.
    pub fn text(self) -> f32 {
        match self {
            Precision::Bundled => 0.999,
            Precision::Single => 0.9999,
        }
    }
}

/// Least cosine of any text's embedding in dynamic INT8, where a few may fall short of [`Precision::text`].
///
/// A last bit of a float decides now and then how an activation is rounded to 8 bits, and `photo-search` feels it: with noise of
/// one part in 10^7 on what its LayerNorms give, ONNX Runtime's own embedding of the golden's text 6 has cosine 0.9939 with the
/// one without noise, and with one part in 10^6 the worst of the twelve falls to 0.9922 (`tests/goldens/noise.py`). The products
/// themselves are exact (`tests/integers.rs`).
pub const FLIPPED: f32 = 0.99;

/// The part of a model's texts that may be flipped so.
pub const FLIPPED_SHARE: f32 = 0.5;

/// How far a preprocessed number may be from Pillow's and numpy's: rounding in float32, far below one step of 8 bits.
const PIXEL_TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Listing {
    vision: String,
    text: String,
    pictures: Vec<String>,
    texts: Vec<String>,
}

/// What a model must make of some pictures and texts.
pub struct Golden {
    /// Files below the repository's root.
    pub pictures: Vec<String>,
    /// Texts.
    pub texts: Vec<String>,
    /// The bundled graph of the image tower, in the model's folder.
    pub vision: String,
    /// The bundled graph of the text tower, in the model's folder.
    pub text: String,
    tensors: Vec<u8>,
}

impl Golden {
    /// Reads a golden: its list and its tensors.
    ///
    /// # Errors
    /// Says what is wrong with the files.
    pub fn parse(json: &[u8], tensors: Vec<u8>) -> Result<Self, String> {
        let listing: Listing = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let Listing { vision, text, pictures, texts } = listing;
        if pictures.is_empty() || texts.is_empty() {
            return Err("the golden lists nothing".into());
        }
        Ok(Golden { pictures, texts, vision, text, tensors })
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, String> {
        let file = safetensors::SafeTensors::deserialize(&self.tensors).map_err(|e| e.to_string())?;
        Ok(file.tensor(name).map_err(|e| format!("{name}: {e}"))?.data().to_vec())
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>, String> {
        let bytes = self.bytes(name)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Brings picture `n` from its file to its embedding and compares on the way. Returns the cosine.
    ///
    /// # Errors
    /// Says what differs.
    pub async fn check_picture(
        &self,
        tower: &DualTower<SessionTower>,
        n: usize,
        file: &[u8],
        precision: Precision,
    ) -> Result<f32, String> {
        let pixels = decode(file).map_err(|e| e.to_string())?;
        let preprocessor = tower.preprocessor().ok_or("the model has no preprocessing")?;
        let batch = preprocessor.process(&pixels).map_err(|e| e.to_string())?;
        let first = self.floats(&format!("image{n}.pixel_values.first64"))?;
        let plane = batch.data.len() / 3;
        let means: Vec<f32> = batch
            .data
            .chunks(plane)
            .map(|c| (c.iter().map(|&x| f64::from(x)).sum::<f64>() / plane as f64) as f32)
            .collect();
        near("the first preprocessed numbers", &batch.data[..first.len()], &first)?;
        near("the means of the channels", &means, &self.floats(&format!("image{n}.pixel_values.mean"))?)?;

        let want = self.floats(&format!("image{n}.image_embeds{}", precision.suffix()))?;
        let got = tower.encode_images(&[pixels]).await.map_err(|e| e.to_string())?;
        agree(&got[0], &want, Precision::IMAGE)
    }

    /// Brings text `n` to its embedding and compares on the way. Returns the cosine.
    ///
    /// # Errors
    /// Says what differs.
    pub async fn check_text(
        &self,
        tower: &DualTower<SessionTower>,
        n: usize,
        precision: Precision,
    ) -> Result<f32, String> {
        let encoder = tower.text_encoder().ok_or("the model has no tokenizer")?;
        let text = self.texts[n].as_str();
        let ids: Vec<i64> = encoder.ids(text).map_err(|e| e.to_string())?.into_iter().map(i64::from).collect();
        let bytes = self.bytes(&format!("text{n}.input_ids"))?;
        let want_ids: Vec<i64> =
            bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default())).collect();
        if ids != want_ids {
            return Err(format!("the ids are {ids:?} instead of {want_ids:?}"));
        }
        let want = self.floats(&format!("text{n}.text_embeds{}", precision.suffix()))?;
        let got = tower.encode_texts(&[text]).await.map_err(|e| e.to_string())?;
        let least = if precision == Precision::Bundled { FLIPPED } else { precision.text() };
        agree(&got[0], &want, least)
    }
}

fn agree(got: &[f32], want: &[f32], least: f32) -> Result<f32, String> {
    if got.len() != want.len() {
        return Err(format!("the embedding has {} numbers instead of {}", got.len(), want.len()));
    }
    let cosine = cosine(got, want);
    // A NaN must fail too.
    if cosine >= least { Ok(cosine) } else { Err(format!("cosine {cosine:.6} is below {least}")) }
}

fn near(what: &str, got: &[f32], want: &[f32]) -> Result<(), String> {
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    if got.len() == want.len() && worst <= PIXEL_TOLERANCE && got.iter().all(|g| g.is_finite()) {
        Ok(())
    } else {
        Err(format!("{what} differ by {worst}: {got:?} instead of {want:?}"))
    }
}
