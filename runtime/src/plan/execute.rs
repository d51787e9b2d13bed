//! Runs a plan.

mod rows;

use std::collections::HashMap;
use std::sync::Mutex;

use super::cache::{Cache, Caches, Ports};
use super::device::{Gpu, GpuTensor, Readback};
use super::{Concrete, Place, Plan, Ragged, Step, concrete, kernel_error, run_on_cpu, tensor_of_fact};
use crate::cpu::Cpu;
use crate::cpu::attention::{self, Growing};
use crate::error::{KernelError, RunError};
use crate::graph::{Dim, Fact, Graph, Node, Op, ValueId, infer};
use crate::tensor::{BufferPool, ConstantId, DType, Tensor, TensorView, TensorViewMut, element_count};

/// What a run needs beside its inputs.
pub(crate) struct Resources<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) cpu: &'a Cpu,
    pub(crate) gpu: Option<&'a Gpu>,
    pub(crate) pool: &'a BufferPool,
    /// Constants that were uploaded, kept for the session's life.
    pub(crate) uploaded: &'a Uploaded,
}

/// Constants on the device, by the identity of their memory and by shape.
pub(crate) type Uploaded = Mutex<HashMap<(ConstantId, Vec<usize>), GpuTensor>>;

/// Where a value lies; both, once it was copied.
#[derive(Clone, Default)]
pub(crate) struct Held {
    pub(crate) host: Option<Tensor>,
    pub(crate) device: Option<GpuTensor>,
}

impl Held {
    pub(crate) fn host(tensor: Tensor) -> Self {
        Held { host: Some(tensor), device: None }
    }

    /// Type and shape, if there is a tensor.
    pub(crate) fn concrete(&self) -> Option<Concrete> {
        let host = self.host.as_ref().map(|t| (t.dtype(), t.shape().to_vec()));
        host.or(self.device.as_ref().map(|t| (t.dtype(), t.shape().to_vec())))
    }
}

