//! Runs that may share a batch, in the order of their turns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lenslet::tensor::Tensor;
use tokio::sync::oneshot;
use tracing::Span;

use super::batch::Target;
use crate::engine::{Cost, Engine};
use crate::error::ServeError;
use crate::metrics;

/// A run that waits.
pub(super) struct Job {
    pub(super) inputs: Vec<(String, Tensor)>,
    pub(super) rows: usize,
    pub(super) cost: usize,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Vec<Tensor>, ServeError>>,
    /// The span of the request that it serves.
    pub(super) request: Span,
    /// Its span while it waits.
    pub(super) queue: Span,
}

/// When a lane may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ready {
    Now,
    At(Instant),
    Nothing,
}

/// Runs of one tower at one shape.
pub(super) struct Lane {
    engine: Arc<dyn Engine>,
    tower: usize,
    outputs: Vec<String>,
    /// By the instant at which they seem to have come (later for low priorities), then by number.
    jobs: BTreeMap<(Instant, u64), Job>,
    cost: usize,
}

impl Lane {
    pub(super) fn new(engine: Arc<dyn Engine>, tower: usize, outputs: Vec<String>) -> Lane {
        Lane { engine, tower, outputs, jobs: BTreeMap::new(), cost: 0 }
    }

    pub(super) fn push(&mut self, rank: Instant, number: u64, job: Job) {
        self.cost += job.cost;
        self.jobs.insert((rank, number), job);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The rank of what goes first.
    pub(super) fn rank(&self) -> Option<(Instant, u64)> {
        self.jobs.keys().next().copied()
    }

    pub(super) fn cost(&self) -> Cost {
        self.engine.specs().towers.get(self.tower).map_or(Cost::Rows, |tower| tower.cost)
    }

    pub(super) fn cost_of_all(&self) -> usize {
        self.cost
    }

    pub(super) fn target(&self) -> Target {
        Target { engine: self.engine.clone(), tower: self.tower, outputs: self.outputs.clone() }
    }

    /// A full batch goes at once, any other when its oldest run has waited for `delay`.
    pub(super) fn ready(&self, now: Instant, full: bool, delay: Duration) -> Ready {
        let Some(oldest) = self.jobs.values().map(|job| job.arrived).min() else { return Ready::Nothing };
        if full || delay.is_zero() || now >= oldest + delay { Ready::Now } else { Ready::At(oldest + delay) }
    }

    /// Takes runs that together cost at most `most`, at least one. Also says how many were given up because their deadline
    /// has passed or nobody waits for them.
    pub(super) fn take(&mut self, most: usize, now: Instant) -> (Vec<Job>, usize) {
        let (mut jobs, mut cost, mut gone) = (Vec::new(), 0, 0);
        while let Some(first) = self.jobs.first_entry() {
            let dead = first.get().reply.is_closed() || first.get().deadline.is_some_and(|deadline| deadline <= now);
            if !dead && !jobs.is_empty() && cost + first.get().cost > most {
                break;
            }
            let job = first.remove();
            self.cost -= job.cost;
            if dead {
                gone += 1;
                metrics::dropped(job.reply.is_closed());
                let _ = job.reply.send(Err(ServeError::deadline()));
            } else {
                cost += job.cost;
                jobs.push(job);
            }
        }
        (jobs, gone)
    }
}
