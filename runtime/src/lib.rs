//! Lenslet runs dual-tower and decoder models on CPUs and through WebGPU.

pub mod cpu;
pub mod error;
pub mod generate;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod graph;
#[cfg(feature = "onnx")]
mod loader;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod optimize;
pub mod plan;
mod session;
pub mod tasks;
pub mod tensor;

pub use cpu::CpuKernels;
#[cfg(feature = "onnx")]
pub use loader::Error;
pub use session::{PlanReport, PlannedNode, Session, SessionOptions, TensorInfo};
