//! A text while it is written, one step a call.
//!
//! A stream borrows from its model. Both live in a task of their own, which waits for the next question and ends, with all that
//! it holds, once nobody can ask any more: so nothing here is self-referential, and a caller that lets go frees the caches.

use std::cell::RefCell;
use std::rc::Rc;

use futures_channel::{mpsc, oneshot};
use js_sys::{Object, Uint32Array};
use lenslet::tasks::writing::{TextStream, WritingError};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::spawn_local;

use super::Loaded;
use crate::convert;
use crate::device::Device;
use crate::error::WebError;

/// What one step gave.
struct Step {
    /// The next piece of text; nothing at the end.
    piece: Option<String>,
    /// The ids of the tokens that this step added.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    completion_tokens: usize,
    finish: Option<&'static str>,
}

type Question = oneshot::Sender<Result<Step, WebError>>;

/// A text while it is written.
#[wasm_bindgen]
pub struct TextStreamHandle {
    /// Empty once closed.
    questions: RefCell<Option<mpsc::UnboundedSender<Question>>>,
    ended: RefCell<Option<oneshot::Receiver<()>>>,
}

/// Something to write.
pub(super) trait Task<M>: 'static {
    /// Begins it on a model.
    async fn start(self, model: &M) -> Result<TextStream<'_>, WritingError>;
}

impl TextStreamHandle {
    /// Begins a text of a model.
    pub(super) async fn begin<M: 'static>(loaded: Rc<Loaded<M>>, task: impl Task<M>) -> Result<Self, WebError> {
        let (questions, asked) = mpsc::unbounded();
        let (begun, has_begun) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        spawn_local(async move {
            match task.start(&loaded.model).await {
                Ok(stream) => {
                    // Nobody listens if the page went away meanwhile; then no question comes either.
                    let _ = begun.send(Ok(()));
                    answer(stream, asked, &loaded.device).await;
                    loaded.device.free_unused();
                }
                Err(error) => {
                    let _ = begun.send(Err(loaded.device.explain(error)));
                }
            }
            let _ = end.send(());
        });
        has_begun.await.unwrap_or_else(|_| Err(closed()))?;
        Ok(Self { questions: RefCell::new(Some(questions)), ended: RefCell::new(Some(ended)) })
    }

    /// Writes the text to its end.
    pub(super) async fn run_through(&self) -> Result<(), WebError> {
        while self.step().await?.piece.is_some() {}
        Ok(())
    }

    async fn step(&self) -> Result<Step, WebError> {
        let (question, reply) = oneshot::channel();
        let sent = self.questions.borrow().as_ref().is_some_and(|questions| questions.unbounded_send(question).is_ok());
        if !sent {
            return Err(closed());
        }
        reply.await.unwrap_or_else(|_| Err(closed()))
    }
}

/// Answers until the text ends, a step fails or nobody asks any more. The stream is gone when it returns.
async fn answer(mut stream: TextStream<'_>, mut asked: mpsc::UnboundedReceiver<Question>, device: &Device) {
    let mut told = stream.tokens().len();
    while let Ok(question) = asked.recv().await {
        let step = stream.next().await.map_err(|error| device.explain(error)).map(|piece| {
            let usage = stream.usage();
            Step {
                piece,
                tokens: stream.tokens()[told..].to_vec(),
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                finish: stream.finish_reason(),
            }
        });
        told = stream.tokens().len();
        let last = step.as_ref().map_or(true, |step| step.piece.is_none());
        let _ = question.send(step);
        if last {
            return;
        }
    }
}

fn closed() -> WebError {
    WebError::run("stream_closed", "this text has ended")
}

#[wasm_bindgen]
impl TextStreamHandle {
    /// The next step: a piece of text, never empty and never half a character, or `null` at the end, which then says why
    /// (`stop` or `length`); the ids of the tokens that it added; the number of tokens of prompt and text so far.
    #[wasm_bindgen(
        unchecked_return_type = "{piece: string | null, tokens: Uint32Array, promptTokens: number, completionTokens: number, finish: 'stop' | 'length' | null}"
    )]
    pub async fn next(&self) -> Result<Object, JsValue> {
        let step = self.step().await?;
        let text = |text: Option<&str>| text.map_or(JsValue::NULL, JsValue::from_str);
        Ok(convert::object([
            ("piece", text(step.piece.as_deref())),
            ("tokens", Uint32Array::from(step.tokens.as_slice()).into()),
            ("promptTokens", step.prompt_tokens.into()),
            ("completionTokens", step.completion_tokens.into()),
            ("finish", text(step.finish)),
        ]))
    }

    /// Ends the text, behind a step that is under way. Its caches are free when this returns.
    pub async fn close(&self) {
        self.questions.borrow_mut().take();
        let ended = self.ended.borrow_mut().take();
        if let Some(ended) = ended {
            // The task sends as its last act; that it is gone already is as good.
            let _ = ended.await;
        }
    }
}
