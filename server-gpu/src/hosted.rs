//! Models that this server answers for: an engine, and what turns requests into tensors and tensors into answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lenslet::tasks::classify::Scoring;
use lenslet::tasks::config::Side;
use lenslet::tasks::dual_tower::{DualTower, Graphs, TaskError};
use lenslet::tasks::image::{PixelBatch, Pixels, Preprocessor};
use lenslet::tasks::text::TextEncoder;
use lenslet::tasks::tokens::TokenBatch;
use lenslet::tasks::tower::{HostArray, Tower, TowerFailure, into_tensors, named};
use lenslet_models::folder::{ModelFolder, Precision};

use crate::chat::{ChatPrompt, Turn};
use crate::engine::{Cost, Engine, TowerSpec, WarmUp, WriterKind};
use crate::error::{Reason, ServeError};
use crate::schedule::decode::DecodeLoop;
use crate::schedule::{Scheduler, TowerJob};

/// What a folder holds, by the names of its graph files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Towers that give vectors.
    Towers,
    /// An image encoder and a decoder that attends to it.
    Captioner,
    /// An image encoder and a decoder that reads questions.
    Answerer,
    /// A decoder of text.
    Text,
}

impl Form {
    /// Looks at the files.
    ///
    /// # Errors
    /// The folder cannot be read, or has no graph of that precision.
    pub fn of(folder: &ModelFolder, precision: Precision) -> Result<Form, ServeError> {
        let has = |stem| {
            let file = folder.file(stem, precision);
            file.map(|file| file.is_some()).map_err(|e| ServeError::internal(e.kind(), e.to_string()))
        };
        if has("vision_encoder")? {
            return Ok(Form::Answerer);
        }
        if has("encoder_model")? {
            // A template of conversations means that the decoder was trained on questions.
            let template = [Path::new("chat_template.jinja"), Path::new("chat_template.json")];
            let answers = template.iter().any(|file| folder.path().join(file).is_file());
            return Ok(if answers { Form::Answerer } else { Form::Captioner });
        }
        if has("decoder_model_merged")? || has("decoder_model")? {
            return Ok(Form::Text);
        }
        if has("vision_model")? || has("text_model")? {
            return Ok(Form::Towers);
        }
        // One graph: with settings for generation beside it, it writes.
        let writes = folder.path().join("generation_config.json").is_file();
        Ok(if writes { Form::Text } else { Form::Towers })
    }
}

