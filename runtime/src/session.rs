//! A loaded model: run it as often as wanted, from any thread.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cpu::{Ahead, Cpu, CpuKernels};
use crate::error::{KernelError, RunError};
use crate::graph::{Bindings, Dim, Fact, Graph, Op, ValueId};
use crate::plan::{
    Caches, Concrete, Gpu, Held, Place, Placement, Plan, Ports, Ragged, Reading, Resources, Sequences, Uploaded,
    execute, stack,
};
use crate::tensor::{BufferPool, DType, Tensor};

/// Plans for more shapes than this are thrown away, the oldest first.
const MAX_PLANS: usize = 32;

/// How a session runs.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// CPU threads; 0 means all cores.
    pub threads: usize,
    /// The instructions that matrix products on the CPU use: the best that the machine has, by default.
    pub kernels: CpuKernels,
    /// The GPU to use, if any.
    #[cfg(feature = "gpu")]
    pub gpu: Option<crate::gpu::Gpu>,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the graph.
    pub name: Arc<str>,
    /// Type of its elements.
    pub dtype: DType,
    /// Sizes; names stand for sizes that each run may choose.
    pub shape: Vec<Dim>,
}

impl std::fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {:?}", self.name, self.dtype, self.shape)
    }
}

/// A node of a plan, for reports.
#[derive(Clone, Debug)]
pub struct PlannedNode {
    /// The node's path.
    pub name: Arc<str>,
    /// The operator.
    pub op: &'static str,
    /// Where it runs.
    pub place: Place,
    /// Types and shapes of its outputs, if they are known before running.
    pub outputs: Option<Vec<Concrete>>,
}

/// What planning found for one set of input shapes.
#[derive(Clone, Debug)]
pub struct PlanReport {
    /// Steps in order.
    pub nodes: Vec<PlannedNode>,
    /// The most bytes that values between steps need at once.
    pub peak_bytes: usize,
}

/// A model ready to run.
pub struct Session {
    graph: Graph,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    backend: Arc<Backend>,
    /// By the inputs' types and shapes, and by which of them lie on the GPU.
    plans: Mutex<Vec<(PlanKey, Arc<Plan>)>>,
}

type PlanKey = (Vec<Concrete>, Vec<ValueId>);

/// Devices, memory, and constants in the forms that kernels read. Sessions may share one, and with it the weights they
/// have in common.
struct Backend {
    cpu: Cpu,
    gpu: Option<Gpu>,
    pool: BufferPool,
    uploaded: Uploaded,
}

/// Packs the weights that only one operator reads, and lets go of their elements: kept in both forms, a model would need
/// its size twice. Filters go to the backend, which packs them at the first run.
fn pack_weights(graph: &mut Graph, cpu: &Cpu) {
    let mut readers: HashMap<ValueId, usize> = HashMap::new();
    let inputs = graph.nodes().flat_map(|(_, node)| node.inputs.iter().flatten());
    for &id in inputs.chain(&graph.outputs) {
        *readers.entry(id).or_default() += 1;
    }
    let mut operands = Vec::new();
    for (node, found) in graph.nodes() {
        let inputs = found.inputs.iter().enumerate().filter_map(|(index, id)| Some((index, (*id)?)));
        operands.extend(inputs.filter(|(_, id)| readers.get(id) == Some(&1)).map(|(index, id)| (node, index, id)));
    }
    cpu.expect_packing(true);
    // One after another: no more than one weight is there twice.
    for (node, index, id) in operands {
        let (Some(node), Some(constant)) = (graph.node(node), graph.constant(id)) else { continue };
        let ahead = cpu.ahead(&node.op, index, constant);
        // What another graph shares stays there too, unless it was packed for both.
        if ahead == Ahead::Nothing || ahead == Ahead::Keep && constant.is_shared() {
            continue;
        }
        let (name, bare) = (constant.constant_id(), constant.without_elements());
        let memory = graph.replace_constant(id, bare).and_then(Tensor::into_memory);
        match memory {
            Some(memory) if ahead == Ahead::Keep => cpu.keep(name, memory),
            Some(memory) => cpu.settle_packed(name, memory),
            None => (),
        }
    }
    cpu.expect_packing(false);
}

