//! Lenslet runs dual-tower and decoder models on CPUs and through WebGPU.

pub mod cpu;
pub mod error;
pub mod graph;
pub mod tensor;
