//! An index of vectors, held for the worker.

use js_sys::{Array, Float32Array, Uint8Array};
use lenslet::tasks::fingerprint::Fingerprint;
use lenslet::tasks::index::{Entry, Index, VectorType};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert;
use crate::error::WebError;

/// An exact index of pictures by one model.
#[wasm_bindgen]
pub struct IndexHandle {
    index: Index,
}

#[wasm_bindgen]
impl IndexHandle {
    /// An empty index for vectors of `dim` numbers from the model with this fingerprint.
    pub fn create(fingerprint: &str, model: &str, dim: usize) -> Result<IndexHandle, JsValue> {
        let fingerprint = parse(fingerprint)?;
        Ok(IndexHandle { index: Index::new(fingerprint, model, dim, VectorType::F32) })
    }

    /// Reads a stored index; one of another model is refused.
    #[wasm_bindgen(js_name = fromBytes)]
    pub fn from_bytes(bytes: &[u8], fingerprint: &str) -> Result<IndexHandle, JsValue> {
        let index = Index::from_bytes(bytes).map_err(WebError::from)?;
        index.check_fingerprint(parse(fingerprint)?).map_err(WebError::from)?;
        Ok(IndexHandle { index })
    }

    /// Adds a picture, or replaces it. `modified` is any number that changes with the picture.
    pub fn add(&mut self, path: &str, size: f64, modified: f64, vector: &[f32]) -> Result<(), JsValue> {
        let entry = Entry { size: size as u64, mtime_ns: nanoseconds(modified), ..Entry::new(path) };
        Ok(self.index.add(entry, vector).map_err(WebError::from)?)
    }

    /// Takes a picture out; whether it was there.
    pub fn remove(&mut self, path: &str) -> bool {
        self.index.remove(path)
    }

    /// Whether the picture is there, in this version.
    pub fn has(&self, path: &str, size: f64, modified: f64) -> bool {
        self.index.get(path).is_some_and(|entry| entry.size == size as u64 && entry.mtime_ns == nanoseconds(modified))
    }

    /// The paths of all pictures.
    #[wasm_bindgen(unchecked_return_type = "string[]")]
    pub fn paths(&self) -> Array {
        let entries = self.index.entries().iter();
        entries.map(|entry| JsValue::from_str(&entry.path)).collect()
    }

    /// The `k` pictures nearest to a vector, best first.
    #[wasm_bindgen(unchecked_return_type = "{path: string, score: number}[]")]
    pub fn search(&self, vector: &Float32Array, k: usize) -> Result<Array, JsValue> {
        let hits = self.index.search(&vector.to_vec(), k).map_err(WebError::from)?;
        let objects = hits.iter().map(|hit| {
            convert::object([
                ("path", JsValue::from_str(&hit.path)),
                ("score", JsValue::from_f64(f64::from(hit.score))),
            ])
        });
        Ok(objects.map(JsValue::from).collect())
    }

    /// The index as a file.
    #[wasm_bindgen(js_name = toBytes)]
    pub fn to_bytes(&self) -> Uint8Array {
        Uint8Array::from(self.index.to_bytes().as_slice())
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[wasm_bindgen(js_name = isEmpty)]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

fn parse(fingerprint: &str) -> Result<Fingerprint, WebError> {
    Ok(fingerprint.parse::<Fingerprint>()?)
}

/// Browsers give milliseconds.
fn nanoseconds(modified: f64) -> i64 {
    (modified * 1e6) as i64
}
