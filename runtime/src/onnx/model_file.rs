//! A model file whose weights stay where they are until each is wanted.
//!
//! Reading a file whole and then copying its weights needs its size twice. [`ModelFile`] copies all but the large weights, the
//! graph that is, and leaves in place of each a note where it lies, in the form that ONNX has for weights in other files.
//! So the rest of the reader need not know.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use super::{ExternalData, Folder, LoadError};
use crate::tensor::AlignedBytes;

/// Weights from this size on are left out. Smaller ones would cost more to find than to copy.
const LARGE: u64 = 4096;
/// The location of weights in the file itself, which no path is called.
const ITSELF: &str = "<itself>";
/// Bytes that are read at once while looking for weights.
const WINDOW: usize = 1 << 16;

/// Bytes of a model, somewhere.
pub trait Source {
    /// How many there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// If they cannot be read, or end before `out` is full.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

impl Source for std::fs::File {
    fn len(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let found = usize::try_from(offset).ok().and_then(|at| self.get(at..)?.get(..out.len()));
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A model without its large weights, and where they are: both arguments of [`super::import()`].
pub struct ModelFile<'a> {
    graph: Vec<u8>,
    source: Box<dyn Source + 'a>,
    beside: Box<dyn ExternalData + 'a>,
}

impl ModelFile<'static> {
    /// The file at `path`; weights in other files are looked for beside it.
    ///
    /// # Errors
    /// [`LoadError::Io`] if it cannot be read. Whether it is a model at all turns out when it is imported.
    pub fn open(path: &Path) -> std::result::Result<Self, LoadError> {
        let fail = |source| LoadError::Io { path: path.display().to_string(), source };
        let file = std::fs::File::open(path).map_err(fail)?;
        let folder = Folder(path.parent().map(Path::to_path_buf).unwrap_or_default());
        Self::new(file, folder).map_err(fail)
    }
}

impl<'a> ModelFile<'a> {
    /// The model in `source`, with weights in other files from `beside`.
    ///
    /// # Errors
    /// If `source` cannot be read.
    pub fn new(source: impl Source + 'a, beside: impl ExternalData + 'a) -> Result<Self> {
        let mut reader = Reader { source: &source, window: Vec::new(), start: 0 };
        let len = source.len();
        let mut graph = Vec::new();
        match skim(&mut reader, MODEL, 0..len, &mut graph) {
            Ok(()) => {}
            // What is no model is handed on as it is, so that the importer says what is wrong with it.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let size = usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?;
                graph = Vec::new();
                graph.try_reserve_exact(size).map_err(|_| ErrorKind::OutOfMemory)?;
                graph.resize(size, 0);
                source.read_at(0, &mut graph)?;
            }
            Err(error) => return Err(error),
        }
        Ok(ModelFile { graph, source: Box::new(source), beside: Box::new(beside) })
    }

    /// The model without its large weights.
    pub fn graph(&self) -> &[u8] {
        &self.graph
    }
}

impl ExternalData for ModelFile<'_> {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> Result<AlignedBytes> {
        if location != ITSELF {
            return self.beside.read(location, offset, length);
        }
        read_weight(&*self.source, "model", offset, length)
    }
}

/// Reads `length` bytes (all that follow, if `None`) of `source`, which errors call `what`, from `offset` on.
pub(super) fn read_weight(source: &dyn Source, what: &str, offset: u64, length: Option<u64>) -> Result<AlignedBytes> {
    let size = source.len();
    let length = length.unwrap_or(size.saturating_sub(offset));
    if offset.checked_add(length).is_none_or(|end| end > size) {
        let text = format!("{length} bytes at {offset} are wanted, the {what} has {size}");
        return Err(Error::new(ErrorKind::UnexpectedEof, text));
    }
    let mut bytes = AlignedBytes::for_weight(length as usize);
    source.read_at(offset, bytes.as_mut_slice())?;
    Ok(bytes)
}

/// Reads small pieces through a window.
struct Reader<'s> {
    source: &'s dyn Source,
    window: Vec<u8>,
    /// Where the window lies.
    start: u64,
}

impl Reader<'_> {
    /// Up to `len` bytes at `offset`, fewer at the end.
    fn peek(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let inside = |start: u64, window: &[u8]| offset >= start && offset + len as u64 <= start + window.len() as u64;
        if !inside(self.start, &self.window) {
            let rest = self.source.len().saturating_sub(offset);
            let size = rest.min(WINDOW.max(len) as u64) as usize;
            self.window.resize(size, 0);
            self.start = offset;
            self.source.read_at(offset, &mut self.window)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.window[from..self.window.len().min(from + len)])
    }

    /// The varint at `*offset`, which moves behind it.
    fn varint(&mut self, offset: &mut u64) -> Result<u64> {
        let bytes = self.peek(*offset, 10)?;
        let mut value = 0u64;
        for (i, &byte) in bytes.iter().enumerate() {
            value |= u64::from(byte & 127).checked_shl(7 * i as u32).unwrap_or_default();
            if byte < 128 {
                *offset += i as u64 + 1;
                return Ok(value);
            }
        }
        Err(broken())
    }

    /// Copies `range` to `out`.
    fn copy(&self, range: std::ops::Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        let size = usize::try_from(range.end - range.start).map_err(|_| ErrorKind::OutOfMemory)?;
        let at = out.len();
        out.resize(at + size, 0);
        self.source.read_at(range.start, &mut out[at..])
    }
}

fn broken() -> Error {
    ErrorKind::InvalidData.into()
}

