//! The index file.
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `LENSLETX` |
//! | 4 | format version, 1 |
//! | 4 | length of the header |
//! | | header, JSON: `fingerprint`, `model`, `dim`, `dtype` (`f32` or `int8`), `count`, `entry_bytes` |
//! | `entry_bytes` | entries in the order of their paths: length of the path (4), path in UTF-8, size (8), time (8), 1 and SHA-256 (32) or 0 |
//! | | zeros up to a multiple of 64 |
//! | | `f32`: the vectors; `int8`: the codes, zeros up to a multiple of 64, one f32 scale a vector |
//! | 32 | SHA-256 of everything before |
//!
//! The same items give the same bytes, in whatever order they were added.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Entry, Index, IndexError, VectorType, Vectors};
use crate::tasks::fingerprint::Fingerprint;

const MAGIC: &[u8; 8] = b"LENSLETX";
const VERSION: u32 = 1;
/// Magic, version and length of the header.
const PREFIX: usize = 16;
const DIGEST: usize = 32;
const ALIGN: usize = 64;
/// An entry with an empty path and no digest.
const SMALLEST_ENTRY: usize = 4 + 8 + 8 + 1;

#[derive(Serialize, Deserialize)]
struct Header {
    fingerprint: Fingerprint,
    model: String,
    dim: usize,
    dtype: VectorType,
    count: usize,
    entry_bytes: usize,
}

/// Where the parts of a file lie.
struct Layout {
    entries: usize,
    vectors: usize,
    /// Scales of int8 vectors; for f32 the same as `trailer`.
    scales: usize,
    trailer: usize,
    len: usize,
}

impl Layout {
    /// `None` if the sizes do not fit the address space.
    fn new(header: &Header, header_len: usize) -> Option<Self> {
        let entries = PREFIX.checked_add(header_len)?;
        let vectors = align(entries.checked_add(header.entry_bytes)?)?;
        let numbers = header.count.checked_mul(header.dim)?;
        let (scales, trailer) = match header.dtype {
            VectorType::F32 => {
                let end = vectors.checked_add(numbers.checked_mul(4)?)?;
                (end, end)
            }
            VectorType::Int8 => {
                let scales = align(vectors.checked_add(numbers)?)?;
                (scales, scales.checked_add(header.count.checked_mul(4)?)?)
            }
        };
        Some(Self { entries, vectors, scales, trailer, len: trailer.checked_add(DIGEST)? })
    }
}

fn align(offset: usize) -> Option<usize> {
    offset.checked_next_multiple_of(ALIGN)
}

/// Hashes and counts what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    written: usize,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.written += bytes.len();
        self.inner.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let fill = self.written.next_multiple_of(ALIGN) - self.written;
        self.put(&[0; ALIGN][..fill])
    }
}

