//! Integer products with the arithmetic that turns their accumulators into numbers.
//!
//! Dynamic quantization is exported as `Cast(MatMulInteger(a, b)) * (a_scale * b_scale)`, static quantization as
//! `MatMul(Dequantize(a), Dequantize(b))`. Both become one product whose epilogue scales: the accumulators stay exact, and
//! the weights stay 8-bit.

use super::pattern::{Uses, operands, other, output, source};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Binary, Conv, ConvIntegerToFloat, Graph, MatMulIntegerToFloat, Node, NodeId, Op, ValueId};
use crate::tensor::DType;

pub(super) struct FuseIntegerProducts;

impl Rewrite for FuseIntegerProducts {
    fn name(&self) -> &'static str {
        "fuse-integer-products"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut uses = Uses::of(graph);
        let mut count = 0;
        for id in ids {
            if fuse_dynamic(graph, &uses, id) || fuse_static(graph, id) {
                count += 1;
                uses = Uses::of(graph);
            }
        }
        Ok(count)
    }
}

/// The scales of a product, if `value` multiplies two of which the second is constant.
fn scales(graph: &Graph, value: ValueId) -> Option<(ValueId, ValueId)> {
    let (_, node) = graph.producer(value)?;
    let (a, b) = operands(node, Binary::Mul)?;
    match (graph.constant(a).is_some(), graph.constant(b).is_some()) {
        (false, true) => Some((a, b)),
        (true, false) => Some((b, a)),
        _ => None,
    }
}

/// A weight's scale must be one number, or one a column or output channel.
fn scale_fits(graph: &Graph, scale: ValueId, channels: Option<usize>) -> bool {
    let Some(tensor) = graph.constant(scale) else { return false };
    tensor.len() == 1 || (tensor.shape().len() == 1 && Some(tensor.len()) == channels)
}

fn one_element(graph: &Graph, value: ValueId) -> bool {
    graph.fact(value).and_then(|f| f.const_shape()).is_some_and(|s| s.iter().product::<usize>() == 1)
}

fn columns(graph: &Graph, weights: ValueId, dimension: impl Fn(&[usize]) -> Option<usize>) -> Option<usize> {
    dimension(&graph.fact(weights)?.const_shape()?)
}

/// `Cast(product) * scale`
fn fuse_dynamic(graph: &mut Graph, uses: &Uses, id: NodeId) -> bool {
    let fused = (|| {
        let node = graph.node(id)?;
        let conv = match &node.op {
            Op::MatMulInteger => None,
            Op::ConvInteger(c) => Some(c.clone()),
            _ => return None,
        };
        let (cast_id, cast) = uses.sole_reader(graph, output(node)?)?;
        if !matches!(cast.op, Op::Cast { to: DType::F32 }) {
            return None;
        }
        let float = output(cast)?;
        let (mul_id, mul) = uses.sole_reader(graph, float)?;
        if !matches!(mul.op, Op::Binary(Binary::Mul)) {
            return None;
        }
        let (a_scale, b_scale) = scales(graph, other(mul, float)?)?;
        let (a, b) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let channels = match conv {
            Some(_) => columns(graph, b, |s| s.first().copied()),
            None => columns(graph, b, |s| s.last().copied()),
        };
        // A scale a channel of a convolution is written with trailing ones, which this does not look for.
        let per_channel = graph.constant(b_scale)?.len() > 1;
        if !one_element(graph, a_scale) || !scale_fits(graph, b_scale, channels) || (conv.is_some() && per_channel) {
            return None;
        }
        let zeros = |i: usize| node.inputs.get(i).copied().flatten();
        // Rows with zero points of their own have no place in the fused form.
        if zeros(2).is_some_and(|z| !one_element(graph, z)) {
            return None;
        }
        let inputs = vec![Some(a), Some(b), Some(a_scale), Some(b_scale), zeros(2), zeros(3)];
        let op = match conv {
            None => Op::MatMulIntegerToFloat(MatMulIntegerToFloat::default()),
            Some(c) => Op::ConvIntegerToFloat(ConvIntegerToFloat {
                groups: c.groups,
                window: c.window,
                activation: None,
                relu: false,
            }),
        };
        Some((op, inputs, cast_id, mul_id, output(mul)?))
    })();
    let Some((op, inputs, cast, mul, result)) = fused else { return false };
    // The product of the scales may be computed behind this node, so the fused node takes the place of the last one.
    graph.remove_node(id);
    graph.remove_node(cast);
    super::epilogue::replace_output(graph, mul, op, inputs, result);
    true
}

/// A dequantized operand: the integers, scale and zero point.
struct Dequantized {
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    axis: i64,
}

fn dequantized(graph: &Graph, value: ValueId) -> Option<Dequantized> {
    let (_, node) = graph.producer(value)?;
    let Op::DequantizeLinear { axis, block: 0 } = node.op else { return None };
    let x = source(node)?;
    if !graph.fact(x)?.dtype.is_int8() || graph.fact(value)?.dtype != DType::F32 {
        return None;
    }
    Some(Dequantized { x, scale: node.inputs.get(1).copied()??, zero: node.inputs.get(2).copied().flatten(), axis })
}

/// A product or convolution of dequantized operands.
fn fuse_static(graph: &mut Graph, id: NodeId) -> bool {
    let fused = (|| {
        let node: &Node = graph.node(id)?;
        let (a, b) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let (a, b) = (dequantized(graph, a)?, dequantized(graph, b)?);
        let constant_weights = graph.constant(b.x).is_some();
        if !one_element(graph, a.scale) || !constant_weights {
            return None;
        }
        let rank = graph.fact(b.x)?.rank() as i64;
        let axis = if b.axis < 0 { b.axis + rank } else { b.axis };
        let rest: Vec<Option<ValueId>> = node.inputs.iter().skip(2).copied().collect();
        let (op, channels, channel_axis, transpose) = match &node.op {
            Op::MatMul(m) if m.alpha == 1.0 && !m.trans_a => {
                let transpose = m.trans_b;
                let channels =
                    columns(graph, b.x, |s| if transpose { s.iter().rev().nth(1) } else { s.last() }.copied());
                let op = Op::MatMulIntegerToFloat(MatMulIntegerToFloat { activation: m.activation });
                (op, channels, if transpose { rank - 2 } else { rank - 1 }, transpose)
            }
            Op::Conv(c) => {
                let Conv { groups, window, activation, relu } = c.clone();
                let op = ConvIntegerToFloat { groups, window, activation, relu };
                (Op::ConvIntegerToFloat(op), columns(graph, b.x, |s| s.first().copied()), 0, false)
            }
            _ => return None,
        };
        let scale = graph.constant(b.scale)?;
        if !scale_fits(graph, b.scale, channels) || (scale.len() > 1 && axis != channel_axis) {
            return None;
        }
        if transpose && rank != 2 {
            return None;
        }
        let inputs = vec![Some(a.x), Some(b.x), Some(a.scale), Some(b.scale), a.zero, b.zero];
        Some((op, inputs, rest, transpose, output(node)?))
    })();
    let Some((op, mut inputs, rest, transpose, result)) = fused else { return false };
    if transpose {
        let name = format!("{}:transposed", graph.value(inputs[1].expect("set above")).name);
        inputs[1] = Some(graph.apply(&name, Op::Transpose { perm: Some(vec![1, 0]) }, &[inputs[1]]));
    }
    inputs.extend(rest);
    super::epilogue::replace_output(graph, id, op, inputs, result);
    true
}
