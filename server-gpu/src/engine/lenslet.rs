//! The runtime itself as an engine: nothing needs to be installed.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use ::lenslet::error::{KernelError, RunError};
use ::lenslet::generate::{Decoder, SharedSteps};
use ::lenslet::gpu::Gpu;
use ::lenslet::graph::{Dim, Op};
use ::lenslet::onnx::ImportOptions;
use ::lenslet::tasks::writing::{Answerer, Captioner, TextGenerator, TextStream, WritingError};
use ::lenslet::tensor::Tensor;
use ::lenslet::{Session, SessionOptions, TensorInfo};
use lenslet_models::folder::{GraphFiles, ModelFolder, Precision};

use super::{Engine, Slot, Specs, Step, Task, TensorSpec, TowerCall, TowerSpec, WriterKind, computing, ended};
use crate::chat::ChatPrompt;
use crate::error::ServeError;
use crate::hosted::Form;
use crate::metrics;

/// A model in the Lenslet runtime.
pub struct LensletEngine {
    inner: Arc<Inner>,
}

struct Inner {
    towers: Vec<Session>,
    writer: Option<Writer>,
    /// Where texts leave their steps, if the decoder's texts share runs.
    shared: Option<Arc<SharedSteps>>,
    specs: Specs,
    device: &'static str,
    gpu: Option<Gpu>,
}

enum Writer {
    Captioner(Box<Captioner>),
    Answerer(Box<Answerer>),
    Text(Box<TextGenerator>),
}

impl LensletEngine {
    /// Loads a model's folder.
    ///
    /// # Errors
    /// What is wrong with the folder or its graphs, with the code of the runtime's error.
    pub fn load(
        folder: &ModelFolder,
        form: Form,
        precision: Precision,
        options: &SessionOptions,
    ) -> Result<LensletEngine, ServeError> {
        let device = if options.gpu.is_some() { "gpu" } else { "cpu" };
        let (specs, gpu) = (Specs::default(), options.gpu.clone());
        let mut inner = Inner { towers: vec![], writer: None, shared: None, specs, device, gpu };
        let failed = |e: lenslet_models::writing::WriterError| ServeError::internal(e.kind(), e.to_string());
        let writer = match form {
            Form::Towers => None,
            Form::Captioner => {
                let captioner = lenslet_models::writing::load_captioner(folder, precision, options).map_err(failed)?;
                Some((Writer::Captioner(Box::new(captioner)), WriterKind::Captioner))
            }
            Form::Answerer => {
                let answerer = lenslet_models::answerer::load_answerer(folder, precision, options).map_err(failed)?;
                Some((Writer::Answerer(Box::new(answerer)), WriterKind::Answerer))
            }
            Form::Text => {
                let text = lenslet_models::writing::load_text_generator(folder, precision, options).map_err(failed)?;
                Some((Writer::Text(Box::new(text)), WriterKind::Text))
            }
        };
        if let Some((writer, kind)) = writer {
            inner.shared = (writer.decoder().most_together() > 1).then(SharedSteps::new);
            inner.writer = Some(writer);
            inner.specs.writer = Some(kind);
        } else {
            let files = folder.graphs(precision).map_err(|e| ServeError::internal(e.kind(), e.to_string()))?;
            for (name, path) in tower_files(&files) {
                let session = open(path, options)?;
                inner.specs.towers.push(spec(name, &session));
                inner.towers.push(session);
            }
        }
        Ok(LensletEngine { inner: Arc::new(inner) })
    }
}

/// The graph files of the towers, by the names that towers go by here.
pub(crate) fn tower_files(files: &GraphFiles) -> Vec<(&'static str, &Path)> {
    use lenslet_models::folder::Role;
    let name = |role| match role {
        Role::Image => "image",
        Role::Text => "text",
        Role::Whole => "model",
    };
    files.all().into_iter().map(|(role, path)| (name(role), path)).collect()
}

fn open(path: &Path, options: &SessionOptions) -> Result<Session, ServeError> {
    Session::from_file(path, &ImportOptions::default(), options.clone())
        .map_err(|e| ServeError::internal(e.kind(), format!("{}: {e}", path.display())))
}

