//! Remembers from what a package's files were made, so that unchanged ones are not made again.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde_json::{Value, json};

use super::sizes::Sizes;
use crate::error::Error;

/// Counts up when the way from cargo's module to the package's files changes.
const FORMAT: u64 = 1;

/// The inputs of one packaging.
#[derive(Debug)]
pub(super) struct Stamp {
    inputs: u64,
}

impl Stamp {
    /// A stamp for a module and the version of wasm-opt that will optimise it, if one will.
    pub(super) fn new(module: &[u8], wasm_opt: Option<u32>) -> Self {
        let mut hasher = DefaultHasher::new();
        (FORMAT, module, wasm_opt).hash(&mut hasher);
        Self { inputs: hasher.finish() }
    }

    /// The recorded sizes if the outputs were made from these inputs and `wasm` is still as it was then.
    pub(super) fn recorded(&self, path: &Path, wasm: &Path) -> Option<Sizes> {
        let record: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let complete = ["js", "d.ts"].iter().all(|extension| wasm.with_extension(extension).is_file());
        let sizes =
            Sizes { raw: record["raw"].as_u64()?, gzip: record["gzip"].as_u64(), brotli: record["brotli"].as_u64() };
        let same = record["inputs"].as_u64() == Some(self.inputs)
            && fs::metadata(wasm).is_ok_and(|meta| meta.len() == sizes.raw);
        (same && complete).then_some(sizes)
    }

    /// Records that the outputs were made.
    pub(super) fn record(&self, path: &Path, sizes: &Sizes) -> Result<(), Error> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        }
        let record = json!({
            "inputs": self.inputs,
            "raw": sizes.raw,
            "gzip": sizes.gzip,
            "brotli": sizes.brotli,
        });
        fs::write(path, record.to_string()).map_err(Error::io("write", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_inputs_with_all_outputs_are_fresh() {
        let dir = std::env::temp_dir().join(format!("lenslet-stamp-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, wasm) = (dir.join("a.stamp"), dir.join("a.wasm"));
        fs::write(&wasm, b"1234").unwrap();
        fs::write(dir.join("a.js"), "").unwrap();
        let sizes = Sizes { raw: 4, gzip: None, brotli: Some(2) };
        let stamp = Stamp::new(b"module", None);
        assert_eq!(stamp.recorded(&path, &wasm), None, "nothing recorded");
        stamp.record(&path, &sizes).unwrap();
        assert_eq!(stamp.recorded(&path, &wasm), None, "an output is missing");
        fs::write(dir.join("a.d.ts"), "").unwrap();
        assert_eq!(stamp.recorded(&path, &wasm), Some(sizes));
        assert_eq!(Stamp::new(b"module", Some(120)).recorded(&path, &wasm), None);
        assert_eq!(Stamp::new(b"other", None).recorded(&path, &wasm), None);
        fs::write(&wasm, b"12345").unwrap();
        assert_eq!(stamp.recorded(&path, &wasm), None, "the output was changed");
        fs::remove_dir_all(dir).unwrap();
    }
}
