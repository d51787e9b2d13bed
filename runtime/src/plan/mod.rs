//! From a graph and concrete input shapes to a list of steps.
//!
//! Planning evaluates what does not depend on the inputs' elements: shape arithmetic vanishes, masks that follow from
//! sizes alone become constants of the plan. What is left gets a place (CPU or GPU), its output shapes, and the list of
//! values nobody needs behind it, whose memory the next steps reuse.

mod cache;
mod device;
mod execute;
mod ragged;

use std::collections::HashMap;

use crate::cpu::Cpu;
use crate::error::{KernelError, RunError};
use crate::graph::{Dim, Fact, Graph, Node, NodeId, Op, ValueId, infer};
use crate::tensor::{BufferPool, DType, Tensor, TensorView, TensorViewMut, element_count};

pub(crate) use cache::{Caches, Ports};
pub(crate) use device::Gpu;
pub(crate) use execute::{Held, Reading, Resources, Sequences, Uploaded, execute};
pub(crate) use ragged::{Ragged, stack};

/// Where a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// On the CPU backend.
    Cpu,
    /// On the GPU backend.
    Gpu,
    /// Nowhere: the output is the input under another shape.
    Alias,
}

/// Type and shape of an output.
pub type Concrete = (DType, Vec<usize>);

/// One operator to run.
#[derive(Clone, Debug)]
pub struct Step {
    /// The node.
    pub node: NodeId,
    /// Where it runs.
    pub place: Place,
    /// Types and shapes of its outputs, or `None` when a shape depends on data that only running gives.
    pub outputs: Option<Vec<Concrete>>,
    /// Values that no later step reads.
    pub release: Vec<ValueId>,
}

/// What to run for one set of input shapes.
#[derive(Debug)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// What it was made for: the inputs, and other values that are given.
    pub inputs: HashMap<ValueId, Concrete>,
    /// Values that were known when planning and that a step or an output reads.
    pub known: HashMap<ValueId, Tensor>,
    /// The most bytes that values between steps need at once, by the plan's own count.
    pub peak_bytes: usize,
}

/// Says which steps a GPU takes.
pub(crate) trait Placement {
    /// Whether the backend has a kernel for this.
    fn supports(&self, op: &Op, inputs: &[Option<Concrete>], outputs: &[Concrete]) -> bool;
}

/// Work on values that lie on the host stays there up to this many elements: a dispatch costs more than the work.
const SMALL: usize = 4096;

/// Allocates outputs and runs one operator on the CPU.
pub(crate) fn run_on_cpu(
    cpu: &Cpu,
    pool: &BufferPool,
    op: &Op,
    inputs: &[Option<TensorView<'_>>],
    outputs: &[Concrete],
) -> Result<Vec<Tensor>, KernelError> {
    if op.has_data_dependent_shape() {
        return cpu.run_dynamic(op, inputs);
    }
    let mut buffers = outputs
        .iter()
        .map(|(dtype, shape)| Ok(pool.take(element_count(shape)? * dtype.size())))
        .collect::<Result<Vec<_>, KernelError>>()?;
    let mut views: Vec<TensorViewMut<'_>> = buffers
        .iter_mut()
        .zip(outputs)
        .map(|(buffer, (dtype, shape))| TensorViewMut { dtype: *dtype, shape, bytes: buffer.as_mut_slice() })
        .collect();
    cpu.run(op, inputs, &mut views)?;
    drop(views);
    buffers
        .into_iter()
        .zip(outputs)
        .map(|(buffer, (dtype, shape))| Ok(Tensor::from_buffer(*dtype, shape, buffer)?))
        .collect()
}

/// Types and shapes, if all sizes are known.
pub(crate) fn concrete(facts: &[Fact]) -> Option<Vec<Concrete>> {
    facts.iter().map(|f| Some((f.dtype, f.const_shape()?))).collect()
}

struct Planner<'a> {
    graph: &'a Graph,
    cpu: &'a Cpu,
    pool: &'a BufferPool,
    facts: Vec<Option<Fact>>,
    /// Whether a value follows from the input shapes alone.
    fixed: Vec<bool>,
    known: HashMap<ValueId, Tensor>,
}

impl<'a> Planner<'a> {
    /// Begins with what is given: types and shapes of these values, and the constants.
    fn new(graph: &'a Graph, given: &HashMap<ValueId, Concrete>, cpu: &'a Cpu, pool: &'a BufferPool) -> Self {
        let count = graph.value_count();
        let (mut facts, mut fixed) = (vec![None; count], vec![false; count]);
        for id in graph.value_ids() {
            if let Some((dtype, shape)) = given.get(&id) {
                facts[id.0 as usize] = Some(Fact::concrete(*dtype, shape));
            } else if graph.constant(id).is_some() {
                facts[id.0 as usize] = graph.fact(id).cloned();
                fixed[id.0 as usize] = true;
            }
        }
        Planner { graph, cpu, pool, facts, fixed, known: HashMap::new() }
    }

