//! Shapes that are computed while running become numbers.
//!
//! Exporters compute the target of a reshape from the shapes of other values. Where inference follows that arithmetic,
//! the target is `0` (keep) and `-1` (the rest) in terms of the reshaped value itself, and the arithmetic, with the
//! reads that tie it to values of other layers, has no reader left.

use super::pattern::{output, shape, source};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Dim, Graph, NodeId, Op};
use crate::tensor::Tensor;

pub(super) struct ReshapeByNumbers;

impl Rewrite for ReshapeByNumbers {
    fn name(&self) -> &'static str {
        "reshape-by-numbers"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut count = 0;
        for id in ids {
            let Some(target) = target(graph, id) else { continue };
            let name = format!("{}/shape", graph.node(id).map_or("", |n| &*n.name));
            let constant = graph.add_constant(name, Tensor::vector(&target));
            if let Some(node) = graph.node_mut(id) {
                node.op = Op::Reshape { allow_zero: false };
                node.inputs[1] = Some(constant);
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The target in numbers, of a reshape whose target is still computed.
fn target(graph: &Graph, id: NodeId) -> Option<Vec<i64>> {
    let node = graph.node(id)?;
    let (Op::Reshape { .. }, Some(Some(wanted))) = (&node.op, node.inputs.get(1)) else { return None };
    if graph.constant(*wanted).is_some() {
        return None;
    }
    let (before, after) = (shape(graph, source(node)?)?, shape(graph, output(node)?)?);
    let mut rest = 0;
    let numbers = after.iter().enumerate().map(|(i, size)| match size {
        // A zero would be read as "keep".
        Dim::Const(n) if *n > 0 => Some(*n),
        Dim::Const(_) => None,
        _ if before.get(i) == Some(size) => Some(0),
        _ => {
            rest += 1;
            Some(-1)
        }
    });
    let numbers: Vec<i64> = numbers.collect::<Option<_>>()?;
    (rest <= 1).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, infer_graph};
    use crate::optimize::optimize;
    use crate::tensor::DType;

    /// x [b, s, 12] reshaped to [b, s, 3, 4] and that to [b * s, 12], both targets computed from x's shape.
    #[test]
    fn targets_computed_from_shapes_become_numbers() {
        let mut g = Graph::new();
        let (b, s) = (Dim::symbol("b"), Dim::symbol("s"));
        let x = g.add_input("x", Fact::new(DType::F32, vec![b, s, Dim::Const(12)]));
        let rows = g.apply("shape", Op::Shape { start: 0, end: Some(2) }, &[Some(x)]);
        let heads = g.add_constant("heads", Tensor::vector(&[3i64, 4]));
        let split = g.apply("target", Op::Concat { axis: 0 }, &[Some(rows), Some(heads)]);
        let y = g.apply("split", Op::Reshape { allow_zero: false }, &[Some(x), Some(split)]);
        let prod = Op::Reduce {
            kind: crate::graph::Reduce::Prod,
            axes: Some(vec![0]),
            keep_dims: true,
            noop_with_empty_axes: false,
        };
        let all = g.apply("rows", prod, &[Some(rows)]);
        let width = g.add_constant("width", Tensor::vector(&[12i64]));
        let flat = g.apply("target2", Op::Concat { axis: 0 }, &[Some(all), Some(width)]);
        let z = g.apply("flat", Op::Reshape { allow_zero: false }, &[Some(y), Some(flat)]);
        g.add_output("z", z);
        infer_graph(&mut g).unwrap();
        optimize(&mut g).unwrap();
        let targets: Vec<_> = g
            .nodes()
            .map(|(_, n)| (n.op.name(), g.constant(n.inputs[1].unwrap()).unwrap().to_i64_vec().unwrap()))
            .collect();
        assert_eq!(targets, [("Reshape", vec![0, 0, 3, 4]), ("Reshape", vec![-1, 12])]);
    }
}
