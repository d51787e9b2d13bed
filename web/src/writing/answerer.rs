//! What answers questions about pictures, held for the worker.

use js_sys::{Array, Function, Object};
use lenslet::SessionOptions;
use lenslet::tasks::image::Pixels;
use lenslet::tasks::writing::{Answerer, TextStream, WritingError, WritingOptions};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use super::stream::Task;
use super::{Configuration, Loaded, TextStreamHandle, asked, decoder, session};
use crate::convert;
use crate::device::{Device, Held};
use crate::error::WebError;
use crate::files::Files;

/// A loaded answerer.
#[wasm_bindgen]
pub struct AnswererHandle {
    held: Held<Loaded<Answerer>>,
}

#[wasm_bindgen]
impl AnswererHandle {
    /// Builds an answerer from the files of its folder (`{name, bytes}[]`), which are taken out of the
    /// list. `on_progress` hears how much is done, from 0 to 1.
    pub async fn load(
        #[wasm_bindgen(unchecked_param_type = "{name: string, bytes: Uint8Array}[]")] files: Array,
        #[wasm_bindgen(unchecked_param_type = "'webgpu' | 'wasm'")] device: String,
        #[wasm_bindgen(unchecked_param_type = "(fraction: number) => void")] on_progress: Function,
    ) -> Result<AnswererHandle, JsValue> {
        let report = |fraction: f64| {
            // A listener that throws must not break loading.
            let _ = on_progress.call1(&JsValue::NULL, &fraction.into());
        };
        let mut files = Files::take_from(&files)?;
        let device = Device::open(&device).await?;
        let configuration = Configuration::read(&files);
        let encoder = session(&mut files, &["vision_encoder", "encoder_model"], device.options())?;
        report(0.4);
        let mut decoder = decoder(&mut files, &device)?;
        if decoder.embedding_width().is_some() {
            // A row of a table is looked up on the host: the picture's rows are put between them there.
            let host = SessionOptions { gpu: None, ..device.options() };
            let table = session(&mut files, &["embed_tokens"], host)?;
            decoder = decoder.embed_with(table).map_err(WritingError::from).map_err(WebError::from)?;
        }
        report(0.9);
        let model = Answerer::new(encoder, decoder, &configuration.files()?).map_err(WebError::from)?;
        report(1.0);
        Ok(AnswererHandle { held: Held::new(Loaded { model, device }) })
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

    /// Begins the answer to a question about a picture (`{width, height, rgba}`). What was read of the picture is kept for the
    /// next question about it.
    pub async fn ask(
        &self,
        #[wasm_bindgen(unchecked_param_type = "{width: number, height: number, rgba: Uint8ClampedArray}")]
        picture: JsValue,
        question: String,
        #[wasm_bindgen(
            unchecked_param_type = "{maxNewTokens?: number, stop?: string[], temperature?: number, topK?: number, topP?: number, repetitionPenalty?: number, seed?: number, resumeTokens?: number[], resumeText?: string}"
        )]
        wishes: JsValue,
    ) -> Result<TextStreamHandle, JsValue> {
        let loaded = self.held.get()?;
        let options = asked(&wishes, loaded.model.sampling().map_err(WebError::from)?)?;
        let task = Question { picture: convert::pixels(&picture)?, question, options };
        drop(picture);
        Ok(TextStreamHandle::begin(loaded, task).await?)
    }

    /// Writes a few tokens on a GPU, so that its shaders are compiled before anybody waits for them.
    #[wasm_bindgen(js_name = warmUp)]
    pub async fn warm_up(&self) -> Result<(), JsValue> {
        let loaded = self.held.get()?;
        if loaded.device.is_gpu() {
            let picture = Pixels::from_rgba(32, 32, vec![128; 32 * 32 * 4]).map_err(WebError::from)?;
            let options = WritingOptions { max_new_tokens: Some(2), ..WritingOptions::default() };
            let task = Question { picture, question: "a".to_owned(), options };
            TextStreamHandle::begin(loaded.clone(), task).await?.run_through().await?;
            loaded.model.forget();
        }
        Ok(())
    }

    /// Frees what is kept of the last picture.
    pub fn forget(&self) -> Result<(), JsValue> {
        let loaded = self.held.get()?;
        loaded.model.forget();
        loaded.device.free_unused();
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

/// A question to answer.
struct Question {
    picture: Pixels,
    question: String,
    options: WritingOptions,
}

impl Task<Answerer> for Question {
    async fn start(self, model: &Answerer) -> Result<TextStream<'_>, WritingError> {
        model.ask(&self.picture, &self.question, &self.options).await
    }
}