fn tensor_spec(info: &TensorInfo) -> TensorSpec {
    let size = |dim: &Dim| dim.as_const().and_then(|n| usize::try_from(n).ok());
    TensorSpec { name: info.name.to_string(), dtype: info.dtype, shape: info.shape.iter().map(size).collect() }
}

/// What a session takes and gives.
fn spec(name: &str, session: &Session) -> TowerSpec {
    let list = |infos: &[TensorInfo]| infos.iter().map(tensor_spec).collect();
    let dynamic = session.operators().any(|op| matches!(op, Op::DynamicQuantizeLinear));
    TowerSpec::new(name, list(session.inputs()), list(session.outputs()), dynamic)
}

/// What is wrong with a run. Inputs that do not fit are the caller's to mend.
fn run_error(error: RunError) -> ServeError {
    let callers = match &error {
        RunError::MissingInput { .. }
        | RunError::UnknownInput { .. }
        | RunError::InputMismatch { .. }
        | RunError::UnknownOutput { .. }
        | RunError::Shape { .. } => true,
        RunError::Kernel { source, .. } => matches!(source, KernelError::Invalid(_) | KernelError::OutOfRange(_)),
        _ => false,
    };
    let (kind, message) = (error.kind(), error.to_string());
    if callers { ServeError::bad_request(kind, message) } else { ServeError::internal(kind, message) }
}

/// What is wrong with a text.
pub(crate) fn writing_error(error: WritingError) -> ServeError {
    let (kind, message) = (error.kind(), error.to_string());
    match error {
        WritingError::Encoder(error) => run_error(error),
        WritingError::Decoder(ref decoder) if !matches!(decoder.kind(), "context_full" | "unknown_token") => {
            ServeError::internal(kind, message)
        }
        WritingError::Config(_) | WritingError::Detokenize(_) | WritingError::Incomplete(_) => {
            ServeError::internal(kind, message)
        }
        _ => ServeError::bad_request(kind, message),
    }
}

impl Engine for LensletEngine {
    fn name(&self) -> &'static str {
        "lenslet"
    }

    fn device(&self) -> String {
        self.inner.device.to_owned()
    }

    fn specs(&self) -> &Specs {
        &self.inner.specs
    }

    fn device_bytes(&self) -> Option<u64> {
        self.inner.gpu.as_ref().map(|gpu| gpu.memory().allocated)
    }

    fn run(&self, call: TowerCall) -> Task<'_, Result<Vec<Tensor>, ServeError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            computing(move || {
                let session = inner.towers.get(call.tower);
                let session =
                    session.ok_or_else(|| ServeError::internal("tower_absent", "the model has no such tower"))?;
                let inputs: Vec<(&str, Tensor)> =
                    call.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
                let outputs: Vec<&str> = call.outputs.iter().map(String::as_str).collect();
                pollster::block_on(session.run_for(&inputs, &outputs)).map_err(run_error)
            })
            .await?
        })
    }

    fn begin(&self, prompt: Arc<ChatPrompt>) -> Task<'_, Result<Slot, ServeError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let mut writing = Writing::new(inner, prompt);
            let (writing, begun) = computing(move || {
                let begun = writing.advance();
                (writing, begun)
            })
            .await?;
            // The first step only says that the prompt is read.
            begun.map(|_| Slot(Box::new(Some(writing))))
        })
    }

    fn decode_step<'a>(&'a self, slots: &'a mut [Slot]) -> Task<'a, Vec<Option<Result<Step, ServeError>>>> {
        let inner = self.inner.clone();
        Box::pin(super::lead_elsewhere(slots, move |texts: Vec<&mut Writing>| inner.lead(texts)))
    }
}

impl Inner {
    /// Leads texts one step on: together where they share runs of the decoder.
    fn lead(&self, mut texts: Vec<&mut Writing>) -> Vec<Option<Result<Step, ServeError>>> {
        let (Some(shared), Some(writer)) = (&self.shared, &self.writer) else {
            return texts.into_iter().map(|text| Some(text.advance())).collect();
        };
        // A text that needs no step (its first token comes with its prompt) goes on; the others leave theirs.
        let mut steps: Vec<_> = texts.iter_mut().map(|text| text.go_on()).collect();
        let runs = pollster::block_on(shared.run(writer.decoder()));
        runs.iter().for_each(|texts| metrics::decoder_run(*texts));
        for (text, step) in texts.into_iter().zip(&mut steps).filter(|(_, step)| step.is_none()) {
            // What has left a step again has half a character, or what may be a stop string: nothing to tell yet.
            *step = if runs.is_empty() { Some(text.advance()) } else { text.go_on() };
        }
        steps
    }
}

