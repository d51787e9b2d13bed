//! A text generator, held for the worker.

use js_sys::{Array, Function, Object};
use lenslet::generate::Message;
use lenslet::tasks::writing::{TextGenerator, TextStream, WritingError, WritingOptions};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use super::stream::Task;
use super::{Configuration, Loaded, TextStreamHandle, asked, decoder};
use crate::convert;
use crate::device::{Device, Held};
use crate::error::WebError;
use crate::files::Files;

/// A loaded text generator.
#[wasm_bindgen]
pub struct TextGeneratorHandle {
    held: Held<Loaded<TextGenerator>>,
}

#[wasm_bindgen]
impl TextGeneratorHandle {
    /// Builds a text generator from the files of its folder (`{name, bytes}[]`), which are taken out of the
    /// list. `on_progress` hears how much is done, from 0 to 1.
    pub async fn load(
        #[wasm_bindgen(unchecked_param_type = "{name: string, bytes: Uint8Array}[]")] files: Array,
        #[wasm_bindgen(unchecked_param_type = "'webgpu' | 'wasm'")] device: String,
        #[wasm_bindgen(unchecked_param_type = "(fraction: number) => void")] on_progress: Function,
    ) -> Result<TextGeneratorHandle, JsValue> {
        let report = |fraction: f64| {
            // A listener that throws must not break loading.
            let _ = on_progress.call1(&JsValue::NULL, &fraction.into());
        };
        let mut files = Files::take_from(&files)?;
        let device = Device::open(&device).await?;
        let configuration = Configuration::read(&files);
        let decoder = decoder(&mut files, &device)?;
        report(0.9);
        let model = TextGenerator::new(decoder, &configuration.files()?).map_err(WebError::from)?;
        report(1.0);
        Ok(TextGeneratorHandle { held: Held::new(Loaded { model, device }) })
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

    /// Whether the model's folder has a chat template.
    #[wasm_bindgen(js_name = canChat)]
    pub fn can_chat(&self) -> Result<bool, JsValue> {
        Ok(self.held.get()?.model.can_chat())
    }

    /// Begins the continuation of a text.
    pub async fn complete(
        &self,
        prompt: String,
        #[wasm_bindgen(
            unchecked_param_type = "{maxNewTokens?: number, stop?: string[], temperature?: number, topK?: number, topP?: number, repetitionPenalty?: number, seed?: number, resumeTokens?: number[], resumeText?: string}"
        )]
        wishes: JsValue,
    ) -> Result<TextStreamHandle, JsValue> {
        let loaded = self.held.get()?;
        let options = asked(&wishes, loaded.model.sampling().map_err(WebError::from)?)?;
        let task = Text { prompt: Prompt::Text(prompt), options };
        Ok(TextStreamHandle::begin(loaded, task).await?)
    }

    /// Begins the answer to a conversation (`{role, content}[]`), as the model's own template writes it down.
    pub async fn chat(
        &self,
        #[wasm_bindgen(unchecked_param_type = "{role: string, content: string}[]")] messages: Array,
        #[wasm_bindgen(
            unchecked_param_type = "{maxNewTokens?: number, stop?: string[], temperature?: number, topK?: number, topP?: number, repetitionPenalty?: number, seed?: number, resumeTokens?: number[], resumeText?: string}"
        )]
        wishes: JsValue,
    ) -> Result<TextStreamHandle, JsValue> {
        let loaded = self.held.get()?;
        let options = asked(&wishes, loaded.model.sampling().map_err(WebError::from)?)?;
        let task = Text { prompt: Prompt::Conversation(convert::messages(&messages)?), options };
        Ok(TextStreamHandle::begin(loaded, task).await?)
    }

    /// Writes a few tokens on a GPU, so that its shaders are compiled before anybody waits for them.
    #[wasm_bindgen(js_name = warmUp)]
    pub async fn warm_up(&self) -> Result<(), JsValue> {
        let loaded = self.held.get()?;
        if loaded.device.is_gpu() {
            let options = WritingOptions { max_new_tokens: Some(2), ..WritingOptions::default() };
            let prompt = Prompt::Text("a b c d e f g h".to_owned());
            TextStreamHandle::begin(loaded, Text { prompt, options }).await?.run_through().await?;
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

/// What is to be continued.
enum Prompt {
    Text(String),
    Conversation(Vec<Message>),
}

/// A text to write.
struct Text {
    prompt: Prompt,
    options: WritingOptions,
}

impl Task<TextGenerator> for Text {
    async fn start(self, model: &TextGenerator) -> Result<TextStream<'_>, WritingError> {
        match self.prompt {
            Prompt::Text(text) => model.complete(&text, &self.options).await,
            Prompt::Conversation(messages) => model.chat(&messages, &self.options).await,
        }
    }
}
