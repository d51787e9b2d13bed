//! Sums, activations and residuals behind a product or a convolution move into its kernel's epilogue, where the output is
//! still in registers.

use super::pattern::{Order, Uses, along, other, output, same_shape, size_from_end, source};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Binary, Graph, Node, NodeId, Op, Unary, ValueId};

pub(super) struct FuseEpilogue;

/// Where an operator keeps its epilogue: the inputs' positions, and the dimension, from the end, that the bias lies along.
struct Slots {
    bias: usize,
    residual: usize,
    channel: usize,
}

fn slots(graph: &Graph, node: &Node) -> Option<Slots> {
    let rank = graph.fact(output(node)?)?.rank();
    match node.op {
        // A product with a vector has no row that a bias could lie along.
        Op::MatMul(_) if rank >= 2 => Some(Slots { bias: 2, residual: 3, channel: 1 }),
        Op::MatMulIntegerToFloat(_) if rank >= 2 => Some(Slots { bias: 6, residual: 7, channel: 1 }),
        Op::MatMulNBits(_) => Some(Slots { bias: 4, residual: 5, channel: 1 }),
        Op::Conv(_) => Some(Slots { bias: 2, residual: 3, channel: rank - 1 }),
        Op::ConvIntegerToFloat(_) => Some(Slots { bias: 6, residual: 7, channel: rank - 1 }),
        _ => None,
    }
}

fn activation_of(op: &mut Op) -> Option<&mut Option<Unary>> {
    match op {
        Op::MatMul(m) => Some(&mut m.activation),
        Op::MatMulIntegerToFloat(m) => Some(&mut m.activation),
        Op::MatMulNBits(m) => Some(&mut m.activation),
        Op::Conv(c) => Some(&mut c.activation),
        Op::ConvIntegerToFloat(c) => Some(&mut c.activation),
        _ => None,
    }
}

/// Whether a Relu follows the residual, of an operator that can have one there.
fn relu_of(op: &mut Op) -> Option<&mut bool> {
    match op {
        Op::Conv(c) => Some(&mut c.relu),
        Op::ConvIntegerToFloat(c) => Some(&mut c.relu),
        _ => None,
    }
}

/// Activations that every product kernel has.
fn fusable(u: Unary) -> bool {
    use Unary::*;
    matches!(
        u,
        Relu | Clip { .. }
            | Gelu
            | GeluTanh
            | QuickGelu { .. }
            | Tanh
            | Sigmoid
            | HardSwish
            | HardSigmoid { .. }
            | LeakyRelu { .. }
    )
}

impl Rewrite for FuseEpilogue {
    fn name(&self) -> &'static str {
        "fuse-epilogue"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let order = Order::of(graph);
        let mut uses = Uses::of(graph);
        let mut count = 0;
        for id in ids {
            while fuse_next(graph, &uses, &order, id) {
                count += 1;
                uses = Uses::of(graph);
            }
        }
        Ok(count)
    }
}

/// Takes one reader into the epilogue of `id`.
fn fuse_next(graph: &mut Graph, uses: &Uses, order: &Order, id: NodeId) -> bool {
    let Some(node) = graph.node(id) else { return false };
    let Some(slots) = slots(graph, node) else { return false };
    let Some(out) = output(node) else { return false };
    let Some((reader_id, reader)) = uses.sole_reader(graph, out) else { return false };
    let taken = |i: usize| node.inputs.get(i).copied().flatten().is_some();
    let mut op = node.op.clone();
    // Behind a Relu nothing else fits.
    if relu_of(&mut op).is_some_and(|relu| *relu) {
        return false;
    }
    let mut new_input = None;
    match &reader.op {
        Op::Unary(Unary::Relu) if taken(slots.residual) => {
            let Some(relu) = relu_of(&mut op) else { return false };
            *relu = true;
        }
        Op::Unary(u) if fusable(*u) && !taken(slots.residual) => {
            let Some(activation @ None) = activation_of(&mut op) else { return false };
            *activation = Some(*u);
        }
        Op::Binary(Binary::Add) if !taken(slots.residual) => {
            let Some(addend) = other(reader, out) else { return false };
            let Some(sum) = output(reader) else { return false };
            let channels = size_from_end(graph, out, slots.channel);
            let bias = channels.and_then(|n| along(graph, addend, slots.channel, n));
            let activated = activation_of(&mut op).is_some_and(|activation| activation.is_some());
            match bias {
                Some(bias) if !taken(slots.bias) && !activated && same_shape(graph, sum, out) => {
                    let name = format!("{}:flat", graph.value(addend).name);
                    new_input = Some((slots.bias, Err((name, bias))));
                }
                // The residual must be there before the product starts.
                None if same_shape(graph, addend, out)
                    && graph.constant(addend).is_none()
                    && order.before(graph, addend, id)
                    && is_float32(graph, addend) =>
                {
                    new_input = Some((slots.residual, Ok(addend)));
                }
                _ => return false,
            }
        }
        _ => return false,
    }
    let Some(result) = output(reader) else { return false };
    let mut inputs = node.inputs.clone();
    if let Some((slot, input)) = new_input {
        let value = match input {
            Ok(value) => value,
            Err((name, tensor)) => graph.add_constant(name, tensor),
        };
        if inputs.len() <= slot {
            inputs.resize(slot + 1, None);
        }
        inputs[slot] = Some(value);
    }
    graph.remove_node(reader_id);
    replace_output(graph, id, op, inputs, result);
    true
}