/// A tower whose runs are queued with those of other requests.
pub struct QueuedTower {
    engine: Arc<dyn Engine>,
    scheduler: Arc<Scheduler>,
    tower: usize,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl QueuedTower {
    fn new(engine: &Arc<dyn Engine>, scheduler: &Arc<Scheduler>, tower: usize, spec: &TowerSpec) -> QueuedTower {
        QueuedTower {
            engine: engine.clone(),
            scheduler: scheduler.clone(),
            tower,
            inputs: spec.inputs.iter().map(|input| input.name.clone()).collect(),
            outputs: spec.outputs.iter().map(|output| output.name.clone()).collect(),
        }
    }
}

impl Tower for QueuedTower {
    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    async fn run(
        &self,
        inputs: Vec<(String, HostArray)>,
        outputs: &[&str],
    ) -> Result<Vec<(String, HostArray)>, TowerFailure> {
        let spec = &self.engine.specs().towers[self.tower];
        let inputs = into_tensors(inputs, |name| spec.input(name).map(|input| input.dtype))?;
        let wanted: Vec<String> = outputs.iter().map(|&name| name.to_owned()).collect();
        let job = TowerJob { engine: self.engine.clone(), tower: self.tower, inputs, outputs: wanted };
        let results = self.scheduler.submit(job).await?;
        Ok(named(outputs, &results))
    }
}

/// What is wrong with a vector: the queue's own errors come through the runtime's unchanged.
pub fn task_error(error: TaskError) -> ServeError {
    let (kind, message) = (error.kind(), error.to_string());
    match error {
        TaskError::Run { source, .. } => match source.downcast::<ServeError>() {
            Ok(error) => *error,
            Err(_) => ServeError::internal(kind, message),
        },
        TaskError::Image { .. } | TaskError::Text(_) => ServeError::bad_request(kind, message),
        TaskError::Absent(what) => {
            ServeError::bad_request(kind, format!("this model has no {what}; ask another one")).at("input")
        }
        _ => ServeError::internal(kind, message),
    }
}

/// A model that this server answers for.
pub struct Hosted {
    /// The name that requests ask for it by.
    pub name: String,
    /// What identifies its vectors: weights, precision and preprocessing.
    pub fingerprint: String,
    /// SHA-256 of its `tokenizer.json`, if it writes: texts go on elsewhere by their tokens where this is equal.
    pub tokenizer: Option<String>,
    /// How similarities become probabilities, if it gives vectors of pictures and texts.
    pub scoring: Option<Scoring>,
    /// When it was loaded, in seconds since 1970.
    pub loaded: u64,
    /// Length of its vectors, if it gives any.
    pub dimensions: Option<usize>,
    /// What runs it.
    pub engine: Arc<dyn Engine>,
    /// Queues its runs.
    pub scheduler: Arc<Scheduler>,
    /// Its towers with their preprocessing, if it gives vectors.
    pub dual: Option<DualTower<QueuedTower>>,
    /// Texts are filled to a multiple of so many tokens, so that those of about one length share a batch.
    pub bucket: Option<usize>,
    /// Its texts under way, if it writes.
    pub decoding: Option<DecodeLoop>,
}

impl Hosted {
    /// Puts an engine and the folder's configuration together, and warms both up with batches of `rows`.
    ///
    /// # Errors
    /// What the folder lacks, or what the engine says at its first run.
    pub async fn new(
        folder: Option<&ModelFolder>,
        name: String,
        fingerprint: String,
        engine: Arc<dyn Engine>,
        scheduler: Arc<Scheduler>,
        rows: usize,
        slots: usize,
    ) -> Result<Hosted, ServeError> {
        let (mut dual, mut dimensions, mut bucket) = (None, None, None);
        let specs = engine.specs();
        if let Some(folder) = folder.filter(|_| !specs.towers.is_empty()) {
            let tower = |name: &str| {
                let at = specs.towers.iter().position(|tower| tower.name == name)?;
                Some(QueuedTower::new(&engine, &scheduler, at, &specs.towers[at]))
            };
            let graphs = match tower("model") {
                Some(whole) => by_inputs(whole),
                None => Graphs::Separate { image: tower("image"), text: tower("text") },
            };
            let reads = matches!(&graphs, Graphs::Separate { text: Some(_), .. } | Graphs::Joint(_));
            let mut towers = DualTower::new(graphs, folder.config()).map_err(task_error)?;
            if reads {
                let tokenizer = folder.tokenizer().map_err(|e| ServeError::internal(e.kind(), e.to_string()))?;
                towers = towers.with_tokenizer(&tokenizer, folder.config()).map_err(task_error)?;
            }
            let picture = towers.preprocessor().and_then(|p| p.output_size()).unwrap_or([224, 224]);
            let tokens = towers.text_encoder().and_then(|t| t.context_length()).unwrap_or(16).min(512);
            engine.warm_up(WarmUp { rows, picture: picture.map(|n| n as usize), tokens }).await?;
            // The first vector shows their length, and that all parts fit together.
            let vector = if reads {
                towers.settle_padding().await.map_err(task_error)?;
                one(towers.encode_texts(&["a photo of a cat"]).await)?
            } else {
                let [height, width] = picture.map(|n| n as usize);
                let black = PixelBatch { data: vec![0.0; 3 * height * width], shape: [1, 3, height, width] };
                one(towers.encode_pixels(black).await)?
            };
            dimensions = Some(vector.len());
            bucket = bucket_of(&specs.towers, folder);
            dual = Some(towers);
        }
        if let Some(kind) = specs.writer.filter(|_| !specs.hands_on) {
            warm_up_writer(&*engine, kind).await?;
        }
        let tokenizer = match folder.filter(|_| specs.writer.is_some()) {
            Some(folder) => folder.tokenizer().ok().map(|file| crate::cache::hexadecimal(&crate::cache::digest(&file))),
            None => specs.tokenizer.clone(),
        };
        let decoding = specs.writer.map(|_| DecodeLoop::start(engine.clone(), scheduler.clone(), slots));
        let loaded = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Ok(Hosted {
            name,
            fingerprint,
            tokenizer,
            scoring: folder.filter(|_| dual.is_some()).map(|folder| Scoring::from_config(&folder.config().model)),
            loaded: loaded.as_secs(),
            dimensions,
            engine,
            scheduler,
            dual,
            bucket,
            decoding,
        })
    }

    /// The towers.
    ///
    /// # Errors
    /// The model gives no vectors.
    pub fn towers(&self) -> Result<&DualTower<QueuedTower>, ServeError> {
        self.dual.as_ref().ok_or_else(|| {
            let what =
                format!("{} writes text and gives no embeddings; GET /v1/models lists what each does", self.name);
            ServeError::bad_request("model_task", what).at("model")
        })
    }

    /// The texts under way.
    ///
    /// # Errors
    /// The model does not write.
    pub fn writer(&self) -> Result<&DecodeLoop, ServeError> {
        self.decoding.as_ref().ok_or_else(|| {
            let what = format!("{} gives embeddings and does not chat; GET /v1/models lists what each does", self.name);
            ServeError::bad_request("model_task", what).at("model")
        })
    }

