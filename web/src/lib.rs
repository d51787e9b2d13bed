//! The wasm-bindgen layer under the npm package `lenslet`.
//!
//! It translates and holds, and decides nothing: files, pixels and texts come from the worker
//! (`web/ts`), everything that is computed is computed by the crate `lenslet`. One module instance
//! lives in each worker.

mod convert;
mod error;
mod files;
mod graph;
mod index;
mod tower;

pub use index::IndexHandle;
pub use tower::DualTowerHandle;
use wasm_bindgen::prelude::wasm_bindgen;

/// Runs when the module is instantiated: a panic should name its place in the console before it traps.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}
