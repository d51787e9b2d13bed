//! What identifies a vector space: the model's files and everything that happens before them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Raised when the same files and facts would give other vectors than before, so that old indexes are
/// refused rather than mixed.
const VERSION: u32 = 1;

/// Identifies model and preprocessing: the first 16 bytes of a SHA-256, in text 32 hexadecimal digits.
///
/// Vectors with different fingerprints must not be compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint([u8; 16]);

/// Text that is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 32 hexadecimal digits")]
pub struct ParseFingerprintError;

impl ParseFingerprintError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        "fingerprint_parse"
    }
}

impl Fingerprint {
    /// Begins with nothing but the version.
    pub fn builder() -> FingerprintBuilder {
        FingerprintBuilder { parts: Vec::new() }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.as_bytes();
        if text.len() != 32 {
            return Err(ParseFingerprintError);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let (high, low) = digit(pair[0]).zip(digit(pair[1])).ok_or(ParseFingerprintError)?;
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = ParseFingerprintError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Collects what decides the numbers. The order of the calls does not matter.
#[derive(Debug, Clone)]
pub struct FingerprintBuilder {
    parts: Vec<(String, Vec<u8>)>,
}

impl FingerprintBuilder {
    /// Adds a file by its role (such as `vision_model`) and the SHA-256 of its bytes. The role, not
    /// the path: a model is the same wherever it lies.
    #[must_use]
    pub fn file(mut self, role: &str, sha256: [u8; 32]) -> Self {
        self.parts.push((format!("file:{role}"), sha256.to_vec()));
        self
    }

    /// Adds a file by its bytes.
    #[must_use]
    pub fn file_bytes(self, role: &str, bytes: &[u8]) -> Self {
        self.file(role, Sha256::digest(bytes).into())
    }

    /// Adds canonical facts, such as [`super::image::Preprocessor::facts`].
    #[must_use]
    pub fn facts(mut self, role: &str, facts: &str) -> Self {
        self.parts.push((format!("facts:{role}"), facts.as_bytes().to_vec()));
        self
    }

    /// The fingerprint of all that was added.
    pub fn finish(mut self) -> Fingerprint {
        self.parts.sort();
        let mut hash = Sha256::new();
        hash.update(b"lenslet vector space");
        hash.update(VERSION.to_le_bytes());
        for (role, value) in &self.parts {
            // Lengths in front, so that no two lists of parts give the same bytes.
            hash.update((role.len() as u64).to_le_bytes());
            hash.update(role);
            hash.update((value.len() as u64).to_le_bytes());
            hash.update(value);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Fingerprint(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_order_does_not() {
        let make = |file: &[u8], facts: &str| {
            Fingerprint::builder().file_bytes("vision", file).facts("pixels", facts).finish()
        };
        let base = make(b"weights", "resize 224");
        assert_eq!(base, make(b"weights", "resize 224"));
        assert_ne!(base, make(b"weightz", "resize 224"));
        assert_ne!(base, make(b"weights", "resize 225"));
        let swapped = Fingerprint::builder().facts("pixels", "resize 224").file_bytes("vision", b"weights").finish();
        assert_eq!(base, swapped);
        assert_ne!(base, Fingerprint::builder().file_bytes("vision", b"weights").finish());
    }

    #[test]
    fn text_form_round_trips() {
        let fingerprint = Fingerprint::builder().facts("a", "b").finish();
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 32);
        assert_eq!(text.parse(), Ok(fingerprint));
        let json = serde_json::to_string(&fingerprint).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), fingerprint);
        for wrong in ["", "00", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "g")] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_value_is_pinned() {
        // A change here makes every existing index unreadable: raise VERSION on purpose only.
        let fingerprint = Fingerprint::builder().file("vision", [7; 32]).facts("pixels", "none").finish();
        assert_eq!(fingerprint.to_string(), "b5a376b533b422159a064cfe8b02eed2");
    }
}
