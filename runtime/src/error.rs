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

/// Why a plan could not be made or run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An input of the model was not given.
    #[error("input {name} is missing; this model takes {expected}")]
    MissingInput {
        /// The input.
        name: String,
        /// All inputs with their types and shapes.
        expected: String,
    },
    /// A tensor was given for an input that the model does not have.
    #[error("the model has no input {name}; it takes {expected}")]
    UnknownInput {
        /// The name given.
        name: String,
        /// All inputs with their types and shapes.
        expected: String,
    },
    /// An input has another type or shape than the model declares.
    #[error("input {name} is {got}, the model takes {expected}")]
    InputMismatch {
        /// The input.
        name: String,
        /// Type and shape given.
        got: String,
        /// Type and shape declared, or the size that another input fixed.
        expected: String,
    },
    /// An output was asked for that the model does not have.
    #[error("the model has no output {name}; it gives {available}")]
    UnknownOutput {
        /// The name asked for.
        name: String,
        /// All outputs.
        available: String,
    },
    /// Shapes do not fit each other with these inputs.
    #[error("node {node}: {reason}")]
    Shape {
        /// The node's path.
        node: String,
        /// What does not fit.
        reason: String,
    },
    /// A kernel failed.
    #[error("node {node} ({op}): {source}")]
    Kernel {
        /// The node's path.
        node: String,
        /// The operator.
        op: &'static str,
        /// What the kernel said.
        source: KernelError,
    },
    /// The GPU could not be used or was lost.
    #[error("the GPU failed: {0}. Load the session again, or use device cpu")]
    Device(String),
}

impl RunError {
    /// A stable name for programs: JavaScript error classes and HTTP statuses follow it.
    pub fn kind(&self) -> &'static str {
        match self {
            RunError::MissingInput { .. } => "missing_input",
            RunError::UnknownInput { .. } => "unknown_input",
            RunError::InputMismatch { .. } => "input_mismatch",
            RunError::UnknownOutput { .. } => "unknown_output",
            RunError::Shape { .. } => "bad_shape",
            RunError::Kernel { source: KernelError::Unsupported { .. }, .. } => "unsupported_kernel",
            RunError::Kernel { source: KernelError::Device(_), .. } | RunError::Device(_) => "device",
            RunError::Kernel { .. } => "kernel",
        }
    }
}
