//! Nodes, the values between them, and what is known of these.

use std::sync::Arc;

use super::{Dim, Op};
use crate::tensor::{DType, Tensor};

/// A value of a graph: an input, a constant or the output of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// What is known of a value before it is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<Dim>,
    /// The elements, for small integer tensors that describe shapes.
    pub value: Option<Vec<Dim>>,
}

impl Fact {
    /// A value of which only type and shape are known.
    pub fn new(dtype: DType, shape: Vec<Dim>) -> Self {
        Fact { dtype, shape, value: None }
    }

    /// Type and shape with all sizes known.
    pub fn concrete(dtype: DType, shape: &[usize]) -> Self {
        Fact::new(dtype, shape.iter().map(|&d| d.into()).collect())
    }

    /// What a constant's fact is. Elements are listed for integers and booleans of at most one dimension and 64 elements.
    pub fn of_tensor(tensor: &Tensor) -> Self {
        let mut fact = Fact::concrete(tensor.dtype(), tensor.shape());
        let describes_shapes = matches!(tensor.dtype(), DType::I64 | DType::I32 | DType::Bool)
            && tensor.shape().len() <= 1
            && tensor.len() <= 64;
        if describes_shapes {
            fact.value = tensor.to_i64_vec().map(|v| v.into_iter().map(Dim::Const).collect());
        }
        fact
    }

    /// The shape if all sizes are known.
    pub fn const_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.as_const().and_then(|n| usize::try_from(n).ok())).collect()
    }

    /// Dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// A value.
#[derive(Clone, Debug)]
pub struct Value {
    /// The exporter's name, or one derived from it.
    pub name: Arc<str>,
    /// Type and shape, once inferred.
    pub fact: Option<Fact>,
    /// The elements, of a constant.
    pub constant: Option<Tensor>,
    /// The node that computes it.
    pub producer: Option<NodeId>,
}

/// An operator with what it reads and writes.
#[derive(Clone, Debug)]
pub struct Node {
    /// The exporter's path of the node, such as `/encoder/layer.0/attention/MatMul`.
    pub name: Arc<str>,
    /// What it computes.
    pub op: Op,
    /// Inputs in the operator's order.
    pub inputs: Vec<Option<ValueId>>,
    /// Outputs in the operator's order.
    pub outputs: Vec<Option<ValueId>>,
}

/// A model: nodes in topological order, the values between them, inputs and outputs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    /// A deleted node leaves a hole, so that ids stay valid while a rewrite runs.
    nodes: Vec<Option<Node>>,
    /// Order of execution.
    order: Vec<NodeId>,
    /// What the caller gives.
    pub inputs: Vec<ValueId>,
    /// What the caller gets. Names are kept in `output_names`, since fusing may give an output another value.
    pub outputs: Vec<ValueId>,
    /// Names of the outputs.
    pub output_names: Vec<Arc<str>>,
}

