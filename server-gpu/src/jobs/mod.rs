//! Asynchronous jobs: many inputs that are embedded when there is time, by workers on any number of machines.
//!
//! A job is split into *parts*. They are written to a [`Queue`] that gives each of them to a worker, and to another one if the
//! first gives no sign of life: at least once. What a worker makes of a part is written to a [`Store`] under the part's
//! [`Address`], where nothing is written twice, and only then is the part taken off the queue. So none is lost, and none
//! counts double.
//!
//! A job is accepted once its [`Record`] is written, which is after all its parts are queued: what fails before leaves parts
//! that nobody asks about, never a job that lacks parts. All names follow from the job's id and the request's content, so
//! that sending a request again with the same idempotency key writes the same names again.

#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
mod part;
mod progress;
mod record;
mod submit;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::engine::Task;
use crate::error::{Reason, ServeError};

pub use part::{Answer, Failure, Part, PartAnswer, PartInput};
pub use progress::{Progress, Status};
pub use record::{Address, Record};
pub(crate) use submit::{Submission, submit};

/// A part on its way into the queue.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Where its answer will be.
    pub address: Address,
    /// A [`Part`], written.
    pub payload: Bytes,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Parts that nobody has answered yet.
    pub parts: u64,
    /// Parts that were given up.
    pub dead: u64,
}

/// Parts wait here until they are answered. All methods fail with [`Reason::Unavailable`] while the queue cannot be reached.
pub trait Queue: Send + Sync {
    /// Whether it can be reached now, as far as is known without asking.
    fn reachable(&self) -> bool;

    /// Bytes that the payload of a part may have.
    ///
    /// # Errors
    /// It is not known yet.
    fn max_payload(&self) -> Result<usize, ServeError>;

    /// Queues parts for workers that have the model of this fingerprint. Parts that are queued already are not queued again.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] if there is no room. Some parts may have been queued then.
    fn publish<'a>(&'a self, fingerprint: &'a str, parts: Vec<Queued>) -> Task<'a, Result<(), ServeError>>;

    /// Takes up to `most` parts for a model, as soon as there is one; none if there is none within `patience`. The future must
    /// not be dropped: parts that were on the way would be held by nobody until their time runs out.
    ///
    /// # Errors
    /// It cannot be reached.
    fn pull<'a>(
        &'a self,
        fingerprint: &'a str,
        most: usize,
        patience: Duration,
    ) -> Task<'a, Result<Vec<Box<dyn Delivery>>, ServeError>>;

    /// What waits.
    ///
    /// # Errors
    /// It cannot be reached.
    fn depth(&self) -> Task<'_, Result<Depth, ServeError>>;

    /// Waits until what was said of deliveries has left this machine.
    ///
    /// # Errors
    /// It cannot be reached.
    fn flush(&self) -> Task<'_, Result<(), ServeError>>;
}

/// A part that this worker holds. What it says of it may be lost on the way; then the part comes again.
pub trait Delivery: Send + Sync {
    /// Where its answer is to be; `None` of a message that no server of ours wrote.
    fn address(&self) -> Option<&Address>;

    /// A [`Part`], if all is well.
    fn payload(&self) -> &Bytes;

    /// How often it was given to a worker, this time included.
    fn deliveries(&self) -> usize;

    /// Time since it was queued.
    fn waited(&self) -> Duration;

    /// It is answered: the queue may forget it.
    fn done(&self) -> Task<'_, Result<(), ServeError>>;

    /// This worker does not answer it; another one may, after some time.
    fn again(&self, after: Duration) -> Task<'_, Result<(), ServeError>>;

    /// This worker is still at it.
    fn working(&self) -> Task<'_, Result<(), ServeError>>;

    /// Nobody will answer it: a copy goes to the dead letters with a reason. It is on the queue until it is [`Delivery::done`].
    fn dead<'a>(&'a self, why: &'a Failure) -> Task<'a, Result<(), ServeError>>;
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// What is known of jobs: small.
    Jobs,
    /// Answers of parts.
    Results,
}

