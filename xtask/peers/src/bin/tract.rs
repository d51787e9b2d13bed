//! tract, its graph optimised for these very shapes.

#[path = "../protocol.rs"]
mod protocol;
#[path = "../samples.rs"]
mod samples;

use std::process::ExitCode;

use protocol::{Loaded, Task};
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::{Factoid as _, GenericFactoid};
use tract_onnx::tract_hir::internal::{TractErrorContext as _, bail};

fn main() -> ExitCode {
    // The whole chain of what it was doing.
    protocol::serve(|task| load(task).map_err(|error| format!("{error:#}")))
}

fn load(task: &Task) -> TractResult<Loaded> {
    if task.threads > 1 {
        set_default_executor(Executor::multithread(task.threads));
    }
    // The shapes that a file declares inside it have names that would not fit numbers.
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut model = onnx.model_for_path(&task.model)?;
    let mut inputs: TVec<TValue> = tvec![];
    for at in 0..model.input_outlets()?.len() {
        let fact = model.input_fact(at)?.clone();
        let size = |dim: &GenericFactoid<TDim>| -> TractResult<usize> {
            let dim = dim.concretize().context("a size is unknown")?;
            let named = || task.sizes.get(&dim.to_string()).copied();
            usize::try_from(dim.to_i64().unwrap_or(-1))
                .ok()
                .or_else(named)
                .with_context(|| format!("the size {dim} is not given"))
        };
        let shape = fact.shape.dims().map(size).collect::<TractResult<Vec<usize>>>()?;
        let dtype = fact.datum_type.concretize().context("an input's type is unknown")?;
        let tensor = match dtype {
            DatumType::F32 => Tensor::from_shape(&shape, &samples::wave(&shape))?,
            DatumType::I64 => Tensor::from_shape(&shape, &samples::ones::<i64>(&shape))?,
            other => bail!("no sample for {other:?}"),
        };
        model.set_input_fact(at, InferenceFact::dt_shape(dtype, &shape))?;
        inputs.push(tensor.into());
    }
    let model = model.into_optimized()?.into_runnable()?;
    let run = move || model.run(inputs.clone()).map(drop).map_err(|error| format!("{error:#}"));
    Ok(Loaded { version: "0.23.9", run: Box::new(run) })
}
