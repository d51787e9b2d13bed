//! The errors of the runtime. Each has a `kind()` that JavaScript classes and HTTP statuses mirror.

use crate::tensor::{DType, TensorError};

/// Why a kernel could not run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The backend has no kernel for this operator with these types or attributes.
    #[error("{backend} has no kernel for {op}: {reason}")]
    Unsupported {
        /// `cpu` or `gpu`.
        backend: &'static str,
        /// The operator's name.
        op: &'static str,
        /// Which type, attribute or rank is not served.
        reason: String,
    },
    /// Inputs do not fit each other.
    #[error("{0}")]
    Invalid(String),
    /// A value of an input is out of range, an index for instance.
    #[error("{0}")]
    OutOfRange(String),
    /// A tensor has another type or length than the kernel was told.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The GPU refused or was lost.
    #[error("the GPU failed: {0}")]
    Device(String),
}

impl KernelError {
    /// Shorthand for [`KernelError::Unsupported`] about a type.
    pub fn unsupported_type(backend: &'static str, op: &'static str, dtype: DType) -> Self {
        KernelError::Unsupported { backend, op, reason: format!("type {dtype}") }
    }
}
