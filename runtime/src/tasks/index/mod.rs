//! An exact index of vectors: every search looks at every vector.
//!
//! Right up to some hundred thousand vectors, where a scan takes milliseconds, and never
//! approximately wrong. The file format is in `mod@file`, the scan in `search`.

mod file;
mod search;

use std::collections::HashMap;

pub use search::{Hit, SearchOptions};
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::{pooling, similarity};

/// An index that cannot be read, written or used in this way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The first bytes are not those of an index.
    #[error("not a Lenslet index")]
    NotAnIndex,
    /// Written by another version of the format.
    #[error(
        "the index has format version {found}, this program reads version {supported}: make the \
         index again, or use the program that made it"
    )]
    Version {
        /// Version in the file.
        found: u32,
        /// Version that this program reads.
        supported: u32,
    },
    /// The file ends too early.
    #[error("the index is cut off: {found} of at least {expected} bytes are there; make it again")]
    Truncated {
        /// Bytes that the file must have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The contents do not match their SHA-256.
    #[error("the index is damaged: its checksum does not match; make it again")]
    Checksum,
    /// The contents contradict themselves.
    #[error("the index is damaged: {0}; make it again")]
    Damaged(String),
    /// The vectors come from another model, or from other preprocessing.
    #[error(
        "the index was made by {index_model} (fingerprint {index}), the loaded model has \
         fingerprint {model}: their vectors cannot be compared; load the model that made the index, \
         or make the index again with this one"
    )]
    Fingerprint {
        /// Fingerprint in the index.
        index: Fingerprint,
        /// Name of the model that made the index.
        index_model: String,
        /// Fingerprint of the loaded model.
        model: Fingerprint,
    },
    /// A vector of another width.
    #[error("the index holds vectors of {expected} numbers, this one has {found}")]
    Dimension {
        /// Width of the index.
        expected: usize,
        /// Width of the vector.
        found: usize,
    },
    /// A vector with an infinite or undefined number.
    #[error("the vector of {0} has a number that is not finite")]
    NotFinite(String),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// File in question.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl IndexError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAnIndex => "index_unknown_format",
            Self::Version { .. } => "index_version",
            Self::Truncated { .. } => "index_truncated",
            Self::Checksum => "index_checksum",
            Self::Damaged(_) => "index_damaged",
            Self::Fingerprint { .. } => "index_fingerprint",
            Self::Dimension { .. } => "index_dimension",
            Self::NotFinite(_) => "index_not_finite",
            Self::Io { .. } => "index_io",
        }
    }
}

/// How an index keeps its vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VectorType {
    /// Four bytes a number.
    #[serde(rename = "f32")]
    F32,
    /// One byte a number and one scale a vector, symmetric.
    #[serde(rename = "int8")]
    Int8,
}

/// What an index knows about an item besides its vector: enough to see that it has not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the item, unique in the index: a path relative to the indexed folder, or any key.
    pub path: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// SHA-256 of the contents, where it was computed.
    pub sha256: Option<[u8; 32]>,
}

impl Entry {
    /// An item that is known by its name only.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), size: 0, mtime_ns: 0, sha256: None }
    }
}

/// The vectors, row by row in the order of the entries.
#[derive(Debug, Clone, PartialEq)]
enum Vectors {
    F32(Vec<f32>),
    Int8 { codes: Vec<i8>, scales: Vec<f32> },
}

/// Vectors of unit length with their entries.
#[derive(Debug, Clone)]
pub struct Index {
    fingerprint: Fingerprint,
    model: String,
    dim: usize,
    entries: Vec<Entry>,
    vectors: Vectors,
    /// Row of each path.
    rows: HashMap<String, usize>,
}

impl Index {
    /// An empty index for vectors of `dim` numbers from the model with this fingerprint; `model` is
    /// its name, for messages.
    pub fn new(fingerprint: Fingerprint, model: impl Into<String>, dim: usize, kind: VectorType) -> Self {
        let vectors = match kind {
            VectorType::F32 => Vectors::F32(Vec::new()),
            VectorType::Int8 => Vectors::Int8 { codes: Vec::new(), scales: Vec::new() },
        };
        Self { fingerprint, model: model.into(), dim, entries: Vec::new(), vectors, rows: HashMap::new() }
    }