impl Graph {
    /// A graph with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value that nothing computes yet.
    pub fn add_value(&mut self, name: impl Into<Arc<str>>, fact: Option<Fact>) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { name: name.into(), fact, constant: None, producer: None });
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: impl Into<Arc<str>>, tensor: Tensor) -> ValueId {
        let id = self.add_value(name, Some(Fact::of_tensor(&tensor)));
        self.values[id.0 as usize].constant = Some(tensor);
        id
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: impl Into<Arc<str>>, fact: Fact) -> ValueId {
        let id = self.add_value(name, Some(fact));
        self.inputs.push(id);
        id
    }

    /// Makes a value an output under `name`.
    pub fn add_output(&mut self, name: impl Into<Arc<str>>, value: ValueId) {
        self.outputs.push(value);
        self.output_names.push(name.into());
    }

    /// Appends a node behind all others.
    pub fn add_node(
        &mut self,
        name: impl Into<Arc<str>>,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<Option<ValueId>>,
    ) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        for output in outputs.iter().flatten() {
            self.values[output.0 as usize].producer = Some(id);
        }
        self.nodes.push(Some(Node { name: name.into(), op, inputs, outputs }));
        self.order.push(id);
        id
    }

    /// Appends a node with one new output, and returns that.
    pub fn apply(&mut self, name: &str, op: Op, inputs: &[Option<ValueId>]) -> ValueId {
        let out = self.add_value(format!("{name}:0"), None);
        self.add_node(name, op, inputs.to_vec(), vec![Some(out)]);
        out
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// A value, to change.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// A node, if it was not deleted.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)?.as_ref()
    }

    /// A node, to change.
    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.0 as usize)?.as_mut()
    }

    /// Nodes in the order of execution.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.order.iter().filter_map(|&id| Some((id, self.nodes[id.0 as usize].as_ref()?)))
    }

    /// Ids of all values.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// How many values there are, dead ones included.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// How many nodes are alive.
    pub fn node_count(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// The node that computes a value.
    pub fn producer(&self, id: ValueId) -> Option<(NodeId, &Node)> {
        let node = self.value(id).producer?;
        Some((node, self.node(node)?))
    }

    /// Puts another constant of the same type and shape in the place of one, and returns that one.
    pub(crate) fn replace_constant(&mut self, id: ValueId, tensor: Tensor) -> Option<Tensor> {
        self.values[id.0 as usize].constant.replace(tensor)
    }

    /// The constant behind a value.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id).constant.as_ref()
    }

    /// What is known of a value.
    pub fn fact(&self, id: ValueId) -> Option<&Fact> {
        self.value(id).fact.as_ref()
    }

    /// For each value, the nodes that read it (once per input slot).
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut uses = vec![Vec::new(); self.values.len()];
        for (id, node) in self.nodes() {
            for input in node.inputs.iter().flatten() {
                uses[input.0 as usize].push(id);
            }
        }
        uses
    }

    /// Deletes a node. Its outputs lose their producer.
    pub fn remove_node(&mut self, id: NodeId) {
        if let Some(node) = self.nodes[id.0 as usize].take() {
            for output in node.outputs.iter().flatten() {
                let value = &mut self.values[output.0 as usize];
                if value.producer == Some(id) {
                    value.producer = None;
                }
            }
        }
    }

    /// Makes every reader of `old`, the graph's outputs included, read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for node in self.nodes.iter_mut().flatten() {
            for input in node.inputs.iter_mut().flatten() {
                if *input == old {
                    *input = new;
                }
            }
        }
        for output in &mut self.outputs {
            if *output == old {
                *output = new;
            }
        }
    }

    /// Deletes nodes whose outputs nobody reads, forgets unread constants, and drops holes from the order.
    pub fn prune(&mut self) -> usize {
        let mut live = vec![false; self.values.len()];
        for output in &self.outputs {
            live[output.0 as usize] = true;
        }
        let mut removed = 0;
        for id in self.order.clone().into_iter().rev() {
            let Some(node) = &self.nodes[id.0 as usize] else { continue };
            if node.outputs.iter().flatten().any(|o| live[o.0 as usize]) {
                for input in node.inputs.iter().flatten() {
                    live[input.0 as usize] = true;
                }
            } else {
                self.remove_node(id);
                removed += 1;
            }
        }
        for (value, live) in self.values.iter_mut().zip(&live) {
            if !live {
                value.constant = None;
            }
        }
        let nodes = &self.nodes;
        self.order.retain(|id| nodes[id.0 as usize].is_some());
        removed
    }

    /// Restores the topological order after rewrites that appended nodes in the middle of the data flow. Among nodes that
    /// could run, the one that came first stays first. `false` if the graph has a cycle.
    pub fn sort(&mut self) -> bool {
        let mut waiting: Vec<usize> = vec![0; self.nodes.len()];
        let mut readers: Vec<Vec<NodeId>> = vec![Vec::new(); self.nodes.len()];
        let mut position = vec![0usize; self.nodes.len()];
        for (at, &id) in self.order.iter().enumerate() {
            position[id.0 as usize] = at;
            let Some(node) = &self.nodes[id.0 as usize] else { continue };
            for input in node.inputs.iter().flatten() {
                if let Some(producer) = self.values[input.0 as usize].producer {
                    waiting[id.0 as usize] += 1;
                    readers[producer.0 as usize].push(id);
                }
            }
        }
        let alive = |id: &NodeId| self.nodes[id.0 as usize].is_some();
        let mut ready: std::collections::BinaryHeap<_> = self
            .order
            .iter()
            .filter(|id| alive(id) && waiting[id.0 as usize] == 0)
            .map(|&id| (std::cmp::Reverse(position[id.0 as usize]), id))
            .collect();
        let mut order = Vec::with_capacity(self.order.len());
        while let Some((_, id)) = ready.pop() {
            order.push(id);
            for &reader in &readers[id.0 as usize] {
                waiting[reader.0 as usize] -= 1;
                if waiting[reader.0 as usize] == 0 {
                    ready.push((std::cmp::Reverse(position[reader.0 as usize]), reader));
                }
            }
        }
        let complete = order.len() == self.node_count();
        self.order = order;
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Binary, Unary};

    #[test]
    fn pruning_and_sorting_keep_what_outputs_need() {
        let mut g = Graph::new();
        let x = g.add_input("x", Fact::concrete(DType::F32, &[2]));
        let late = g.add_value("late", None);
        let y = g.apply("use", Op::Binary(Binary::Add), &[Some(x), Some(late)]);
        g.apply("dead", Op::Unary(Unary::Exp), &[Some(x)]);
        g.add_node("make", Op::Unary(Unary::Neg), vec![Some(x)], vec![Some(late)]);
        g.add_output("y", y);
        assert!(g.sort());
        assert_eq!(g.prune(), 1);
        let names: Vec<_> = g.nodes().map(|(_, n)| n.name.to_string()).collect();
        assert_eq!(names, ["make", "use"]);
    }
}
