//! A loaded model: run it as often as wanted, from any thread.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cpu::Cpu;
use crate::error::RunError;
use crate::graph::{Dim, Fact, Graph, ValueId};
use crate::plan::{Concrete, Gpu, GpuTensor, Place, Placement, Plan, Resources, execute};
use crate::tensor::{BufferPool, DType, Tensor};

/// Plans for more shapes than this are thrown away, the oldest first.
const MAX_PLANS: usize = 32;

/// How a session runs.
#[derive(Clone, Default)]
pub struct SessionOptions {
    /// CPU threads; 0 means all cores.
    pub threads: usize,
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
    cpu: Cpu,
    gpu: Option<Gpu>,
    pool: BufferPool,
    uploaded: Mutex<HashMap<ValueId, GpuTensor>>,
    plans: Mutex<Vec<(Vec<Concrete>, Arc<Plan>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held left valid data: every update is one insertion or removal.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Session {
    /// Makes a session of a graph, usually one that the optimiser has seen.
    pub fn new(graph: Graph, options: SessionOptions) -> Self {
        let info = |name: &Arc<str>, id: ValueId| {
            let unknown = Fact::new(DType::F32, vec![]);
            let fact = graph.fact(id).unwrap_or(&unknown);
            TensorInfo { name: name.clone(), dtype: fact.dtype, shape: fact.shape.clone() }
        };
        let inputs = graph.inputs.iter().map(|&id| info(&graph.value(id).name, id)).collect();
        let outputs = graph.outputs.iter().zip(&graph.output_names).map(|(&id, name)| info(name, id)).collect();
        #[cfg(feature = "gpu")]
        let gpu = options.gpu;
        #[cfg(not(feature = "gpu"))]
        let gpu = None;
        Session {
            inputs,
            outputs,
            cpu: Cpu::new(options.threads),
            gpu,
            pool: BufferPool::default(),
            uploaded: Mutex::default(),
            plans: Mutex::default(),
            graph,
        }
    }

    /// What the model takes.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// What the model gives.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// `gpu` if the session was given one, else `cpu`.
    pub fn device(&self) -> &'static str {
        if self.gpu.is_some() { "gpu" } else { "cpu" }
    }

    /// The memory that values between steps come from.
    pub fn pool(&self) -> &BufferPool {
        &self.pool
    }

    fn describe(list: &[TensorInfo]) -> String {
        list.iter().map(TensorInfo::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Checks names, types and shapes, and returns the inputs by value id.
    fn accept(&self, inputs: &[(&str, Tensor)]) -> Result<HashMap<ValueId, Tensor>, RunError> {
        let mut given = HashMap::new();
        for (name, tensor) in inputs {
            let at = self.inputs.iter().position(|i| &*i.name == *name).ok_or_else(|| RunError::UnknownInput {
                name: (*name).to_owned(),
                expected: Self::describe(&self.inputs),
            })?;
            given.insert(self.graph.inputs[at], tensor.clone());
        }
        let mut sizes: BTreeMap<Arc<str>, (i64, Arc<str>)> = BTreeMap::new();
        for (info, id) in self.inputs.iter().zip(&self.graph.inputs) {
            let Some(tensor) = given.get(id) else {
                return Err(RunError::MissingInput {
                    name: info.name.to_string(),
                    expected: Self::describe(&self.inputs),
                });
            };
            let mismatch = |expected: String| RunError::InputMismatch {
                name: info.name.to_string(),
                got: format!("{} {:?}", tensor.dtype(), tensor.shape()),
                expected,
            };
            if tensor.dtype() != info.dtype || tensor.shape().len() != info.shape.len() {
                return Err(mismatch(info.to_string()));
            }
            for (dim, &size) in info.shape.iter().zip(tensor.shape()) {
                if dim.as_const().is_some_and(|n| n != size as i64) {
                    return Err(mismatch(info.to_string()));
                }
                let Some(symbol) = dim.as_symbol() else { continue };
                let first = sizes.entry(symbol.clone()).or_insert((size as i64, info.name.clone()));
                if first.0 != size as i64 {
                    return Err(mismatch(format!("{info}, and {} has {symbol} = {}", first.1, first.0)));
                }
            }
        }
        Ok(given)
    }

    fn plan(&self, shapes: &[Concrete]) -> Result<Arc<Plan>, RunError> {
        if let Some((_, plan)) = lock(&self.plans).iter().find(|(s, _)| s == shapes) {
            return Ok(plan.clone());
        }
        let inputs = self.graph.inputs.iter().copied().zip(shapes.iter().cloned()).collect();
        let gpu = self.gpu.as_ref().map(|g| g as &dyn Placement);
        let plan = Arc::new(Plan::new(&self.graph, &inputs, &self.cpu, &self.pool, gpu)?);
        let mut plans = lock(&self.plans);
        if plans.len() >= MAX_PLANS {
            plans.remove(0);
        }
        plans.push((shapes.to_vec(), plan.clone()));
        Ok(plan)
    }

    /// What would run for inputs of these types and shapes, in the order of [`Session::inputs`].
    pub fn report(&self, shapes: &[Concrete]) -> Result<PlanReport, RunError> {
        let plan = self.plan(shapes)?;
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
        let given = self.accept(inputs)?;
        let shapes: Vec<Concrete> = self
            .graph
            .inputs
            .iter()
            .map(|id| {
                let tensor = &given[id];
                (tensor.dtype(), tensor.shape().to_vec())
            })
            .collect();
        let plan = self.plan(&shapes)?;
        let resources = Resources {
            graph: &self.graph,
            cpu: &self.cpu,
            gpu: self.gpu.as_ref(),
            pool: &self.pool,
            uploaded: &self.uploaded,
        };
        let tensors = execute(&resources, &plan, given, wanted).await?;
        Ok(wanted.iter().zip(tensors).map(|(&i, t)| (self.outputs[i].name.clone(), t)).collect())
    }

    /// Runs the model and waits. Not in browsers, where a GPU cannot be waited for.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(Arc<str>, Tensor)>, RunError> {
        pollster::block_on(self.run_async(inputs))
    }
}