/// A message of `onnx.proto` on the way to weights.
struct Message {
    /// The field that leads on, and the message it holds.
    inner: Option<(u64, &'static Message)>,
}

/// `ModelProto.graph`, `GraphProto.initializer`, `TensorProto`.
const MODEL: &Message = &Message { inner: Some((7, GRAPH)) };
const GRAPH: &Message = &Message { inner: Some((5, TENSOR)) };
const TENSOR: &Message = &Message { inner: None };
/// `TensorProto.raw_data`.
const RAW_DATA: u64 = 9;

/// Copies the message in `range` to `out`, without large weights.
fn skim(reader: &mut Reader<'_>, message: &Message, range: std::ops::Range<u64>, out: &mut Vec<u8>) -> Result<()> {
    let mut at = range.start;
    // Behind all fields, because the last one counts and the tensor may say itself where its elements are.
    let mut note = Vec::new();
    while at < range.end {
        let begin = at;
        let key = reader.varint(&mut at)?;
        let end = match key & 7 {
            0 => {
                reader.varint(&mut at)?;
                at
            }
            1 => at + 8,
            5 => at + 4,
            2 => {
                let len = reader.varint(&mut at)?;
                at.checked_add(len).ok_or_else(broken)?
            }
            _ => return Err(broken()),
        };
        if end > range.end {
            return Err(broken());
        }
        match message.inner {
            Some((field, inner)) if key == field << 3 | 2 => {
                let mut copy = Vec::new();
                skim(reader, inner, at..end, &mut copy)?;
                put_bytes(out, field, &copy);
            }
            None if key == RAW_DATA << 3 | 2 && end - at >= LARGE => {
                // data_location = EXTERNAL, and external_data's entries.
                note.clear();
                put_varint(&mut note, 14 << 3);
                put_varint(&mut note, 1);
                let (offset, length) = (at.to_string(), (end - at).to_string());
                for (name, value) in [("location", ITSELF), ("offset", &offset), ("length", &length)] {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, name.as_bytes());
                    put_bytes(&mut entry, 2, value.as_bytes());
                    put_bytes(&mut note, 13, &entry);
                }
            }
            _ => reader.copy(begin..end, out)?,
        }
        at = end;
    }
    out.extend(note);
    Ok(())
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{ImportOptions, NoExternalData, import};

    /// A model that adds a constant of `count` floats to its input.
    fn model(count: usize) -> Vec<u8> {
        let message = |fields: &[(u64, &[u8])]| {
            let mut out = Vec::new();
            fields.iter().for_each(|(field, bytes)| put_bytes(&mut out, *field, bytes));
            out
        };
        let number = |mut out: Vec<u8>, field: u64, value: u64| {
            put_varint(&mut out, field << 3);
            put_varint(&mut out, value);
            out
        };
        let raw: Vec<u8> = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let tensor = number(number(message(&[(8, b"w"), (RAW_DATA, &raw)]), 1, count as u64), 2, 1);
        // As some writers have it, data_location = DEFAULT.
        let tensor = number(tensor, 14, 0);
        let node = message(&[(1, b"x"), (1, b"w"), (2, b"y"), (4, b"Add")]);
        let dim = number(Vec::new(), 1, count as u64);
        let kind = number(message(&[(2, &message(&[(1, &dim)]))]), 1, 1);
        let value = |name: &[u8]| message(&[(1, name), (2, &message(&[(1, &kind)]))]);
        let graph = message(&[(1, &node), (5, &tensor), (11, &value(b"x")), (12, &value(b"y"))]);
        let opset = number(Vec::new(), 2, 17);
        number(message(&[(7, &graph), (8, &opset)]), 1, 8)
    }

    #[test]
    fn large_weights_stay_where_they_are() {
        for (count, left_out) in [(8, false), (5000, true)] {
            let bytes = model(count);
            let file = ModelFile::new(bytes.as_slice(), NoExternalData).unwrap();
            assert_eq!(file.graph().len() < bytes.len() / 2, left_out);
            let whole = import(&bytes, &NoExternalData, &ImportOptions::default()).unwrap();
            let skimmed = import(file.graph(), &file, &ImportOptions::default()).unwrap();
            let weight = |graph: &crate::graph::Graph| {
                let inputs = graph.nodes().flat_map(|(_, node)| node.inputs.clone()).flatten();
                inputs.filter_map(|id| graph.constant(id).cloned()).next().expect("a weight")
            };
            assert_eq!(weight(&whole).bytes(), weight(&skimmed).bytes());
        }
    }

    #[test]
    fn what_is_no_model_reaches_the_importer() {
        let bytes = model(5000);
        for bad in [&b"not a model"[..], &[0xff; 40], &bytes[..bytes.len() / 2], &[]] {
            let file = ModelFile::new(bad, NoExternalData).unwrap();
            let want = import(bad, &NoExternalData, &ImportOptions::default()).map(|_| ()).unwrap_err().to_string();
            let got = import(file.graph(), &file, &ImportOptions::default()).map(|_| ()).unwrap_err().to_string();
            assert_eq!(got, want);
        }
        assert!(matches!(ModelFile::open(Path::new("/nowhere/model.onnx")), Err(LoadError::Io { .. })));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let bytes = model(5000);
        let file = ModelFile::new(bytes.as_slice(), NoExternalData).unwrap();
        let offset = bytes.len() as u64 - 10;
        assert_eq!(file.read(ITSELF, offset, Some(100)).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(file.read(ITSELF, u64::MAX, Some(100)).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(file.read(ITSELF, offset, None).unwrap().as_slice(), &bytes[bytes.len() - 10..]);
        assert_eq!(file.read("weights.bin", 0, None).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
