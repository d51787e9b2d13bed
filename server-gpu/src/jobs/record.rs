//! What is known of a job from its beginning, and how its things are named.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::input::Encoding;
use crate::error::ServeError;

/// Where a part belongs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The job's [`Record::run`].
    pub run: String,
    /// Its place among the parts.
    pub part: u32,
}

impl Address {
    /// Reads both, as they stand in names.
    pub fn parse(run: &str, part: &str) -> Option<Address> {
        let plain = part == "0" || !part.starts_with('0');
        let digits = !part.is_empty() && part.len() <= 7 && part.bytes().all(|byte| byte.is_ascii_digit());
        (is_id(run) && plain && digits).then(|| Some(Address { run: run.to_owned(), part: part.parse().ok()? }))?
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.run, self.part)
    }
}

/// 32 hexadecimal digits.
fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a job's id begins with.
const PREFIX: &str = "job_";

/// What is known of a job from its beginning. It is written once, when all parts are queued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `job_` and 32 hexadecimal digits.
    pub id: String,
    /// What the parts are named by: the id and the request's content, so that two requests that claim one id never mix.
    pub run: String,
    /// The key that it belongs to; everybody's if none was needed.
    pub owner: Option<String>,
    /// SHA-256 of the request, in hexadecimal digits.
    pub request: String,
    /// The model's name.
    pub model: String,
    /// The model's fingerprint: workers that have another model of this name do not touch the job.
    pub fingerprint: String,
    /// When it was accepted, in seconds since 1970.
    pub created: u64,
    /// When it will be forgotten, in seconds since 1970.
    pub expires: u64,
    /// Length that the vectors shall have.
    pub dimensions: usize,
    /// How the vectors shall be written.
    pub(crate) encoding: Encoding,
    /// Inputs of each part.
    pub parts: Vec<u32>,
}

impl Record {
    /// Inputs of all parts.
    pub fn inputs(&self) -> u64 {
        self.parts.iter().map(|&inputs| u64::from(inputs)).sum()
    }

    /// The address of a part.
    pub fn address(&self, part: usize) -> Address {
        Address { run: self.run.clone(), part: part as u32 }
    }
}

/// The id of a job: by the idempotency key and whom it belongs to, or of random digits.
///
/// # Errors
/// The system has no random numbers.
pub(super) fn job_id(owner: Option<&str>, idempotency_key: Option<&str>) -> Result<String, ServeError> {
    let mut bytes = [0; 16];
    match idempotency_key {
        Some(key) => {
            let mut hash = Sha256::new();
            for text in ["job", owner.unwrap_or_default(), key] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            bytes.copy_from_slice(&hash.finalize()[..16]);
        }
        None => getrandom::fill(&mut bytes).map_err(|e| {
            ServeError::internal("no_random_numbers", format!("the system gives no random numbers: {e}"))
        })?,
    }
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}

/// What the parts of a job are named by.
pub(super) fn run_id(id: &str, request: &[u8; 32]) -> String {
    hex(&Sha256::new().chain_update(id).chain_update(request).finalize()[..16])
}

/// A request's digest as records have it.
pub(super) fn request_digest(request: &[u8; 32]) -> String {
    hex(request)
}

/// The name of a job's record, if this is an id.
pub(super) fn record_name(id: &str) -> Option<String> {
    let digits = id.strip_prefix(PREFIX).filter(|digits| is_id(digits))?;
    Some(format!("job.{digits}"))
}

/// Where the first worker says that it has begun.
pub(super) fn begun_name(run: &str) -> String {
    format!("begun.{run}")
}

/// What the names of [`refused_name`] begin with.
pub(super) fn refused_prefix(run: &str) -> String {
    format!("refused.{run}")
}

/// Where it says that not all inputs of a part have a vector.
pub(super) fn refused_name(address: &Address) -> String {
    format!("{}.{}", refused_prefix(&address.run), address.part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_owner_and_key_or_from_nothing() {
        let id = |owner, key| job_id(owner, key).unwrap();
        assert_eq!(id(Some("a"), Some("k")), id(Some("a"), Some("k")));
        assert_ne!(id(Some("a"), Some("k")), id(Some("b"), Some("k")));
        assert_ne!(id(Some("ab"), Some("k")), id(Some("a"), Some("bk")));
        assert_ne!(id(None, None), id(None, None));
        assert_ne!(run_id("job_1", &[0; 32]), run_id("job_1", &[1; 32]));
        assert!(record_name(&id(None, None)).is_some());
    }

    #[test]
    fn only_names_of_ours_are_read() {
        let run = "0123456789abcdef0123456789abcdef";
        assert_eq!(Address::parse(run, "17"), Some(Address { run: run.into(), part: 17 }));
        assert_eq!(Address::parse(run, "0").unwrap().to_string(), format!("{run}.0"));
        for (run, part) in
            [(run, ""), (run, "007"), (run, "-1"), (run, "99999999"), ("x", "1"), (&run.to_uppercase(), "1")]
        {
            assert_eq!(Address::parse(run, part), None, "{run}.{part}");
        }
        for id in ["", "job_", "job_*", "job_../x", &format!("job_{run}0"), run] {
            assert_eq!(record_name(id), None, "{id}");
        }
    }
}
