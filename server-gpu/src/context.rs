//! What a request says about itself besides its content, carried along by the task that serves it.
//!
//! Between the HTTP handler and the queue lie tasks of the runtime that know nothing of requests (a dual tower runs a
//! graph, and the graph happens to be a queue). So this travels beside them, as a task-local value.

use std::time::{Duration, Instant};

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits in front of a screen.
    High,
    /// The default.
    #[default]
    Normal,
    /// Bulk work that may wait.
    Low,
}

impl Priority {
    /// How much earlier a request of this priority seems to have come. Waiting makes up for it, so that nothing starves.
    pub fn handicap(self) -> Duration {
        match self {
            Priority::High => Duration::ZERO,
            Priority::Normal => Duration::from_millis(500),
            Priority::Low => Duration::from_secs(5),
        }
    }
}

/// Priority and deadline of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// How urgent it is.
    pub priority: Priority,
    /// When the answer is of no use any more.
    pub deadline: Option<Instant>,
}

tokio::task_local! {
    static CURRENT: Context;
}

impl Context {
    /// The context of the request that this task serves; the default outside of one.
    pub fn current() -> Context {
        CURRENT.try_with(|context| *context).unwrap_or_default()
    }

    /// Runs a future within this context.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// Moves the deadline forward to `deadline`, if that is earlier.
    pub fn hurry(&mut self, deadline: Option<Instant>) {
        self.deadline = match (self.deadline, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Whether the deadline has passed.
    pub fn expired(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}
