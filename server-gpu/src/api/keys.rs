//! Who may ask, and how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::error::{Reason, ServeError};

/// The keys that were given out, by their digests: all are of one length then, and comparing them says nothing about theirs.
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Keys as they were given out.
    pub fn new(keys: &[String]) -> Keys {
        Keys(keys.iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect())
    }

    /// Whether everybody is served.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A name for what belongs to a key, which does not tell the key and stays when others are added or removed.
    pub fn owner(&self, key: usize) -> Option<String> {
        let digest = Sha256::new().chain_update(b"owner of jobs").chain_update(self.0.get(key)?).finalize();
        Some(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Which key a request carries; `None` where none is needed. All keys are looked at, whichever it is.
    ///
    /// # Errors
    /// [`Reason::Unauthorized`].
    pub fn check(&self, headers: &HeaderMap) -> Result<Option<usize>, ServeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let refuse = |code: &'static str, what: &str| Err(ServeError::new(Reason::Unauthorized, code, what));
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return refuse("missing_api_key", "this server wants a key: Authorization: Bearer KEY");
        };
        let value = value.as_bytes();
        let bearer = value.get(..7).filter(|start| start.eq_ignore_ascii_case(b"bearer ")).map(|_| &value[7..]);
        let digest: [u8; 32] = Sha256::digest(bearer.unwrap_or_default()).into();
        let (mut known, mut which) = (Choice::from(0), 0u64);
        for (index, key) in self.0.iter().enumerate() {
            let equal = key.ct_eq(&digest);
            which = u64::conditional_select(&which, &(index as u64), equal);
            known |= equal;
        }
        if bearer.is_some() && bool::from(known) {
            return Ok(Some(which as usize));
        }
        refuse("invalid_api_key", "this key is not known here")
    }
}

/// Whom a pace is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A key, by its place.
    Key(usize),
    /// An address, where there are no keys.
    Address(IpAddr),
}

/// Clients whose pace is remembered at most. Those at rest are forgotten first.
const MAX_CLIENTS: usize = 10_000;

/// A token bucket for each client.
pub struct Pace {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<Client, (f64, Instant)>>,
}

impl Pace {
    /// So many requests a second, and so many at once; 0 a second is no limit.
    pub fn new(per_second: f64, burst: u32) -> Pace {
        Pace { per_second, burst: f64::from(burst), buckets: Mutex::default() }
    }

    /// Takes a request of a client.
    ///
    /// # Errors
    /// [`Reason::RateLimited`] with the time to wait.
    pub fn take(&self, client: Client) -> Result<(), ServeError> {
        self.take_at(client, Instant::now())
    }

    fn take_at(&self, client: Client, now: Instant) -> Result<(), ServeError> {
        if self.per_second <= 0.0 {
            return Ok(());
        }
        let filled = |(tokens, then): (f64, Instant)| {
            (tokens + now.saturating_duration_since(then).as_secs_f64() * self.per_second).min(self.burst)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&client) {
            buckets.retain(|_, bucket| filled(*bucket) < self.burst);
            if buckets.len() >= MAX_CLIENTS {
                return Err(ServeError::overloaded(Duration::from_secs(1)));
            }
        }
        let bucket = buckets.entry(client).or_insert((self.burst, now));
        let tokens = filled(*bucket);
        if tokens < 1.0 {
            *bucket = (tokens, now);
            let wait = Duration::from_secs_f64((1.0 - tokens) / self.per_second);
            let what = format!("more than {} requests a second; wait", self.per_second);
            let error = ServeError::new(Reason::RateLimited, "rate_limit_exceeded", what);
            return Err(ServeError { retry_after: Some(wait), ..error });
        }
        *bucket = (tokens - 1.0, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_whole_keys_are_known() {
        let keys = Keys::new(&["first-key".into(), "second-key".into()]);
        assert_eq!(keys.check(&headers("Bearer first-key")).unwrap(), Some(0));
        assert_eq!(keys.check(&headers("bearer second-key")).unwrap(), Some(1));
        for wrong in ["Bearer first-ke", "Bearer first-key2", "Bearer ", "Bearer", "Basic first-key", "first-key", ""] {
            assert_eq!(keys.check(&headers(wrong)).unwrap_err().code, "invalid_api_key", "{wrong}");
        }
        assert_eq!(keys.check(&HeaderMap::new()).unwrap_err().code, "missing_api_key");
        assert_eq!(Keys::new(&[]).check(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_pace_is_kept_for_each_client() {
        let (pace, start) = (Pace::new(2.0, 3), Instant::now());
        let (a, b) = (Client::Key(0), Client::Key(1));
        let after = |ms| start + Duration::from_millis(ms);
        for _ in 0..3 {
            pace.take_at(a, start).unwrap();
        }
        let refused = pace.take_at(a, start).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after), (Reason::RateLimited, Some(Duration::from_millis(500))));
        pace.take_at(b, start).unwrap();
        assert!(pace.take_at(a, after(400)).is_err());
        pace.take_at(a, after(600)).unwrap();
        assert!(pace.take_at(a, after(600)).is_err());
        // What is saved up is bounded.
        for _ in 0..3 {
            pace.take_at(a, after(100_000)).unwrap();
        }
        assert!(pace.take_at(a, after(100_000)).is_err());
    }

    #[test]
    fn clients_are_not_remembered_for_ever() {
        let (pace, start) = (Pace::new(1.0, 1), Instant::now());
        let address = |n: u32| Client::Address(IpAddr::from(n.to_be_bytes()));
        for n in 0..MAX_CLIENTS as u32 {
            pace.take_at(address(n), start).unwrap();
        }
        assert_eq!(pace.take_at(address(1 << 30), start).unwrap_err().reason, Reason::Overloaded);
        pace.take_at(address(1 << 30), start + Duration::from_secs(2)).unwrap();
        assert!(pace.buckets.lock().unwrap().len() < MAX_CLIENTS);
    }
}
