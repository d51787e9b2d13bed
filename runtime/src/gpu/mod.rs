//! The wgpu backend: Vulkan, Metal and DirectX natively, WebGPU in browsers.
//!
//! The rooms, from the bottom up:
//!
//! - [`device`]: finding an adapter, what it can do ([`Caps`]), and what happens when it fails or goes away.
//! - [`pool`]: device memory that is handed out again, and its counters.
//! - [`tensor`]: how tensors lie on the device; upload and download.
//! - [`pipeline`]: shaders as parts of text, pipelines cached under a typed key.
//! - [`recorder`]: dispatches gathered into command buffers.
//! - [`ops`]: the operator families, each with its `.wgsl` files beside it.
//!
//! # Conventions of every shader
//!
//! Bind group 0 holds the uniform `p: Params` at binding 0 (one block a dispatch, at a dynamic offset), then the inputs as
//! read-only storage, then the outputs as read-write storage. Shapes come in `Params`, never in the source, so a new
//! shape compiles nothing. Large grids are two-dimensional ([`recorder::grid`]); `linear.wgsl` turns the workgroup's
//! number back into one index. Kernels work without subgroups, without shader-f16, with 256 invocations and 16 KiB of
//! workgroup memory.

pub mod device;
pub mod ops;
pub mod pipeline;
pub mod pool;
pub mod recorder;
pub mod tensor;

pub use device::{AdapterReport, Caps, DeviceError, Gpu, GpuOptions};
pub use pipeline::PipelineKey;
pub use pool::PoolStats;
pub use tensor::GpuTensor;
pub(crate) use tensor::Readback;

#[cfg(test)]
pub(crate) mod testing;
