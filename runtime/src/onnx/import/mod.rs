//! From ONNX nodes to typed operators, one family a file.
//!
//! Each family's `import` returns `None` for an operator that is not its own. Facts are inferred while nodes are added, so
//! that an importer can look at ranks and sizes.

mod attention;
mod contrib;
mod layout;
mod math;
mod neural;
mod quantized;
mod roles;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use super::attributes::Attributes;
use super::proto::{AttributeValue, DimProto, GraphProto, ModelProto, NodeProto};
use super::tensor::{dtype_of, read_tensor};
use super::{ExternalData, ImportOptions, LoadError};
use crate::graph::{Dim, Fact, Graph, Op, ValueId, infer};
use crate::tensor::{Element, Tensor};

/// Versions of ONNX's own operators that the importers were written for.
const OPSETS: (i64, i64) = (11, 21);

/// What a family returns for a node of its own: a value for each output that was made.
type Outputs = Result<Vec<Option<ValueId>>, String>;

/// Turns a model into a graph.
pub(super) fn import_model(
    model: &ModelProto<'_>,
    data: &dyn ExternalData,
    options: &ImportOptions,
) -> Result<Graph, LoadError> {
    let Some(graph) = &model.graph else {
        return Err(LoadError::NotOnnx("it holds no graph".into()));
    };
    if graph.nodes.is_empty() && graph.outputs.is_empty() {
        return Err(LoadError::NotOnnx("its graph is empty".into()));
    }
    let opset = model.opsets.iter().find(|(d, _)| is_onnx(d)).map_or(1, |o| o.1);
    if !(OPSETS.0..=OPSETS.1).contains(&opset) {
        return Err(LoadError::Opset { domain: "ai.onnx".into(), version: opset, least: OPSETS.0, greatest: OPSETS.1 });
    }
    let mut importer = Importer { graph: Graph::new(), scopes: vec![HashMap::new()], data, model, opset };
    importer.declare_inputs(graph, options)?;
    importer.add_nodes(graph)?;
    for output in &graph.outputs {
        let value = importer.lookup(output.name).ok_or_else(|| LoadError::Shape {
            node: output.name.to_owned(),
            reason: "is an output of the model, but no node makes it".into(),
        })?;
        importer.graph.add_output(output.name, value);
    }
    Ok(importer.graph)
}

