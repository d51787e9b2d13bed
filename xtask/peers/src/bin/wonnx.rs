//! wonnx, which computes on a GPU. It wants to know all shapes beforehand, and has a preprocessor that finds them.

// A GPU has no threads to choose.
#[expect(dead_code)]
#[path = "../protocol.rs"]
mod protocol;
#[path = "../samples.rs"]
mod samples;

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;

use protobuf::Message as _;
use protocol::{Loaded, Task};
use wonnx::Session;
use wonnx::onnx::{ModelProto, ValueInfoProto};
use wonnx::utils::{InputTensor, get_opset_version};
use wonnx_preprocessing::shape_inference::infer_shapes;

/// The types of ONNX's TensorProto that inputs have here.
const FLOAT: i32 = 1;
const INT64: i32 = 7;

fn main() -> ExitCode {
    protocol::serve(|task| load(task).map_err(|error| error.to_string()))
}

fn load(task: &Task) -> Result<Loaded, Box<dyn Error>> {
    let mut model = ModelProto::parse_from_bytes(&std::fs::read(&task.model)?)?;
    let opset = get_opset_version(&model)?.ok_or("the file does not say which opset it has")?;
    let graph = model.mut_graph();
    graph.mut_input().iter_mut().for_each(|info| write_sizes(task, info));
    graph.mut_output().iter_mut().for_each(|info| write_sizes(task, info));
    graph.mut_value_info().iter_mut().for_each(|info| write_sizes(task, info));
    pollster::block_on(infer_shapes(graph, true, opset))?;
    let inputs = graph.get_input().iter().map(sample).collect::<Result<HashMap<_, _>, _>>()?;
    let session = pollster::block_on(Session::from_model(model))?;
    let run = move || pollster::block_on(session.run(&inputs)).map(drop).map_err(|error| error.to_string());
    Ok(Loaded { version: "0.5.1", run: Box::new(run) })
}

/// Puts numbers in the place of names. A size that nothing is known of stays open, and wonnx then names it.
fn write_sizes(task: &Task, info: &mut ValueInfoProto) {
    for dim in info.mut_field_type().mut_tensor_type().mut_shape().mut_dim().iter_mut() {
        if let Some(&size) = task.sizes.get(dim.get_dim_param()) {
            dim.set_dim_value(size as i64);
        }
    }
}

/// An input's name and elements.
fn sample(info: &ValueInfoProto) -> Result<(String, InputTensor<'static>), String> {
    let tensor = info.get_field_type().get_tensor_type();
    let shape: Vec<usize> = tensor.get_shape().get_dim().iter().map(|dim| dim.get_dim_value() as usize).collect();
    let elements = match tensor.get_elem_type() {
        FLOAT => InputTensor::F32(samples::wave(&shape).into()),
        INT64 => InputTensor::I64(samples::ones(&shape).into()),
        other => return Err(format!("{}: no sample for type {other}", info.get_name())),
    };
    Ok((info.get_name().to_owned(), elements))
}
