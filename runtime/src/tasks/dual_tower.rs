//! Pictures and texts in one space.
//!
//! A dual tower is two graphs, or one that holds both towers. Which input takes what, and which
//! output is the embedding, follows from the graphs' own names and from the folder's configuration.

use super::config::{ConfigError, FolderConfig};
use super::image::{ImageError, PixelBatch, Pixels, Preprocessor};
use super::pooling::{Pooling, PoolingError, normalise};
#[cfg(feature = "text")]
use super::text::{Padding, TextEncoder, TextError};
use super::tokens::TokenBatch;
use super::tower::{HostArray, Tower, TowerFailure};

/// A dual tower that cannot be set up or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A picture, counted from 0.
    #[error("picture {index}: {source}")]
    Image {
        /// Which of the pictures.
        index: usize,
        /// What is wrong with it.
        source: ImageError,
    },
    /// A text or the tokenizer.
    #[cfg(feature = "text")]
    #[error(transparent)]
    Text(#[from] TextError),
    /// The model has no tower for this.
    #[error("this model has no {0}")]
    Absent(&'static str),
    /// A graph wants an input that nothing here can give.
    #[error("the {tower} graph wants an input {name:?}, which is not known")]
    UnknownInput {
        /// `image`, `text` or `joint`.
        tower: &'static str,
        /// Name of the input.
        name: String,
    },
    /// No output is an embedding, or it needs a pooling that the folder does not state.
    #[error(
        "none of the outputs of the {tower} graph is an embedding: {outputs:?} \
         (token vectors need a 1_Pooling/config.json)"
    )]
    NoEmbedding {
        /// `image`, `text` or `joint`.
        tower: &'static str,
        /// Names of the outputs.
        outputs: Vec<String>,
    },
    /// The graph failed.
    #[error("the {tower} graph failed: {source}")]
    Run {
        /// `image`, `text` or `joint`.
        tower: &'static str,
        /// What the runtime says.
        source: TowerFailure,
    },
    /// An output is missing, not of floats, or not of a shape that makes sense.
    #[error("output {name:?} of the {tower} graph is unusable: {detail}")]
    Output {
        /// `image`, `text` or `joint`.
        tower: &'static str,
        /// Name of the output.
        name: String,
        /// What came.
        detail: String,
    },
}

impl TaskError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config(error) => error.kind(),
            Self::Image { source, .. } => source.kind(),
            #[cfg(feature = "text")]
            Self::Text(error) => error.kind(),
            Self::Absent(_) => "tower_absent",
            Self::UnknownInput { .. } => "tower_unknown_input",
            Self::NoEmbedding { .. } => "tower_no_embedding",
            Self::Run { .. } => "tower_run",
            Self::Output { .. } => "tower_output",
        }
    }
}

/// The graphs of a dual tower.
#[derive(Debug, Clone)]
pub enum Graphs<T> {
    /// One graph a tower; either may be absent.
    Separate {
        /// Takes pictures.
        image: Option<T>,
        /// Takes texts.
        text: Option<T>,
    },
    /// One graph that takes both.
    Joint(T),
}

/// A dual tower with its preprocessing.
#[derive(Debug)]
pub struct DualTower<T> {
    graphs: Graphs<T>,
    preprocessor: Option<Preprocessor>,
    #[cfg(feature = "text")]
    text: Option<TextEncoder>,
    pooling: Option<Pooling>,
    batch: usize,
}

impl<T: Tower> DualTower<T> {
    /// Puts graphs and configuration together. Texts need a tokenizer besides
    /// (`with_tokenizer`, feature `text`) or come as ids ([`DualTower::encode_tokens`]).
    ///
    /// # Errors
    /// [`TaskError::Config`] if the preprocessing or pooling is not supported.
    pub fn new(graphs: Graphs<T>, config: &FolderConfig) -> Result<Self, TaskError> {
        Ok(Self {
            graphs,
            preprocessor: config.preprocessor.as_ref().map(Preprocessor::from_config).transpose()?,
            #[cfg(feature = "text")]
            text: None,
            pooling: config.pooling.as_ref().map(Pooling::from_config).transpose()?,
            batch: 1,
        })
    }