impl Index {
    /// The index as the bytes of a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = self.write(&mut bytes);
        bytes
    }

    /// Writes the bytes of the file.
    ///
    /// # Errors
    /// The writer's own.
    pub fn write<W: Write>(&self, writer: W) -> io::Result<()> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_unstable_by(|&a, &b| self.entries[a].path.cmp(&self.entries[b].path));

        let mut entries = Vec::new();
        for &row in &order {
            put_entry(&mut entries, &self.entries[row])?;
        }
        let header = serde_json::to_vec(&Header {
            fingerprint: self.fingerprint,
            model: self.model.clone(),
            dim: self.dim,
            dtype: self.vector_type(),
            count: self.len(),
            entry_bytes: entries.len(),
        })?;

        let mut out = Hashing { inner: writer, hash: Sha256::new(), written: 0 };
        out.put(MAGIC)?;
        out.put(&VERSION.to_le_bytes())?;
        out.put(&length(header.len())?.to_le_bytes())?;
        out.put(&header)?;
        out.put(&entries)?;
        out.pad()?;
        let range = |row: usize| row * self.dim..(row + 1) * self.dim;
        match &self.vectors {
            Vectors::F32(values) => {
                let mut bytes = Vec::with_capacity(self.dim * 4);
                for &row in &order {
                    bytes.clear();
                    bytes.extend(values[range(row)].iter().flat_map(|value| value.to_le_bytes()));
                    out.put(&bytes)?;
                }
            }
            Vectors::Int8 { codes, scales } => {
                for &row in &order {
                    out.put(bytemuck::cast_slice(&codes[range(row)]))?;
                }
                out.pad()?;
                for &row in &order {
                    out.put(&scales[row].to_le_bytes())?;
                }
            }
        }
        let digest = out.hash.finalize();
        out.inner.write_all(&digest)?;
        out.inner.flush()
    }

    /// Reads the bytes of a file, and checks all of them.
    ///
    /// # Errors
    /// [`IndexError::NotAnIndex`], [`IndexError::Version`], [`IndexError::Truncated`],
    /// [`IndexError::Checksum`] or [`IndexError::Damaged`]. Whether the vectors fit the loaded
    /// model is [`Index::check_fingerprint`]'s question.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        let truncated =
            |expected: usize| IndexError::Truncated { expected: expected as u64, found: bytes.len() as u64 };
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(IndexError::NotAnIndex);
        }
        let mut prefix = Reader(bytes);
        prefix.take(MAGIC.len()).ok_or_else(|| truncated(PREFIX + DIGEST))?;
        let version = prefix.u32().ok_or_else(|| truncated(PREFIX + DIGEST))?;
        if version != VERSION {
            return Err(IndexError::Version { found: version, supported: VERSION });
        }
        let header_len = prefix.u32().ok_or_else(|| truncated(PREFIX + DIGEST))? as usize;
        let header = prefix
            .take(header_len)
            .ok_or_else(|| truncated(PREFIX.saturating_add(header_len).saturating_add(DIGEST)))?;
        let damaged = |what: &str| IndexError::Damaged(what.to_owned());
        let header: Header =
            serde_json::from_slice(header).map_err(|error| IndexError::Damaged(format!("header: {error}")))?;
        let layout = Layout::new(&header, header_len).ok_or_else(|| damaged("impossible sizes"))?;
        if bytes.len() < layout.len {
            return Err(truncated(layout.len));
        }
        if bytes.len() > layout.len {
            return Err(IndexError::Damaged(format!("{} bytes follow its end", bytes.len() - layout.len)));
        }
        let (body, digest) = bytes.split_at(layout.trailer);
        if Sha256::digest(body)[..] != *digest {
            return Err(IndexError::Checksum);
        }

        let mut index = Self::new(header.fingerprint, header.model, header.dim, header.dtype);
        // Bounds the allocation by the size of the file.
        if header.count > header.entry_bytes / SMALLEST_ENTRY {
            return Err(damaged("more items than entries"));
        }
        index.entries.reserve_exact(header.count);
        let mut reader = Reader(&bytes[layout.entries..layout.entries + header.entry_bytes]);
        for row in 0..header.count {
            let entry = reader.entry().ok_or_else(|| damaged("an entry cannot be read"))?;
            if index.rows.insert(entry.path.clone(), row).is_some() {
                return Err(IndexError::Damaged(format!("{} is there twice", entry.path)));
            }
            index.entries.push(entry);
        }
        if !reader.0.is_empty() {
            return Err(damaged("bytes follow the last entry"));
        }
        index.vectors = match header.dtype {
            VectorType::F32 => Vectors::F32(floats(&bytes[layout.vectors..layout.trailer])),
            VectorType::Int8 => {
                let numbers = header.count * header.dim;
                let codes = &bytes[layout.vectors..layout.vectors + numbers];
                Vectors::Int8 {
                    codes: codes.iter().map(|&code| code as i8).collect(),
                    scales: floats(&bytes[layout.scales..layout.trailer]),
                }
            }
        };
        let values = match &index.vectors {
            Vectors::F32(values) => values,
            Vectors::Int8 { scales, .. } => scales,
        };
        if !values.iter().all(|value| value.is_finite()) {
            return Err(damaged("a number is not finite"));
        }
        Ok(index)
    }

    /// Writes the index to a file. The old file stays whole until the new one is: the bytes go to a
    /// temporary file beside it, which then takes its name.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, path: &std::path::Path) -> Result<(), IndexError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.partial", std::process::id()));
        let temporary = std::path::PathBuf::from(temporary);
        let write = || -> io::Result<()> {
            let file = std::fs::File::create(&temporary)?;
            let mut buffer = io::BufWriter::with_capacity(1 << 20, file);
            self.write(&mut buffer)?;
            buffer.into_inner()?.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(|source| {
            // Nothing more can be done if this fails too.
            let _ = std::fs::remove_file(&temporary);
            IndexError::Io { path: path.display().to_string(), source }
        })
    }

    /// Reads an index from a file.
    ///
    /// # Errors
    /// [`IndexError::Io`], and those of [`Index::from_bytes`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(path: &std::path::Path) -> Result<Self, IndexError> {
        let bytes =
            std::fs::read(path).map_err(|source| IndexError::Io { path: path.display().to_string(), source })?;
        Self::from_bytes(&bytes)
    }
}