/// A text and the model that it borrows from: a future that leaves a step on the table each time it is polled on.
struct Writing {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    table: Table,
}

/// Where a step lies until it is taken.
type Table = Arc<Mutex<Option<Result<Step, ServeError>>>>;

fn take(table: &Table) -> Option<Result<Step, ServeError>> {
    table.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Leaves a step and waits until somebody asks for the next.
async fn leave(table: &Table, step: Result<Step, ServeError>) {
    *table.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    let mut left = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut left, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

impl Writing {
    fn new(inner: Arc<Inner>, prompt: Arc<ChatPrompt>) -> Writing {
        let table = Table::default();
        let there = table.clone();
        let future = async move {
            let stream = match &inner.writer {
                Some(writer) => writer.begin(&prompt).await,
                None => Err(ServeError::bad_request("model_task", "this model does not write text")),
            };
            match stream {
                Ok(mut stream) => {
                    inner.shared.iter().for_each(|shared| stream.share_steps(shared));
                    write(stream, &there).await
                }
                Err(error) => leave(&there, Err(error)).await,
            }
        };
        Writing { future: Box::pin(future), table }
    }

    /// Computes up to the next step.
    fn advance(&mut self) -> Result<Step, ServeError> {
        // A GPU that is waited for leaves nothing on the table.
        pollster::block_on(std::future::poll_fn(|cx| self.poll(cx)))
    }

    /// Goes on as far as it can without waiting: the next step, or `None` if it waits for a step that it shares.
    fn go_on(&mut self) -> Option<Result<Step, ServeError>> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(step) => Some(step),
            Poll::Pending => None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, ServeError>> {
        let ended = self.future.as_mut().poll(cx).is_ready();
        match take(&self.table) {
            Some(step) => Poll::Ready(step),
            None if ended => Poll::Ready(Err(self::ended())),
            None => Poll::Pending,
        }
    }
}

/// Writes a text to its end.
async fn write(mut stream: TextStream<'_>, table: &Table) {
    leave(table, Ok(Step::default())).await;
    let mut told = stream.tokens().len();
    loop {
        let piece = stream.next().await;
        let usage = stream.usage();
        let step = piece.map_err(writing_error).map(|piece| Step {
            finish: piece.is_none().then(|| stream.finish_reason().unwrap_or("stop")),
            text: piece.unwrap_or_default(),
            tokens: stream.tokens()[told..].to_vec(),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
        });
        told = stream.tokens().len();
        let over = step.as_ref().map_or(true, |step| step.finish.is_some());
        leave(table, step).await;
        if over {
            return;
        }
    }
}

impl Writer {
    fn decoder(&self) -> &Decoder {
        match self {
            Writer::Captioner(model) => model.decoder(),
            Writer::Answerer(model) => model.decoder(),
            Writer::Text(model) => model.decoder(),
        }
    }

    /// Begins the text that a prompt asks for.
    async fn begin(&self, prompt: &ChatPrompt) -> Result<TextStream<'_>, ServeError> {
        let folder = match self {
            Writer::Captioner(model) => model.sampling(),
            Writer::Answerer(model) => model.sampling(),
            Writer::Text(model) => model.sampling(),
        };
        let options = prompt.options(folder.map_err(writing_error)?);
        let stream = match self {
            Writer::Captioner(model) => model.caption(prompt.picture()?, &options).await,
            Writer::Answerer(model) => model.ask(prompt.picture()?, &prompt.question(), &options).await,
            Writer::Text(model) => {
                prompt.no_picture()?;
                if model.can_chat() {
                    model.chat(&prompt.messages(), &options).await
                } else {
                    model.complete(&prompt.question(), &options).await
                }
            }
        };
        stream.map_err(writing_error)
    }
}
