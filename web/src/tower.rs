//! A dual tower, held for the worker.

use js_sys::{Array, Function, Object};
use lenslet::Session;
use lenslet::onnx::ImportOptions;
use lenslet::tasks::config::{ConfigFiles, FolderConfig};
use lenslet::tasks::dual_tower::{DualTower, Graphs};
use lenslet::tasks::fingerprint::{Fingerprint, FingerprintBuilder};
use lenslet::tasks::image::Pixels;
use lenslet::tasks::tower::SessionTower;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert;
use crate::device::{Device, Held};
use crate::error::WebError;
use crate::files::Files;

/// A loaded dual tower.
#[wasm_bindgen]
pub struct DualTowerHandle {
    held: Held<Loaded>,
}

struct Loaded {
    tower: DualTower<SessionTower>,
    device: Device,
    fingerprint: Fingerprint,
    dim: usize,
}

#[wasm_bindgen]
impl DualTowerHandle {
    /// Builds a tower from the files of its folder (`{name, bytes}[]`), which are taken out of the
    /// list. `on_progress` hears how much is done, from 0 to 1.
    pub async fn load(
        #[wasm_bindgen(unchecked_param_type = "{name: string, bytes: Uint8Array}[]")] files: Array,
        #[wasm_bindgen(unchecked_param_type = "'webgpu' | 'wasm'")] device: String,
        #[wasm_bindgen(unchecked_param_type = "(fraction: number) => void")] on_progress: Function,
    ) -> Result<DualTowerHandle, JsValue> {
        let report = |fraction: f64| {
            // A listener that throws must not break loading.
            let _ = on_progress.call1(&JsValue::NULL, &fraction.into());
        };
        let loaded = load(Files::take_from(&files)?, &device, report).await?;
        Ok(DualTowerHandle { held: Held::new(loaded) })
    }

    /// `webgpu` or `wasm`.
    #[wasm_bindgen(unchecked_return_type = "'webgpu' | 'wasm'")]
    pub fn device(&self) -> Result<String, JsValue> {
        Ok(self.held.get()?.device.name().to_owned())
    }

    /// The GPU's name; empty on WASM.
    pub fn adapter(&self) -> Result<String, JsValue> {
        Ok(self.held.get()?.device.adapter())
    }

    /// The length of a vector.
    pub fn dim(&self) -> Result<usize, JsValue> {
        Ok(self.held.get()?.dim)
    }

    /// Identifies model and preprocessing.
    pub fn fingerprint(&self) -> Result<String, JsValue> {
        Ok(self.held.get()?.fingerprint.to_string())
    }

    /// The vectors of pictures (`{width, height, rgba}[]`), end to end.
    #[wasm_bindgen(js_name = embedImages)]
    pub async fn embed_images(
        &self,
        #[wasm_bindgen(unchecked_param_type = "{width: number, height: number, rgba: Uint8ClampedArray}[]")]
        pictures: Array,
    ) -> Result<Vec<f32>, JsValue> {
        let loaded = self.held.get()?;
        let pixels = pictures.iter().map(|picture| convert::pixels(&picture)).collect::<Result<Vec<_>, _>>()?;
        drop(pictures);
        let vectors = loaded.tower.encode_images(&pixels).await;
        Ok(vectors.map_err(|error| loaded.device.explain(error))?.concat())
    }

    /// The vectors of texts, end to end.
    #[wasm_bindgen(js_name = embedTexts)]
    pub async fn embed_texts(
        &self,
        #[wasm_bindgen(unchecked_param_type = "string[]")] texts: Array,
    ) -> Result<Vec<f32>, JsValue> {
        let loaded = self.held.get()?;
        let texts = convert::strings(&texts)?;
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = loaded.tower.encode_texts(&texts).await;
        Ok(vectors.map_err(|error| loaded.device.explain(error))?.concat())
    }

