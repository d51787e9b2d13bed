//! An inference request: JSON, and behind it the tensors that are not in it.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use lenslet::tensor::Tensor;
use serde_json::{Map, Value};

use super::tensor::{self, Data, Scaling};
use crate::api::body::{optional, string};
use crate::context::{Context, Priority};
use crate::engine::{TensorSpec, TowerSpec};
use crate::error::{Reason, ServeError};
use crate::oip::{self, HEADER_LENGTH};

/// Dimensions of a tensor at most.
pub(in crate::api) const MAX_RANK: usize = 8;

/// An output that is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct Wanted {
    pub(in crate::api) name: String,
    pub(in crate::api) binary: bool,
}

/// A request, read.
#[derive(Debug)]
pub(in crate::api) struct Request {
    pub(in crate::api) id: Option<String>,
    pub(in crate::api) inputs: Vec<(String, Tensor)>,
    pub(in crate::api) outputs: Vec<Wanted>,
    pub(in crate::api) context: Context,
}

fn wrong(what: impl Into<String>) -> ServeError {
    ServeError::bad_request("invalid_request", what)
}

/// The JSON and the binary part of a body.
pub(super) fn split<'b>(headers: &HeaderMap, bytes: &'b [u8]) -> Result<(&'b [u8], &'b [u8]), ServeError> {
    let Some(length) = headers.get(HEADER_LENGTH) else { return Ok((bytes, &[])) };
    let length = length.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok());
    let length = length.filter(|&length| length <= bytes.len());
    let length = length.ok_or_else(|| wrong(format!("{HEADER_LENGTH} must be at most the body's length")))?;
    Ok(bytes.split_at(length))
}

impl Request {
    /// Reads a request for a tower. `context` is what the request's headers say.
    pub(super) fn parse<'r>(
        object: &'r Map<String, Value>,
        mut binary: &'r [u8],
        spec: &TowerSpec,
        context: Context,
    ) -> Result<Request, ServeError> {
        let parameters = parameters(object)?;
        let list = optional(object, "inputs", "a list of tensors", Value::as_array)?;
        let list = list.ok_or_else(|| ServeError::bad_request("missing_field", "inputs is missing").at("inputs"))?;
        let mut inputs = Inputs::of(spec);
        for (index, value) in list.iter().enumerate() {
            let read = input(value, &mut binary).and_then(|input| inputs.add(&input));
            read.map_err(|e| e.at(format!("inputs[{index}]")))?;
        }
        if !binary.is_empty() {
            return Err(wrong(format!("{} bytes behind the last tensor belong to none", binary.len())));
        }
        let number = |name| optional(parameters, name, "a whole number from 0 up", Value::as_u64);
        Ok(Request {
            id: optional(object, "id", "a string", Value::as_str)?.map(str::to_owned),
            inputs: inputs.complete()?,
            outputs: outputs(object, parameters, spec)?,
            context: urgency(context, number("priority")?, number("timeout")?),
        })
    }
}

/// An input as a request describes it.
pub(in crate::api) struct Described<'r> {
    pub(in crate::api) name: &'r str,
    pub(in crate::api) datatype: &'r str,
    pub(in crate::api) shape: Vec<usize>,
    pub(in crate::api) scaling: Option<Scaling>,
    pub(in crate::api) data: Data<'r>,
}

/// The inputs of a tower while they are read.
pub(in crate::api) struct Inputs<'s> {
    spec: &'s TowerSpec,
    list: Vec<(String, Tensor)>,
}

impl<'s> Inputs<'s> {
    pub(in crate::api) fn of(spec: &'s TowerSpec) -> Self {
        Inputs { spec, list: Vec::with_capacity(spec.inputs.len()) }
    }

    /// Reads an input in the type that the tower takes.
    pub(in crate::api) fn add(&mut self, input: &Described<'_>) -> Result<(), ServeError> {
        let name = input.name;
        let declared = self.spec.input(name).ok_or_else(|| {
            let known = self.spec.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
            ServeError::bad_request("unknown_input", format!("there is no input of this name; there are {known}"))
        })?;
        let dtype = oip::dtype(input.datatype).ok_or_else(|| {
            wrong(format!(
                "datatype must be one of FP32, FP16, INT64, INT32, INT8, UINT8, BOOL; {name} takes {}",
                oip::datatype(declared.dtype)
            ))
        })?;
        if self.list.iter().any(|(other, _)| other == name) {
            return Err(wrong(format!("input {name} is there twice")));
        }
        let tensor = tensor::read(dtype, &input.shape, &input.data)?;
        self.list.push((name.to_owned(), tensor::fit(tensor, declared, input.scaling)?));
        Ok(())
    }

    /// All inputs, in the graph's order whatever the request's, so that equal requests share a lane.
    pub(in crate::api) fn complete(mut self) -> Result<Vec<(String, Tensor)>, ServeError> {
        let place = |name: &str| self.spec.inputs.iter().position(|input| input.name == name);
        self.list.sort_by_key(|(name, _)| place(name));
        let missing = |input: &&TensorSpec| !self.list.iter().any(|(name, _)| *name == input.name);
        match self.spec.inputs.iter().find(missing) {
            Some(missing) => {
                let what = format!("input {} is missing", missing.name);
                Err(ServeError::bad_request("missing_input", what).at("inputs"))
            }
            None => Ok(self.list),
        }
    }
}