    /// What brings pictures to size.
    ///
    /// # Errors
    /// The model takes none.
    pub fn preprocessor(&self) -> Result<&Preprocessor, ServeError> {
        self.towers()?.preprocessor().ok_or_else(|| {
            ServeError::bad_request("tower_absent", format!("{} does not take pictures", self.name)).at("input")
        })
    }

    /// What turns texts into tokens.
    ///
    /// # Errors
    /// The model takes none.
    pub fn text_encoder(&self) -> Result<&TextEncoder, ServeError> {
        self.towers()?.text_encoder().ok_or_else(|| {
            ServeError::bad_request("tower_absent", format!("{} does not take texts", self.name)).at("input")
        })
    }

    /// The vector of a picture in the size that the graph takes.
    ///
    /// # Errors
    /// See [`task_error`].
    pub async fn embed_pixels(&self, pixels: PixelBatch) -> Result<Vec<f32>, ServeError> {
        one(self.towers()?.encode_pixels(pixels).await)
    }

    /// The vector of a tokenized text.
    ///
    /// # Errors
    /// See [`task_error`].
    pub async fn embed_tokens(&self, tokens: &TokenBatch) -> Result<Vec<f32>, ServeError> {
        one(self.towers()?.encode_tokens(tokens).await)
    }
}

/// See [`Hosted::bucket`].
const BUCKET: usize = 8;

/// Where filling changes nothing but the time: rows share batches, a mask tells the graph what is filled, and it is filled behind.
fn bucket_of(towers: &[TowerSpec], folder: &ModelFolder) -> Option<usize> {
    let text = towers.iter().find(|tower| tower.cost == Cost::Tokens)?;
    let behind = folder.config().tokenizer.padding_side == Side::Right;
    (text.joinable && text.input("attention_mask").is_some() && behind).then_some(BUCKET)
}

/// Writes two tokens, so that what is made at the first prompt and at the first step is there when users come, and a model that
/// cannot write is found at the start.
async fn warm_up_writer(engine: &dyn Engine, kind: WriterKind) -> Result<(), ServeError> {
    let grey = Pixels::from_rgb(64, 64, vec![127; 3 * 64 * 64]);
    let grey = grey.map_err(|e| ServeError::internal(e.kind(), e.to_string()))?;
    let prompt = ChatPrompt {
        turns: vec![Turn { role: "user".into(), text: "Hello".into(), pictures: 0 }],
        pictures: if kind == WriterKind::Text { vec![] } else { vec![grey] },
        max_tokens: Some(2),
        ..ChatPrompt::default()
    };
    let mut slots = [engine.begin(Arc::new(prompt)).await?];
    loop {
        match engine.decode_step(&mut slots).await.pop().flatten() {
            Some(Ok(step)) if step.finish.is_some() => return Ok(()),
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => {}
        }
    }
}

fn one(vectors: Result<Vec<Vec<f32>>, TaskError>) -> Result<Vec<f32>, ServeError> {
    let vector = vectors.map_err(task_error)?.pop();
    let vector = vector.ok_or_else(|| ServeError::internal("tower_output", "the tower gave no vector"))?;
    if vector.iter().any(|x| !x.is_finite()) {
        return Err(ServeError::internal("not_a_number", "the tower gave a vector that holds no numbers"));
    }
    Ok(vector)
}

/// A single graph is a joint one if it takes pictures and texts, else the tower of what it takes.
fn by_inputs(tower: QueuedTower) -> Graphs<QueuedTower> {
    let takes = |name: &str| tower.inputs.iter().any(|input| input == name);
    match (takes("pixel_values"), takes("input_ids")) {
        (true, true) => Graphs::Joint(tower),
        (false, true) => Graphs::Separate { image: None, text: Some(tower) },
        _ => Graphs::Separate { image: Some(tower), text: None },
    }
}

/// All models of a server, by name.
#[derive(Default)]
pub struct Models {
    list: Vec<Arc<Hosted>>,
}

impl Models {
    /// Adds a model.
    ///
    /// # Errors
    /// The name is taken.
    pub fn add(&mut self, model: Hosted) -> Result<(), ServeError> {
        if self.list.iter().any(|other| other.name == model.name) {
            let what = format!("there are two models called {}; give one of them another name (NAME=DIR)", model.name);
            return Err(ServeError::internal("model_name", what));
        }
        self.list.push(Arc::new(model));
        Ok(())
    }

    /// All, in the order of the command line.
    pub fn all(&self) -> &[Arc<Hosted>] {
        &self.list
    }

    /// The one of this name. Names are looked up among those loaded and never touch the file system.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> Result<&Arc<Hosted>, ServeError> {
        self.list.iter().find(|model| model.name == name).ok_or_else(|| {
            let known = self.list.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
            let shown: String = name.chars().take(100).collect();
            let what = format!("there is no model {shown:?} here; there are {known}");
            ServeError::new(Reason::NotFound, "model_not_found", what).at("model")
        })
    }
}
