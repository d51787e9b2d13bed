//! Texts under way, led together: they join and leave at each step.
//!
//! Between two steps of those that are being written, at most one prompt is read, so that a long prompt holds the others up
//! by its own length at most, and a burst of prompts does not starve them. What a step costs, and whether texts share its
//! products, is the engine's matter.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::{Instrument as _, Span};

use super::Scheduler;
use crate::chat::ChatPrompt;
use crate::context::Context;
use crate::engine::{Engine, Slot, Step};
use crate::error::ServeError;
use crate::metrics;
use crate::telemetry::spans;

/// Steps that wait for a slow client before its text pauses: no more memory than this is spent on it.
const STEPS_AHEAD: usize = 64;

/// A text that somebody asked for.
struct Request {
    prompt: Arc<ChatPrompt>,
    context: Context,
    arrived: Instant,
    steps: mpsc::Sender<Result<Step, ServeError>>,
    /// The span of the request that it serves.
    span: Span,
    /// Its span while it waits, then while it is written.
    stage: Span,
    tokens: usize,
    /// Counts it until it is gone.
    _counted: Counted,
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Counts one more, unless there are `most`.
    fn new(count: &Arc<AtomicUsize>, most: usize) -> Option<Counted> {
        let more = |n: usize| (n < most).then_some(n + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Counted(count.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The texts of one model.
pub struct DecodeLoop {
    requests: mpsc::UnboundedSender<Request>,
    /// Texts that wait or are under way.
    count: Arc<AtomicUsize>,
    most: usize,
    scheduler: Arc<Scheduler>,
}

/// A text while it is written. Dropping it ends it.
pub struct Writing {
    steps: mpsc::Receiver<Result<Step, ServeError>>,
    deadline: Option<Instant>,
}

impl Writing {
    /// The next step, or `None` behind the last one.
    pub async fn next(&mut self) -> Option<Result<Step, ServeError>> {
        match self.deadline {
            None => self.steps.recv().await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), self.steps.recv()).await {
                Ok(step) => step,
                Err(_) => Some(Err(ServeError::deadline())),
            },
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // Known to the span of its writing only.
        spans::written(&self.stage, self.tokens);
    }
}

impl DecodeLoop {
    /// Leads up to `slots` texts of this engine at once.
    pub fn start(engine: Arc<dyn Engine>, scheduler: Arc<Scheduler>, slots: usize) -> DecodeLoop {
        let (requests, incoming) = mpsc::unbounded_channel();
        let most = slots.max(1) + scheduler.limits().max_queue;
        tokio::spawn(lead(engine, scheduler.clone(), slots.max(1), incoming));
        DecodeLoop { requests, count: Arc::default(), most, scheduler }
    }

    /// Queues a text.
    ///
    /// # Errors
    /// `Overloaded` if too many wait.
    pub fn submit(&self, prompt: ChatPrompt) -> Result<Writing, ServeError> {
        let counted = Counted::new(&self.count, self.most);
        let counted = counted.ok_or_else(|| ServeError::overloaded(self.scheduler.wait()))?;
        let (sender, steps) = mpsc::channel(STEPS_AHEAD);
        let context = Context::current();
        let (arrived, prompt) = (Instant::now(), Arc::new(prompt));
        let (span, stage) = (Span::current(), spans::queue(self.count.load(Ordering::Relaxed)));
        let request = Request { prompt, context, arrived, steps: sender, span, stage, tokens: 0, _counted: counted };
        self.requests.send(request).map_err(|_| ServeError::draining())?;
        Ok(Writing { steps, deadline: context.deadline })
    }
}

/// Texts under way: the engine's slots, and beside each who reads it.
#[derive(Default)]
struct Active {
    slots: Vec<Slot>,
    readers: Vec<Request>,
}

impl Active {
    fn remove(&mut self, at: usize) {
        self.slots.swap_remove(at);
        self.readers.swap_remove(at);
    }

    /// Ends texts that nobody reads any more, or whose time is up.
    fn drop_abandoned(&mut self) {
        for at in (0..self.slots.len()).rev() {
            let reader = &self.readers[at];
            if reader.steps.is_closed() || reader.context.expired() {
                metrics::dropped(reader.steps.is_closed());
                self.remove(at);
            }
        }
    }

    /// Puts those whose reader can take a step in front, and says how many there are.
    fn gather_ready(&mut self) -> usize {
        let mut ready = 0;
        for at in 0..self.slots.len() {
            if self.readers[at].steps.capacity() > 0 {
                self.slots.swap(ready, at);
                self.readers.swap(ready, at);
                ready += 1;
            }
        }
        ready
    }
}

async fn lead(
    engine: Arc<dyn Engine>,
    scheduler: Arc<Scheduler>,
    slots: usize,
    mut incoming: mpsc::UnboundedReceiver<Request>,
) {
    let mut waiting: VecDeque<Request> = VecDeque::new();
    let mut active = Active::default();
    loop {
        if active.slots.is_empty() && waiting.is_empty() {
            match incoming.recv().await {
                Some(request) => waiting.push_back(request),
                None => return,
            }
        }
        while let Ok(request) = incoming.try_recv() {
            waiting.push_back(request);
        }
        active.drop_abandoned();
        if active.slots.len() < slots
            && let Some(mut request) = next_waiting(&mut waiting)
        {
            let Ok(place) = scheduler.place().await else { return };
            metrics::queue_time(request.arrived.elapsed());
            request.stage = spans::compute(&request.span, "prompt", 1);
            match engine.begin(request.prompt.clone()).instrument(request.stage.clone()).await {
                Ok(slot) => {
                    request.stage = spans::decode(&request.span);
                    active.slots.push(slot);
                    active.readers.push(request);
                }
                Err(error) => {
                    let _ = request.steps.try_send(Err(error));
                }
            }
            drop(place);
        }
        let ready = active.gather_ready();
        if ready == 0 {
            // All readers are slow, or there is nobody: look again soon.
            if !active.slots.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            continue;
        }
        let Ok(place) = scheduler.place().await else { return };
        let started = Instant::now();
        let steps = engine.decode_step(&mut active.slots[..ready]).await;
        drop(place);
        let tokens = steps.iter().flatten().flatten().map(|step| step.tokens.len()).sum();
        metrics::decode_step(ready, tokens, started.elapsed());
        for (at, step) in steps.into_iter().enumerate().rev() {
            let Some(step) = step else { continue };
            active.readers[at].tokens += step.as_ref().map_or(0, |step| step.tokens.len());
            let last = step.as_ref().map_or(true, |step| step.finish.is_some());
            // There is room: that is what ready means.
            let gone = active.readers[at].steps.try_send(step).is_err();
            if last || gone {
                active.remove(at);
            }
        }
    }
}

/// The next text whose reader still waits: by priority, then by age.
fn next_waiting(waiting: &mut VecDeque<Request>) -> Option<Request> {
    waiting.retain(|request| {
        let gone = request.steps.is_closed();
        let expired = request.context.expired();
        if gone || expired {
            metrics::dropped(gone);
            let _ = request.steps.try_send(Err(ServeError::deadline()));
        }
        !gone && !expired
    });
    let rank = |request: &Request| request.arrived + request.context.priority.handicap();
    let first = waiting.iter().enumerate().min_by_key(|(_, request)| rank(request))?.0;
    waiting.remove(first)
}