static NOTHING: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

fn parameters(object: &Map<String, Value>) -> Result<&Map<String, Value>, ServeError> {
    Ok(optional(object, "parameters", "an object", Value::as_object)?.unwrap_or(&NOTHING))
}

fn input<'r>(value: &'r Value, binary: &mut &'r [u8]) -> Result<Described<'r>, ServeError> {
    let object = value.as_object().ok_or_else(|| wrong("an input must be an object"))?;
    let (name, datatype) = (string(object, "name")?, string(object, "datatype")?);
    let sizes = |value: &Value| -> Option<Vec<usize>> {
        let list = value.as_array().filter(|list| list.len() <= MAX_RANK)?;
        list.iter().map(|size| size.as_u64().and_then(|n| usize::try_from(n).ok())).collect()
    };
    let shape = optional(object, "shape", "a list of sizes", sizes)?;
    let shape = shape.ok_or_else(|| ServeError::bad_request("missing_field", "shape is missing"))?;
    let parameters = parameters(object)?;
    let size = optional(parameters, "binary_data_size", "a number of bytes", |v| {
        v.as_u64().and_then(|n| usize::try_from(n).ok())
    })?;
    let data = match (size, object.get("data")) {
        (Some(size), None) => {
            if size > binary.len() {
                let what = format!("{name} announces {size} bytes, of which {} came", binary.len());
                return Err(ServeError::bad_request("invalid_tensor", what));
            }
            let (own, rest) = binary.split_at(size);
            *binary = rest;
            Data::Binary(own)
        }
        (None, Some(data)) => Data::Json(data),
        _ => return Err(wrong(format!("{name} must have either data or a parameter binary_data_size"))),
    };
    Ok(Described { name, datatype, shape, scaling: scaling(parameters)?, data })
}

/// `scale` and `zero_point` of 8-bit data.
fn scaling(parameters: &Map<String, Value>) -> Result<Option<Scaling>, ServeError> {
    let number = |name| optional(parameters, name, "a number", |v| v.as_f64().map(|x| x as f32));
    Ok(Scaling::of(number("scale")?, number("zero_point")?))
}

/// The outputs that are wanted; all, if none are named.
fn outputs(
    object: &Map<String, Value>,
    of_request: &Map<String, Value>,
    spec: &TowerSpec,
) -> Result<Vec<Wanted>, ServeError> {
    let all = optional(of_request, "binary_data_output", "true or false", Value::as_bool)?.unwrap_or(false);
    let list = optional(object, "outputs", "a list", Value::as_array)?.filter(|list| !list.is_empty());
    let Some(list) = list else {
        return Ok(want_all(spec, all));
    };
    let mut wanted: Vec<Wanted> = vec![];
    for value in list {
        let output = value.as_object().ok_or_else(|| wrong("an output must be an object").at("outputs"))?;
        let name = string(output, "name")?;
        let binary = optional(parameters(output)?, "binary_data", "true or false", Value::as_bool)?.unwrap_or(all);
        want(&mut wanted, spec, name, binary)?;
    }
    Ok(wanted)
}

/// Adds an output to those that are wanted.
pub(in crate::api) fn want(
    wanted: &mut Vec<Wanted>,
    spec: &TowerSpec,
    name: &str,
    binary: bool,
) -> Result<(), ServeError> {
    if !spec.outputs.iter().any(|output| output.name == name) {
        let known = spec.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>().join(", ");
        let what = format!("there is no output of this name; there are {known}");
        return Err(ServeError::bad_request("unknown_output", what).at("outputs"));
    }
    if wanted.iter().any(|other| other.name == name) {
        return Err(wrong(format!("output {name} is asked for twice")).at("outputs"));
    }
    wanted.push(Wanted { name: name.to_owned(), binary });
    Ok(())
}

/// The outputs that are wanted where none are named: all.
pub(in crate::api) fn want_all(spec: &TowerSpec, binary: bool) -> Vec<Wanted> {
    spec.outputs.iter().map(|output| Wanted { name: output.name.clone(), binary }).collect()
}

/// `priority` (1 is the highest, 0 the default) and `timeout` in microseconds, as Triton's extensions have them.
pub(in crate::api) fn urgency(mut context: Context, priority: Option<u64>, timeout: Option<u64>) -> Context {
    match priority {
        None | Some(0) => {}
        Some(1) => context.priority = Priority::High,
        Some(2) => context.priority = Priority::Normal,
        Some(_) => context.priority = Priority::Low,
    }
    if let Some(timeout) = timeout.filter(|timeout| *timeout > 0) {
        context.hurry(Instant::now().checked_add(Duration::from_micros(timeout)));
    }
    context
}

/// A body in an encoding that this server does not read.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), ServeError> {
    let identity = |value: &axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get("content-encoding") {
        Some(value) if !identity(value) => {
            let what = "compressed bodies are not read; send the body as it is";
            Err(ServeError::new(Reason::MediaType, "content_encoding", what))
        }
        _ => Ok(()),
    }
}
