//! Threads for what happens to a request before its tower runs: decoding pictures, resizing, tokenizing.
//!
//! They are few, so that a burst of large pictures takes bounded memory and leaves cores to the engine; who finds more
//! waiting than may wait is refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::context::Context;
use crate::error::ServeError;
use crate::telemetry::spans;

/// The pool.
pub struct Pool {
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
    most: usize,
}

/// Counts a waiting request until it is served or gone.
struct Waiting<'p>(&'p Pool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool of so many threads, in front of which at most `most` pieces of work wait.
    pub fn new(threads: usize, most: usize) -> Pool {
        Pool { threads: Arc::new(Semaphore::new(threads.max(1))), waiting: AtomicUsize::new(0), most }
    }

    /// Does this work on the pool. Work whose caller goes away before it begins is not done.
    ///
    /// # Errors
    /// `Overloaded` if too much waits, `Deadline` if the request's deadline passes before the work begins, and what the
    /// work says. A panic of the work is an internal error.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
    ) -> Result<T, ServeError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(ServeError::overloaded(Duration::from_secs(1)));
        }
        let waiting = Waiting(self);
        let thread = self.threads.clone().acquire_owned().await.map_err(|_| ServeError::draining())?;
        drop(waiting);
        if Context::current().expired() {
            return Err(ServeError::deadline());
        }
        // The thread's place is freed when the work is done, whoever waits for it.
        let span = spans::preprocess();
        let work = move || {
            let result = span.in_scope(work);
            drop(thread);
            result
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
            Err(ServeError::internal("preprocessing_panic", "preprocessing failed in an unforeseen way"))
        })
    }
}