    /// Runs up to `batch` pictures or texts at once, 1 unless set. A graph with dynamic INT8
    /// quantization finds one scale for a whole batch there, so that its vectors depend slightly on
    /// their neighbours: leave it at 1 for an index of such a model.
    #[must_use]
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch.max(1);
        self
    }

    /// Adds the tokenizer. A text graph without `attention_mask` sees its padding, so its rows are
    /// filled to the context length, as in training; see `settle_padding`.
    ///
    /// # Errors
    /// [`TaskError::Text`].
    #[cfg(feature = "text")]
    pub fn with_tokenizer(mut self, tokenizer_json: &[u8], config: &FolderConfig) -> Result<Self, TaskError> {
        let mut encoder = TextEncoder::new(tokenizer_json, config)?;
        if let (Some((_, graph)), Some(context)) = (self.text_graph(), encoder.context_length())
            && !graph.inputs().iter().any(|name| name == "attention_mask")
        {
            encoder.set_padding(Padding::Fixed(context));
        }
        self.text = Some(encoder);
        Ok(self)
    }

    /// Finds out whether padding to the context length is needed at all, by running one short text
    /// both ways: a causal graph (CLIP's, exported without mask) does not see what follows the end
    /// token, and is several times faster without it. Returns the padding from now on.
    ///
    /// # Errors
    /// As [`DualTower::encode_texts`].
    #[cfg(feature = "text")]
    pub async fn settle_padding(&mut self) -> Result<Padding, TaskError> {
        const PROBE: &str = "a photo of a cat";
        let absent = || TaskError::Absent("tokenizer");
        let fixed = self.text.as_ref().ok_or_else(absent)?.padding();
        if fixed == Padding::Longest {
            return Ok(fixed);
        }
        let padded = self.encode_texts(&[PROBE]).await?;
        if let Some(encoder) = &mut self.text {
            encoder.set_padding(Padding::Longest);
        }
        // A graph of a fixed length fails on the short row, which answers the question as well.
        let settled = match (self.encode_texts(&[PROBE]).await, padded.first()) {
            (Ok(short), Some(padded))
                if short.first().is_some_and(|short| super::similarity::cosine(short, padded) >= 0.9999) =>
            {
                Padding::Longest
            }
            _ => fixed,
        };
        if let Some(encoder) = &mut self.text {
            encoder.set_padding(settled);
        }
        Ok(settled)
    }

    /// The text encoder, if there is one.
    #[cfg(feature = "text")]
    pub fn text_encoder(&self) -> Option<&TextEncoder> {
        self.text.as_ref()
    }

    /// The picture pipeline, if the folder has one.
    pub fn preprocessor(&self) -> Option<&Preprocessor> {
        self.preprocessor.as_ref()
    }

    /// Everything besides the graphs that decides the vectors of pictures, in one canonical line: a
    /// part of the fingerprint.
    pub fn facts(&self) -> String {
        let pixels = self.preprocessor.as_ref().map_or_else(|| "none".into(), Preprocessor::facts);
        let pooling = self.pooling.map_or("none", Pooling::name);
        format!("pixels: {pixels}; pooling: {pooling}; unit length")
    }

    /// Vectors of pictures, of unit length.
    ///
    /// # Errors
    /// [`TaskError::Absent`] without image tower or preprocessing, [`TaskError::Image`] for a picture
    /// that cannot be brought to size, and whatever running the graph gives.
    pub async fn encode_images(&self, pictures: &[Pixels]) -> Result<Vec<Vec<f32>>, TaskError> {
        let preprocessor = self.preprocessor.as_ref().ok_or(TaskError::Absent("preprocessor_config.json"))?;
        let mut vectors = Vec::with_capacity(pictures.len());
        for (chunk_index, chunk) in pictures.chunks(self.batch).enumerate() {
            // One at a time, so that an error names the right picture.
            let mut batch = PixelBatch { data: Vec::new(), shape: [0; 4] };
            for (offset, pixels) in chunk.iter().enumerate() {
                let index = chunk_index * self.batch + offset;
                let one = preprocessor.process(pixels).map_err(|source| TaskError::Image { index, source })?;
                batch.append(one).map_err(|source| TaskError::Image { index, source })?;
            }
            vectors.extend(self.encode_pixels(batch).await?);
        }
        Ok(vectors)
    }

    /// Vectors of pictures that are preprocessed already, of unit length.
    ///
    /// # Errors
    /// [`TaskError::Absent`] without image tower, and whatever running the graph gives.
    pub async fn encode_pixels(&self, batch: PixelBatch) -> Result<Vec<Vec<f32>>, TaskError> {
        let (tower, graph) = match &self.graphs {
            Graphs::Separate { image: Some(graph), .. } => ("image", graph),
            Graphs::Joint(graph) => ("joint", graph),
            Graphs::Separate { image: None, .. } => return Err(TaskError::Absent("image tower")),
        };
        let count = batch.shape[0];
        let mut pixels = Some(batch);
        let mut inputs = Vec::with_capacity(graph.inputs().len());
        for name in graph.inputs() {
            let only = graph.inputs().len() == 1;
            let array = match name.as_str() {
                _ if only => pixel_array(pixels.take()),
                "pixel_values" => pixel_array(pixels.take()),
                // A joint graph wants some text too: the shortest there is.
                "attention_mask" => Some(HostArray::I64 { data: vec![1], shape: vec![1, 1] }),
                "input_ids" | "token_type_ids" | "position_ids" => {
                    Some(HostArray::I64 { data: vec![0], shape: vec![1, 1] })
                }
                _ => None,
            };
            let unknown = || TaskError::UnknownInput { tower, name: name.clone() };
            inputs.push((name.clone(), array.ok_or_else(unknown)?));
        }
        let output = self.choose(tower, graph, "image_embeds")?;
        self.run(tower, graph, inputs, output, count, None).await
    }

    /// Vectors of texts, of unit length.
    ///
    /// # Errors
    /// [`TaskError::Absent`] without text tower or tokenizer, [`TaskError::Text`], and whatever
    /// running the graph gives.
    #[cfg(feature = "text")]
    pub async fn encode_texts(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, TaskError> {
        let encoder = self.text.as_ref().ok_or(TaskError::Absent("tokenizer"))?;
        let mut vectors = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(self.batch) {
            vectors.extend(self.encode_tokens(&encoder.encode(chunk)?).await?);
        }
        Ok(vectors)
    }

    /// Vectors of texts that are tokenized already, of unit length.
    ///
    /// # Errors
    /// [`TaskError::Absent`] without text tower, and whatever running the graph gives.
    pub async fn encode_tokens(&self, tokens: &TokenBatch) -> Result<Vec<Vec<f32>>, TaskError> {
        let (tower, graph) = self.text_graph().ok_or(TaskError::Absent("text tower"))?;
        let shape = tokens.shape().to_vec();
        let integers = |data: Vec<i64>| HostArray::I64 { data, shape: shape.clone() };
        let mut inputs = Vec::with_capacity(graph.inputs().len());
        for name in graph.inputs() {
            let only = graph.inputs().len() == 1;
            let array = match name.as_str() {
                _ if only => integers(tokens.input_ids.clone()),
                "input_ids" => integers(tokens.input_ids.clone()),
                "attention_mask" => integers(tokens.attention_mask.clone()),
                "token_type_ids" => integers(vec![0; tokens.input_ids.len()]),
                "position_ids" => integers(positions(tokens)),
                // A joint graph wants a picture too: a black one.
                "pixel_values" => {
                    let size = self.preprocessor.as_ref().and_then(Preprocessor::output_size);
                    let [height, width] = size.ok_or(TaskError::Absent("picture size"))?;
                    let (height, width) = (height as usize, width as usize);
                    let data = vec![0.0; 3 * height * width];
                    HostArray::F32 { data, shape: vec![1, 3, height, width] }
                }
                _ => {
                    return Err(TaskError::UnknownInput { tower, name: name.clone() });
                }
            };
            inputs.push((name.clone(), array));
        }
        let output = self.choose(tower, graph, "text_embeds")?;
        self.run(tower, graph, inputs, output, tokens.texts, Some(tokens)).await
    }

    fn text_graph(&self) -> Option<(&'static str, &T)> {
        match &self.graphs {
            Graphs::Separate { text, .. } => text.as_ref().map(|graph| ("text", graph)),
            Graphs::Joint(graph) => Some(("joint", graph)),
        }
    }

    /// The output that is, or pools to, the embedding. A pooling that the folder states goes before
    /// `pooler_output`, which in such models is a head of the pre-training.
    fn choose<'a>(
        &self,
        tower: &'static str,
        graph: &'a T,
        projected: &str,
    ) -> Result<(&'a str, Option<Pooling>), TaskError> {
        let outputs = graph.outputs();
        let has = |wanted: &str| outputs.iter().find(|name| *name == wanted).map(String::as_str);
        let pooled = self.pooling.and_then(|pooling| {
            has("last_hidden_state").or_else(|| has("token_embeddings")).map(|name| (name, Some(pooling)))
        });
        has(projected)
            .or_else(|| has("sentence_embedding"))
            .map(|name| (name, None))
            .or(pooled)
            .or_else(|| has("pooler_output").map(|name| (name, None)))
            .ok_or_else(|| TaskError::NoEmbedding { tower, outputs: outputs.to_vec() })
    }

    async fn run(
        &self,
        tower: &'static str,
        graph: &T,
        inputs: Vec<(String, HostArray)>,
        (output, pooling): (&str, Option<Pooling>),
        count: usize,
        tokens: Option<&TokenBatch>,
    ) -> Result<Vec<Vec<f32>>, TaskError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let outputs = graph.run(inputs, &[output]).await.map_err(|source| TaskError::Run { tower, source })?;
        let unusable = |detail: String| TaskError::Output { tower, name: output.into(), detail };
        let (_, array) =
            outputs.iter().find(|(name, _)| name == output).ok_or_else(|| unusable("it is missing".into()))?;
        let (data, shape) = array.as_f32().ok_or_else(|| unusable("it holds integers".into()))?;
        let wrong_shape = || unusable(format!("{count} inputs gave the shape {shape:?}"));
        let mut vectors = match (pooling, shape) {
            (Some(pooling), &[texts, length, width]) if texts == count => {
                let ones;
                let mask = match tokens {
                    Some(tokens) => &tokens.attention_mask,
                    None => {
                        ones = vec![1; texts * length];
                        &ones
                    }
                };
                pooling
                    .pool(data, mask, [texts, length, width])
                    .map_err(|error: PoolingError| unusable(error.to_string()))?
            }
            // Convolutional towers pool to [batch, width, 1, 1].
            (None, &[rows, width, ref rest @ ..])
                if rows == count && width > 0 && rest.iter().all(|&dim| dim == 1) && data.len() == rows * width =>
            {
                data.chunks_exact(width).map(<[_]>::to_vec).collect()
            }
            _ => return Err(wrong_shape()),
        };
        vectors.iter_mut().for_each(|vector| normalise(vector));
        Ok(vectors)
    }
}

fn pixel_array(batch: Option<PixelBatch>) -> Option<HostArray> {
    batch.map(|batch| HostArray::F32 { data: batch.data, shape: batch.shape.to_vec() })
}

/// Positions from 0, counted from the first token that is not padding.
fn positions(tokens: &TokenBatch) -> Vec<i64> {
    let rows = tokens.attention_mask.chunks(tokens.length.max(1));
    rows.flat_map(|row| {
        let padding = row.iter().take_while(|&&mask| mask == 0).count();
        (0..row.len()).map(move |at| at.saturating_sub(padding) as i64)
    })
    .collect()
}

#[cfg(test)]
mod tests;
