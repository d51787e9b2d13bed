//! Workers that share the module's memory and help with products.

use lenslet::cpu::workers;
use wasm_bindgen::prelude::wasm_bindgen;

/// How many helpers there will be. Called once, before a model is loaded.
#[wasm_bindgen(js_name = expectHelpers)]
pub fn expect_helpers(count: usize) {
    workers::expect(count);
}

/// How many helpers have come.
#[wasm_bindgen(js_name = helpersThere)]
pub fn helpers_there() -> usize {
    workers::there()
}

/// The calling worker is helper `index` from now on: this does not return.
#[wasm_bindgen(js_name = serveAsHelper)]
pub fn serve_as_helper(index: usize) {
    workers::serve(index);
}

/// Called by the worker of a helper that trapped, so that nobody waits for it.
#[wasm_bindgen(js_name = buryHelper)]
pub fn bury_helper(index: usize) {
    workers::bury(index);
}
