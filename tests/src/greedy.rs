//! The zoo's decoders, token by token: the greedy continuation of a prompt equals ONNX Runtime's.

use std::collections::BTreeMap;

use lenslet::generate::{Decoder, Feed, Prompt, State};
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tensor::Tensor;
use lenslet::{Session, SessionOptions};
use safetensors::SafeTensors;
use serde::Deserialize;

/// `greedy.json` of a model folder.
#[derive(Deserialize)]
pub struct Greedy {
    /// By the file's name.
    pub files: BTreeMap<String, Case>,
    image_token_id: Option<u32>,
}

/// What one graph must continue.
#[derive(Deserialize)]
pub struct Case {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

/// How a prompt was continued.
#[derive(Debug)]
pub struct Continued {
    /// Caches that grow with each position.
    pub caches: usize,
    /// Those that do so in place.
    pub growing: usize,
    /// Neighbours among rounded logits that changed places, told in words.
    pub ties: Vec<String>,
}

impl Greedy {
    /// Reads the file.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json).map_err(|e| format!("greedy.json: {e}"))
    }

    /// Loads `file` with what its prompt needs. `read` gives files of the model's `onnx` folder.
    pub async fn open(
        &self,
        file: &str,
        read: &dyn Fn(&str) -> Result<Vec<u8>, String>,
        options: &SessionOptions,
    ) -> Result<Opened, String> {
        let case = self.files.get(file).ok_or_else(|| format!("greedy.json has no {file}"))?;
        let (prompt, tokens) = (case.prompt.clone(), case.tokens.clone());
        let decoder = Decoder::from_onnx(&read(file)?, &NoExternalData, options.clone()).map_err(|e| e.to_string())?;
        let encoder = match decoder.has_encoder() {
            true => vec![(
                "encoder_hidden_states",
                golden(&read("encoder_model.golden.safetensors")?, "last_hidden_state")?,
            )],
            false => vec![],
        };
        if decoder.embedding_width().is_none() {
            return Ok(Opened { decoder, encoder, prompt, tokens, embeddings: None });
        }
        let table = read("embed_tokens.onnx")?;
        let table = Session::from_onnx(&table, &NoExternalData, &ImportOptions::default(), options.clone());
        let decoder = decoder.embed_with(table.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        let image = golden(&read("vision_encoder.golden.safetensors")?, "image_features")?;
        let text = decoder.embed(&prompt, 1).await.map_err(|e| e.to_string())?;
        let embeddings = Some(with_image(&text, &prompt, self.image_token_id, &image)?);
        Ok(Opened { decoder, encoder, prompt, tokens, embeddings })
    }

    /// Continues the prompt of `file` and compares.
    ///
    /// A graph with static quantization rounds its logits, so that two of them can be one step apart and no closer. Where such
    /// neighbours change places, that is a tie: the comparison goes on behind the expected token. All else is an error.
    pub async fn check(
        &self,
        file: &str,
        read: &dyn Fn(&str) -> Result<Vec<u8>, String>,
        options: &SessionOptions,
    ) -> Result<Continued, String> {
        let opened = self.open(file, read, options).await?;
        let (decoder, tokens) = (&opened.decoder, &opened.tokens);
        let limit = opened.prompt.len() + tokens.len();
        let mut state = opened.start(limit);
        state.reserve(limit);
        let feed = Feed { tokens: Some(&opened.prompt), embeddings: opened.embeddings.clone(), mask: None };
        let mut logits = decoder.run(&mut state, feed).await.map_err(|e| e.to_string())?;
        let mut ties = Vec::new();
        let mut copied = 0;
        for (at, &wanted) in tokens.iter().enumerate() {
            let values = logits.as_slice::<f32>().map_err(|e| e.to_string())?;
            let token = argmax(values);
            if token != wanted {
                let gap = values[token as usize] - values[wanted as usize];
                let told = format!("token {at} is {token}, expected {wanted}, logits {gap} apart");
                if !file.contains("qdq") || gap > 1.01 * step(values) {
                    return Err(told);
                }
                ties.push(told);
            }
            if at + 1 < tokens.len() {
                logits = decoder.run(&mut state, Feed::tokens(&[wanted])).await.map_err(|e| e.to_string())?;
            }
            if at == 1 {
                copied = state.bytes_copied();
            }
        }
        let (all, growing) = decoder.caches();
        if growing == all && state.bytes_copied() != copied {
            return Err(format!("{} bytes of cache were copied", state.bytes_copied() - copied));
        }
        Ok(Continued { caches: all, growing, ties })
    }
}

/// A decoder of the zoo with its prompt, and what ONNX Runtime continued it with.
pub struct Opened {
    /// The decoder; it embeds token ids by itself.
    pub decoder: Decoder,
    /// What the encoder gave, where there is one.
    pub encoder: Vec<(&'static str, Tensor)>,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// The greedy continuation.
    pub tokens: Vec<u32>,
    /// Embeddings [1, tokens, width] of the prompt, where the decoder takes these.
    pub embeddings: Option<Tensor>,
}

impl Opened {
    /// A sequence of one row that nothing was read into.
    pub fn start(&self, limit: usize) -> State {
        self.decoder.start(1, limit, self.encoder.clone())
    }

