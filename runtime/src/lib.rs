//! Lenslet runs dual-tower and decoder models on CPUs and through WebGPU.

pub mod cpu;
pub mod error;
pub mod graph;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod tensor;
