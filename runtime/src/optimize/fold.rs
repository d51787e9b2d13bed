//! Computes what depends on constants only, and removes what does nothing.

use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Binary, Graph, NodeId, Op};
use crate::plan::{concrete, run_on_cpu, tensor_of_fact};
use crate::tensor::{DType, Tensor};

pub(super) struct FoldConstants;

/// Results larger than their inputs together are not stored beyond this many bytes: a mask or a table is cheaper to
/// compute than to download.
const LARGEST_GROWTH: usize = 64 << 10;

impl Rewrite for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn apply(&self, graph: &mut Graph, context: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut count = 0;
        for id in ids {
            if bypass(graph, id) || from_fact(graph, id) || compute(graph, id, context) {
                count += 1;
            }
        }
        Ok(count)
    }
}

fn make_constant(graph: &mut Graph, value: crate::graph::ValueId, tensor: Tensor) {
    let entry = graph.value_mut(value);
    entry.fact = Some(crate::graph::Fact::of_tensor(&tensor));
    entry.constant = Some(tensor);
}

/// The elements are told by shape inference: all sizes they depend on are known.
fn from_fact(graph: &mut Graph, id: NodeId) -> bool {
    let Some(node) = graph.node(id) else { return false };
    let [Some(output)] = node.outputs[..] else { return false };
    let Some(tensor) = graph.fact(output).and_then(tensor_of_fact) else { return false };
    graph.remove_node(id);
    make_constant(graph, output, tensor);
    true
}

/// Weights that stay quantized until the kernel reads them.
fn keeps_weights_small(op: &Op) -> bool {
    matches!(op, Op::GatherBlockQuantized(_) | Op::MatMulNBits(_))
}

fn compute(graph: &mut Graph, id: NodeId, context: &Context) -> bool {
    let Some(node) = graph.node(id) else { return false };
    if node.op.has_data_dependent_shape() || keeps_weights_small(&node.op) {
        return false;
    }
    let Some(inputs) = node
        .inputs
        .iter()
        .map(|i| i.map_or(Some(None), |i| graph.constant(i).cloned().map(Some)))
        .collect::<Option<Vec<Option<Tensor>>>>()
    else {
        return false;
    };
    let outputs = node.outputs.clone();
    let Some(shapes) = outputs
        .iter()
        .map(|o| o.and_then(|o| graph.fact(o).cloned()))
        .collect::<Option<Vec<_>>>()
        .and_then(|facts| concrete(&facts))
    else {
        return false;
    };
    let bytes = |d: DType, s: &[usize]| s.iter().product::<usize>() * d.size();
    let before: usize = inputs.iter().flatten().map(|t| bytes(t.dtype(), t.shape())).sum();
    let after: usize = shapes.iter().map(|(d, s)| bytes(*d, s)).sum();
    // Dequantized weights are the exception: their float kernels need them so.
    let allowed = matches!(node.op, Op::DequantizeLinear { .. }) || after <= before + LARGEST_GROWTH;
    if !allowed {
        return false;
    }
    let results = if node.op.is_alias() {
        match inputs.first().and_then(Option::as_ref).map(|t| t.reshaped(&shapes[0].1)) {
            Some(Ok(tensor)) => vec![tensor],
            _ => return false,
        }
    } else {
        let views: Vec<_> = inputs.iter().map(|i| i.as_ref().map(Tensor::view)).collect();
        // A kernel's complaint about constants is left for the run, where it comes with the node's name.
        match run_on_cpu(&context.cpu, &context.pool, &node.op, &views, &shapes) {
            Ok(results) => results,
            Err(_) => return false,
        }
    };
    graph.remove_node(id);
    for (output, tensor) in outputs.into_iter().zip(results) {
        if let Some(output) = output {
            make_constant(graph, output, tensor);
        }
    }
    true
}

fn starts_at_zero(graph: &Graph, slice: &crate::graph::Node) -> bool {
    let starts = slice.inputs.get(1).copied().flatten().and_then(|s| graph.constant(s)).and_then(Tensor::to_i64_vec);
    starts.is_some_and(|s| s.iter().all(|&x| x == 0))
}

/// Nodes that give back their input.
fn bypass(graph: &mut Graph, id: NodeId) -> bool {
    let Some(node) = graph.node(id) else { return false };
    let (Some(Some(input)), [Some(output)]) = (node.inputs.first().copied(), &node.outputs[..]) else { return false };
    let output = *output;
    let (Some(from), Some(to)) = (graph.fact(input), graph.fact(output)) else { return false };
    let neutral = |at: usize, neutral: f32| {
        let constant = node.inputs.get(at).copied().flatten().and_then(|i| graph.constant(i));
        constant.and_then(Tensor::to_f32_vec).is_some_and(|v| v.iter().all(|&x| x == neutral))
    };
    let same_shape = from.shape == to.shape;
    let useless = match &node.op {
        Op::Identity => true,
        Op::Cast { to } => from.dtype == *to,
        Op::Reshape { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Flatten { .. } | Op::Expand => same_shape,
        Op::Transpose { perm: Some(perm) } => perm.iter().copied().eq(0..perm.len()),
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Tile | Op::Pad { .. } => same_shape && from.const_shape().is_some(),
        // From the first element to as many as there are.
        Op::Slice => same_shape && (from.const_shape().is_some() || starts_at_zero(graph, node)),
        Op::Binary(Binary::Mul | Binary::Div) => same_shape && neutral(1, 1.0),
        Op::Binary(Binary::Add | Binary::Sub) => same_shape && neutral(1, 0.0),
        _ => false,
    };
    // A slice of the same length may run backwards.
    let backwards =
        matches!(node.op, Op::Slice)
            && node.inputs.get(4).copied().flatten().is_some_and(|s| {
                graph.constant(s).and_then(Tensor::to_i64_vec).is_none_or(|v| v.iter().any(|&x| x != 1))
            });
    // An input of the model keeps its own name as an output only behind an identity.
    let is_plain_output = graph.outputs.contains(&output) && graph.inputs.contains(&input);
    if !useless || backwards || is_plain_output || from.dtype != to.dtype {
        return false;
    }
    graph.remove_node(id);
    graph.replace_uses(output, input);
    true
}