/// A failed copy is the device's fault, not one output's.
fn output_error(source: KernelError) -> RunError {
    RunError::Kernel { node: "the outputs".into(), op: "output", source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held left valid data: every update is one insertion or removal.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Session {
    /// Makes a session of a graph, usually one that the optimiser has seen.
    pub fn new(graph: Graph, options: SessionOptions) -> Self {
        #[cfg(feature = "gpu")]
        let gpu = options.gpu;
        #[cfg(not(feature = "gpu"))]
        let gpu = None;
        let (pool, uploaded) = (BufferPool::default(), Uploaded::default());
        #[allow(clippy::arc_with_non_send_sync)] // In browsers wgpu's handles stay on one thread.
        let backend =
            Arc::new(Backend { cpu: Cpu::with_kernels(options.threads, options.kernels), gpu, pool, uploaded });
        Self::on(graph, backend)
    }

    /// A session on the devices of this one. Constants whose memory the two graphs share are packed and uploaded once.
    pub fn beside(&self, graph: Graph) -> Self {
        Self::on(graph, self.backend.clone())
    }

    fn on(mut graph: Graph, backend: Arc<Backend>) -> Self {
        if backend.gpu.is_none() {
            pack_weights(&mut graph, &backend.cpu);
        }
        let info = |name: &Arc<str>, id: ValueId| {
            let unknown = Fact::new(DType::F32, vec![]);
            let fact = graph.fact(id).unwrap_or(&unknown);
            TensorInfo { name: name.clone(), dtype: fact.dtype, shape: fact.shape.clone() }
        };
        let inputs = graph.inputs.iter().map(|&id| info(&graph.value(id).name, id)).collect();
        let outputs = graph.outputs.iter().zip(&graph.output_names).map(|(&id, name)| info(name, id)).collect();
        Session { inputs, outputs, backend, plans: Mutex::default(), graph }
    }

    /// The operators that run, in order.
    pub fn operators(&self) -> impl Iterator<Item = &Op> {
        self.graph.nodes().map(|(_, node)| &node.op)
    }

    /// What the model takes.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// What the model gives.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// `gpu` if the session was given one, else `cpu`.
    pub fn device(&self) -> &'static str {
        if self.backend.gpu.is_some() { "gpu" } else { "cpu" }
    }

    /// The memory that values between steps come from.
    pub fn pool(&self) -> &BufferPool {
        &self.backend.pool
    }

    fn describe(list: &[TensorInfo]) -> String {
        list.iter().map(TensorInfo::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The inputs by value id.
    fn by_id<N: AsRef<str>>(
        &self,
        inputs: impl IntoIterator<Item = (N, Held)>,
    ) -> Result<HashMap<ValueId, Held>, RunError> {
        let mut given = HashMap::new();
        for (name, held) in inputs {
            let name = name.as_ref();
            let at = self.inputs.iter().position(|i| &*i.name == name).ok_or_else(|| RunError::UnknownInput {
                name: name.to_owned(),
                expected: Self::describe(&self.inputs),
            })?;
            given.insert(self.graph.inputs[at], held);
        }
        Ok(given)
    }

    /// Checks that all inputs are there and that their types and shapes fit. Returns these in the order of the inputs.
    fn accept(&self, given: &HashMap<ValueId, Concrete>) -> Result<Vec<Concrete>, RunError> {
        let mut sizes: BTreeMap<Arc<str>, (i64, Arc<str>)> = BTreeMap::new();
        let mut shapes = Vec::with_capacity(self.inputs.len());
        let mismatch = |info: &TensorInfo, (dtype, shape): &Concrete, expected: String| RunError::InputMismatch {
            name: info.name.to_string(),
            got: format!("{dtype} {shape:?}"),
            expected,
        };
        for (info, id) in self.inputs.iter().zip(&self.graph.inputs) {
            let Some(concrete) = given.get(id) else {
                return Err(RunError::MissingInput {
                    name: info.name.to_string(),
                    expected: Self::describe(&self.inputs),
                });
            };
            let (dtype, shape) = concrete;
            if *dtype != info.dtype || shape.len() != info.shape.len() {
                return Err(mismatch(info, concrete, info.to_string()));
            }
            for (dim, &size) in info.shape.iter().zip(shape) {
                if dim.as_const().is_some_and(|n| n != size as i64) {
                    return Err(mismatch(info, concrete, info.to_string()));
                }
                let Some(symbol) = dim.as_symbol() else { continue };
                let first = sizes.entry(symbol.clone()).or_insert((size as i64, info.name.clone()));
                if first.0 != size as i64 {
                    let expected = format!("{info}, and {} has {symbol} = {}", first.1, first.0);
                    return Err(mismatch(info, concrete, expected));
                }
            }
            shapes.push(concrete.clone());
        }
        // Sizes that follow from others.
        let bindings: Bindings = sizes.into_iter().map(|(name, (size, _))| (name, size)).collect();
        for (info, concrete) in self.inputs.iter().zip(&shapes) {
            let fits = |(dim, &size): (&Dim, &usize)| dim.eval(&bindings).is_none_or(|n| n == size as i64);
            if !info.shape.iter().zip(&concrete.1).all(fits) {
                let here: Vec<_> =
                    info.shape.iter().zip(&concrete.1).map(|(d, &n)| d.eval(&bindings).unwrap_or(n as i64)).collect();
                return Err(mismatch(info, concrete, format!("{info}, here {here:?}")));
            }
        }
        Ok(shapes)
    }

    /// The plan for inputs of these types and shapes, and behind them those of other values that are `given`.
    fn plan(&self, shapes: &[Concrete], given: &[ValueId], there: &[ValueId]) -> Result<Arc<Plan>, RunError> {
        if let Some((_, plan)) = lock(&self.plans).iter().find(|((s, t), _)| s == shapes && t == there) {
            return Ok(plan.clone());
        }
        let inputs = self.graph.inputs.iter().chain(given).copied().zip(shapes.iter().cloned()).collect();
        let Backend { cpu, gpu, pool, .. } = &*self.backend;
        let gpu = gpu.as_ref().map(|g| g as &dyn Placement);
        let plan = Arc::new(Plan::new(&self.graph, &inputs, there, cpu, pool, gpu)?);
        let mut plans = lock(&self.plans);
        if plans.len() >= MAX_PLANS {
            plans.remove(0);
        }
        plans.push(((shapes.to_vec(), there.to_vec()), plan.clone()));
        Ok(plan)
    }

    /// What would run for inputs of these types and shapes, in the order of [`Session::inputs`].
    pub fn report(&self, shapes: &[Concrete]) -> Result<PlanReport, RunError> {
        let plan = self.plan(shapes, &[], &[])?;
        let nodes = plan
            .steps
            .iter()
            .filter_map(|step| {
                let node = self.graph.node(step.node)?;
                let (name, op) = (node.name.clone(), node.op.name());
                Some(PlannedNode { name, op, place: step.place, outputs: step.outputs.clone() })
            })
            .collect();
        Ok(PlanReport { nodes, peak_bytes: plan.peak_bytes })
    }

    /// Runs the model. Returns all outputs, in the order of [`Session::outputs`].
    pub async fn run_async(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(Arc<str>, Tensor)>, RunError> {
        let wanted: Vec<usize> = (0..self.outputs.len()).collect();
        self.run_selected(inputs, &wanted).await
    }

    /// Runs the model for the named outputs only. What leads to the others is computed too, but not copied back.
    pub async fn run_for(&self, inputs: &[(&str, Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, RunError> {
        let wanted = outputs
            .iter()
            .map(|name| {
                self.outputs.iter().position(|o| &*o.name == *name).ok_or_else(|| RunError::UnknownOutput {
                    name: (*name).to_owned(),
                    available: Self::describe(&self.outputs),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(self.run_selected(inputs, &wanted).await?.into_iter().map(|(_, t)| t).collect())
    }

    async fn run_selected(
        &self,
        inputs: &[(&str, Tensor)],
        wanted: &[usize],
    ) -> Result<Vec<(Arc<str>, Tensor)>, RunError> {
        let given = self.by_id(inputs.iter().map(|(name, tensor)| (*name, Held::host(tensor.clone()))))?;
        let tensors = self.finish(self.execute(given, wanted, None).await?).await?;
        Ok(wanted.iter().zip(tensors).map(|(&i, t)| (self.outputs[i].name.clone(), t)).collect())
    }

    async fn execute(
        &self,
        given: HashMap<ValueId, Held>,
        wanted: &[usize],
        caches: Option<(&Ports, &mut Caches)>,
    ) -> Result<Reading, RunError> {
        let mut shapes: HashMap<ValueId, Concrete> =
            given.iter().filter_map(|(id, held)| Some((*id, held.concrete()?))).collect();
        if let Some((ports, caches)) = &caches {
            self.add_cache_shapes(ports, caches, &mut shapes);
        }
        let mut there: Vec<ValueId> = given.iter().filter(|(_, h)| h.host.is_none()).map(|(id, _)| *id).collect();
        there.sort_unstable();
        let plan = self.plan(&self.accept(&shapes)?, &[], &there)?;
        let Backend { cpu, gpu, pool, uploaded } = &*self.backend;
        let resources = Resources { graph: &self.graph, cpu, gpu: gpu.as_ref(), pool, uploaded };
        let caches = caches.map(|(ports, caches)| (ports, Sequences::Batch(caches)));
        let held = execute(&resources, &plan, given, wanted, caches).await?;
        Reading::begin(gpu.as_ref(), held).map_err(output_error)
    }

    /// Waits for outputs.
    pub(crate) async fn finish(&self, reading: Reading) -> Result<Vec<Tensor>, RunError> {
        reading.finish(self.backend.gpu.as_ref()).await.map_err(output_error)
    }

    /// The sizes that inputs of these shapes name.
    fn bindings(&self, shapes: &HashMap<ValueId, Concrete>) -> Bindings {
        let mut bindings = Bindings::new();
        for (info, id) in self.inputs.iter().zip(&self.graph.inputs) {
            for (dim, size) in info.shape.iter().zip(shapes.get(id).map_or(&[][..], |s| &s.1)) {
                if let Some(name) = dim.as_symbol() {
                    bindings.insert(name.clone(), *size as i64);
                }
            }
        }
        bindings
    }

    /// The inputs' types and shapes under `bindings`.
    fn concrete_inputs(&self, bindings: &Bindings) -> Option<HashMap<ValueId, Concrete>> {
        let size = |dim: &Dim| dim.eval(bindings).and_then(|n| usize::try_from(n).ok());
        let of = |(info, id): (&TensorInfo, &ValueId)| {
            Some((*id, (info.dtype, info.shape.iter().map(size).collect::<Option<_>>()?)))
        };
        self.inputs.iter().zip(&self.graph.inputs).map(of).collect()
    }

    /// What the caches are as inputs. One that is new has no rows, and the batch of the other inputs.
    fn add_cache_shapes(&self, ports: &Ports, caches: &Caches, shapes: &mut HashMap<ValueId, Concrete>) {
        let bindings = self.bindings(shapes);
        for (past, cache) in ports.past.iter().zip(&caches.slots) {
            let Some(past) = past else { continue };
            let filled = if cache.is_new() {
                let Some(fact) = self.graph.fact(*past) else { continue };
                let size = |(axis, dim): (usize, &Dim)| match dim.eval(&bindings) {
                    Some(n) if axis != 2 => n as usize,
                    _ => 0,
                };
                (fact.dtype, fact.shape.iter().enumerate().map(size).collect())
            } else {
                cache.filled()
            };
            shapes.insert(*past, filled);
        }
    }

    /// The ports of caches that have these names as inputs and as outputs.
    pub(crate) fn ports<'n>(&self, names: impl Iterator<Item = (&'n str, &'n str)>) -> Ports {
        let (mut past, mut present) = (vec![], vec![]);
        for (input, output) in names {
            past.push(self.inputs.iter().position(|i| &*i.name == input).map(|at| self.graph.inputs[at]));
            present.push(self.outputs.iter().position(|o| &*o.name == output).map(|at| self.graph.outputs[at]));
        }
        Ports::new(&self.graph, past, present)
    }

    /// Runs the model for the outputs at these positions, without waiting for them. Inputs that are caches come from `caches`,
    /// and the new caches go there; after an error they are as they were.
    pub(crate) async fn run_with_caches(
        &self,
        inputs: Vec<(String, Held)>,
        wanted: &[usize],
        ports: &Ports,
        caches: &mut Caches,
    ) -> Result<Reading, RunError> {
        self.execute(self.by_id(inputs)?, wanted, Some((ports, caches))).await
    }

    /// How sequences of different lengths can share a run; `None` if they cannot, or if there is a GPU.
    pub(crate) fn ragged(&self, ports: &Ports) -> Option<Ragged> {
        let Backend { cpu, gpu: None, pool, .. } = &*self.backend else { return None };
        let symbols = self.inputs.iter().flat_map(|info| &info.shape).filter_map(|dim| dim.as_symbol());
        // One of everything else: one new position above all.
        let ones: Bindings = symbols.map(|name| (name.clone(), 1)).collect();
        Ragged::find(&self.graph, ports, |sizes, given| {
            let mut bindings = ones.clone();
            bindings.extend(sizes.map(|(name, size)| (name.clone(), size)));
            let mut inputs = self.concrete_inputs(&bindings)?;
            inputs.extend(given.iter().cloned());
            Plan::new(&self.graph, &inputs, &[], cpu, pool, None).ok()
        })
    }

    /// Rows up to which each is computed as it would be alone, bit for bit.
    pub(crate) fn rows_alike(&self) -> usize {
        self.operators().map(|op| self.backend.cpu.rows_alike(op)).min().unwrap_or(usize::MAX)
    }

    /// Runs the model for the outputs at these positions, one new position for each of several sequences. `inputs` are those of rows
    /// padded on the left up to the longest past; the caches of each row come from `rows`, and the new ones go there. After an
    /// error they are as they were.
    pub(crate) async fn run_ragged(
        &self,
        inputs: Vec<(String, Held)>,
        wanted: &[usize],
        (ports, ragged): (&Ports, &Ragged),
        rows: &mut [&mut Caches],
    ) -> Result<Vec<Tensor>, RunError> {
        let mut given = self.by_id(inputs)?;
        let mut shapes: HashMap<ValueId, Concrete> =
            given.iter().filter_map(|(id, held)| Some((*id, held.concrete()?))).collect();
        let mut lengths = vec![0; rows.len()];
        for (slot, past) in ports.past.iter().enumerate() {
            let (Some(past), Some(first)) = (past, rows.first()) else { continue };
            let (dtype, mut shape) = first.slots[slot].filled();
            if let Some(batch) = shape.first_mut() {
                *batch = rows.len();
            }
            if ports.grows(slot) && shape.len() == 4 {
                lengths = rows.iter().map(|caches| caches.slots[slot].rows).collect();
                shape[2] = lengths.iter().copied().max().unwrap_or(0);
            }
            shapes.insert(*past, (dtype, shape));
        }
        let mut concrete = self.accept(&shapes)?;
        let Backend { cpu, gpu, pool, uploaded } = &*self.backend;
        let positions = ragged.positions();
        if !positions.is_empty() {
            let failed = |source| RunError::Kernel { node: "positions".into(), op: "Concat", source };
            let [batch, past] = ragged.sizes().map(Arc::clone);
            let mut bindings = self.bindings(&shapes);
            bindings.insert(batch, 1);
            let mut of_rows = Vec::with_capacity(rows.len());
            for &length in &lengths {
                bindings.insert(past.clone(), length as i64);
                let inputs = self.concrete_inputs(&bindings).unwrap_or_default();
                of_rows.push(ragged.of_row(&self.graph, &inputs, cpu, pool)?);
            }
            for (at, id) in positions.iter().enumerate() {
                let all: Vec<Tensor> = of_rows.iter().map(|row| row[at].clone()).collect();
                let all = stack(&all).map_err(failed)?;
                concrete.push((all.dtype(), all.shape().to_vec()));
                given.insert(*id, Held::host(all));
            }
        }
        let plan = self.plan(&concrete, positions, &[])?;
        let resources = Resources { graph: &self.graph, cpu, gpu: gpu.as_ref(), pool, uploaded };
        let held = execute(&resources, &plan, given, wanted, Some((ports, Sequences::Rows(ragged, rows)))).await?;
        self.finish(Reading::begin(None, held).map_err(output_error)?).await
    }

    /// What is filled of a cache, on the host.
    pub(crate) async fn read_cache(&self, caches: &Caches, slot: usize) -> Result<Option<Tensor>, RunError> {
        let Some(cache) = caches.slots.get(slot).filter(|c| !c.is_new()) else { return Ok(None) };
        let gpu = self.backend.gpu.as_ref();
        let read = async {
            let held = cache.contiguous(gpu, &mut 0).await?;
            match (held.host, held.device, gpu) {
                (Some(host), ..) => Ok(Some(host)),
                (None, Some(device), Some(gpu)) => gpu.download(&device).await.map(Some),
                _ => Ok(None),
            }
        };
        read.await.map_err(|source| RunError::Kernel { node: "the cache".into(), op: "download", source })
    }

    /// Puts the rows of the batch of all caches into this order.
    pub(crate) async fn select_rows(&self, caches: &mut Caches, rows: &[usize]) -> Result<(), RunError> {
        let node = "the cache".to_owned();
        let done = caches.select(self.backend.gpu.as_ref(), rows).await;
        done.map_err(|source| RunError::Kernel { node, op: "Gather", source })
    }

    /// Runs the model and waits. Not in browsers, where a GPU cannot be waited for.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(Arc<str>, Tensor)>, RunError> {
        pollster::block_on(self.run_async(inputs))
    }
}
