//! wonnx, which computes on a GPU. It wants to know all shapes beforehand, so they are in its file.

// A GPU has no threads to choose, and the sizes are in the file.
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
use wonnx::utils::InputTensor;

/// The types of ONNX's TensorProto that inputs have here.
const FLOAT: i32 = 1;
const INT64: i32 = 7;

fn main() -> ExitCode {
    protocol::serve(|task| load(task).map_err(|error| error.to_string()))
}

fn load(task: &Task) -> Result<Loaded, Box<dyn Error>> {
    let model = ModelProto::parse_from_bytes(&std::fs::read(&task.model)?)?;
    let inputs = model.get_graph().get_input().iter().map(sample).collect::<Result<HashMap<_, _>, _>>()?;
    let session = pollster::block_on(Session::from_model(model))?;
    let run = move || pollster::block_on(session.run(&inputs)).map(drop).map_err(|error| error.to_string());
    Ok(Loaded { version: "0.5.1", run: Box::new(run) })
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
