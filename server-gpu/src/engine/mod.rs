//! What runs models: one trait, whatever is behind it.
//!
//! An engine is one model, loaded. Its *towers* take named tensors whose first dimension is the batch; its *writer* takes
//! conversations and gives text, one step at a time for all texts under way.

pub mod lenslet;
#[cfg(feature = "ort")]
pub mod ort;
pub mod remote;

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use ::lenslet::tensor::{DType, Tensor};

use crate::chat::ChatPrompt;
use crate::error::ServeError;

/// A future on the heap, as the trait's methods return them.
pub type Task<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An input or output of a tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the graph.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Sizes; `None` is chosen by each call.
    pub shape: Vec<Option<usize>>,
}

/// What a batch costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// One for each row: pictures.
    Rows,
    /// One for each token, padding included.
    Tokens,
}

/// A graph that turns a batch of inputs into a batch of outputs.
#[derive(Clone, Debug)]
pub struct TowerSpec {
    /// `image`, `text`, or `model` where one graph is all there is.
    pub name: String,
    /// What it takes.
    pub inputs: Vec<TensorSpec>,
    /// What it gives.
    pub outputs: Vec<TensorSpec>,
    /// What limits a batch.
    pub cost: Cost,
    /// Whether requests may share a batch: the first dimension of all inputs and outputs is free, and no row depends on
    /// another. A graph that quantizes activations while running finds one scale for a whole batch, so its rows do.
    pub joinable: bool,
}

impl TowerSpec {
    /// The input of this name.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// Works out [`TowerSpec::cost`] and [`TowerSpec::joinable`] from inputs and outputs; `dynamic` is whether the graph
    /// quantizes activations while running.
    pub fn new(name: impl Into<String>, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, dynamic: bool) -> TowerSpec {
        let tokens = |input: &TensorSpec| input.name == "input_ids" && input.shape.len() == 2;
        let cost = if inputs.iter().any(tokens) { Cost::Tokens } else { Cost::Rows };
        // An output's batch may be unknown to shape inference; it is checked when the output comes.
        let free = |spec: &TensorSpec| matches!(spec.shape.first(), Some(None));
        let joinable = !dynamic && !inputs.is_empty() && inputs.iter().all(free) && outputs.iter().all(free);
        TowerSpec { name: name.into(), inputs, outputs, cost, joinable }
    }
}

/// What a model does.
#[derive(Clone, Debug, Default)]
pub struct Specs {
    /// Its towers; empty where it only writes.
    pub towers: Vec<TowerSpec>,
    /// What it writes about, if it writes.
    pub writer: Option<WriterKind>,
    /// SHA-256 of the `tokenizer.json` behind the engine, where the engine says so.
    pub tokenizer: Option<String>,
    /// Whether the engine hands conversations on as they came ([`ChatPrompt::request`]): pictures are then not decoded here.
    pub hands_on: bool,
}

/// What a model needs to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterKind {
    /// A picture; words are not read.
    Captioner,
    /// A picture and a question.
    Answerer,
    /// Words alone.
    Text,
    /// Whatever the server behind takes.
    Any,
}

/// One run of a tower.
#[derive(Debug)]
pub struct TowerCall {
    /// Its place in [`Specs::towers`].
    pub tower: usize,
    /// All its inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// The outputs that are wanted.
    pub outputs: Vec<String>,
}

/// The sizes to warm up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Rows of a batch; one where rows do not share a batch.
    pub rows: usize,
    /// Height and width of pictures.
    pub picture: [usize; 2],
    /// Tokens of a text.
    pub tokens: usize,
}

impl WarmUp {
    /// Inputs of this size for a tower: zeros, with masks that leave nothing out.
    ///
    /// # Errors
    /// A size beyond what memory can hold.
    pub fn inputs(&self, tower: &TowerSpec) -> Result<Vec<(String, Tensor)>, ServeError> {
        let rows = if tower.joinable { self.rows } else { 1 };
        tower.inputs.iter().map(|input| Ok((input.name.clone(), self.input(input, rows)?))).collect()
    }

    fn input(&self, spec: &TensorSpec, rows: usize) -> Result<Tensor, ServeError> {
        let free = |axis: usize| match (spec.shape.len(), axis) {
            (_, 0) => rows,
            (4, 1) => 3,
            (4, axis) => self.picture[axis - 2],
            _ => self.tokens,
        };
        let shape: Vec<usize> =
            spec.shape.iter().enumerate().map(|(axis, size)| size.unwrap_or_else(|| free(axis))).collect();
        let failed = |e: ::lenslet::tensor::TensorError| ServeError::internal("warm_up", e.to_string());
        let count = ::lenslet::tensor::element_count(&shape).map_err(failed)?;
        let tensor = match spec.dtype {
            DType::I64 if spec.name == "attention_mask" => Tensor::from_slice(&shape, &vec![1i64; count]),
            dtype => Tensor::from_bytes(dtype, &shape, &vec![0u8; count * dtype.size()]),
        };
        tensor.map_err(failed)
    }
}

