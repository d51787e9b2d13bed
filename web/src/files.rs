//! The files of a model folder, which stay in JavaScript's memory until they are needed.

use std::collections::BTreeMap;
use std::io;

use js_sys::{Array, Uint8Array};
use lenslet::onnx::{ExternalData, ModelFile, Source};
use lenslet::tensor::AlignedBytes;
use sha2::{Digest as _, Sha256};

use crate::convert;
use crate::error::WebError;

/// Files by their path in the folder.
pub(crate) struct Files {
    files: BTreeMap<String, Uint8Array>,
}

impl Files {
    /// Takes the files out of the caller's list, so that nothing but this holds them.
    pub(crate) fn take_from(list: &Array) -> Result<Self, WebError> {
        let files: Result<_, WebError> = list.iter().map(|item| convert::file(&item)).collect();
        list.set_length(0);
        Ok(Self { files: files? })
    }

    /// A copy of a small file.
    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.files.get(name).map(Uint8Array::to_vec)
    }

    /// Moves a file into the module's own memory.
    pub(crate) fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.files.remove(name).map(|bytes| bytes.to_vec())
    }

    /// The graph of this stem: `STEM.onnx` or `STEM_VARIANT.onnx`, in any folder.
    pub(crate) fn graph(&self, stem: &str) -> Result<Option<String>, WebError> {
        choose(self.files.keys().map(String::as_str), stem).map(|name| name.map(str::to_owned))
    }

    /// The SHA-256 of a graph and of the weight files that exporters put beside it: the same as the
    /// command line finds, so that either can use the other's indexes.
    pub(crate) fn sha256(&self, graph: &str) -> [u8; 32] {
        const PIECE: u32 = 1 << 20;
        let mut hash = Sha256::new();
        let mut buffer = Vec::new();
        for name in [graph.to_owned(), format!("{graph}_data"), format!("{graph}.data")] {
            let Some(bytes) = self.files.get(&name) else { continue };
            for start in (0..bytes.length()).step_by(PIECE as usize) {
                let piece = bytes.subarray(start, start.saturating_add(PIECE).min(bytes.length()));
                buffer.resize(piece.length() as usize, 0);
                piece.copy_to(&mut buffer);
                hash.update(&buffer);
            }
        }
        hash.finalize().into()
    }

    /// A graph, whose weights move into the module's own memory one by one.
    pub(crate) fn model<'a>(&'a mut self, name: &'a str) -> Result<ModelFile<'a>, WebError> {
        // A file that is not there is an empty one, which no graph is.
        let bytes = self.files.remove(name).unwrap_or_default();
        ModelFile::new(InPage(bytes), self.beside(name))
            .map_err(|error| WebError::load("io", error.to_string()).in_file(name))
    }

    /// Weights beside the graph `name`.
    pub(crate) fn beside<'a>(&'a self, name: &'a str) -> Beside<'a> {
        let folder = name.rfind('/').map_or("", |slash| &name[..=slash]);
        Beside { files: self, folder }
    }
}

/// Bytes in JavaScript's memory.
pub(crate) struct InPage(pub(crate) Uint8Array);

impl Source for InPage {
    fn len(&self) -> u64 {
        self.0.length().into()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let range = range(self.0.length(), offset, Some(out.len() as u64)).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0.subarray(range.start, range.end).copy_to(out);
        Ok(())
    }
}

/// The one name among `names` that is a graph of this stem.
fn choose<'a>(names: impl Iterator<Item = &'a str>, stem: &str) -> Result<Option<&'a str>, WebError> {
    let mut found = names.filter(|name| {
        let file = name.rsplit('/').next().unwrap_or(name);
        file.strip_prefix(stem)
            .and_then(|rest| rest.strip_suffix(".onnx"))
            .is_some_and(|variant| variant.is_empty() || variant.starts_with('_'))
    });
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(second) => Err(WebError::load(
            "ambiguous_model",
            format!("both {} and {second} could be the {stem}", first.unwrap_or_default()),
        )),
    }
}

/// External weights, read piece by piece out of JavaScript's memory.
pub(crate) struct Beside<'a> {
    files: &'a Files,
    folder: &'a str,
}

impl ExternalData for Beside<'_> {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> io::Result<AlignedBytes> {
        let path = format!("{}{location}", self.folder);
        let bytes = self
            .files
            .files
            .get(&path)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the model's folder has no {path}")))?;
        let range = range(bytes.length(), offset, length).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut copy = AlignedBytes::for_weight(range.len());
        bytes.subarray(range.start, range.end).copy_to(copy.as_mut_slice());
        Ok(copy)
    }
}

/// The bytes from `offset` on, `length` of them or all, if that many are there.
fn range(total: u32, offset: u64, length: Option<u64>) -> Option<std::ops::Range<u32>> {
    let start = u32::try_from(offset).ok().filter(|&start| start <= total)?;
    let end = match length {
        Some(length) => u32::try_from(offset.checked_add(length)?).ok()?,
        None => total,
    };
    (end <= total).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::{choose, range};

    #[test]
    fn a_graph_is_found_by_its_stem_with_or_without_a_precision() {
        let names = [
            "onnx/text_model_quantized.onnx",
            "vision_model.onnx",
            "vision_model.onnx_data",
            "vision_models.onnx",
            "config.json",
        ];
        let found = |stem| choose(names.into_iter(), stem).unwrap();
        assert_eq!(found("vision_model"), Some("vision_model.onnx"));
        assert_eq!(found("text_model"), Some("onnx/text_model_quantized.onnx"));
        assert_eq!(found("model"), None);
    }

    #[test]
    fn two_precisions_of_one_graph_are_an_error() {
        let names = ["model.onnx", "onnx/model_fp16.onnx"];
        assert!(choose(names.into_iter(), "model").is_err());
    }

    #[test]
    fn a_range_lies_inside_the_file() {
        assert_eq!(range(10, 2, Some(8)), Some(2..10));
        assert_eq!(range(10, 10, None), Some(10..10));
        assert_eq!(range(10, 2, Some(9)), None);
        assert_eq!(range(10, 11, None), None);
        assert_eq!(range(10, u64::MAX, Some(2)), None);
    }
}
