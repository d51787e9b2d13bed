//! Runs a plan.

use std::collections::HashMap;
use std::sync::Mutex;

use super::device::{Gpu, GpuTensor};
use super::{Concrete, Place, Plan, Step, concrete, constant_view, kernel_error, run_on_cpu, tensor_of_fact};
use crate::cpu::Cpu;
use crate::error::{KernelError, RunError};
use crate::graph::{Dim, Fact, Graph, Node, ValueId, infer};
use crate::tensor::{BufferPool, Tensor, TensorView};

/// What a run needs beside its inputs.
pub(crate) struct Resources<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) cpu: &'a Cpu,
    pub(crate) gpu: Option<&'a Gpu>,
    pub(crate) pool: &'a BufferPool,
    /// Constants of the graph that were uploaded, kept for the session's life.
    pub(crate) uploaded: &'a Mutex<HashMap<ValueId, GpuTensor>>,
}

/// Where a value lies; both, once it was copied.
#[derive(Clone, Default)]
struct Held {
    host: Option<Tensor>,
    device: Option<GpuTensor>,
}

impl Held {
    fn host(tensor: Tensor) -> Self {
        Held { host: Some(tensor), device: None }
    }
}

struct Run<'a> {
    r: &'a Resources<'a>,
    plan: &'a Plan,
    values: Vec<Held>,
}

/// Runs `plan` on `inputs` and returns the outputs that `wanted` lists, by position in [`Graph::outputs`].
pub(crate) async fn execute(
    resources: &Resources<'_>,
    plan: &Plan,
    inputs: HashMap<ValueId, Tensor>,
    wanted: &[usize],
) -> Result<Vec<Tensor>, RunError> {
    let mut run = Run { r: resources, plan, values: vec![Held::default(); resources.graph.value_count()] };
    for (id, tensor) in inputs {
        run.values[id.0 as usize] = Held::host(tensor);
    }
    for step in &plan.steps {
        let Some(node) = resources.graph.node(step.node) else { continue };
        match step.place {
            Place::Alias => run.alias(node, step)?,
            Place::Gpu => run.on_gpu(node, step)?,
            Place::Cpu => run.on_cpu(node, step).await?,
        }
        for id in &step.release {
            run.values[id.0 as usize] = Held::default();
        }
    }
    run.outputs(wanted).await
}