/// The sequences that a run continues.
pub(crate) enum Sequences<'a, 'c> {
    /// The rows of a batch, all of one length, in the same caches.
    Batch(&'a mut Caches),
    /// Rows of lengths of their own, each with caches of its own.
    Rows(&'a Ragged, &'a mut [&'c mut Caches]),
}

struct Run<'a, 'c> {
    r: &'a Resources<'a>,
    plan: &'a Plan,
    values: Vec<Held>,
    /// Where the graph reads caches, and the caches.
    caches: Option<(&'a Ports, Sequences<'a, 'c>)>,
}

/// Runs `plan` on `inputs` and returns the outputs that `wanted` lists, by position in [`Graph::outputs`].
///
/// With `caches`, the graph's inputs that are caches come from there and its outputs that are caches go there. After an
/// error the caches are as they were.
pub(crate) async fn execute<'a>(
    resources: &'a Resources<'a>,
    plan: &'a Plan,
    inputs: HashMap<ValueId, Held>,
    wanted: &[usize],
    caches: Option<(&'a Ports, Sequences<'a, '_>)>,
) -> Result<Vec<Held>, RunError> {
    let values = vec![Held::default(); resources.graph.value_count()];
    let mut run = Run { r: resources, plan, values, caches };
    for (id, held) in inputs {
        run.values[id.0 as usize] = held;
    }
    run.read_caches().await?;
    for step in &plan.steps {
        let Some(node) = resources.graph.node(step.node) else { continue };
        if run.reads_rows(step) {
            run.attend_by_row(node, step).await?;
            run.release(step);
            continue;
        }
        let grows = run.caches.as_ref().and_then(|(ports, _)| ports.growing.get(&step.node).copied());
        match (step.place, grows) {
            (Place::Alias, _) => run.alias(node, step)?,
            (Place::Gpu, Some(slots)) => run.grow_on_gpu(node, step, slots)?,
            (Place::Cpu, Some(slots)) => run.grow_on_cpu(node, step, slots).await?,
            (Place::Gpu, None) => run.on_gpu(node, step)?,
            (Place::Cpu, None) => run.on_cpu(node, step).await?,
        }
        run.release(step);
    }
    let outputs = run.outputs(wanted);
    run.keep_caches()?;
    Ok(outputs)
}

impl Run<'_, '_> {
    /// Lets go of what no later step reads.
    fn release(&mut self, step: &Step) {
        for id in &step.release {
            self.values[id.0 as usize] = Held::default();
        }
    }

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
            let key = (constant.constant_id(), constant.shape().to_vec());
            if let Some(tensor) = uploaded.get(&key) {
                return Ok(tensor.clone());
            }
            let tensor = gpu.upload(constant.constant_view())?;
            uploaded.insert(key, tensor.clone());
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

    async fn inputs_on_host(
        &mut self,
        node: &Node,
        inputs: &[Option<ValueId>],
    ) -> Result<Vec<Option<(ValueId, Tensor)>>, RunError> {
        self.fetch(inputs.iter().flatten().copied()).await.map_err(|e| kernel_error(node, e))?;
        let mut tensors = Vec::with_capacity(inputs.len());
        for input in inputs {
            tensors.push(match input {
                Some(id) => Some((*id, self.on_host(*id).map_err(|e| kernel_error(node, e))?)),
                None => None,
            });
        }
        Ok(tensors)
    }

    fn inputs_on_device(
        &mut self,
        gpu: &Gpu,
        node: &Node,
        inputs: &[Option<ValueId>],
    ) -> Result<Vec<Option<GpuTensor>>, RunError> {
        inputs
            .iter()
            .map(|input| input.map(|id| self.on_device(gpu, id).map_err(|e| kernel_error(node, e))).transpose())
            .collect()
    }

    async fn on_cpu(&mut self, node: &Node, step: &Step) -> Result<(), RunError> {
        let tensors = self.inputs_on_host(node, &node.inputs).await?;
        let late;
        let outputs = match &step.outputs {
            Some(outputs) => outputs,
            None if node.op.has_data_dependent_shape() => &Vec::new(),
            None => {
                late = late_shapes(node, &tensors)?;
                &late
            }
        };
        let views = views(self.r.graph, &tensors);
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
        let inputs = self.inputs_on_device(gpu, node, &node.inputs)?;
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

    /// Hands the caches that do not grow in place to the graph as ordinary inputs.
    async fn read_caches(&mut self) -> Result<(), RunError> {
        let Some((ports, Sequences::Batch(caches))) = &mut self.caches else { return Ok(()) };
        for (slot, past) in ports.past.iter().enumerate() {
            let Some(past) = past.filter(|_| !ports.grows(slot)) else { continue };
            let cache = &caches.slots[slot];
            let held = if cache.is_new() {
                // Nothing is filled: a tensor without elements, as planned.
                let Some((dtype, shape)) = self.plan.inputs.get(&past) else { continue };
                Tensor::from_bytes(*dtype, shape, &[]).map(Held::host).map_err(KernelError::from)
            } else {
                cache.contiguous(self.r.gpu, &mut caches.copied).await
            };
            let name = || self.r.graph.value(past).name.to_string();
            self.values[past.0 as usize] =
                held.map_err(|source| RunError::Kernel { node: name(), op: "cache", source })?;
        }
        Ok(())
    }

    /// Takes the new caches: rows that were written in place count from now on, other caches come from outputs.
    fn keep_caches(&mut self) -> Result<(), RunError> {
        let Some((ports, sequences)) = &mut self.caches else { return Ok(()) };
        let caches = match sequences {
            Sequences::Batch(caches) => caches,
            Sequences::Rows(_, rows) => {
                rows::keep(ports, rows);
                return Ok(());
            }
        };
        for step in &self.plan.steps {
            if let (Some([k, v]), Some(outputs)) = (ports.growing.get(&step.node), &step.outputs) {
                caches.slots[*k].rows = outputs[1].1[2];
                caches.slots[*v].rows = outputs[2].1[2];
            }
        }
        for (slot, present) in ports.present.iter().enumerate() {
            let Some(present) = present.filter(|_| !ports.grows(slot)) else { continue };
            let held = match self.plan.known.get(&present).or(self.r.graph.constant(present)) {
                Some(tensor) => Held::host(tensor.clone()),
                None => self.values[present.0 as usize].clone(),
            };
            let Some((dtype, shape)) = held.concrete() else { continue };
            let cache = Cache::of(held, dtype, &shape);
            if ports.past[slot].is_some() {
                caches.copied += cache.bytes() as u64;
            }
            caches.slots[slot] = cache;
        }
        Ok(())
    }

    /// An attention whose caches grow in place, on the CPU.
    async fn grow_on_cpu(&mut self, node: &Node, step: &Step, [k, v]: [usize; 2]) -> Result<(), RunError> {
        let fail = |e| kernel_error(node, e);
        // All but the past, which the kernel gets as memory to write to.
        let mut inputs = node.inputs.clone();
        match node.op {
            Op::GroupQueryAttention(_) => inputs[3..5].fill(None),
            _ => inputs.truncate(5),
        }
        let tensors = self.inputs_on_host(node, &inputs).await?;
        let (Some(outputs), Some((_, Sequences::Batch(caches)))) = (&step.outputs, &mut self.caches) else {
            return Err(fail(KernelError::Invalid("is no attention with a cache".into())));
        };
        let [(_, y_shape), (_, k_shape), (_, v_shape), ..] = outputs.as_slice() else {
            return Err(fail(KernelError::Invalid("its caches are not planned".into())));
        };
        let result = async {
            let mut buffer = self.r.pool.take(element_count(y_shape)? * size_of::<f32>());
            let mut y = TensorViewMut { dtype: DType::F32, shape: y_shape, bytes: buffer.as_mut_slice() };
            let views = views(self.r.graph, &tensors);
            grow(self.r, &node.op, &views, caches, ([k, v], [k_shape, v_shape]), &mut y).await?;
            Ok(Tensor::from_buffer(DType::F32, y_shape, buffer)?)
        }
        .await;
        let y = result.map_err(fail)?;
        if let Some(Some(output)) = node.outputs.first() {
            self.values[output.0 as usize] = Held::host(y);
        }
        Ok(())
    }

    /// An attention whose caches grow in place, on the GPU.
    fn grow_on_gpu(&mut self, node: &Node, step: &Step, [k, v]: [usize; 2]) -> Result<(), RunError> {
        let fail = |e| kernel_error(node, e);
        let absent = || fail(KernelError::Invalid("is no attention with a cache on a GPU".into()));
        let gpu = self.r.gpu.ok_or_else(absent)?;
        let inputs = self.inputs_on_device(gpu, node, &node.inputs[..5])?;
        let (Op::Attention(op), Some(outputs), Some((_, Sequences::Batch(caches)))) =
            (&node.op, &step.outputs, &mut self.caches)
        else {
            return Err(absent());
        };
        let [(_, y_shape), (_, k_shape), (_, v_shape), ..] = outputs.as_slice() else { return Err(absent()) };
        let (past, reserve, mut copied) = (caches.slots[k].rows, caches.reserve, 0);
        let keys = caches.slots[k].device_room(gpu, k_shape, reserve, &mut copied).map_err(fail)?;
        let values = caches.slots[v].device_room(gpu, v_shape, reserve, &mut copied).map_err(fail)?;
        caches.copied += copied;
        let y = gpu.alloc(DType::F32, y_shape).map_err(fail)?;
        let inputs: Vec<Option<&GpuTensor>> = inputs.iter().map(Option::as_ref).collect();
        gpu.record_growing(op, &inputs, &keys, &values, past, &y).map_err(fail)?;
        if let Some(Some(output)) = node.outputs.first() {
            self.values[output.0 as usize] = Held { host: None, device: Some(y) };
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

    fn outputs(&self, wanted: &[usize]) -> Vec<Held> {
        let held = |id: ValueId| match self.r.graph.constant(id).or_else(|| self.plan.known.get(&id)) {
            Some(tensor) => Held::host(tensor.clone()),
            None => self.values[id.0 as usize].clone(),
        };
        wanted.iter().map(|&i| held(self.r.graph.outputs[i])).collect()
    }
}

/// Runs an attention on the CPU that writes what is new behind the rows of two of `caches`, of keys and of values: those that `slots`
/// names, which then have these shapes. `inputs` are the operator's, caches apart.
async fn grow(
    r: &Resources<'_>,
    op: &Op,
    inputs: &[Option<TensorView<'_>>],
    caches: &mut Caches,
    ([k, v], [k_shape, v_shape]): ([usize; 2], [&[usize]; 2]),
    y: &mut TensorViewMut<'_>,
) -> Result<(), KernelError> {
    let (mut keys, mut values) = (std::mem::take(&mut caches.slots[k]), std::mem::take(&mut caches.slots[v]));
    let (past, reserve, mut copied) = (keys.rows, caches.reserve, 0);
    let result = async {
        let room_k = keys.host_room(r.gpu, k_shape, reserve, &mut copied).await?;
        let room_v = values.host_room(r.gpu, v_shape, reserve, &mut copied).await?;
        let planes = k_shape[0] * k_shape[1];
        let growing = Growing {
            capacity: room_k.len() / size_of::<f32>() / (planes * k_shape[3]).max(1),
            keys: bytemuck::cast_slice_mut(room_k),
            values: bytemuck::cast_slice_mut(room_v),
            past,
        };
        match op {
            Op::Attention(op) => attention::run_growing(r.cpu, op, inputs, growing, y),
            Op::GroupQueryAttention(op) => attention::grouped::run_growing(r.cpu, op, inputs, growing, y),
            _ => Err(KernelError::Invalid("is no attention".into())),
        }
    }
    .await;
    (caches.slots[k], caches.slots[v]) = (keys, values);
    caches.copied += copied;
    result
}

/// Outputs on their way to the host.
pub(crate) struct Reading {
    held: Vec<Held>,
    /// Those that lie on the device only.
    missing: Vec<usize>,
    read: Option<Readback>,
}

impl Reading {
    /// Asks the device for what lies there only, without waiting.
    pub(crate) fn begin(gpu: Option<&Gpu>, held: Vec<Held>) -> Result<Reading, KernelError> {
        let device = |h: &Held| if h.host.is_none() { h.device.clone() } else { None };
        let (missing, tensors): (Vec<usize>, Vec<GpuTensor>) =
            held.iter().enumerate().filter_map(|(i, h)| Some((i, device(h)?))).unzip();
        let read = match gpu {
            Some(gpu) if !tensors.is_empty() => Some(gpu.begin_read(tensors)?),
            _ => None,
        };
        Ok(Reading { held, missing, read })
    }

    /// An output as it lies, on the device or on the host.
    pub(crate) fn held(&self, i: usize) -> &Held {
        &self.held[i]
    }

    /// All of them, once they are here.
    pub(crate) async fn finish(self, gpu: Option<&Gpu>) -> Result<Vec<Tensor>, KernelError> {
        let Reading { mut held, missing, read } = self;
        if let (Some(gpu), Some(read)) = (gpu, read) {
            for (i, tensor) in missing.into_iter().zip(gpu.finish_read(read).await?) {
                held[i].host = Some(tensor);
            }
        }
        let absent = || KernelError::Invalid("an output was not computed".into());
        held.into_iter().map(|h| h.host.ok_or_else(absent)).collect()
    }
}

/// Views for a kernel: constants carry their identity.
fn views<'t>(graph: &Graph, tensors: &'t [Option<(ValueId, Tensor)>]) -> Vec<Option<TensorView<'t>>> {
    let view = |(id, t): &'t (ValueId, Tensor)| -> TensorView<'t> {
        if graph.constant(*id).is_some() { t.constant_view() } else { t.view() }
    };
    tensors.iter().map(|t| t.as_ref().map(view)).collect()
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
