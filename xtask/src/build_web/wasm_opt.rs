//! Binaryen's wasm-opt, where one is installed.
//!
//! It takes some 5 % off the raw size of a module that LLVM has optimised and nothing off the compressed
//! one, so nothing waits for it: without it the build goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;

/// The first version that reads relaxed SIMD as it was standardised.
const OLDEST: u32 = 111;

/// A wasm-opt that can be used.
#[derive(Debug)]
pub(super) struct WasmOpt {
    program: PathBuf,
    version: u32,
}

impl WasmOpt {
    /// The one on `PATH`, if it is recent enough.
    pub(super) fn find() -> Option<Self> {
        let program = process::find_program("wasm-opt")?;
        let version = process::capture("asking its version", Command::new(&program).arg("--version"));
        let version = version.ok().and_then(|text| parse_version(&text))?;
        if version < OLDEST {
            eprintln!("wasm-opt {version} does not know relaxed SIMD ({OLDEST} does): not used");
            return None;
        }
        Some(Self { program, version })
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Optimises a module in place. If that fails the module stays as it is, with a warning.
    pub(super) fn run(&self, wasm: &Path) {
        eprintln!("Optimising {} with wasm-opt {} ...", wasm.display(), self.version);
        let optimized = wasm.with_extension("wasm.opt");
        let mut command = Command::new(&self.program);
        command.args([
            "-O3",
            "--enable-simd",
            "--enable-relaxed-simd",
            "--enable-bulk-memory",
            "--enable-nontrapping-float-to-int",
            "--enable-reference-types",
            "--enable-sign-ext",
            "--enable-mutable-globals",
            "--enable-multivalue",
        ]);
        command.arg(wasm).arg("-o").arg(&optimized);
        let replaced = process::capture("wasm-opt", &mut command)
            .map_err(|error| error.to_string())
            .and_then(|_| fs::rename(&optimized, wasm).map_err(|error| error.to_string()));
        if let Err(error) = replaced {
            eprintln!("warning: {} stays as the compiler made it: {error}", wasm.display());
            // Whether a half-written file was left does not matter any more.
            let _ = fs::remove_file(&optimized);
        }
    }
}

/// The number in `wasm-opt version 121 (version_121)`.
fn parse_version(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn reads_versions() {
        assert_eq!(parse_version("wasm-opt version 108\n"), Some(108));
        assert_eq!(parse_version("wasm-opt version 132 (version_132)"), Some(132));
        assert_eq!(parse_version("?"), None);
    }
}