impl Run<'_> {
    /// Copies those of the values that lie on the device only to the host, in one wait.
    async fn fetch(&mut self, ids: impl Iterator<Item = ValueId>) -> Result<(), KernelError> {
        let Some(gpu) = self.r.gpu else { return Ok(()) };
        let (mut missing, mut tensors) = (Vec::new(), Vec::new());
        for id in ids {
            let held = &self.values[id.0 as usize];
            if let (None, Some(device)) = (&held.host, &held.device)
                // What the plan knows may lie on the device as well, for a kernel there.
                && !self.plan.known.contains_key(&id)
                && !missing.contains(&id)
            {
                missing.push(id);
                tensors.push(device.clone());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        for (id, tensor) in missing.into_iter().zip(gpu.download_all(&tensors).await?) {
            self.values[id.0 as usize].host = Some(tensor);
        }
        Ok(())
    }

    /// The value on the host, where it was made or [`Run::fetch`] has brought it.
    fn on_host(&self, id: ValueId) -> Result<Tensor, KernelError> {
        if let Some(tensor) = self.r.graph.constant(id).or_else(|| self.plan.known.get(&id)) {
            return Ok(tensor.clone());
        }
        self.values[id.0 as usize]
            .host
            .clone()
            .ok_or_else(|| KernelError::Invalid(format!("{} was not computed", self.r.graph.value(id).name)))
    }

    /// The value on the device, uploaded if it lies on the host only.
    fn on_device(&mut self, gpu: &Gpu, id: ValueId) -> Result<GpuTensor, KernelError> {
        if let Some(constant) = self.r.graph.constant(id) {
            let mut uploaded = self.r.uploaded.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(tensor) = uploaded.get(&id) {
                return Ok(tensor.clone());
            }
            let tensor = gpu.upload(constant_view(id, constant))?;
            uploaded.insert(id, tensor.clone());
            return Ok(tensor);
        }
        if let Some(tensor) = &self.values[id.0 as usize].device {
            return Ok(tensor.clone());
        }
        let known = self.plan.known.get(&id).or(self.values[id.0 as usize].host.as_ref());
        let Some(host) = known else {
            return Err(KernelError::Invalid(format!("{} was not computed", self.r.graph.value(id).name)));
        };
        let tensor = gpu.upload(host.view())?;
        self.values[id.0 as usize].device = Some(tensor.clone());
        Ok(tensor)
    }

    async fn on_cpu(&mut self, node: &Node, step: &Step) -> Result<(), RunError> {
        self.fetch(node.inputs.iter().flatten().copied()).await.map_err(|e| kernel_error(node, e))?;
        let mut tensors = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            tensors.push(match input {
                Some(id) => Some((*id, self.on_host(*id).map_err(|e| kernel_error(node, e))?)),
                None => None,
            });
        }
        let late;
        let outputs = match &step.outputs {
            Some(outputs) => outputs,
            None if node.op.has_data_dependent_shape() => &Vec::new(),
            None => {
                late = late_shapes(node, &tensors)?;
                &late
            }
        };
        let graph = self.r.graph;
        let views: Vec<Option<TensorView<'_>>> = tensors
            .iter()
            .map(|t| {
                t.as_ref().map(|(id, t)| if graph.constant(*id).is_some() { constant_view(*id, t) } else { t.view() })
            })
            .collect();
        let results =
            run_on_cpu(self.r.cpu, self.r.pool, &node.op, &views, outputs).map_err(|e| kernel_error(node, e))?;
        for (output, tensor) in node.outputs.iter().zip(results) {
            if let Some(output) = output {
                self.values[output.0 as usize] = Held::host(tensor);
            }
        }
        Ok(())
    }

    fn on_gpu(&mut self, node: &Node, step: &Step) -> Result<(), RunError> {
        let fail = |e| kernel_error(node, e);
        let (Some(gpu), Some(outputs)) = (self.r.gpu, &step.outputs) else {
            return Err(fail(KernelError::Invalid("was planned for a GPU that is not there".into())));
        };
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(match input {
                Some(id) => Some(self.on_device(gpu, *id).map_err(fail)?),
                None => None,
            });
        }
        let results = outputs
            .iter()
            .map(|(dtype, shape)| gpu.alloc(*dtype, shape))
            .collect::<Result<Vec<_>, _>>()
            .map_err(fail)?;
        let input_refs: Vec<Option<&GpuTensor>> = inputs.iter().map(Option::as_ref).collect();
        let output_refs: Vec<&GpuTensor> = results.iter().collect();
        gpu.record(&node.op, &input_refs, &output_refs).map_err(fail)?;
        for (output, tensor) in node.outputs.iter().zip(results) {
            if let Some(output) = output {
                self.values[output.0 as usize] = Held { host: None, device: Some(tensor) };
            }
        }
        Ok(())
    }

    /// The same memory under another shape, wherever it lies.
    fn alias(&mut self, node: &Node, step: &Step) -> Result<(), RunError> {
        let fail = |e: KernelError| kernel_error(node, e);
        let (Some(Some(source)), Some(Some(output))) = (node.inputs.first(), node.outputs.first()) else {
            return Err(fail(KernelError::Invalid("has no input".into())));
        };
        let held = match self.r.graph.constant(*source).or_else(|| self.plan.known.get(source)) {
            Some(tensor) => Held::host(tensor.clone()),
            None => self.values[source.0 as usize].clone(),
        };
        let shape = match &step.outputs {
            Some(outputs) => outputs[0].1.clone(),
            None => {
                let mut tensors = vec![held.host.clone().map(|t| (*source, t))];
                for input in &node.inputs[1..] {
                    let tensor = input.and_then(|id| {
                        let known = self.r.graph.constant(id).or_else(|| self.plan.known.get(&id));
                        known.or(self.values[id.0 as usize].host.as_ref()).map(|t| (id, t.clone()))
                    });
                    tensors.push(tensor);
                }
                late_shapes(node, &tensors)?.remove(0).1
            }
        };
        let host = held.host.map(|t| t.reshaped(&shape)).transpose().map_err(|e| fail(e.into()))?;
        let device = held.device.map(|t| t.reshaped(&shape)).transpose().map_err(fail)?;
        self.values[output.0 as usize] = Held { host, device };
        Ok(())
    }

    async fn outputs(&mut self, wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        let ids: Vec<ValueId> = wanted.iter().map(|&i| self.r.graph.outputs[i]).collect();
        let graph = self.r.graph;
        let failed = |id: Option<&ValueId>, source| RunError::Kernel {
            node: id.map_or_else(String::new, |&id| graph.value(id).name.to_string()),
            op: "output",
            source,
        };
        // A failed copy is the device's fault, not one output's: the first stands for all.
        self.fetch(ids.iter().copied()).await.map_err(|source| failed(ids.first(), source))?;
        let mut results = Vec::with_capacity(ids.len());
        for id in &ids {
            results.push(self.on_host(*id).map_err(|source| failed(Some(id), source))?);
        }
        Ok(results)
    }
}

/// Shapes that could not be planned, now that the inputs are there.
fn late_shapes(node: &Node, inputs: &[Option<(ValueId, Tensor)>]) -> Result<Vec<Concrete>, RunError> {
    let bad = |reason: String| RunError::Shape { node: node.name.to_string(), reason };
    let facts: Vec<Option<Fact>> = inputs
        .iter()
        .enumerate()
        .map(|(i, input)| {
            input.as_ref().map(|(_, t)| {
                let mut fact = Fact::of_tensor(t);
                if super::reads_elements(&node.op, i) {
                    fact.value = t.to_i64_vec().map(|v| v.into_iter().map(Dim::Const).collect());
                }
                fact
            })
        })
        .collect();
    let inferred = infer(&node.op, &facts, node.outputs.len(), &node.name).map_err(|e| bad(e.to_string()))?;
    debug_assert!(inferred.iter().all(|f| f.value.is_none() || tensor_of_fact(f).is_some()));
    concrete(&inferred).ok_or_else(|| bad("its output's shape is not known even now".into()))
}
