//! Vectors that were computed before. Two requests for the same input at the same time compute it once.
//!
//! Only vectors are kept: they are a function of the key, which names weights, precision and preprocessing (by the model's
//! fingerprint), the engine and the input's SHA-256. Written text is not.

use std::sync::Arc;

use moka::future::Cache;
use sha2::{Digest, Sha256};

use crate::context::Context;
use crate::error::{Reason, ServeError};
use crate::metrics;

/// What a vector is kept under.
pub type Key = [u8; 32];

/// What an input is, so that a text never stands for a picture of the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// UTF-8.
    Text,
    /// Token ids, little-endian 32 bits.
    Tokens,
    /// A picture's file.
    Picture,
}

/// The SHA-256 of an input's bytes.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A digest in hexadecimal digits.
pub fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key of an input of this SHA-256 for a model.
pub fn key(fingerprint: &str, engine: &str, input: Input, digest: &[u8; 32]) -> Key {
    let mut hash = Sha256::new();
    for part in [fingerprint.as_bytes(), engine.as_bytes(), &[input as u8], digest] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A vector, and the tokens that it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedding {
    /// Of unit length.
    pub values: Vec<f32>,
    /// Tokens of the text; 0 of a picture.
    pub tokens: usize,
}

/// The cache, bounded by bytes.
pub struct EmbeddingCache {
    vectors: Option<Cache<Key, Arc<Embedding>>>,
}

/// What an entry takes besides its numbers: key, vector, and moka's bookkeeping.
const OVERHEAD: usize = 200;

impl EmbeddingCache {
    /// A cache of at most so many bytes; 0 keeps nothing.
    pub fn new(bytes: u64) -> EmbeddingCache {
        let weigh =
            |_: &Key, vector: &Arc<Embedding>| u32::try_from(vector.values.len() * 4 + OVERHEAD).unwrap_or(u32::MAX);
        let cache = (bytes > 0).then(|| Cache::builder().max_capacity(bytes).weigher(weigh).build());
        EmbeddingCache { vectors: cache }
    }

    /// The vector under this key, if it is there.
    pub async fn get(&self, key: &Key) -> Option<Arc<Embedding>> {
        let found = self.vectors.as_ref()?.get(key).await;
        metrics::cache(found.is_some());
        found
    }

    /// The vector under this key, computed if it is not there. Who asks for one that is being computed waits for it.
    ///
    /// # Errors
    /// What computing it says. A failure is not kept.
    pub async fn get_or_compute<F>(&self, key: Key, compute: impl Fn() -> F) -> Result<Arc<Embedding>, ServeError>
    where
        F: Future<Output = Result<Embedding, ServeError>>,
    {
        let Some(vectors) = &self.vectors else { return compute().await.map(Arc::new) };
        loop {
            let vector = async { compute().await.map(Arc::new) };
            match vectors.entry(key).or_try_insert_with(vector).await {
                Ok(entry) => {
                    metrics::cache(!entry.is_fresh());
                    return Ok(entry.into_value());
                }
                // The request that computed it ran out of its own time; this one may have more.
                Err(error) if error.reason == Reason::Deadline && !Context::current().expired() => {}
                Err(error) => return Err(ServeError::clone(&error)),
            }
        }
    }

    /// Entries and their bytes.
    pub fn size(&self) -> (u64, u64) {
        self.vectors.as_ref().map_or((0, 0), |vectors| (vectors.entry_count(), vectors.weighted_size()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    fn vector(values: &[f32]) -> Embedding {
        Embedding { values: values.to_vec(), tokens: 0 }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn keys_differ_by_model_engine_kind_and_input() {
        let (a, b) = (digest(b"a"), digest(b"b"));
        let keys = [
            key("m", "lenslet", Input::Text, &a),
            key("m", "lenslet", Input::Text, &b),
            key("m", "lenslet", Input::Picture, &a),
            key("m", "ort", Input::Text, &a),
            key("n", "lenslet", Input::Text, &a),
            key("ml", "enslet", Input::Text, &a),
        ];
        let different: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
    }

    #[test]
    fn what_is_asked_for_at_once_is_computed_once() {
        let (cache, computed) = (EmbeddingCache::new(1 << 20), AtomicUsize::new(0));
        let compute = || async {
            computed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(vector(&[1.0, 2.0]))
        };
        runtime().block_on(async {
            let both = futures_util::future::join_all((0..8).map(|_| cache.get_or_compute([7; 32], compute))).await;
            assert!(both.iter().all(|both| both.as_ref().unwrap().values == [1.0, 2.0]));
            assert_eq!(cache.get(&[7; 32]).await.unwrap().values.len(), 2);
        });
        assert_eq!(computed.into_inner(), 1);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let cache = EmbeddingCache::new(1 << 20);
        runtime().block_on(async {
            let failed = cache.get_or_compute([1; 32], || async { Err(ServeError::internal("x", "x")) }).await;
            assert_eq!(failed.unwrap_err().code, "x");
            assert!(cache.get_or_compute([1; 32], || async { Ok(vector(&[1.0])) }).await.is_ok());
        });
    }

    #[test]
    fn one_request_running_out_of_time_does_not_fail_another() {
        let cache = EmbeddingCache::new(1 << 20);
        let compute = || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let short = Context::current().deadline.is_some();
            if short { Err(ServeError::deadline()) } else { Ok(vector(&[1.0])) }
        };
        let hurried = Context { deadline: Some(Instant::now() + Duration::from_millis(5)), ..Context::default() };
        runtime().block_on(async {
            let first = hurried.scope(cache.get_or_compute([1; 32], compute));
            let (first, second) = futures_util::join!(first, cache.get_or_compute([1; 32], compute));
            assert_eq!(first.unwrap_err().reason, Reason::Deadline);
            assert_eq!(second.unwrap().values, [1.0]);
        });
    }

    #[test]
    fn bytes_are_bounded() {
        let cache = EmbeddingCache::new(100_000);
        runtime().block_on(async {
            for i in 0..1000u32 {
                let mut key = [0; 32];
                key[..4].copy_from_slice(&i.to_le_bytes());
                cache.get_or_compute(key, || async { Ok(vector(&[0.0; 512])) }).await.unwrap();
            }
            cache.vectors.as_ref().unwrap().run_pending_tasks().await;
        });
        assert!(cache.size().1 <= 100_000, "{:?}", cache.size());
    }
}