fn is_float32(graph: &Graph, value: ValueId) -> bool {
    graph.fact(value).is_some_and(|f| f.dtype == crate::tensor::DType::F32)
}

/// Gives a node another operator, inputs and output.
pub(super) fn replace_output(graph: &mut Graph, id: NodeId, op: Op, inputs: Vec<Option<ValueId>>, result: ValueId) {
    if let Some(node) = graph.node_mut(id) {
        node.op = op;
        node.inputs = inputs;
        node.outputs = vec![Some(result)];
    }
    graph.value_mut(result).producer = Some(id);
}

/// `norm(x) * gamma + beta` with constant vectors becomes one norm.
pub(super) struct FuseNormAffine;

impl Rewrite for FuseNormAffine {
    fn name(&self) -> &'static str {
        "fuse-norm-affine"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut uses = Uses::of(graph);
        let mut count = 0;
        for id in ids {
            while absorb(graph, &uses, id) {
                count += 1;
                uses = Uses::of(graph);
            }
        }
        Ok(count)
    }
}

fn absorb(graph: &mut Graph, uses: &Uses, id: NodeId) -> bool {
    let Some(node) = graph.node(id) else { return false };
    let Op::Norm(norm) = node.op else { return false };
    let (Some(x), Some(out)) = (source(node), output(node)) else { return false };
    let last_axis = graph.fact(x).is_some_and(|f| norm.axis == -1 || norm.axis == f.rank() as i64 - 1);
    if !last_axis || node.outputs.iter().skip(1).any(Option::is_some) {
        return false;
    }
    let Some((reader_id, reader)) = uses.sole_reader(graph, out) else { return false };
    let Some(n) = size_from_end(graph, out, 1) else { return false };
    let slot = match reader.op {
        Op::Binary(Binary::Mul) if node.inputs.len() == 1 => 1,
        Op::Binary(Binary::Add) if node.inputs.len() == 2 => 2,
        _ => return false,
    };
    let vector = other(reader, out).and_then(|c| Some((c, along(graph, c, 1, n)?)));
    let (Some((constant, tensor)), Some(result)) = (vector, output(reader)) else { return false };
    if !same_shape(graph, out, result) {
        return false;
    }
    let mut inputs = node.inputs.clone();
    let name = format!("{}:flat", graph.value(constant).name);
    let value = graph.add_constant(name, tensor);
    inputs.resize(slot, None);
    inputs.push(Some(value));
    graph.remove_node(reader_id);
    replace_output(graph, id, Op::Norm(norm), inputs, result);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Conv, Dim, Fact, Padding, Window, infer_graph};
    use crate::optimize::optimize;
    use crate::tensor::{DType, Tensor};
    use crate::{Session, SessionOptions};

    /// A block of a residual network: `relu(conv(relu(conv(x))) + x)`, or another activation last.
    fn residual_block(last: Unary) -> Graph {
        let mut g = Graph::new();
        let x = g.add_input("x", Fact::new(DType::F32, [1, 2, 5, 5].map(Dim::from).to_vec()));
        let conv = |g: &mut Graph, name: &str, x: ValueId, seed: usize| {
            let w: Vec<f32> = (0..2 * 2 * 9).map(|i| ((i * 7 + seed) % 11) as f32 * 0.1 - 0.5).collect();
            let w = g.add_constant(format!("{name}.w"), Tensor::from_slice(&[2, 2, 3, 3], &w).unwrap());
            let window = Window { strides: vec![1; 2], dilations: vec![1; 2], pads: Padding::Explicit(vec![1; 4]) };
            let op = Conv { groups: 1, window, activation: None, relu: false };
            g.apply(name, Op::Conv(op), &[Some(x), Some(w)])
        };
        let inner = conv(&mut g, "inner", x, 1);
        let inner = g.apply("inner.relu", Op::Unary(Unary::Relu), &[Some(inner)]);
        let outer = conv(&mut g, "outer", inner, 5);
        let sum = g.apply("sum", Op::Binary(Binary::Add), &[Some(outer), Some(x)]);
        let y = g.apply("y", Op::Unary(last), &[Some(sum)]);
        g.add_output("y", y);
        infer_graph(&mut g).unwrap();
        g
    }

    #[test]
    fn a_residual_block_is_two_convolutions() {
        for (last, nodes) in [(Unary::Relu, 2), (Unary::HardSwish, 3)] {
            let before = residual_block(last);
            let mut after = before.clone();
            optimize(&mut after).unwrap();
            assert_eq!(after.node_count(), nodes, "{last:?}");
            let run = |g: Graph| {
                let x: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin()).collect();
                let x = Tensor::from_slice(&[1, 2, 5, 5], &x).unwrap();
                Session::new(g, SessionOptions::default()).run(&[("x", x)]).unwrap()[0].1.to_f32_vec().unwrap()
            };
            let (a, b) = (run(before), run(after));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{last:?}: {a:?} {b:?}");
        }
    }
}
