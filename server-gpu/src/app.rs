//! What all requests share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::api::keys::{Keys, Pace};
use crate::cache::EmbeddingCache;
use crate::config::Config;
use crate::error::{Reason, ServeError};
use crate::hosted::Models;
use crate::jobs::Jobs;
use crate::schedule::pool::Pool;

/// Where the server stands between its start and its end.
#[derive(Default)]
pub struct Life {
    draining: AtomicBool,
    under_way: AtomicUsize,
    idle: Notify,
}

/// A request under way, until its answer is sent or given up.
pub struct UnderWay(Arc<App>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.life.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.life.idle.notify_waiters();
        }
    }
}

/// Bounds something by its amount, in units of 1024.
pub struct Budget {
    units: Arc<Semaphore>,
}

/// A part of a budget, given back when dropped.
#[derive(Default)]
pub struct Share(Vec<OwnedSemaphorePermit>);

impl Budget {
    /// A budget of so much.
    pub fn new(amount: u64) -> Budget {
        let units = usize::try_from(amount.div_ceil(1024)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Budget { units: Arc::new(Semaphore::new(units)) }
    }

    /// Takes so much into a share.
    ///
    /// # Errors
    /// `Overloaded` if that much is not left now.
    pub fn take(&self, share: &mut Share, amount: u64) -> Result<(), ServeError> {
        let units = u32::try_from(amount.div_ceil(1024)).unwrap_or(u32::MAX);
        match self.units.clone().try_acquire_many_owned(units) {
            Ok(permit) => {
                // One permit a share, however many pieces it came in.
                match share.0.first_mut() {
                    Some(first) => first.merge(permit),
                    None => share.0.push(permit),
                }
                Ok(())
            }
            Err(_) => Err(ServeError::overloaded(Duration::from_secs(1))),
        }
    }
}

/// What all requests share.
pub struct App {
    /// The settings.
    pub config: Config,
    /// Empty until they are loaded and warmed up.
    pub models: OnceLock<Models>,
    /// Vectors computed before.
    pub cache: EmbeddingCache,
    /// Threads for preprocessing.
    pub pool: Pool,
    /// Bytes of bodies that are held at once.
    pub bodies: Budget,
    /// Decoded pixels that wait for a writer.
    pub pixels: Budget,
    /// Who may ask.
    pub keys: Keys,
    /// How often.
    pub pace: Pace,
    /// Where asynchronous jobs are kept; empty until the server is loaded, and where there are none.
    pub jobs: OnceLock<Arc<Jobs>>,
    /// Renders metrics.
    pub prometheus: Option<PrometheusHandle>,
    life: Life,
}

impl App {
    /// State for these settings, without models yet.
    pub fn new(config: Config, prometheus: Option<PrometheusHandle>) -> App {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = match config.schedule.preprocessing_threads {
            0 => cores.div_ceil(2),
            n => n,
        };
        let (limits, schedule) = (&config.limits, &config.schedule);
        App {
            models: OnceLock::new(),
            cache: EmbeddingCache::new(config.cache_bytes),
            pool: Pool::new(threads, schedule.max_queue),
            bodies: Budget::new(limits.max_total_body_bytes.max(limits.max_body_bytes as u64)),
            pixels: Budget::new(limits.max_pixels.saturating_mul(4)),
            keys: Keys::new(&config.api_keys),
            pace: Pace::new(limits.requests_per_second, limits.burst),
            jobs: OnceLock::new(),
            prometheus,
            life: Life::default(),
            config,
        }
    }

    /// The models.
    ///
    /// # Errors
    /// They are still being loaded.
    pub fn models(&self) -> Result<&Models, ServeError> {
        self.models.get().ok_or_else(starting)
    }

    /// Where asynchronous jobs are kept.
    ///
    /// # Errors
    /// No queue is named, or the server is still starting.
    pub fn jobs(&self) -> Result<&Arc<Jobs>, ServeError> {
        if !self.config.jobs.enabled() {
            let what =
                "this server takes no jobs: it was started without --nats-url or --kafka-brokers; ask /v1/embeddings";
            return Err(ServeError::new(Reason::NotFound, "jobs_off", what));
        }
        self.jobs.get().ok_or_else(starting)
    }

    /// Whether the models are there and new requests are taken.
    pub fn ready(&self) -> bool {
        self.models.get().is_some() && !self.draining()
    }

    /// Whether the server is about to end.
    pub fn draining(&self) -> bool {
        self.life.draining.load(Ordering::Acquire)
    }

    /// From now on new requests are refused.
    pub fn drain(&self) {
        self.life.draining.store(true, Ordering::Release);
    }

    /// Counts a request until the guard is dropped.
    ///
    /// # Errors
    /// The server is about to end, or has as many requests as it takes.
    pub fn begin(self: &Arc<Self>) -> Result<UnderWay, ServeError> {
        // Counted first: whoever waits for the last request after `drain` sees this one or refuses it.
        let before = self.life.under_way.fetch_add(1, Ordering::AcqRel);
        let guard = UnderWay(self.clone());
        if self.draining() {
            return Err(ServeError::draining());
        }
        if before >= self.config.limits.max_requests {
            return Err(ServeError::overloaded(Duration::from_secs(1)));
        }
        Ok(guard)
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.life.under_way.load(Ordering::Acquire)
    }

    /// Waits until no request is under way.
    pub async fn idle(&self) {
        loop {
            let idle = self.life.idle.notified();
            if self.under_way() == 0 {
                return;
            }
            // A request that ended between the look and the wait is seen at the next look.
            let _ = tokio::time::timeout(Duration::from_millis(200), idle).await;
        }
    }
}

fn starting() -> ServeError {
    let error = ServeError::new(Reason::Unavailable, "starting", "the models are still being loaded; try again");
    ServeError { retry_after: Some(Duration::from_secs(2)), ..error }
}
