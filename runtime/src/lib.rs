//! Lenslet runs dual-tower and decoder models on CPUs and through WebGPU.

pub mod cpu;
pub mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod graph;
pub mod tensor;