    /// Runs each tower once on a GPU, so that its shaders are compiled before anybody waits for them.
    #[wasm_bindgen(js_name = warmUp)]
    pub async fn warm_up(&self) -> Result<(), JsValue> {
        let loaded = self.held.get()?;
        if loaded.device.is_gpu() {
            loaded.probe().await?;
        }
        Ok(())
    }

    /// How much memory is held: `{host, device}` in bytes.
    #[wasm_bindgen(unchecked_return_type = "{host: number, device: number}")]
    pub fn bytes(&self) -> Result<Object, JsValue> {
        Ok(self.held.get()?.device.bytes())
    }

    /// Frees everything, on the GPU too.
    pub fn dispose(&self) {
        self.held.dispose();
    }
}

impl Loaded {
    /// A vector from each tower, of a grey picture and a short text; the length of both.
    async fn probe(&self) -> Result<usize, WebError> {
        let picture = Pixels::from_rgba(32, 32, vec![128; 32 * 32 * 4])?;
        let image = self.tower.encode_images(&[picture]).await;
        let image = image.map_err(|error| self.device.explain(error))?.concat().len();
        let text = self.tower.encode_texts(&["a"]).await;
        let text = text.map_err(|error| self.device.explain(error))?.concat().len();
        if image == text {
            Ok(image)
        } else {
            Err(WebError::load(
                "tower_widths",
                format!("pictures get {image} numbers and texts {text}: these are not two towers of one model"),
            ))
        }
    }
}

async fn load(mut files: Files, device: &str, report: impl Fn(f64)) -> Result<Loaded, WebError> {
    let device = Device::open(device).await?;
    let config = config(&files)?;
    let tokenizer = files
        .read("tokenizer.json")
        .ok_or_else(|| WebError::load("not_found", "the model's folder has no tokenizer.json"))?;
    let mut fingerprint = Fingerprint::builder();

    let mut read = |files: &mut Files, stem: &str| -> Result<Option<SessionTower>, WebError> {
        let Some(name) = files.graph(stem)? else {
            return Ok(None);
        };
        graph(files, &name, stem, &device, &mut fingerprint).map(Some)
    };
    let image = read(&mut files, "vision_model")?;
    report(0.5);
    let text = read(&mut files, "text_model")?;
    let graphs = if image.is_some() || text.is_some() {
        Graphs::Separate { image, text }
    } else {
        let missing = "the model's folder has neither vision_model.onnx and text_model.onnx nor model.onnx";
        Graphs::Joint(read(&mut files, "model")?.ok_or_else(|| WebError::load("not_found", missing))?)
    };
    report(0.9);

    let mut tower = DualTower::new(graphs, &config)?.with_tokenizer(&tokenizer, &config)?;
    tower.settle_padding().await?;
    let fingerprint = fingerprint.facts("preprocessing", &tower.facts()).finish();
    let mut loaded = Loaded { tower, device, fingerprint, dim: 0 };
    loaded.dim = match config.model.projection_dim {
        Some(dim) => dim,
        None => loaded.probe().await?,
    };
    report(1.0);
    Ok(loaded)
}

fn config(files: &Files) -> Result<FolderConfig, WebError> {
    let bytes = ConfigFiles::NAMES.map(|name| files.read(name));
    let [model, preprocessor, tokenizer, sentence, pooling, special_tokens] =
        bytes.each_ref().map(|bytes| bytes.as_deref());
    Ok(FolderConfig::parse(&ConfigFiles { model, preprocessor, tokenizer, sentence, pooling, special_tokens })?)
}

/// Reads one graph; its bytes leave the page's memory before the next one is read.
fn graph(
    files: &mut Files,
    name: &str,
    role: &str,
    device: &Device,
    fingerprint: &mut FingerprintBuilder,
) -> Result<SessionTower, WebError> {
    *fingerprint = fingerprint.clone().file(role, files.sha256(name));
    let file = files.model(name)?;
    let session = Session::from_onnx(file.graph(), &file, &ImportOptions::default(), device.options())
        .map_err(|error| WebError::from(error).in_file(name))?;
    Ok(SessionTower::new(session))
}
