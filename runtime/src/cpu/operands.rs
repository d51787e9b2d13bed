//! Checks on operands that the product and convolution kernels share.

use crate::error::KernelError;
use crate::tensor::{Element, TensorView, TensorViewMut};

/// The inputs of an operator, by position.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    op: &'static str,
    inputs: &'a [Option<TensorView<'a>>],
}

impl<'a> Operands<'a> {
    /// The inputs of `op`, whose name errors use.
    pub(crate) fn new(op: &'static str, inputs: &'a [Option<TensorView<'a>>]) -> Self {
        Operands { op, inputs }
    }

    /// Input `i`, if present.
    pub(crate) fn optional(&self, i: usize) -> Option<TensorView<'a>> {
        self.inputs.get(i).copied().flatten()
    }

    /// Input `i`, called `name` in errors.
    pub(crate) fn required(&self, i: usize, name: &str) -> Result<TensorView<'a>, KernelError> {
        self.optional(i).ok_or_else(|| KernelError::Invalid(format!("{} lacks its input {name}", self.op)))
    }

    /// The elements of input `i`, if present, of which there must be `len`.
    pub(crate) fn elements<T: Element>(
        &self,
        i: usize,
        name: &str,
        len: usize,
    ) -> Result<Option<&'a [T]>, KernelError> {
        let Some(view) = self.optional(i) else { return Ok(None) };
        let elements = view.as_slice::<T>()?;
        if elements.len() != len {
            return Err(self.invalid(format!("{name} has {} elements, expected {len}", elements.len())));
        }
        Ok(Some(elements))
    }

    /// An error about this operator's inputs.
    pub(crate) fn invalid(&self, message: impl std::fmt::Display) -> KernelError {
        KernelError::Invalid(format!("{}: {message}", self.op))
    }

    /// An error about an element type that no kernel serves.
    pub(crate) fn unsupported(&self, view: &TensorView<'_>) -> KernelError {
        KernelError::unsupported_type("cpu", self.op, view.dtype)
    }

    /// The elements of output `i`, which must have room for `len`.
    pub(crate) fn output<'o, T: Element>(
        &self,
        outputs: &'o mut [TensorViewMut<'_>],
        i: usize,
        len: usize,
    ) -> Result<&'o mut [T], KernelError> {
        let Some(output) = outputs.get_mut(i) else { return Err(self.invalid(format!("output {i} is missing"))) };
        let shape = output.shape.to_vec();
        let elements = output.as_mut_slice::<T>()?;
        if elements.len() != len {
            return Err(self.invalid(format!("the result has {len} elements, the output {shape:?} another number")));
        }
        Ok(elements)
    }
}
