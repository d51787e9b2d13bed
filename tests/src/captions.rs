//! The emoji captioner on pictures of a style that it was not trained on, against the captions that ONNX Runtime gives.

use std::collections::BTreeMap;

use lenslet::generate::Decoder;
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tasks::image::{Pixels, decode};
use lenslet::tasks::writing::{Captioner, WritingFiles, WritingOptions};
use lenslet::{Session, SessionOptions};
use serde::Deserialize;

/// Where the captioner lies, below the folder of the test material.
pub const FOLDER: &str = "emoji-clip";

/// Which graphs of the captioner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// float32.
    Single,
    /// ONNX Runtime's dynamic INT8.
    Quantized,
}

impl Precision {
    /// The precision of that name, `fp32` or `int8`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "fp32" => Some(Self::Single),
            "int8" => Some(Self::Quantized),
            _ => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Single => "",
            Self::Quantized => "_quantized",
        }
    }

    /// The share of captions that must equal ONNX Runtime's. INT8 rounds activations, so that sums in another order lead
    /// elsewhere now and then.
    pub fn least(self) -> f64 {
        match self {
            Self::Single => 0.99,
            Self::Quantized => 0.90,
        }
    }

    /// The files of the captioner's folder that [`load`] wants.
    pub fn files(self) -> Vec<String> {
        let graphs = ["encoder_model", "decoder_model_merged"].map(|stem| format!("{stem}{}.onnx", self.suffix()));
        let configuration = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "preprocessor_config.json",
        ];
        graphs.into_iter().chain(configuration.map(str::to_owned)).collect()
    }
}

/// A picture and its captions.
#[derive(Debug, Clone, Deserialize)]
pub struct Emoji {
    /// Below [`FOLDER`].
    pub file: String,
    caption: String,
    caption_quantized: String,
}

impl Emoji {
    /// What ONNX Runtime says.
    pub fn caption(&self, precision: Precision) -> &str {
        match precision {
            Precision::Single => self.caption.trim(),
            Precision::Quantized => self.caption_quantized.trim(),
        }
    }
}

/// `count` of the pictures of `openmoji.json`, spread over the list.
///
/// # Errors
/// Says what is wrong with the file.
pub fn sample(json: &[u8], count: usize) -> Result<Vec<Emoji>, String> {
    let list: Vec<Emoji> = serde_json::from_slice(json).map_err(|e| format!("openmoji.json: {e}"))?;
    let step = list.len().div_ceil(count).max(1);
    Ok(list.into_iter().step_by(step).collect())
}

/// Makes the captioner of its files, by name.
///
/// # Errors
/// Says what is missing or does not fit; also if a cache does not grow in place.
pub fn load(
    files: &BTreeMap<String, Vec<u8>>,
    precision: Precision,
    options: &SessionOptions,
) -> Result<Captioner, String> {
    let file = |name: &str| files.get(name).map(Vec::as_slice).ok_or_else(|| format!("there is no {name}"));
    let graph = |stem: &str| file(&format!("{stem}{}.onnx", precision.suffix()));
    let encoder =
        Session::from_onnx(graph("encoder_model")?, &NoExternalData, &ImportOptions::default(), options.clone())
            .map_err(|e| e.to_string())?;
    let decoder = Decoder::from_onnx(graph("decoder_model_merged")?, &NoExternalData, options.clone())
        .map_err(|e| e.to_string())?;
    let (caches, growing) = decoder.caches();
    if growing != caches {
        return Err(format!("{growing} of {caches} caches grow in place"));
    }
    let files = WritingFiles {
        model: Some(file("config.json")?),
        generation: Some(file("generation_config.json")?),
        tokenizer: file("tokenizer.json")?,
        tokenizer_config: Some(file("tokenizer_config.json")?),
        preprocessor: Some(file("preprocessor_config.json")?),
        ..WritingFiles::default()
    };
    Captioner::new(encoder, decoder, &files).map_err(|e| e.to_string())
}

/// The caption of a picture file.
///
/// # Errors
/// Says what failed.
pub async fn caption(captioner: &Captioner, file: &[u8]) -> Result<String, String> {
    let picture = decode(file).map_err(|e| e.to_string())?;
    let mut stream = captioner.caption(&picture, &WritingOptions::default()).await.map_err(|e| e.to_string())?;
    let text = stream.rest().await.map_err(|e| e.to_string())?;
    Ok(text.trim().to_owned())
}

/// Begins captions and drops each behind its first piece; `held` tells how much memory is in use. That must not change from
/// one to the next once kernels and plans are there, and a whole caption must come out behind them.
///
/// # Errors
/// Says how much memory stayed behind.
pub async fn cancel(captioner: &Captioner, file: &[u8], held: &dyn Fn() -> u64) -> Result<String, String> {
    const WARM: usize = 2;
    const MORE: usize = 4;
    let before = caption(captioner, file).await?;
    let picture = decode(file).map_err(|e| e.to_string())?;
    let mut first = 0;
    for round in 0..WARM + MORE {
        begin_and_drop(captioner, &picture).await?;
        let now = held();
        if round + 1 == WARM {
            first = now;
        } else if round >= WARM && now > first {
            return Err(format!("{} bytes stayed behind cancelled caption {round}", now - first));
        }
    }
    let after = caption(captioner, file).await?;
    if before != after {
        return Err(format!("{before:?} before, {after:?} behind cancelled captions"));
    }
    Ok(format!("{first} bytes in use behind each of {MORE} cancelled captions"))
}

async fn begin_and_drop(captioner: &Captioner, picture: &Pixels) -> Result<(), String> {
    let mut stream = captioner.caption(picture, &WritingOptions::default()).await.map_err(|e| e.to_string())?;
    match stream.next().await.map_err(|e| e.to_string())? {
        Some(_) if stream.finish_reason().is_none() && stream.state().is_some_and(|s| s.bytes() > 0) => Ok(()),
        _ => Err("the caption was over before it could be cancelled".into()),
    }
}