    /// What made the vectors.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Name of the model that made the vectors.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Numbers of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How the vectors are kept.
    pub fn vector_type(&self) -> VectorType {
        match self.vectors {
            Vectors::F32(_) => VectorType::F32,
            Vectors::Int8 { .. } => VectorType::Int8,
        }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All items, in no particular order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The item of this name.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.rows.get(path).map(|&row| &self.entries[row])
    }

    /// The vector of this name, as it is kept (int8 vectors widened).
    pub fn vector(&self, path: &str) -> Option<Vec<f32>> {
        self.rows.get(path).map(|&row| self.vectors.row(row, self.dim))
    }

    /// Refuses to go on with another model's vectors.
    ///
    /// # Errors
    /// [`IndexError::Fingerprint`] if the index was made by something else.
    pub fn check_fingerprint(&self, model: Fingerprint) -> Result<(), IndexError> {
        if self.fingerprint == model {
            return Ok(());
        }
        Err(IndexError::Fingerprint { index: self.fingerprint, index_model: self.model.clone(), model })
    }

    /// Adds an item, or replaces the one of the same path. The vector is brought to unit length; a
    /// zero vector stays zero and matches nothing.
    ///
    /// # Errors
    /// [`IndexError::Dimension`] and [`IndexError::NotFinite`]; the index is then unchanged.
    pub fn add(&mut self, entry: Entry, vector: &[f32]) -> Result<(), IndexError> {
        let vector = self.unit(vector, &entry.path)?;
        if let Some(&row) = self.rows.get(&entry.path) {
            self.vectors.replace(row, &vector);
            self.entries[row] = entry;
        } else {
            self.rows.insert(entry.path.clone(), self.entries.len());
            self.vectors.push(&vector);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Takes an item out; `false` if there is none of this name.
    pub fn remove(&mut self, path: &str) -> bool {
        let Some(row) = self.rows.remove(path) else {
            return false;
        };
        self.entries.swap_remove(row);
        self.vectors.swap_remove(row, self.dim);
        if let Some(moved) = self.entries.get(row) {
            self.rows.insert(moved.path.clone(), row);
        }
        true
    }

    /// Keeps the items for which `keep` holds and returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) -> usize {
        let gone: Vec<_> = self.entries.iter().filter(|entry| !keep(entry)).map(|e| e.path.clone()).collect();
        gone.iter().filter(|path| self.remove(path)).count()
    }

    /// A checked copy of a vector at unit length.
    fn unit(&self, vector: &[f32], name: &str) -> Result<Vec<f32>, IndexError> {
        if vector.len() != self.dim {
            return Err(IndexError::Dimension { expected: self.dim, found: vector.len() });
        }
        if !vector.iter().all(|x| x.is_finite()) {
            return Err(IndexError::NotFinite(name.to_owned()));
        }
        let mut vector = vector.to_vec();
        pooling::normalise(&mut vector);
        Ok(vector)
    }
}

impl Vectors {
    fn push(&mut self, vector: &[f32]) {
        match self {
            Self::F32(values) => values.extend_from_slice(vector),
            Self::Int8 { codes, scales } => {
                let start = codes.len();
                codes.resize(start + vector.len(), 0);
                scales.push(similarity::quantise(vector, &mut codes[start..]));
            }
        }
    }

    fn replace(&mut self, row: usize, vector: &[f32]) {
        let range = row * vector.len()..(row + 1) * vector.len();
        match self {
            Self::F32(values) => values[range].copy_from_slice(vector),
            Self::Int8 { codes, scales } => {
                scales[row] = similarity::quantise(vector, &mut codes[range]);
            }
        }
    }