/// A text under way. What is in it, its engine knows.
pub struct Slot(pub Box<dyn Any + Send>);

/// What one step gave a text.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// New text; may be empty.
    pub text: String,
    /// The ids of the tokens that it came from, where the engine knows them.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens written so far.
    pub completion_tokens: usize,
    /// `stop` or `length` with the last step.
    pub finish: Option<&'static str>,
}

/// One model, loaded. Methods never block the caller's thread: what computes does so on threads of its own.
pub trait Engine: Send + Sync + 'static {
    /// `lenslet`, `ort` or `remote`.
    fn name(&self) -> &'static str;

    /// Where it computes, for people.
    fn device(&self) -> String;

    /// What the model does.
    fn specs(&self) -> &Specs;

    /// Bytes of device memory that are held, where the device is not the host.
    fn device_bytes(&self) -> Option<u64> {
        None
    }

    /// Runs every tower once at these sizes, so that what is made at the first call (plans, packed weights, pipelines, device
    /// memory) is there when users come.
    fn warm_up(&self, sizes: WarmUp) -> Task<'_, Result<(), ServeError>> {
        Box::pin(async move {
            for (tower, spec) in self.specs().towers.iter().enumerate() {
                let outputs = spec.outputs.iter().map(|output| output.name.clone()).collect();
                self.run(TowerCall { tower, inputs: sizes.inputs(spec)?, outputs }).await?;
            }
            Ok(())
        })
    }

    /// Runs a tower. Returns the outputs in the order that the call names them.
    fn run(&self, call: TowerCall) -> Task<'_, Result<Vec<Tensor>, ServeError>>;

    /// Begins a text: reads the prompt.
    fn begin(&self, prompt: Arc<ChatPrompt>) -> Task<'_, Result<Slot, ServeError>>;

    /// Leads texts one step on, all of them or those that can go on without waiting. One answer a slot, in their order;
    /// `None` where nothing came yet. A slot whose answer was an error or its last step is not to be used again. Dropping a
    /// slot ends its text and frees its memory.
    fn decode_step<'a>(&'a self, slots: &'a mut [Slot]) -> Task<'a, Vec<Option<Result<Step, ServeError>>>>;
}

/// Runs what computes on a thread that may be blocked. A panic there is an error here.
pub(crate) async fn computing<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServeError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ServeError::internal("engine_panic", "the engine failed in an unforeseen way"))
}

/// A text is asked for a step behind its last one.
pub(crate) fn ended() -> ServeError {
    ServeError::internal("text_ended", "this text has ended")
}

/// Leads the texts in slots (each an `Option<T>`) one step on, one after the other: see [`lead_elsewhere`].
pub(crate) async fn step_elsewhere<T: Send + 'static>(
    slots: &mut [Slot],
    step: impl Fn(&mut T) -> Result<Step, ServeError> + Send + 'static,
) -> Vec<Option<Result<Step, ServeError>>> {
    lead_elsewhere(slots, move |texts: Vec<&mut T>| texts.into_iter().map(|text| Some(step(text))).collect()).await
}

/// Leads the texts in slots (each an `Option<T>`) one step on, on a thread that may be blocked: `lead` answers for each text that it is
/// handed, in their order. Texts move there and back; one that is lost there is an error in its slot.
pub(crate) async fn lead_elsewhere<T: Send + 'static>(
    slots: &mut [Slot],
    lead: impl FnOnce(Vec<&mut T>) -> Vec<Option<Result<Step, ServeError>>> + Send + 'static,
) -> Vec<Option<Result<Step, ServeError>>> {
    let mut taken: Vec<Option<T>> =
        slots.iter_mut().map(|slot| slot.0.downcast_mut::<Option<T>>().and_then(Option::take)).collect();
    let work = move || {
        let steps = lead(taken.iter_mut().flatten().collect());
        (taken, steps)
    };
    let (texts, steps) = match computing(work).await {
        Ok(stepped) => stepped,
        Err(error) => return slots.iter().map(|_| Some(Err(error.clone()))).collect(),
    };
    let mut steps = steps.into_iter();
    let put_back = |(slot, text): (&mut Slot, Option<T>)| {
        let Some(text) = text else { return Some(Err(ended())) };
        if let Some(place) = slot.0.downcast_mut::<Option<T>>() {
            *place = Some(text);
        }
        steps.next().flatten()
    };
    slots.iter_mut().zip(texts).map(put_back).collect()
}