    /// Infers what a node makes, once its inputs were visited.
    fn visit(&mut self, node: &Node) -> Result<Vec<Fact>, RunError> {
        let facts = self.infer_node(node)?;
        let all_fixed = node.inputs.iter().flatten().all(|i| self.fixed[i.0 as usize]);
        for (output, fact) in node.outputs.iter().zip(&facts) {
            if let Some(output) = output {
                let told = tensor_of_fact(fact).is_some();
                self.fixed[output.0 as usize] = all_fixed || told;
                self.facts[output.0 as usize] = Some(fact.clone());
            }
        }
        Ok(facts)
    }

    /// The elements of a value that does not depend on the inputs' elements.
    fn materialise(&mut self, id: ValueId) -> Result<Tensor, RunError> {
        if let Some(tensor) = self.graph.constant(id).or_else(|| self.known.get(&id)) {
            return Ok(tensor.clone());
        }
        let from_fact = self.facts[id.0 as usize].as_ref().and_then(tensor_of_fact);
        if let Some(tensor) = from_fact {
            self.known.insert(id, tensor.clone());
            return Ok(tensor);
        }
        let (_, node) = self.graph.producer(id).expect("a fixed value is a constant or the output of a node");
        let inputs = node
            .inputs
            .iter()
            .map(|i| i.map(|i| self.materialise(i).map(|t| (i, t))).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = if node.op.is_alias() {
            let (_, source) = inputs[0].as_ref().expect("inference saw this input");
            let shape = self.facts[id.0 as usize].as_ref().and_then(Fact::const_shape).unwrap_or_default();
            vec![source.reshaped(&shape).map_err(|e| kernel_error(node, e.into()))?]
        } else {
            let facts: Vec<Fact> =
                node.outputs.iter().map_while(|o| o.and_then(|o| self.facts[o.0 as usize].clone())).collect();
            let shapes = concrete(&facts).unwrap_or_default();
            // Weights by their identity: their elements may be packed and gone.
            let constant = |id: ValueId| self.graph.constant(id).is_some();
            let views: Vec<_> = inputs
                .iter()
                .map(|input| input.as_ref().map(|(id, t)| if constant(*id) { t.constant_view() } else { t.view() }))
                .collect();
            run_on_cpu(self.cpu, self.pool, &node.op, &views, &shapes).map_err(|e| kernel_error(node, e))?
        };
        for (output, tensor) in node.outputs.iter().zip(outputs) {
            if let Some(output) = output {
                // What only running could tell is known now.
                self.facts[output.0 as usize] = Some(Fact::of_tensor(&tensor));
                self.known.insert(*output, tensor);
            }
        }
        Ok(self.known[&id].clone())
    }

    fn infer_node(&mut self, node: &Node) -> Result<Vec<Fact>, RunError> {
        // Inputs that describe shapes must be there as numbers; compute those that inference could not follow.
        for (i, input) in node.inputs.iter().enumerate() {
            let Some(input) = *input else { continue };
            let wanted = reads_elements(&node.op, i) && self.fixed[input.0 as usize];
            let fact = &self.facts[input.0 as usize];
            if wanted && fact.as_ref().is_some_and(|f| f.value.is_none()) {
                let tensor = self.materialise(input)?;
                let mut fact = Fact::of_tensor(&tensor);
                if fact.value.is_none() {
                    fact.value = tensor.to_i64_vec().map(|v| v.into_iter().map(Dim::Const).collect());
                }
                self.facts[input.0 as usize] = Some(fact);
            }
        }
        let facts: Vec<Option<Fact>> =
            node.inputs.iter().map(|i| i.and_then(|i| self.facts[i.0 as usize].clone())).collect();
        infer(&node.op, &facts, node.outputs.len(), &node.name)
            .map_err(|e| RunError::Shape { node: node.name.to_string(), reason: e.to_string() })
    }
}

/// Whether shape inference of `op` looks at the elements of input `i`.
pub(crate) fn reads_elements(op: &Op, i: usize) -> bool {
    match op {
        Op::Reshape { .. } | Op::Expand | Op::Tile => i == 1,
        Op::Reduce { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Split { .. } => i == 1,
        Op::Slice => i >= 1,
        Op::Pad { .. } => i == 1 || i == 3,
        Op::ConstantOfShape { .. } => i == 0,
        Op::Range => true,
        Op::GroupQueryAttention(_) => i == 6,
        _ => false,
    }
}

/// The tensor that a fact describes in full.
pub(crate) fn tensor_of_fact(fact: &Fact) -> Option<Tensor> {
    let values: Vec<i64> = fact.value.as_ref()?.iter().map(Dim::as_const).collect::<Option<_>>()?;
    let shape = fact.const_shape()?;
    match fact.dtype {
        DType::I64 => Tensor::from_slice(&shape, &values).ok(),
        DType::I32 => Tensor::from_slice(&shape, &values.iter().map(|&v| v as i32).collect::<Vec<_>>()).ok(),
        DType::Bool => {
            Tensor::from_bytes(DType::Bool, &shape, &values.iter().map(|&v| (v != 0) as u8).collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

pub(crate) fn kernel_error(node: &Node, source: KernelError) -> RunError {
    RunError::Kernel { node: node.name.to_string(), op: node.op.name(), source }
}

impl Plan {
    /// Plans `graph` for inputs of these shapes, of which those in `there` lie on the GPU already. Other values may be given too;
    /// they are then not computed. `gpu` says what a GPU takes; without it all runs on the CPU.
    pub(crate) fn new(
        graph: &Graph,
        inputs: &HashMap<ValueId, Concrete>,
        there: &[ValueId],
        cpu: &Cpu,
        pool: &BufferPool,
        gpu: Option<&dyn Placement>,
    ) -> Result<Plan, RunError> {
        let mut planner = Planner::new(graph, inputs, cpu, pool);
        let mut steps = Vec::new();
        // Values that lie on the GPU, because they came from there or a step there made them.
        let mut on_device = vec![false; graph.value_count()];
        for id in there {
            on_device[id.0 as usize] = true;
        }
        for (id, node) in graph.nodes() {
            if node.outputs.iter().flatten().all(|o| inputs.contains_key(o)) {
                continue;
            }
            let facts = planner.visit(node)?;
            let fixed = node.outputs.iter().flatten().all(|o| planner.fixed[o.0 as usize]);
            if fixed {
                if node.op.has_data_dependent_shape()
                    && let Some(output) = node.outputs.iter().flatten().next()
                {
                    planner.materialise(*output)?;
                }
                continue;
            }
            let used = node.outputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
            let outputs = concrete(&facts[..used.min(facts.len())]);
            let place = match (&outputs, gpu) {
                _ if node.op.is_alias() => Place::Alias,
                (Some(outputs), Some(gpu)) => planner.place(node, outputs, gpu, &on_device),
                _ => Place::Cpu,
            };
            let device = match place {
                Place::Gpu => true,
                Place::Cpu => false,
                Place::Alias => node.inputs.first().copied().flatten().is_some_and(|i| on_device[i.0 as usize]),
            };
            for output in node.outputs.iter().flatten() {
                on_device[output.0 as usize] = device;
            }
            steps.push(Step { node: id, place, outputs, release: Vec::new() });
        }
        Ok(Plan { inputs: inputs.clone(), ..planner.finish(steps)? })
    }
}

impl Planner<'_> {
    fn place(&self, node: &Node, outputs: &[Concrete], gpu: &dyn Placement, on_device: &[bool]) -> Place {
        let from_host = node.inputs.iter().flatten().all(|i| !on_device[i.0 as usize]);
        let elements = outputs.iter().map(|(_, s)| s.iter().product::<usize>()).max().unwrap_or(0);
        let heavy = matches!(
            node.op,
            Op::MatMul(_)
                | Op::MatMulNBits(_)
                | Op::MatMulInteger
                | Op::MatMulIntegerToFloat(_)
                | Op::Conv(_)
                | Op::ConvInteger(_)
                | Op::ConvIntegerToFloat(_)
                | Op::Attention(_)
        );
        if from_host && elements <= SMALL && !heavy {
            return Place::Cpu;
        }
        let inputs: Vec<Option<Concrete>> = node
            .inputs
            .iter()
            .map(|i| i.and_then(|i| self.facts[i.0 as usize].as_ref()).and_then(|f| Some((f.dtype, f.const_shape()?))))
            .collect();
        if gpu.supports(&node.op, &inputs, outputs) { Place::Gpu } else { Place::Cpu }
    }

    /// Computes the known values that are read, and finds where each value is read last.
    fn finish(mut self, mut steps: Vec<Step>) -> Result<Plan, RunError> {
        let graph = self.graph;
        let mut wanted: Vec<ValueId> = graph.outputs.clone();
        for step in &steps {
            wanted.extend(graph.node(step.node).into_iter().flat_map(|n| n.inputs.iter().flatten()));
        }
        wanted.sort_unstable();
        wanted.dedup();
        let mut known = HashMap::new();
        for id in wanted {
            if self.fixed[id.0 as usize] && graph.constant(id).is_none() {
                known.insert(id, self.materialise(id)?);
            }
        }
        let mut read_later = vec![false; graph.value_count()];
        for output in &graph.outputs {
            read_later[output.0 as usize] = true;
        }
        let mut live = 0usize;
        let mut peak = 0usize;
        let size = |facts: &[Option<Fact>], id: ValueId| {
            let fact = facts[id.0 as usize].as_ref();
            fact.and_then(|f| Some(f.const_shape()?.iter().product::<usize>() * f.dtype.size())).unwrap_or(0)
        };
        for step in steps.iter_mut().rev() {
            let Some(node) = graph.node(step.node) else { continue };
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                let inner = graph.producer(*id).is_some() && !self.fixed[id.0 as usize];
                if inner && !std::mem::replace(&mut read_later[id.0 as usize], true) {
                    step.release.push(*id);
                    live += if step.place == Place::Alias { 0 } else { size(&self.facts, *id) };
                }
            }
            peak = peak.max(live);
            if step.place != Place::Alias {
                for id in node.outputs.iter().flatten() {
                    live = live.saturating_sub(size(&self.facts, *id));
                }
            }
        }
        Ok(Plan { steps, inputs: HashMap::new(), known, peak_bytes: peak })
    }
}