/// Values by name, each written once. Names are of letters, digits, `_`, `-`, and dots between them. All methods fail with
/// [`Reason::Unavailable`] while the store cannot be reached.
pub trait Store: Send + Sync {
    /// Writes a value where there is none; says whether it did.
    ///
    /// # Errors
    /// It cannot be reached. The value may have been written all the same.
    fn create<'a>(&'a self, shelf: Shelf, name: &'a str, value: Bytes) -> Task<'a, Result<bool, ServeError>>;

    /// The value of a name.
    ///
    /// # Errors
    /// It cannot be reached.
    fn get<'a>(&'a self, shelf: Shelf, name: &'a str) -> Task<'a, Result<Option<Bytes>, ServeError>>;

    /// The last components of all names `prefix.x`.
    ///
    /// # Errors
    /// It cannot be reached.
    fn list<'a>(&'a self, shelf: Shelf, prefix: &'a str) -> Task<'a, Result<Vec<String>, ServeError>>;

    /// When the newest of the names `prefix.x` was written, in seconds since 1970.
    ///
    /// # Errors
    /// It cannot be reached.
    fn newest<'a>(&'a self, shelf: Shelf, prefix: &'a str) -> Task<'a, Result<Option<u64>, ServeError>>;

    /// Keeps a picture that is too large for a part. One of the same name is replaced.
    ///
    /// # Errors
    /// It cannot be reached, or there is no room: [`Reason::Overloaded`].
    fn put_picture<'a>(&'a self, name: &'a str, file: Bytes) -> Task<'a, Result<(), ServeError>>;

    /// Such a picture, of at most so many bytes.
    ///
    /// # Errors
    /// [`Reason::TooLarge`], [`Reason::NotFound`], or it cannot be reached.
    fn picture<'a>(&'a self, name: &'a str, most: usize) -> Task<'a, Result<Bytes, ServeError>>;

    /// Forgets such a picture.
    ///
    /// # Errors
    /// It cannot be reached.
    fn remove_picture<'a>(&'a self, name: &'a str) -> Task<'a, Result<(), ServeError>>;
}

/// Progress of jobs that have ended is remembered for so many of them: it does not change any more.
const REMEMBERED: u64 = 10_000;

/// Where jobs are kept, as all requests and parts share it.
pub struct Jobs {
    /// Parts that wait.
    pub queue: Arc<dyn Queue>,
    /// Everything else.
    pub store: Arc<dyn Store>,
    ended: moka::future::Cache<String, Progress>,
}

impl Jobs {
    /// Jobs kept in these.
    pub fn new(queue: Arc<dyn Queue>, store: Arc<dyn Store>) -> Jobs {
        Jobs { queue, store, ended: moka::future::Cache::new(REMEMBERED) }
    }

    /// Connects to what the settings name; `None` if they name nothing.
    ///
    /// # Errors
    /// The queue refuses this server. One that cannot be reached is waited for instead: until then, and whenever it goes
    /// away, jobs are refused and everything else is served.
    pub async fn connect(config: &crate::config::JobsConfig) -> Result<Option<Jobs>, ServeError> {
        #[cfg(feature = "kafka")]
        if config.kafka_brokers.is_some() {
            let kafka = Arc::new(kafka::Kafka::connect(config).await?);
            return Ok(Some(Jobs::new(kafka.clone(), kafka)));
        }
        #[cfg(feature = "nats")]
        if config.nats_url.is_some() {
            let nats = Arc::new(nats::Nats::connect(config).await?);
            return Ok(Some(Jobs::new(nats.clone(), nats)));
        }
        // Settings that name a queue were refused where there is none to be had.
        let _ = config;
        Ok(None)
    }
}

/// No room in the queue, or in the store.
#[cfg(any(feature = "kafka", feature = "nats"))]
fn full() -> ServeError {
    let error = ServeError::new(
        Reason::Overloaded,
        "queue_full",
        "the queue of jobs is full; wait until workers have caught up",
    );
    ServeError { retry_after: Some(Duration::from_secs(30)), ..error }
}

/// The queue or the store cannot be reached, or fails.
fn unavailable(what: impl std::fmt::Display) -> ServeError {
    let message = format!(
        "the queue of jobs cannot be reached now ({what}); jobs that were accepted are safe, send others again later, best with \
         an Idempotency-Key"
    );
    ServeError {
        retry_after: Some(Duration::from_secs(2)),
        ..ServeError::new(Reason::Unavailable, "queue_unavailable", message)
    }
}
