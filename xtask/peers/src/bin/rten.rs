//! rten, with packed weights.

#[path = "../protocol.rs"]
mod protocol;
#[path = "../samples.rs"]
mod samples;

use std::process::ExitCode;
use std::sync::Arc;

use protocol::{Loaded, Task};
use rten::{DataType, Dimension, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueType};
use rten_tensor::Tensor;

fn main() -> ExitCode {
    protocol::serve(|task| load(task).map_err(|error| error.to_string()))
}

fn load(task: &Task) -> Result<Loaded, Box<dyn std::error::Error>> {
    let mut options = ModelOptions::with_all_ops();
    options.prepack_weights(true);
    let model = options.load_file(&task.model)?;
    let mut inputs: Vec<(NodeId, Value)> = Vec::new();
    for &id in model.input_ids() {
        let info = model.node_info(id).ok_or("an input without a node")?;
        let name = info.name().unwrap_or_default();
        let size = |dim| match dim {
            Dimension::Fixed(size) => Ok(size),
            Dimension::Symbolic(symbol) => {
                task.sizes.get(&symbol).copied().ok_or(format!("the size {symbol} of {name} is not given"))
            }
        };
        let shape = info.shape().ok_or(format!("the shape of {name} is unknown"))?;
        let shape = shape.into_iter().map(size).collect::<Result<Vec<usize>, _>>()?;
        let value = match info.dtype() {
            Some(ValueType::Tensor(DataType::Float)) => Tensor::from_data(&shape, samples::wave(&shape)).into(),
            // It computes with 32 bits where the graph has 64.
            Some(ValueType::Tensor(DataType::Int32)) => Tensor::from_data(&shape, samples::ones::<i32>(&shape)).into(),
            other => return Err(format!("{name}: no sample for {other:?}").into()),
        };
        inputs.push((id, value));
    }
    let outputs = model.output_ids().to_vec();
    let run_options =
        RunOptions::default().with_thread_pool(Some(Arc::new(ThreadPool::with_num_threads(task.threads))));
    let run = move || {
        let inputs = inputs.iter().map(|(id, value)| (*id, value.as_view().into())).collect();
        let outputs = model.run(inputs, &outputs, Some(run_options.clone()));
        outputs.map(drop).map_err(|error| error.to_string())
    };
    Ok(Loaded { version: "0.27.0", run: Box::new(run) })
}
