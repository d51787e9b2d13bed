//! Where texts leave their next steps, so that they are taken together.
//!
//! Each text is led by a future of its own. One that shares its steps leaves each here and waits; whoever leads them all takes
//! what lies here ([`SharedSteps::run`]), and the texts go on. A text that is dropped takes its step, and its caches, with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

use super::decoder::{Choice, Decoder, SharedStep};
use super::error::DecoderError;
use super::sampling::Sampling;
use super::state::State;

/// The steps of texts that are written together, by one decoder.
#[derive(Default)]
pub struct SharedSteps {
    left: Mutex<Vec<Weak<Mutex<Entry>>>>,
}

/// A step as its text leaves it.
pub(super) struct Step {
    pub(super) state: State,
    pub(super) token: u32,
    pub(super) sampling: Sampling,
    pub(super) history: Vec<u32>,
}

enum Stage {
    Left(Step),
    /// It is computed.
    Taken,
    Done(State, Result<Choice, DecoderError>),
}

struct Entry {
    stage: Stage,
    waker: Option<Waker>,
}

/// A step that was left, held by its text.
pub(super) struct Ticket(Arc<Mutex<Entry>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every update is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedSteps {
    /// A place for steps of the texts of one decoder.
    pub fn new() -> Arc<SharedSteps> {
        Arc::default()
    }

    /// Steps that wait to be taken.
    pub fn waiting(&self) -> usize {
        lock(&self.left).iter().filter(|entry| entry.strong_count() > 0).count()
    }

    pub(super) fn leave(&self, step: Step) -> Ticket {
        #[allow(clippy::arc_with_non_send_sync)] // In browsers wgpu's handles stay on one thread.
        let entry = Arc::new(Mutex::new(Entry { stage: Stage::Left(step), waker: None }));
        lock(&self.left).push(Arc::downgrade(&entry));
        Ticket(entry)
    }

    /// Takes all steps that were left, by [`Decoder::choose_together`], and wakes their texts. `decoder` is the texts' own. Returns
    /// how many texts each run of the graph served. Dropping the future leaves the steps where they were.
    pub async fn run(&self, decoder: &Decoder) -> Vec<usize> {
        let left = std::mem::take(&mut *lock(&self.left));
        let mut taken: Vec<Taken<'_>> = left.iter().filter_map(|entry| Taken::take(self, entry)).collect();
        let mut steps: Vec<SharedStep<'_>> = taken.iter_mut().filter_map(Taken::step).collect();
        if steps.is_empty() {
            return vec![];
        }
        let (choices, runs) = decoder.choose_together(&mut steps).await;
        taken.into_iter().zip(choices).for_each(|(taken, choice)| taken.done(choice));
        runs
    }
}

/// A step while it is computed. If it never is, it goes back to where it lay.
struct Taken<'s> {
    shared: &'s SharedSteps,
    entry: Arc<Mutex<Entry>>,
    step: Option<Step>,
}

impl<'s> Taken<'s> {
    fn take(shared: &'s SharedSteps, entry: &Weak<Mutex<Entry>>) -> Option<Taken<'s>> {
        let entry = entry.upgrade()?;
        let stage = std::mem::replace(&mut lock(&entry).stage, Stage::Taken);
        let Stage::Left(step) = stage else {
            lock(&entry).stage = stage;
            return None;
        };
        Some(Taken { shared, entry, step: Some(step) })
    }

    fn step(&mut self) -> Option<SharedStep<'_>> {
        let Step { state, token, sampling, history } = self.step.as_mut()?;
        Some(SharedStep { state, token: *token, sampling: *sampling, history })
    }

    fn done(mut self, choice: Result<Choice, DecoderError>) {
        let Some(step) = self.step.take() else { return };
        let waker = {
            let mut entry = lock(&self.entry);
            entry.stage = Stage::Done(step.state, choice);
            entry.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            lock(&self.entry).stage = Stage::Left(step);
            lock(&self.shared.left).push(Arc::downgrade(&self.entry));
        }
    }
}

impl Ticket {
    /// Waits until the step was taken: the sequence, and the token or what went wrong.
    pub(super) async fn taken(&self) -> (State, Result<Choice, DecoderError>) {
        std::future::poll_fn(|cx| {
            let mut entry = lock(&self.0);
            match std::mem::replace(&mut entry.stage, Stage::Taken) {
                Stage::Done(state, choice) => Poll::Ready((state, choice)),
                stage => {
                    entry.stage = stage;
                    entry.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The sequence, unless it is being computed with.
    pub(super) fn into_state(self) -> Option<State> {
        match std::mem::replace(&mut lock(&self.0).stage, Stage::Taken) {
            Stage::Left(step) => Some(step.state),
            Stage::Done(state, _) => Some(state),
            Stage::Taken => None,
        }
    }
}
