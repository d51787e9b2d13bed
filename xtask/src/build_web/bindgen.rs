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
    let failed = |message: String| Error::Bindgen { path: module.to_owned(), message };
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
    // Each crate that could have snippets has an entry, mostly an empty one.
    let snippets = output.snippets().iter().filter(|(_, code)| !code.is_empty());
    let sources: Vec<&String> = snippets.map(|(source, _)| source).chain(output.local_modules().keys()).collect();
    if !sources.is_empty() {
        return Err(failed(format!("it imports JavaScript files, which the package has no place for: {sources:?}")));
    }
    output.emit(out_dir).map_err(|error| failed(format!("{error:#}")))?;
    // The package's names are its own: wasm-bindgen would have NAME_bg.wasm, typed as a module of its own.
    let (given, wanted) = (out_dir.join(format!("{name}_bg.wasm")), out_dir.join(format!("{name}.wasm")));
    fs::rename(&given, &wanted).map_err(Error::io("rename", &given))?;
    let types = out_dir.join(format!("{name}_bg.wasm.d.ts"));
    fs::remove_file(&types).map_err(Error::io("remove", &types))
}
