//! Types, shapes and shape values of an operator's outputs from those of its inputs.
//!
//! The same functions serve the optimiser, where sizes are symbolic, and the planner, where they are numbers.

mod layout;
mod neural;
mod value;

use super::{Dim, Fact, Graph, NodeId, Op, Unary};
use crate::tensor::DType;

/// Why an operator cannot take its inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct InferError {
    /// The operator.
    pub op: &'static str,
    /// What does not fit, with the shapes.
    pub reason: String,
}

pub(super) type Inferred = Result<Vec<Fact>, String>;

/// The inputs of one operator, with errors that name what is missing.
pub(super) struct Inputs<'a> {
    facts: &'a [Option<Fact>],
    /// Prefix of the symbols that this node makes for sizes nobody knows yet.
    pub(super) node: &'a str,
}

impl<'a> Inputs<'a> {
    pub(super) fn get(&self, i: usize) -> Option<&'a Fact> {
        self.facts.get(i)?.as_ref()
    }

    pub(super) fn need(&self, i: usize) -> Result<&'a Fact, String> {
        self.get(i).ok_or_else(|| format!("input {i} is missing"))
    }

    pub(super) fn len(&self) -> usize {
        self.facts.len()
    }

    /// The integers of input `i`, if that is there and they are known.
    pub(super) fn value(&self, i: usize) -> Option<&'a [Dim]> {
        self.get(i)?.value.as_deref()
    }

    /// The integers of input `i`, if all are known numbers.
    pub(super) fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.value(i)?.iter().map(Dim::as_const).collect()
    }

    pub(super) fn unknown(&self, i: usize) -> Dim {
        Dim::symbol(&format!("{}#{i}", self.node))
    }
}

/// The dimension that `axis` means for `rank`, negative from the end.
pub(crate) fn resolve_axis(axis: i64, rank: usize) -> Result<usize, String> {
    let resolved = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(resolved)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| format!("axis {axis} is outside a tensor of {rank} dimensions"))
}

/// The shape that operands have together under NumPy broadcasting.
pub(super) fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>, String> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    (0..rank)
        .map(|i| {
            shapes.iter().try_fold(Dim::Const(1), |acc, s| match (i + s.len()).checked_sub(rank) {
                Some(at) => acc.broadcast(&s[at]).ok_or_else(|| format!("shapes {shapes:?} do not broadcast")),
                None => Ok(acc),
            })
        })
        .collect()
}

/// Infers the `outputs` outputs of `op`. `node` is the node's path, used to name sizes that only running can tell.
pub fn infer(op: &Op, inputs: &[Option<Fact>], outputs: usize, node: &str) -> Result<Vec<Fact>, InferError> {
    let inputs = Inputs { facts: inputs, node };
    let mut facts = infer_shapes(op, &inputs, outputs).map_err(|reason| InferError { op: op.name(), reason })?;
    if let [fact] = facts.as_mut_slice()
        && fact.value.is_none()
    {
        fact.value = value::propagate(op, &inputs, fact);
    }
    Ok(facts)
}

fn infer_shapes(op: &Op, inputs: &Inputs, outputs: usize) -> Inferred {
    let one = |dtype, shape| Ok(vec![Fact::new(dtype, shape)]);
    match op {
        Op::Unary(unary) => {
            let x = inputs.need(0)?;
            let dtype = match unary {
                Unary::IsNan => DType::Bool,
                _ => x.dtype,
            };
            one(dtype, x.shape.clone())
        }
        Op::Binary(binary) => {
            let (a, b) = (inputs.need(0)?, inputs.need(1)?);
            if a.dtype != b.dtype && *binary != super::Binary::Pow {
                return Err(format!("operands are of types {} and {}", a.dtype, b.dtype));
            }
            let dtype = if binary.is_predicate() { DType::Bool } else { a.dtype };
            one(dtype, broadcast(&[&a.shape, &b.shape])?)
        }
        Op::Where => {
            let (c, a, b) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
            if a.dtype != b.dtype {
                return Err(format!("branches are of types {} and {}", a.dtype, b.dtype));
            }
            one(a.dtype, broadcast(&[&c.shape, &a.shape, &b.shape])?)
        }
        Op::Cast { to } => one(*to, inputs.need(0)?.shape.clone()),
        Op::Softmax { axis, .. } => {
            let x = inputs.need(0)?;
            resolve_axis(*axis, x.rank())?;
            one(x.dtype, x.shape.clone())
        }
        Op::DynamicQuantizeLinear => {
            let x = inputs.need(0)?;
            Ok(vec![Fact::new(DType::U8, x.shape.clone()), Fact::new(DType::F32, vec![]), Fact::new(DType::U8, vec![])])
        }
        Op::QuantizeLinear { to, .. } => one(*to, inputs.need(0)?.shape.clone()),
        Op::DequantizeLinear { .. } => one(inputs.need(1)?.dtype, inputs.need(0)?.shape.clone()),
        Op::CumSum { .. } | Op::Trilu { .. } | Op::Identity => {
            let x = inputs.need(0)?;
            one(x.dtype, x.shape.clone())
        }
        Op::MatMul(_)
        | Op::MatMulInteger
        | Op::MatMulIntegerToFloat(_)
        | Op::MatMulNBits(_)
        | Op::Conv(_)
        | Op::ConvInteger(_)
        | Op::ConvIntegerToFloat(_)
        | Op::Pool(_)
        | Op::Norm(_)
        | Op::Attention(_)
        | Op::GroupQueryAttention(_)
        | Op::RotaryEmbedding(_)
        | Op::Sample => neural::infer(op, inputs),
        Op::Split { axis, sizes } => {
            let from_input = if inputs.get(1).is_some() {
                Some(inputs.ints(1).ok_or("the sizes of the parts are only known at run time")?)
            } else {
                None
            };
            layout::split(inputs.need(0)?, *axis, sizes.as_ref().or(from_input.as_ref()).map(Vec::as_slice), outputs)
        }
        _ => layout::infer(op, inputs),
    }
}

/// Infers all values of `graph` in order. Facts that were set before by the importer are overwritten, since exporters
/// write symbolic names that do not always agree.
pub fn infer_graph(graph: &mut Graph) -> Result<(), (NodeId, InferError)> {
    let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    for id in ids {
        let Some(node) = graph.node(id) else { continue };
        let facts: Vec<Option<Fact>> = node.inputs.iter().map(|i| i.and_then(|i| graph.fact(i).cloned())).collect();
        let inferred = infer(&node.op, &facts, node.outputs.len(), &node.name).map_err(|e| (id, e))?;
        let outputs = node.outputs.clone();
        for (output, fact) in outputs.into_iter().zip(inferred) {
            if let Some(output) = output {
                graph.value_mut(output).fact = Some(fact);
            }
        }
    }
    Ok(())
}