fn is_onnx(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// The nodes in an order in which each comes behind those that make its inputs, otherwise as in the file: half-precision
/// converters append their casts at the end. Nodes on a cycle keep their place and fail by name when they are added.
fn execution_order(graph: &GraphProto<'_>) -> Vec<usize> {
    let producers: HashMap<&str, usize> = graph
        .nodes
        .iter()
        .enumerate()
        .flat_map(|(i, n)| n.outputs.iter().filter(|o| !o.is_empty()).map(move |o| (*o, i)))
        .collect();
    let mut waiting = vec![0usize; graph.nodes.len()];
    let mut readers = vec![Vec::new(); graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        let mut names = Vec::new();
        names_read(node, &mut names);
        let mut before: Vec<usize> = names.iter().filter_map(|n| producers.get(n).copied()).collect();
        before.sort_unstable();
        before.dedup();
        for producer in before.into_iter().filter(|&p| p != i) {
            waiting[i] += 1;
            readers[producer].push(i);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..waiting.len()).filter(|&i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &reader in &readers[i] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    order.extend((0..waiting.len()).filter(|&i| waiting[i] > 0));
    order
}

/// The names that a node reads, those inside its subgraphs included.
fn names_read<'a>(node: &NodeProto<'a>, names: &mut Vec<&'a str>) {
    names.extend(&node.inputs);
    for attribute in &node.attributes {
        if let AttributeValue::Graph(graph) = &attribute.value {
            graph.nodes.iter().for_each(|n| names_read(n, names));
            names.extend(graph.outputs.iter().map(|o| o.name));
        }
    }
}

struct Importer<'a> {
    graph: Graph,
    /// Names visible at this point, those of subgraphs last.
    scopes: Vec<HashMap<&'a str, ValueId>>,
    data: &'a dyn ExternalData,
    model: &'a ModelProto<'a>,
    opset: i64,
}

impl<'a> Importer<'a> {
    fn lookup(&self, name: &str) -> Option<ValueId> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    fn bind(&mut self, name: &'a str, value: ValueId) {
        self.scopes.last_mut().expect("there is always a scope").insert(name, value);
    }

    fn declare_inputs(&mut self, graph: &'a GraphProto<'a>, options: &ImportOptions) -> Result<(), LoadError> {
        let decoder = roles::is_decoder(graph.inputs.iter().map(|i| i.name));
        for input in &graph.inputs {
            // Old exporters list weights among the inputs.
            if graph.initializers.iter().any(|t| t.name == input.name) {
                continue;
            }
            let bad = |reason: String| LoadError::Shape { node: input.name.to_owned(), reason };
            let id = if let Some(fixed) = options.fixed_inputs.get(input.name) {
                self.graph.add_constant(input.name, fixed.clone())
            } else {
                let dtype = dtype_of(input.elem_type)
                    .ok_or_else(|| bad(format!("input element type {} is not supported", input.elem_type)))?;
                let shape = input.shape.as_ref().ok_or_else(|| bad("the rank of this input is not declared".into()))?;
                let role = |axis| if decoder { roles::dim(input.name, axis, shape.len()) } else { None };
                let dim = |(i, d): (usize, &DimProto<'_>)| match (d, role(i)) {
                    (DimProto::Value(n), _) if *n >= 0 => Dim::Const(*n),
                    (_, Some(size)) => size,
                    // Exporters of decoders give sizes that differ one name (the mask's length and that of the new
                    // tokens, say); there only the batch is trusted to be one.
                    (DimProto::Param(name), _) if !name.is_empty() && (i == 0 || !decoder) => Dim::symbol(name),
                    (DimProto::Param(name), _) if !name.is_empty() => Dim::symbol(&format!("{}.{name}", input.name)),
                    _ => Dim::symbol(&format!("{}.{i}", input.name)),
                };
                let shape = shape.iter().enumerate().map(dim).collect();
                self.graph.add_input(input.name, Fact::new(dtype, shape))
            };
            self.bind(input.name, id);
        }
        Ok(())
    }

    fn add_nodes(&mut self, graph: &'a GraphProto<'a>) -> Result<(), LoadError> {
        if graph.has_sparse {
            return Err(LoadError::NotOnnx("sparse weights are not supported".into()));
        }
        for tensor in &graph.initializers {
            let value = read_tensor(tensor, self.data, tensor.name)?;
            let id = self.graph.add_constant(tensor.name, value);
            self.bind(tensor.name, id);
        }
        for index in execution_order(graph) {
            self.add_node(&graph.nodes[index], index)?;
        }
        Ok(())
    }

    fn add_node(&mut self, proto: &'a NodeProto<'a>, index: usize) -> Result<(), LoadError> {
        let path = match (proto.name, proto.outputs.first()) {
            ("", Some(output)) if !output.is_empty() => (*output).to_owned(),
            ("", _) => format!("{}#{index}", proto.op_type),
            (name, _) => name.to_owned(),
        };
        let opset = if is_onnx(proto.domain) {
            self.opset
        } else {
            self.model.opsets.iter().find(|(d, _)| *d == proto.domain).map_or(1, |o| o.1)
        };
        let node_error = |reason| LoadError::Node { node: path.clone(), op: proto.op_type.to_owned(), opset, reason };
        if is_onnx(proto.domain) && proto.op_type == "If" {
            return self.add_branch(proto, &path).map_err(|e| match e {
                Branch::Node(reason) => node_error(reason),
                Branch::Load(e) => e,
            });
        }
        let mut cx = NodeContext {
            attributes: Attributes::new(proto),
            proto,
            path: path.as_str().into(),
            importer: self,
            made: 0,
        };
        let outputs = if is_onnx(proto.domain) {
            math::import(&mut cx)
                .or_else(|| layout::import(&mut cx))
                .or_else(|| neural::import(&mut cx))
                .or_else(|| quantized::import(&mut cx))
                .or_else(|| contrib::import_standard(&mut cx))
        } else if proto.domain == "com.microsoft" {
            contrib::import(&mut cx)
                .or_else(|| attention::import(&mut cx))
                .or_else(|| quantized::import_contrib(&mut cx))
        } else {
            None
        };
        let Some(outputs) = outputs else {
            return Err(LoadError::UnknownOperator {
                node: path,
                domain: if is_onnx(proto.domain) { "ai.onnx".into() } else { proto.domain.to_owned() },
                op: proto.op_type.to_owned(),
                opset,
            });
        };
        let outputs = outputs.map_err(node_error)?;
        if let Some(name) = cx.attributes.unread() {
            return Err(node_error(format!("attribute {name} is not supported")));
        }
        for (i, name) in proto.outputs.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            match outputs.get(i).copied().flatten() {
                Some(value) => self.bind(name, value),
                None => return Err(node_error(format!("output {i} is not supported"))),
            }
        }
        Ok(())
    }

    /// Takes the branch of an `If` whose condition is known, as if it stood here.
    fn add_branch(&mut self, proto: &'a NodeProto<'a>, path: &str) -> Result<(), Branch> {
        let attributes = Attributes::new(proto);
        let condition = proto.inputs.first().copied().unwrap_or("");
        let value = self.lookup(condition).and_then(|id| self.graph.constant(id)).and_then(Tensor::to_i64_vec);
        let Some(value) = value.as_ref().and_then(|v| v.first()) else {
            return Err(Branch::Node(format!(
                "its condition {condition} is not known when loading; fix that input to choose a branch"
            )));
        };
        let branch = if *value != 0 { "then_branch" } else { "else_branch" };
        let graph = attributes.graph(branch).map_err(Branch::Node)?;
        self.scopes.push(HashMap::new());
        let result = self.add_nodes(graph).and_then(|()| {
            graph
                .outputs
                .iter()
                .map(|o| {
                    self.lookup(o.name).ok_or_else(|| LoadError::Shape {
                        node: path.to_owned(),
                        reason: format!("its branch does not make {}", o.name),
                    })
                })
                .collect::<Result<Vec<_>, _>>()
        });
        self.scopes.pop();
        for (name, value) in proto.outputs.iter().zip(result.map_err(Branch::Load)?) {
            if !name.is_empty() {
                self.bind(name, value);
            }
        }
        Ok(())
    }
}

