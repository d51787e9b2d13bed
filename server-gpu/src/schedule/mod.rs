//! The queue in front of the engines.
//!
//! Runs of towers wait in lanes, one for each (model, tower, shape, outputs). Whenever an engine has a place free, the lane
//! whose oldest run has waited longest goes next, as one batch of as many of its runs as a batch may cost. Nothing is
//! waited for unless [`Limits::max_queue_delay`] says so: while a batch computes, the next one gathers by itself.

mod batch;
pub mod decode;
mod lane;
pub mod pool;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lenslet::tensor::{DType, Tensor};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::Span;

use crate::context::Context;
use crate::engine::{Cost, Engine};
use crate::error::{Reason, ServeError};
use crate::metrics;
use crate::telemetry::spans;
use lane::{Job, Lane, Ready};

/// What bounds queues and batches.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Runs that may wait, over all lanes.
    pub max_queue: usize,
    /// Rows of a batch of pictures.
    pub max_batch_images: usize,
    /// Tokens of a batch of texts, padding included.
    pub max_batch_tokens: usize,
    /// How long a batch that is not full waits for more.
    pub max_queue_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_queue: 512, max_batch_images: 32, max_batch_tokens: 4096, max_queue_delay: Duration::ZERO }
    }
}

/// A run of a tower for one request.
pub struct TowerJob {
    /// The model.
    pub engine: Arc<dyn Engine>,
    /// The tower's place among its specs.
    pub tower: usize,
    /// All inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// The outputs that are wanted.
    pub outputs: Vec<String>,
}

/// What must be equal for runs to share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LaneKey {
    /// The engine, by its address: as long as a run waits, its engine lives.
    engine: usize,
    tower: usize,
    /// Types and shapes of the inputs, without the batch where batches can be joined.
    inputs: Vec<(String, DType, Vec<usize>)>,
    outputs: Vec<String>,
    /// Set apart where rows cannot share a batch.
    alone: bool,
}

struct State {
    lanes: HashMap<LaneKey, Lane>,
    queued: usize,
    /// Numbers runs, so that those of one instant keep their order.
    next: u64,
}

/// Queues runs for the engines that share a device.
pub struct Scheduler {
    limits: Limits,
    state: Mutex<State>,
    changed: Notify,
    /// One for each run that may compute at once.
    places: Arc<Semaphore>,
    /// Seconds that a queued run took of late, smoothed: what a refused client is told to wait by.
    pace: Mutex<f64>,
}

impl Scheduler {
    /// A scheduler for engines that take `concurrency` runs at once. Its work ends when it is dropped.
    pub fn start(limits: Limits, concurrency: usize) -> Arc<Scheduler> {
        let scheduler = Arc::new(Scheduler {
            limits,
            state: Mutex::new(State { lanes: HashMap::new(), queued: 0, next: 0 }),
            changed: Notify::new(),
            places: Arc::new(Semaphore::new(concurrency.max(1))),
            pace: Mutex::new(0.01),
        });
        let weak = Arc::downgrade(&scheduler);
        tokio::spawn(async move {
            // Holds the scheduler only while there is something to do, and looks now and then whether it is gone.
            while let Some(scheduler) = weak.upgrade() {
                let _ = tokio::time::timeout(Duration::from_secs(1), scheduler.dispatch()).await;
            }
        });
        scheduler
    }

    /// What bounds it.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every update is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs that wait.
    pub fn queued(&self) -> usize {
        self.lock().queued
    }

    /// How long the queue will take at the pace of late, at least a second.
    pub fn wait(&self) -> Duration {
        let pace = *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64((pace * self.queued() as f64).clamp(1.0, 60.0))
    }

    /// A place among what computes, for work that is not a tower's.
    pub async fn place(&self) -> Result<OwnedSemaphorePermit, ServeError> {
        self.places.clone().acquire_owned().await.map_err(|_| ServeError::draining())
    }

    /// Refuses if the queue is full, before work is spent on a request.
    ///
    /// # Errors
    /// [`Reason::Overloaded`].
    pub fn admit(&self) -> Result<(), ServeError> {
        if self.queued() >= self.limits.max_queue { Err(ServeError::overloaded(self.wait())) } else { Ok(()) }
    }

