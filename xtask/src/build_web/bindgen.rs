//! wasm-bindgen, as a library: the version of the command line tool could differ from the one in the lock
//! file, and then it refuses the module.

use std::fs;
use std::path::Path;

use wasm_bindgen_cli_support::Bindgen;

use crate::error::Error;

/// Writes `NAME.wasm`, `NAME.js` and `NAME.d.ts`.
///
/// The script has no default address for its module (the caller passes one), so a bundler that follows
/// `new URL(..., import.meta.url)` does not pack it a second time.
pub(super) fn run(name: &str, module: &Path, bytes: Vec<u8>, out_dir: &Path) -> Result<(), Error> {
    let failed = |message: String| Error::Bindgen {
        path: module.to_owned(),
        message,
    };
    let mut output = Bindgen::new()
        .input_bytes(name, bytes)
        .web(true)
        .map_err(|error| failed(format!("{error:#}")))?
        .typescript(true)
        .omit_default_module_path(true)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate_output()
        .map_err(|error| failed(format!("{error:#}")))?;
    if !output.snippets().is_empty() || !output.local_modules().is_empty() {
        return Err(failed(
            "it imports JavaScript snippets, which the package has no place for".to_owned(),
        ));
    }
    let wasm = output.wasm_mut().emit_wasm();
    write(&out_dir.join(format!("{name}.js")), output.js().as_bytes())?;
    write(
        &out_dir.join(format!("{name}.d.ts")),
        output.ts().unwrap_or_default().as_bytes(),
    )?;
    write(&out_dir.join(format!("{name}.wasm")), &wasm)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(Error::io("write", path))
}
