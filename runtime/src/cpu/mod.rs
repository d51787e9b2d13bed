//! Kernels for x86-64, aarch64 and wasm32: the reference for every operator.
//!
//! One operator family a file; this room only sends an operator to its family. Kernels write into outputs that the
//! executor allocated with the inferred type and shape, and take scratch memory from [`Cpu::scratch`], so that a
//! steady-state run allocates nothing. All tensors are contiguous and row-major.

pub(crate) mod conv;
pub(crate) mod epilogue;
pub(crate) mod integer;
pub(crate) mod matmul;
pub(crate) mod nbits;
pub(crate) mod operands;
pub(crate) mod packed;
pub(crate) mod parallel;
pub(crate) mod quantize;
#[cfg(test)]
mod speed;

use crate::error::KernelError;
use crate::graph::Op;
use crate::tensor::{BufferPool, Tensor, TensorView, TensorViewMut};

/// The CPU backend of one session: threads, scratch memory and packed weights.
pub struct Cpu {
    /// How many threads kernels may use; 1 in a browser without shared memory.
    threads: usize,
    /// Scratch memory that kernels borrow.
    pub(crate) scratch: BufferPool,
    /// Constants in the forms that kernels read.
    pub(crate) packed: packed::PackCache,
}

impl Cpu {
    /// A backend that uses up to `threads` threads (0: as many as there are cores).
    pub fn new(threads: usize) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { cores() } else { threads };
        Cpu { threads, scratch: BufferPool::default(), packed: packed::PackCache::default() }
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What a product needs: all threads and the scratch memory.
    pub(crate) fn context(&self) -> matmul::Context<'_> {
        matmul::Context { threads: self.threads, scratch: &self.scratch }
    }

    /// Runs `op`. `outputs` have the types and shapes that shape inference gave.
    pub fn run(
        &self,
        op: &Op,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let _ = (inputs, outputs);
        Err(KernelError::Unsupported { backend: "cpu", op: op.name(), reason: "not written yet".into() })
    }

    /// Runs an operator whose output's shape depends on data ([`Op::has_data_dependent_shape`]).
    pub fn run_dynamic(&self, op: &Op, inputs: &[Option<TensorView<'_>>]) -> Result<Vec<Tensor>, KernelError> {
        let _ = inputs;
        Err(KernelError::Unsupported { backend: "cpu", op: op.name(), reason: "not written yet".into() })
    }
}
