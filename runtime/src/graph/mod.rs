//! The graph that models are turned into: typed operators, values with symbolic shapes, shape inference.

mod attributes;
mod dim;
#[allow(clippy::module_inception)]
mod graph;
mod infer;
mod op;

pub use attributes::*;
pub use dim::{Bindings, Dim};
pub use graph::{Fact, Graph, Node, NodeId, Value, ValueId};
#[cfg(feature = "onnx")]
pub(crate) use infer::resolve_axis;
pub use infer::{InferError, infer, infer_graph};
pub use op::*;