enum Branch {
    Node(String),
    Load(LoadError),
}

/// One ONNX node while it is imported.
struct NodeContext<'i, 'a> {
    attributes: Attributes<'a>,
    proto: &'a NodeProto<'a>,
    path: Arc<str>,
    importer: &'i mut Importer<'a>,
    made: usize,
}

impl<'a> NodeContext<'_, 'a> {
    fn op_type(&self) -> &'a str {
        self.proto.op_type
    }

    fn opset(&self) -> i64 {
        self.importer.opset
    }

    fn input_count(&self) -> usize {
        self.proto.inputs.len()
    }

    fn output_count(&self) -> usize {
        self.proto.outputs.len()
    }

    fn wants_output(&self, i: usize) -> bool {
        self.proto.outputs.get(i).is_some_and(|o| !o.is_empty())
    }

    /// Input `i`, if it is there.
    fn input(&self, i: usize) -> Result<Option<ValueId>, String> {
        match self.proto.inputs.get(i) {
            None | Some(&"") => Ok(None),
            Some(name) => self
                .importer
                .lookup(name)
                .map(Some)
                .ok_or_else(|| format!("input {i}, {name}, is not made before this node")),
        }
    }

    /// Input `i`, which must be there.
    fn need(&self, i: usize) -> Result<ValueId, String> {
        self.input(i)?.ok_or_else(|| format!("input {i} is missing"))
    }

    /// All inputs.
    fn inputs(&self) -> Result<Vec<Option<ValueId>>, String> {
        (0..self.input_count()).map(|i| self.input(i)).collect()
    }

    fn refuse_input(&self, i: usize, what: &str) -> Result<(), String> {
        match self.input(i)? {
            None => Ok(()),
            Some(_) => Err(format!("input {i} ({what}) is not supported")),
        }
    }

    fn fact(&self, id: ValueId) -> Result<&Fact, String> {
        let value = self.importer.graph.value(id);
        value.fact.as_ref().ok_or_else(|| format!("the type of {} is not known", value.name))
    }

    fn rank(&self, id: ValueId) -> Result<usize, String> {
        Ok(self.fact(id)?.rank())
    }

    fn constant_of(&self, id: ValueId) -> Option<&Tensor> {
        self.importer.graph.constant(id)
    }

    /// Adds a node with one output.
    fn emit(&mut self, op: Op, inputs: &[Option<ValueId>]) -> Result<ValueId, String> {
        let mut outputs = self.emit_many(op, inputs, 1)?;
        Ok(outputs.remove(0))
    }

    /// Adds a node with `count` outputs.
    fn emit_many(&mut self, op: Op, inputs: &[Option<ValueId>], count: usize) -> Result<Vec<ValueId>, String> {
        let path: Arc<str> = match self.made {
            0 => self.path.clone(),
            n => format!("{}/{}.{n}", self.path, op.name()).into(),
        };
        self.made += 1;
        let graph = &mut self.importer.graph;
        let facts: Vec<Option<Fact>> = inputs.iter().map(|i| i.and_then(|i| graph.fact(i).cloned())).collect();
        let inferred = infer(&op, &facts, count, &path).map_err(|e| e.reason)?;
        if inferred.len() < count {
            return Err(format!("{} has only {} outputs", op.name(), inferred.len()));
        }
        let outputs: Vec<ValueId> = inferred
            .into_iter()
            .take(count)
            .enumerate()
            .map(|(i, fact)| graph.add_value(format!("{path}:{i}"), Some(fact)))
            .collect();
        graph.add_node(path, op, inputs.to_vec(), outputs.iter().copied().map(Some).collect());
        Ok(outputs)
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("{}/constant.{}", self.path, self.made);
        self.importer.graph.add_constant(name, tensor)
    }

    fn scalar<T: Element>(&mut self, value: T) -> ValueId {
        self.constant(Tensor::scalar(value))
    }

    /// A scalar of the float type of `like`.
    fn float_like(&mut self, value: f32, like: ValueId) -> Result<ValueId, String> {
        Ok(match self.fact(like)?.dtype {
            crate::tensor::DType::F16 => self.scalar(half::f16::from_f32(value)),
            _ => self.scalar(value),
        })
    }
}

/// One output.
fn one(value: Result<ValueId, String>) -> Option<Outputs> {
    Some(value.map(|v| vec![Some(v)]))
}
