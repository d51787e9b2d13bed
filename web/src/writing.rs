//! Models that write: what captioner, answerer and text generator have in common.

mod answerer;
mod captioner;
mod stream;
mod text_generator;

pub use answerer::AnswererHandle;
pub use captioner::CaptionerHandle;
use lenslet::generate::{Decoder, Sampling};
use lenslet::onnx::ImportOptions;
use lenslet::tasks::writing::{Resume, WritingFiles, WritingOptions};
use lenslet::{Session, SessionOptions};
pub use stream::TextStreamHandle;
pub use text_generator::TextGeneratorHandle;
use wasm_bindgen::JsValue;

use crate::convert;
use crate::device::Device;
use crate::error::WebError;
use crate::files::Files;

/// A model with the device it is on.
struct Loaded<M> {
    model: M,
    device: Device,
}

/// The names of the files beside the graphs, in the order of the fields of [`WritingFiles`].
const NAMES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
];

/// The configuration of a model's folder.
struct Configuration([Option<Vec<u8>>; 8]);

impl Configuration {
    fn read(files: &Files) -> Self {
        Self(NAMES.map(|name| files.read(name)))
    }

    fn files(&self) -> Result<WritingFiles<'_>, WebError> {
        let [
            model,
            generation,
            tokenizer,
            tokenizer_config,
            special_tokens,
            chat_template,
            chat_template_json,
            preprocessor,
        ] = self.0.each_ref().map(|bytes| bytes.as_deref());
        let tokenizer =
            tokenizer.ok_or_else(|| WebError::load("not_found", "the model's folder has no tokenizer.json"))?;
        Ok(WritingFiles {
            model,
            generation,
            tokenizer,
            tokenizer_config,
            special_tokens,
            chat_template,
            chat_template_json,
            preprocessor,
        })
    }
}

/// The one graph among those of these stems that is there.
fn session(files: &mut Files, stems: &[&str], options: SessionOptions) -> Result<Session, WebError> {
    for stem in stems {
        if let Some(name) = files.graph(stem)? {
            let file = files.model(&name)?;
            return Session::from_onnx(file.graph(), &file, &ImportOptions::default(), options)
                .map_err(|error| WebError::from(error).in_file(&name));
        }
    }
    let missing = format!("the model's folder has no {}.onnx", stems.join(".onnx and no "));
    Err(WebError::load("not_found", missing))
}

/// Reads the decoder: a merged one, two graphs, or one that takes any past, in this order.
fn decoder(files: &mut Files, device: &Device) -> Result<Decoder, WebError> {
    const SINGLE: [&str; 2] = ["decoder_model_merged", "model"];
    const PAIR: [&str; 2] = ["decoder_model", "decoder_with_past_model"];
    let missing = || {
        let message = "the model's folder has none of decoder_model_merged.onnx, model.onnx, and decoder_model.onnx with decoder_with_past_model.onnx";
        WebError::load("not_found", message)
    };
    for stem in SINGLE {
        if let Some(name) = files.graph(stem)? {
            let file = files.model(&name)?;
            let decoder = Decoder::from_onnx(file.graph(), &file, device.options());
            return decoder.map_err(|error| WebError::from(error).in_file(&name));
        }
    }
    let [Some(first), Some(next)] = [files.graph(PAIR[0])?, files.graph(PAIR[1])?] else { return Err(missing()) };
    let [begins, goes_on] = [&first, &next].map(|name| files.take(name).unwrap_or_default());
    let decoder = Decoder::from_onnx_pair(&begins, &goes_on, &files.beside(&next), device.options());
    decoder.map_err(|error| WebError::from(error).in_file(&next))
}

/// Reads a caller's wishes. What it leaves out of the choice of tokens is as the folder says; chance is another each time.
fn asked(object: &JsValue, folder: Sampling) -> Result<WritingOptions, WebError> {
    let whole = |name| convert::whole_number(object, name);
    let float = |name| Ok::<_, WebError>(convert::number(object, name)?.map(|number| number as f32));
    let seed = match whole("seed")? {
        Some(seed) => seed,
        None => (js_sys::Math::random() * (1u64 << 53) as f64) as u64,
    };
    let sampling = Sampling {
        temperature: float("temperature")?.unwrap_or(folder.temperature),
        top_k: whole("topK")?.map_or(folder.top_k, |k| u32::try_from(k).unwrap_or(u32::MAX)),
        top_p: float("topP")?.unwrap_or(folder.top_p),
        repetition_penalty: float("repetitionPenalty")?.unwrap_or(folder.repetition_penalty),
        seed,
    };
    let max_new_tokens = whole("maxNewTokens")?.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let stop = convert::optional_strings(object, "stop")?;
    let resume = match convert::optional_tokens(object, "resumeTokens")? {
        Some(tokens) => Some(Resume::Tokens(tokens)),
        None => convert::optional_string(object, "resumeText")?.map(Resume::Text),
    };
    Ok(WritingOptions { sampling: Some(sampling), max_new_tokens, stop, resume, ..WritingOptions::default() })
}
