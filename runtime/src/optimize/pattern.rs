//! What rewrites ask a graph.

use crate::graph::{Binary, Dim, Graph, Node, NodeId, Op, ValueId};
use crate::tensor::Tensor;

/// A graph with the readers of each value.
pub(super) struct Uses(Vec<Vec<NodeId>>);

impl Uses {
    pub(super) fn of(graph: &Graph) -> Self {
        Uses(graph.consumers())
    }

    /// The one node that reads `value`, if it is read once and is no output of the model.
    pub(super) fn sole_reader<'g>(&self, graph: &'g Graph, value: ValueId) -> Option<(NodeId, &'g Node)> {
        match self.0.get(value.0 as usize)?.as_slice() {
            [reader] if !graph.outputs.contains(&value) => Some((*reader, graph.node(*reader)?)),
            _ => None,
        }
    }
}

/// The number, if `value` is a float constant with one distinct element.
pub(super) fn scalar(graph: &Graph, value: ValueId) -> Option<f32> {
    let tensor = graph.constant(value)?;
    if tensor.len() != 1 {
        return None;
    }
    tensor.to_f32_vec()?.first().copied()
}

/// The operands of an elementwise operator of kind `want`.
pub(super) fn operands(node: &Node, want: Binary) -> Option<(ValueId, ValueId)> {
    match (&node.op, node.inputs.as_slice()) {
        (Op::Binary(op), [Some(a), Some(b)]) if *op == want => Some((*a, *b)),
        _ => None,
    }
}

/// The other operand of a sum or product.
pub(super) fn other(node: &Node, of: ValueId) -> Option<ValueId> {
    match node.inputs.as_slice() {
        [Some(a), Some(b)] if *a == of && *b != of => Some(*b),
        [Some(a), Some(b)] if *b == of && *a != of => Some(*a),
        _ => None,
    }
}

/// The node's first input.
pub(super) fn source(node: &Node) -> Option<ValueId> {
    node.inputs.first().copied().flatten()
}

/// The node's one output.
pub(super) fn output(node: &Node) -> Option<ValueId> {
    node.outputs.first().copied().flatten()
}

/// A constant of `length` elements that all lie along dimension `axis` (from the end, 1 is the last) of the tensor it is
/// broadcast to, flattened.
pub(super) fn along(graph: &Graph, value: ValueId, axis: usize, length: usize) -> Option<Tensor> {
    let tensor = graph.constant(value)?;
    let shape = tensor.shape();
    let at = shape.len().checked_sub(axis)?;
    let fits = shape.iter().enumerate().all(|(i, &d)| if i == at { d == length } else { d == 1 });
    if fits { tensor.reshaped(&[length]).ok() } else { None }
}

/// Size `axis` from the end (1 is the last) of a value, if it is known.
pub(super) fn size_from_end(graph: &Graph, value: ValueId, axis: usize) -> Option<usize> {
    let shape = &graph.fact(value)?.shape;
    let at = shape.len().checked_sub(axis)?;
    usize::try_from(shape[at].as_const()?).ok()
}

/// Whether two values have the same shape whatever the sizes are.
pub(super) fn same_shape(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    match (graph.fact(a), graph.fact(b)) {
        (Some(a), Some(b)) => a.shape == b.shape,
        _ => false,
    }
}

/// The shape of a value.
pub(super) fn shape(graph: &Graph, value: ValueId) -> Option<&[Dim]> {
    graph.fact(value).map(|f| f.shape.as_slice())
}

/// Whether `value` is known before `node` runs, so that `node` may read it: it is no later node's output. Positions come from
/// the graph's order.
pub(super) struct Order(Vec<usize>);

impl Order {
    pub(super) fn of(graph: &Graph) -> Self {
        let mut positions = Vec::new();
        for (at, (id, _)) in graph.nodes().enumerate() {
            let index = id.0 as usize;
            if positions.len() <= index {
                positions.resize(index + 1, usize::MAX);
            }
            positions[index] = at;
        }
        Order(positions)
    }

    /// Whether `value` is made before `node`.
    pub(super) fn before(&self, graph: &Graph, value: ValueId, node: NodeId) -> bool {
        match graph.producer(value) {
            None => true,
            Some((producer, _)) => {
                let at = |id: NodeId| self.0.get(id.0 as usize).copied().unwrap_or(usize::MAX);
                at(producer) < at(node)
            }
        }
    }
}