    /// The prompt with more tokens behind it.
    pub async fn prompt_and(&self, more: &[u32]) -> Result<Prompt, String> {
        let tokens = [&self.prompt[..], more].concat();
        let embeddings = match &self.embeddings {
            Some(prompt) if more.is_empty() => Some(prompt.clone()),
            Some(prompt) => {
                let more = self.decoder.embed(more, 1).await.map_err(|e| e.to_string())?;
                let values = [floats(prompt)?, floats(&more)?].concat();
                let width = values.len() / tokens.len();
                Some(Tensor::from_slice(&[1, tokens.len(), width], &values).map_err(|e| e.to_string())?)
            }
            None => None,
        };
        Ok(Prompt { tokens, embeddings, before: vec![] })
    }
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, String> {
    tensor.to_f32_vec().ok_or_else(|| "not floats".into())
}

/// The rows of an image in the place of its tokens' embeddings.
fn with_image(text: &Tensor, tokens: &[u32], image_token: Option<u32>, image: &Tensor) -> Result<Tensor, String> {
    let (mut values, image) = (floats(text)?, floats(image)?);
    let width = values.len() / tokens.len();
    let mut rows = image.chunks_exact(width);
    for (token, row) in tokens.iter().zip(values.chunks_exact_mut(width)) {
        if Some(*token) == image_token {
            row.copy_from_slice(rows.next().ok_or("more image tokens than image features")?);
        }
    }
    Tensor::from_slice(text.shape(), &values).map_err(|e| e.to_string())
}

/// Output `name` of the first case of a golden file.
fn golden(file: &[u8], name: &str) -> Result<Tensor, String> {
    let tensors = SafeTensors::deserialize(file).map_err(|e| e.to_string())?;
    let view = tensors.tensor(&format!("case0.output.{name}")).map_err(|e| e.to_string())?;
    let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Tensor::from_slice(view.shape(), &values).map_err(|e| e.to_string())
}

/// The smallest step between two different values.
fn step(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted.windows(2).map(|pair| pair[1] - pair[0]).filter(|step| *step > 0.0).fold(f32::INFINITY, f32::min)
}

/// The position of the greatest, the first of equals.
pub fn argmax(values: &[f32]) -> u32 {
    let best = values.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, &v)| if v > b.1 { (i, v) } else { b });
    best.0 as u32
}

/// The folders of the zoo that have a `greedy.json`, each with the folder of its graphs.
pub const FOLDERS: [&str; 7] = [
    "gpt2/tiny",
    "smollm2-135m/tiny",
    "smolvlm-256m-instruct/tiny",
    "vit-gpt2-image-captioning/tiny",
    "blip-image-captioning-base/tiny",
    "opset14/vit-gpt2-image-captioning",
    "contrib/smollm2-genai",
];

/// The files that [`Greedy::check`] reads for a decoder of a folder besides its graph: what the decoder attends to, and what makes
/// embeddings of its tokens.
pub fn beside(folder: &str) -> &'static [&'static str] {
    match folder {
        "vit-gpt2-image-captioning/tiny" | "blip-image-captioning-base/tiny" | "opset14/vit-gpt2-image-captioning" => {
            &["encoder_model.golden.safetensors"]
        }
        "smolvlm-256m-instruct/tiny" => &["embed_tokens.onnx", "vision_encoder.golden.safetensors"],
        _ => &[],
    }
}

/// Why the caches of a graph do not grow in place, where they do not.
pub fn copies(file: &str) -> Option<&'static str> {
    let qdq = "scores are quantized between the products, so there is no one attention";
    file.contains("qdq").then_some(qdq)
}
