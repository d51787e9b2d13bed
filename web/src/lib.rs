//! The wasm-bindgen layer under the npm package `lenslet`.
//!
//! It translates and holds, and decides nothing: files, pixels and texts come from the worker
//! (`web/ts`), everything that is computed is computed by the crate `lenslet`. One module instance
//! lives in each worker.

#[cfg(feature = "bench")]
mod bench;
mod convert;
mod device;
mod error;
mod files;
mod index;
#[cfg(feature = "test-suite")]
mod suite;
#[cfg(feature = "threads")]
mod threads;
mod tower;
mod writing;

pub use index::IndexHandle;
#[cfg(feature = "threads")]
pub use threads::{bury_helper, expect_helpers, helpers_there, serve_as_helper};
pub use tower::DualTowerHandle;
use wasm_bindgen::prelude::wasm_bindgen;
pub use writing::{AnswererHandle, CaptionerHandle, TextGeneratorHandle, TextStreamHandle};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(message: &str);
}

/// Runs when the module is instantiated: a panic should name its place in the console before it traps.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|info| console_error(&info.to_string())));
}
