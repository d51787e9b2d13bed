//! One suite for all backends: the same cases on native CPU, wgpu, WASM and WebGPU.
//!
//! What a case is and what it must give stands here once; `tests/` runs it natively, `web/src/suite.rs` in a browser. Nothing
//! outside [`native`] waits for a device or touches the file system.

pub mod backend;
pub mod bundled;
pub mod captions;
pub mod continuation;
pub mod full_size;
pub mod greedy;
pub mod integers;
#[cfg(feature = "native")]
pub mod native;
pub mod onnx;
pub mod photographs;
pub mod random;
pub mod ranking;
pub mod skeleton;
pub mod zoo;