    /// Runs a tower when its turn comes. Dropping the future takes the run out of the queue.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if the queue is full, [`Reason::Deadline`] if the request's deadline passes first,
    /// [`Reason::TooLarge`] for more rows or tokens than a batch may have, and what the engine says.
    pub async fn submit(&self, job: TowerJob) -> Result<Vec<Tensor>, ServeError> {
        let context = Context::current();
        if context.expired() {
            return Err(ServeError::deadline());
        }
        let (key, rows, cost) = self.measure(&job)?;
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.queued >= self.limits.max_queue {
                drop(state);
                return Err(ServeError::overloaded(self.wait()));
            }
            state.queued += 1;
            state.next += 1;
            let (arrived, number, depth) = (Instant::now(), state.next, state.queued);
            let lane = state.lanes.entry(key).or_insert_with(|| Lane::new(job.engine.clone(), job.tower, job.outputs));
            lane.push(
                arrived + context.priority.handicap(),
                number,
                Job {
                    inputs: job.inputs,
                    rows,
                    cost,
                    arrived,
                    deadline: context.deadline,
                    reply,
                    request: Span::current(),
                    queue: spans::queue(depth),
                },
            );
            metrics::queue_depth(state.queued);
        }
        self.changed.notify_one();
        let answer = match context.deadline {
            // The answer of a batch that is under way is not waited for beyond the deadline either.
            Some(deadline) => {
                tokio::time::timeout_at(deadline.into(), answer).await.map_err(|_| ServeError::deadline())?
            }
            None => answer.await,
        };
        answer.unwrap_or_else(|_| Err(ServeError::internal("engine_lost", "the engine ended without an answer")))
    }

    /// Where a run waits, its rows and its cost.
    fn measure(&self, job: &TowerJob) -> Result<(LaneKey, usize, usize), ServeError> {
        let spec = job.engine.specs().towers.get(job.tower);
        let spec = spec.ok_or_else(|| ServeError::internal("tower_absent", "the model has no such tower"))?;
        if let Some((name, _)) = job.inputs.iter().find(|(_, tensor)| tensor.is_empty()) {
            return Err(ServeError::bad_request("input_mismatch", format!("input {name} is empty")));
        }
        let rows = |tensor: &Tensor| tensor.shape().first().copied();
        let first = job.inputs.first().and_then(|(_, tensor)| rows(tensor));
        // A joint graph takes many pictures beside one text: such a run is a batch by itself.
        let same = first.is_some() && job.inputs.iter().all(|(_, tensor)| rows(tensor) == first);
        let joinable = spec.joinable && same;
        let rows = first.unwrap_or(1);
        let (cost, most, what) = match spec.cost {
            Cost::Rows => (rows, self.limits.max_batch_images, "rows"),
            Cost::Tokens => {
                let ids = job.inputs.iter().find(|(name, _)| name == "input_ids");
                (ids.map_or(rows, |(_, ids)| ids.len()), self.limits.max_batch_tokens, "tokens")
            }
        };
        // A text as long as its model reads is no batch, however small batches are to be.
        let most = if rows == 1 { most.max(Limits::default().max_batch_tokens) } else { most };
        if cost > most {
            let message = format!("a batch of {cost} {what} is more than the limit of {most}; send it in parts");
            return Err(ServeError::new(Reason::TooLarge, "batch_too_large", message));
        }
        let from = usize::from(joinable);
        let input = |(name, tensor): &(String, Tensor)| {
            let shape = tensor.shape();
            (name.clone(), tensor.dtype(), shape[from.min(shape.len())..].to_vec())
        };
        let key = LaneKey {
            engine: Arc::as_ptr(&job.engine).cast::<()>() as usize,
            tower: job.tower,
            inputs: job.inputs.iter().map(input).collect(),
            outputs: job.outputs.clone(),
            alone: !joinable,
        };
        Ok((key, rows, cost))
    }

    fn most(&self, lane: &Lane) -> usize {
        match lane.cost() {
            Cost::Rows => self.limits.max_batch_images,
            Cost::Tokens => self.limits.max_batch_tokens,
        }
    }

    /// Starts one batch, when there is one and a place for it.
    async fn dispatch(self: &Arc<Self>) {
        match self.next_ready(Instant::now()) {
            Ready::Nothing => self.changed.notified().await,
            Ready::At(when) => {
                let _ = tokio::time::timeout_at(when.into(), self.changed.notified()).await;
            }
            Ready::Now => {
                let Ok(place) = self.place().await else { return };
                // Which lane goes is decided when there is a place, not when the wait for it began.
                let Some((lane, jobs)) = self.take() else { return };
                let scheduler = self.clone();
                tokio::spawn(async move {
                    let (count, started) = (jobs.len(), Instant::now());
                    batch::run(lane, jobs).await;
                    scheduler.learn(started.elapsed().as_secs_f64() / count as f64);
                    drop(place);
                });
            }
        }
    }

    fn learn(&self, seconds: f64) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        *pace += 0.2 * (seconds - *pace);
    }

    /// Whether a lane may go, or when one may.
    fn next_ready(&self, now: Instant) -> Ready {
        let state = self.lock();
        let ready = |(key, lane): (&LaneKey, &Lane)| {
            let full = key.alone || lane.cost_of_all() >= self.most(lane);
            lane.ready(now, full, self.limits.max_queue_delay)
        };
        state.lanes.iter().map(ready).min().unwrap_or(Ready::Nothing)
    }

    /// Takes the batch that is to run now. Runs that nobody waits for any more are answered or dropped here.
    fn take(&self) -> Option<(batch::Target, Vec<Job>)> {
        let now = Instant::now();
        let mut state = self.lock();
        let ready = |(key, lane): &(&LaneKey, &Lane)| {
            let full = key.alone || lane.cost_of_all() >= self.most(lane);
            lane.ready(now, full, self.limits.max_queue_delay) == Ready::Now
        };
        let key = state.lanes.iter().filter(ready).min_by_key(|(_, lane)| lane.rank()).map(|(key, _)| key.clone())?;
        let lane = state.lanes.get_mut(&key)?;
        let most = if key.alone { 0 } else { self.most(lane) };
        let (jobs, gone) = lane.take(most, now);
        let target = lane.target();
        if lane.is_empty() {
            state.lanes.remove(&key);
        }
        state.queued -= jobs.len() + gone;
        metrics::queue_depth(state.queued);
        drop(state);
        (!jobs.is_empty()).then_some((target, jobs))
    }
}
