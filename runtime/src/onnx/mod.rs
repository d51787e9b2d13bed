//! ONNX files: bytes to graph. The only room that knows ONNX's operator and attribute names.

mod attributes;
mod import;
mod model_file;
mod proto;
mod tensor;

use std::collections::HashMap;

pub use model_file::{ModelFile, Source};
pub use tensor::{ExternalData, Folder, NoExternalData};

use crate::graph::Graph;
use crate::tensor::Tensor;

/// Why a file could not be turned into a graph.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not a model.
    #[error("not a readable ONNX model: {0}. Download it again, or export it again with torch.onnx or optimum")]
    NotOnnx(String),
    /// An operator that nobody has.
    #[error("node {node}: operator {domain}.{op} (opset {opset}) is not supported")]
    UnknownOperator {
        /// The node's path.
        node: String,
        /// `ai.onnx` or the operator's own domain.
        domain: String,
        /// The operator.
        op: String,
        /// The version of the domain that the model asks for.
        opset: i64,
    },
    /// An operator whose attributes or inputs have a form that is not served.
    #[error("node {node} ({op}, opset {opset}): {reason}")]
    Node {
        /// The node's path.
        node: String,
        /// The operator.
        op: String,
        /// The version of the domain that the model asks for.
        opset: i64,
        /// The attribute or input, and what is wrong with it.
        reason: String,
    },
    /// The model needs a newer or older opset than is supported.
    #[error("the model needs opset {version} of {domain}; versions {least} to {greatest} are supported")]
    Opset {
        /// The domain.
        domain: String,
        /// What the model asks for.
        version: i64,
        /// The oldest supported.
        least: i64,
        /// The newest supported.
        greatest: i64,
    },
    /// A weight's bytes do not fit its shape or type.
    #[error("weight {name}: {reason}")]
    Weight {
        /// The weight.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file with weights is missing or short.
    #[error("weight {name} lies in {location}, beside the model, which cannot be read: {reason}")]
    External {
        /// The weight.
        name: String,
        /// The file.
        location: String,
        /// What the system said.
        reason: String,
    },
    /// A weight points outside the model's folder.
    #[error("weight {name} points to {location:?}, which is not inside the model's folder; this is refused")]
    ExternalOutside {
        /// The weight.
        name: String,
        /// The path in the model.
        location: String,
    },
    /// Shapes inside the graph contradict each other.
    #[error("node {node}: {reason}")]
    Shape {
        /// The node's path.
        node: String,
        /// What does not fit.
        reason: String,
    },
}

impl LoadError {
    /// A stable name for programs: JavaScript error classes and HTTP statuses follow it.
    pub fn kind(&self) -> &'static str {
        match self {
            LoadError::Io { .. } => "io",
            LoadError::NotOnnx(_) => "not_onnx",
            LoadError::UnknownOperator { .. } => "unknown_operator",
            LoadError::Node { .. } => "unsupported_node",
            LoadError::Opset { .. } => "unsupported_opset",
            LoadError::Weight { .. } => "bad_weight",
            LoadError::External { .. } => "external_data_missing",
            LoadError::ExternalOutside { .. } => "external_data_outside",
            LoadError::Shape { .. } => "bad_shape",
        }
    }
}

/// How to read a model.
#[derive(Default)]
pub struct ImportOptions {
    /// Graph inputs that become constants, by name. A merged decoder is split by fixing `use_cache_branch`.
    pub fixed_inputs: HashMap<String, Tensor>,
}

/// Reads an ONNX model. Weights that lie in other files come from `data`.
pub fn import(file: &[u8], data: &dyn ExternalData, options: &ImportOptions) -> Result<Graph, LoadError> {
    let model = proto::ModelProto::read(file).map_err(|e| LoadError::NotOnnx(e.to_string()))?;
    import::import_model(&model, data, options)
}

/// The names of a model's inputs, which say what kind of decoder a file is before it is read with [`ImportOptions`].
pub fn input_names(file: &[u8]) -> Result<Vec<String>, LoadError> {
    let model = proto::ModelProto::read(file).map_err(|e| LoadError::NotOnnx(e.to_string()))?;
    let graph = model.graph.ok_or_else(|| LoadError::NotOnnx("it holds no graph".into()))?;
    Ok(graph.inputs.iter().map(|i| i.name.to_owned()).collect())
}