    fn swap_remove(&mut self, row: usize, dim: usize) {
        fn cut<T: Copy>(values: &mut Vec<T>, row: usize, dim: usize) {
            let last = values.len() - dim;
            values.copy_within(last.., row * dim);
            values.truncate(last);
        }
        match self {
            Self::F32(values) => cut(values, row, dim),
            Self::Int8 { codes, scales } => {
                cut(codes, row, dim);
                scales.swap_remove(row);
            }
        }
    }

    fn row(&self, row: usize, dim: usize) -> Vec<f32> {
        let range = row * dim..(row + 1) * dim;
        match self {
            Self::F32(values) => values[range].to_vec(),
            Self::Int8 { codes, scales } => codes[range].iter().map(|&code| f32::from(code) * scales[row]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::testing::Random;

    pub(super) fn fingerprint(facts: &str) -> Fingerprint {
        Fingerprint::builder().facts("test", facts).finish()
    }

    pub(super) fn filled(kind: VectorType, count: usize, dim: usize, seed: u64) -> Index {
        let mut random = Random(seed);
        let mut index = Index::new(fingerprint("a"), "test model", dim, kind);
        for item in 0..count {
            let entry = Entry {
                path: format!("photos/{item:04}.png"),
                size: item as u64 * 1000,
                mtime_ns: -5 + item as i64,
                sha256: (item % 2 == 0).then_some([item as u8; 32]),
            };
            index.add(entry, &random.vector(dim)).unwrap();
        }
        index
    }

    /// Random additions, replacements and removals against a plain map.
    #[test]
    fn behaves_like_a_map() {
        for kind in [VectorType::F32, VectorType::Int8] {
            let mut random = Random(3);
            let mut index = Index::new(fingerprint("a"), "m", 5, kind);
            let mut model: HashMap<String, Vec<f32>> = HashMap::new();
            for _ in 0..2000 {
                let path = format!("{}", random.below(40));
                if random.below(3) == 0 {
                    assert_eq!(index.remove(&path), model.remove(&path).is_some());
                } else {
                    let mut vector = random.vector(5);
                    index.add(Entry::new(&path), &vector).unwrap();
                    pooling::normalise(&mut vector);
                    model.insert(path, vector);
                }
                assert_eq!(index.len(), model.len());
            }
            for (path, vector) in &model {
                assert_eq!(index.get(path).unwrap().path, *path);
                for (found, expected) in index.vector(path).unwrap().iter().zip(vector) {
                    assert!((found - expected).abs() < 0.005, "{kind:?}");
                }
            }
            let even = |entry: &Entry| entry.path.ends_with(['0', '2', '4', '6', '8']);
            let odd = model.keys().filter(|path| !even(&Entry::new(*path))).count();
            assert_eq!(index.retain(even), odd);
            assert!(index.entries().iter().all(even));
        }
    }

    #[test]
    fn bad_vectors_change_nothing() {
        let mut index = filled(VectorType::F32, 3, 4, 1);
        let before = index.vector("photos/0001.png");
        let error = index.add(Entry::new("photos/0001.png"), &[1.0; 5]).unwrap_err();
        assert_eq!(error.kind(), "index_dimension");
        let error = index.add(Entry::new("x"), &[1.0, f32::NAN, 0.0, 0.0]).unwrap_err();
        assert_eq!(error.kind(), "index_not_finite");
        assert_eq!(index.len(), 3);
        assert_eq!(index.vector("photos/0001.png"), before);
        assert!(index.get("x").is_none());
    }

    #[test]
    fn other_models_are_refused_by_name() {
        let index = filled(VectorType::F32, 1, 4, 1);
        assert!(index.check_fingerprint(fingerprint("a")).is_ok());
        let message = index.check_fingerprint(fingerprint("b")).unwrap_err().to_string();
        for part in ["a", "b"].map(|facts| fingerprint(facts).to_string()) {
            assert!(message.contains(&part), "{message}");
        }
        assert!(message.contains("test model") && message.contains("make the index again"));
    }
}
