//! What a module weighs, as it is and as servers send it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::error::Error;
use crate::process;

/// Sizes in bytes; the compressed ones where Node.js was there to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) raw: u64,
    pub(super) gzip: Option<u64>,
    pub(super) brotli: Option<u64>,
}

/// Compresses a file both ways at the highest level and prints the two sizes.
const COMPRESS: &str = "
    const zlib = require('node:zlib');
    const bytes = require('node:fs').readFileSync(process.argv[1]);
    const gzip = zlib.gzipSync(bytes, { level: 9 }).length;
    const brotli = zlib.brotliCompressSync(bytes, {
        params: { [zlib.constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
    }).length;
    console.log(JSON.stringify({ gzip, brotli }));
";

impl Sizes {
    /// Measures a file.
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let raw = fs::metadata(path).map_err(Error::io("read", path))?.len();
        // The sizes are information: a machine without Node.js can build all the same.
        let mut node = Command::new("node");
        let compressed = process::capture("compressing", node.args(["-e", COMPRESS]).arg(path))
            .ok()
            .and_then(|json| serde_json::from_str::<Value>(&json).ok())
            .unwrap_or_default();
        Ok(Self { raw, gzip: compressed["gzip"].as_u64(), brotli: compressed["brotli"].as_u64() })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} MB", megabytes(self.raw))?;
        if let (Some(gzip), Some(brotli)) = (self.gzip, self.brotli) {
            write!(f, ", gzip {:.2} MB, brotli {:.2} MB", megabytes(gzip), megabytes(brotli))?;
        }
        Ok(())
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    #[test]
    fn prints_what_is_known() {
        let sizes = Sizes { raw: 2_324_464, gzip: Some(827_528), brotli: Some(557_696) };
        assert_eq!(sizes.to_string(), "2.32 MB, gzip 0.83 MB, brotli 0.56 MB");
        assert_eq!(Sizes { gzip: None, ..sizes }.to_string(), "2.32 MB");
    }
}
