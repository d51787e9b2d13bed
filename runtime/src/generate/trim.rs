//! Only the last position's logits are wanted: the output layer is the widest product of a decoder, and a prompt of
//! hundreds of tokens would compute, and hold, its logits for each.

use crate::graph::{Graph, Op, ValueId, infer_graph};
use crate::tensor::Tensor;

/// Slices output `name` [batch, positions, ..] to its last position, as early as that gives the same numbers. Returns the
/// output's value, or `None` if there is no such output.
pub(super) fn last_position(graph: &mut Graph, name: &str) -> Option<ValueId> {
    let at = graph.output_names.iter().position(|n| &**n == name)?;
    let logits = graph.outputs[at];
    if graph.fact(logits).is_none_or(|f| f.rank() != 3) {
        return None;
    }
    let readers = graph.consumers();
    let mut node = None;
    let mut value = logits;
    // Only through values that nobody else reads.
    while let Some((id, source)) = row_by_row(graph, value) {
        let shared = readers[value.0 as usize].len() > usize::from(value != logits);
        if shared || graph.outputs.iter().filter(|o| **o == value).count() > usize::from(value == logits) {
            break;
        }
        (node, value) = (Some(id), source);
    }
    let number = |graph: &mut Graph, what: &str, v: i64| {
        Some(graph.add_constant(format!("{name}/last/{what}"), Tensor::vector(&[v])))
    };
    let (start, end, axis) = (number(graph, "start", -1), number(graph, "end", i64::MAX), number(graph, "axis", 1));
    let last = graph.apply(&format!("{name}/last"), Op::Slice, &[Some(value), start, end, axis]);
    match node.and_then(|id| graph.node_mut(id)) {
        Some(node) => node.inputs[0] = Some(last),
        None => graph.outputs[at] = last,
    }
    // The slice stands at the end of the order, and has no facts yet.
    (graph.sort() && infer_graph(graph).is_ok()).then(|| graph.outputs[at])
}

/// The node that makes `value` from the rows of its first input [batch, positions, ..], one by one, and that input.
fn row_by_row(graph: &Graph, value: ValueId) -> Option<(crate::graph::NodeId, ValueId)> {
    let (id, node) = graph.producer(value)?;
    let source = node.inputs.first().copied().flatten()?;
    if graph.fact(source)?.rank() != 3 {
        return None;
    }
    // Operands beside the first must be the same for all positions.
    let rest =
        |least: usize| node.inputs[1..].iter().flatten().all(|i| graph.fact(*i).is_some_and(|f| f.rank() <= least));
    let alone = match &node.op {
        Op::MatMul(m) => !m.trans_a && rest(2),
        // A scale and zero point of each row would have to be sliced too.
        Op::MatMulIntegerToFloat(_) | Op::MatMulInteger => {
            let per_tensor = |i: usize| {
                let operand = node.inputs.get(i).copied().flatten();
                operand.is_none_or(|v| graph.fact(v).is_some_and(|f| f.rank() == 0))
            };
            let (scale, zero) = if matches!(node.op, Op::MatMulInteger) { (2, 2) } else { (2, 4) };
            rest(2) && per_tensor(scale) && per_tensor(zero)
        }
        Op::MatMulNBits(_) => node.inputs[1..].iter().flatten().all(|i| graph.constant(*i).is_some()),
        Op::Cast { .. } | Op::Unary(_) => true,
        Op::Binary(_) => rest(1),
        _ => false,
    };
    alone.then_some((id, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Dim, Fact, MatMul, Unary};
    use crate::tensor::DType;
    use crate::{Session, SessionOptions};

    #[test]
    fn the_slice_moves_in_front_of_the_output_layer() {
        let mut g = Graph::new();
        let s = Dim::symbol("s");
        let x = g.add_input("x", Fact::new(DType::F32, vec![Dim::Const(2), s, Dim::Const(3)]));
        let h = g.apply("hidden", Op::Unary(Unary::Tanh), &[Some(x)]);
        let w = g.add_constant("w", Tensor::from_slice(&[3, 2], &[1f32, 0., 0., 1., 1., 1.]).unwrap());
        let y = g.apply("head", Op::MatMul(MatMul::default()), &[Some(h), Some(w)]);
        g.add_output("logits", y);
        g.add_output("hidden", h);
        infer_graph(&mut g).unwrap();
        let whole = Session::new(g.clone(), SessionOptions::default());
        assert!(last_position(&mut g, "logits").is_some());
        let order: Vec<_> = g.nodes().map(|(_, n)| n.op.name()).collect();
        assert_eq!(order, ["Tanh", "Slice", "MatMul"], "not in front of what another output shows");
        let trimmed = Session::new(g, SessionOptions::default());
        let input = Tensor::from_slice(&[2, 4, 3], &(0..24).map(|i| i as f32 / 9.0).collect::<Vec<_>>()).unwrap();
        let all = whole.run(&[("x", input.clone())]).unwrap();
        let last = trimmed.run(&[("x", input)]).unwrap();
        let all = all[0].1.as_slice::<f32>().unwrap();
        assert_eq!(last[0].1.shape(), [2, 1, 2]);
        assert_eq!(last[0].1.as_slice::<f32>().unwrap(), [all[6], all[7], all[14], all[15]]);
    }
}