/// A length as the format stores it.
fn length(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "name is too long"))
}

fn put_entry(bytes: &mut Vec<u8>, entry: &Entry) -> io::Result<()> {
    bytes.extend(length(entry.path.len())?.to_le_bytes());
    bytes.extend(entry.path.as_bytes());
    bytes.extend(entry.size.to_le_bytes());
    bytes.extend(entry.mtime_ns.to_le_bytes());
    match &entry.sha256 {
        Some(digest) => {
            bytes.push(1);
            bytes.extend(digest);
        }
        None => bytes.push(0),
    }
    Ok(())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Takes values from the front; `None` at the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn entry(&mut self) -> Option<Entry> {
        let len = self.u32()? as usize;
        let path = std::str::from_utf8(self.take(len)?).ok()?.to_owned();
        let size = u64::from_le_bytes(self.array()?);
        let mtime_ns = i64::from_le_bytes(self.array()?);
        let sha256 = match self.array()? {
            [0] => None,
            [1] => Some(self.array()?),
            _ => return None,
        };
        Some(Entry { path, size, mtime_ns, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{filled, fingerprint};
    use super::*;

    const KINDS: [VectorType; 2] = [VectorType::F32, VectorType::Int8];

    #[test]
    fn round_trips() {
        for kind in KINDS {
            for (count, dim) in [(0, 7), (1, 1), (9, 5), (40, 64)] {
                let index = filled(kind, count, dim, 2);
                let read = Index::from_bytes(&index.to_bytes()).unwrap();
                assert_eq!(read.fingerprint(), fingerprint("a"));
                assert_eq!(read.model(), "test model");
                assert_eq!((read.dim(), read.len(), read.vector_type()), (dim, count, kind));
                assert_eq!(read.entries(), index.entries());
                assert_eq!(read.vectors, index.vectors);
                assert_eq!(read.rows, index.rows);
            }
        }
    }

    #[test]
    fn bytes_do_not_depend_on_the_order_of_additions() {
        for kind in KINDS {
            let index = filled(kind, 12, 6, 2);
            let mut other = Index::new(fingerprint("a"), "test model", 6, kind);
            for entry in index.entries().iter().rev() {
                other.entries.push(entry.clone());
                other.rows.insert(entry.path.clone(), other.len() - 1);
            }
            match &mut other.vectors {
                Vectors::F32(values) => {
                    (0..12).rev().for_each(|row| values.extend(index.vectors.row(row, 6)));
                }
                Vectors::Int8 { codes, scales } => {
                    let Vectors::Int8 { codes: from, scales: from_scales } = &index.vectors else {
                        unreachable!("same kind");
                    };
                    for r in (0..12).rev() {
                        codes.extend(&from[r * 6..(r + 1) * 6]);
                        scales.push(from_scales[r]);
                    }
                }
            }
            assert_eq!(other.to_bytes(), index.to_bytes());
        }
    }

    #[test]
    fn vectors_lie_on_a_multiple_of_64() {
        let bytes = filled(VectorType::F32, 3, 4, 2).to_bytes();
        let index = Index::from_bytes(&bytes).unwrap();
        let Vectors::F32(values) = &index.vectors else { unreachable!("f32") };
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let at = bytes.windows(raw.len()).position(|window| window == raw).unwrap();
        assert_eq!(at % 64, 0);
        assert_eq!(at + raw.len() + DIGEST, bytes.len());
    }

    #[test]
    fn every_cut_is_an_error() {
        for kind in KINDS {
            let bytes = filled(kind, 4, 5, 2).to_bytes();
            for len in 0..bytes.len() {
                let error = Index::from_bytes(&bytes[..len]).unwrap_err();
                assert_eq!(error.kind(), "index_truncated", "{len} of {}", bytes.len());
            }
            let mut longer = bytes;
            longer.push(0);
            assert_eq!(Index::from_bytes(&longer).unwrap_err().kind(), "index_damaged");
        }
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        for kind in KINDS {
            let mut bytes = filled(kind, 2, 3, 2).to_bytes();
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    assert!(Index::from_bytes(&bytes).is_err(), "bit {bit} of byte {at}");
                    bytes[at] ^= 1 << bit;
                }
            }
        }
    }

    /// Wrong contents under a right checksum: a writer with a fault, or a forger.
    #[test]
    fn contradictions_are_errors_even_when_signed() {
        let sign = |mut bytes: Vec<u8>| {
            let body = bytes.len() - DIGEST;
            let digest = Sha256::digest(&bytes[..body]);
            bytes[body..].copy_from_slice(&digest);
            bytes
        };
        let bytes = filled(VectorType::F32, 2, 3, 2).to_bytes();
        let at = |needle: &str| bytes.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap();
        assert!(Index::from_bytes(&sign(bytes.clone())).is_ok());

        let mut same_paths = bytes.clone();
        same_paths[at("0001.png") + 3] = b'0';
        let error = Index::from_bytes(&sign(same_paths)).unwrap_err();
        assert!(error.to_string().contains("photos/0000.png is there twice"), "{error}");

        let mut not_text = bytes.clone();
        not_text[at("photos/")] = 0xff;
        assert_eq!(Index::from_bytes(&sign(not_text)).unwrap_err().kind(), "index_damaged");

        let mut infinite = bytes.clone();
        let value = bytes.len() - DIGEST - 4;
        infinite[value..value + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert_eq!(Index::from_bytes(&sign(infinite)).unwrap_err().kind(), "index_damaged");

        let mut more = bytes.clone();
        more[at(r#""count":2"#) + 8] = b'9';
        assert!(Index::from_bytes(&sign(more)).is_err());
    }

    #[test]
    fn other_files_and_versions_are_named() {
        assert_eq!(Index::from_bytes(b"PK\x03\x04").unwrap_err().kind(), "index_unknown_format");
        assert_eq!(Index::from_bytes(b"").unwrap_err().kind(), "index_truncated");
        let mut bytes = filled(VectorType::F32, 1, 1, 2).to_bytes();
        bytes[8] = 2;
        let error = Index::from_bytes(&bytes).unwrap_err();
        assert!(matches!(error, IndexError::Version { found: 2, supported: 1 }));
    }

    #[test]
    fn saving_replaces_the_file_as_a_whole() {
        let folder = std::env::temp_dir().join(format!("lenslet-index-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("photos.index");
        filled(VectorType::F32, 3, 4, 1).save(&path).unwrap();
        let second = filled(VectorType::Int8, 5, 6, 2);
        second.save(&path).unwrap();
        assert_eq!(Index::load(&path).unwrap().vectors, second.vectors);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        let error = second.save(&folder.join("missing").join("x")).unwrap_err();
        assert_eq!(error.kind(), "index_io");
        assert!(error.to_string().contains("missing"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(Index::load(&path).unwrap_err().kind(), "index_io");
    }
}
