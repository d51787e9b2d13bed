//! Inference requests and answers as messages.

use std::collections::HashMap;

use bytes::Bytes;
use lenslet::tensor::{DType, Tensor};

use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::InferInputTensor;
use super::proto::model_infer_response::InferOutputTensor;
use super::proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::api::oip::VERSION;
use crate::api::oip::request::{Described, Inputs, MAX_RANK, Request, Wanted, urgency, want, want_all};
use crate::api::oip::tensor::{Data, Scaling};
use crate::context::Context;
use crate::engine::TowerSpec;
use crate::error::ServeError;
use crate::oip::{datatype, dtype};

type Parameters = HashMap<String, InferParameter>;

fn wrong(what: impl Into<String>) -> ServeError {
    ServeError::bad_request("invalid_request", what)
}

/// Reads a request for a tower. `context` is what the call's metadata says.
pub(super) fn read(message: ModelInferRequest, spec: &TowerSpec, context: Context) -> Result<Request, ServeError> {
    let raw = &message.raw_input_contents;
    if !raw.is_empty() && raw.len() != message.inputs.len() {
        let what = format!("raw_input_contents has {} entries for {} inputs", raw.len(), message.inputs.len());
        return Err(wrong(what));
    }
    let mut inputs = Inputs::of(spec);
    for (index, input) in message.inputs.iter().enumerate() {
        let read = add(&mut inputs, input, raw.get(index));
        read.map_err(|e| e.at(format!("inputs[{index}]")))?;
    }
    let parameters = &message.parameters;
    let all = flag(parameters, "binary_data_output")?.unwrap_or(true);
    let mut outputs = vec![];
    for output in &message.outputs {
        let binary = flag(&output.parameters, "binary_data")?.unwrap_or(all);
        want(&mut outputs, spec, &output.name, binary)?;
    }
    Ok(Request {
        id: Some(message.id),
        inputs: inputs.complete()?,
        outputs: if outputs.is_empty() { want_all(spec, all) } else { outputs },
        context: urgency(context, whole(parameters, "priority")?, whole(parameters, "timeout")?),
    })
}

fn add(inputs: &mut Inputs<'_>, input: &InferInputTensor, raw: Option<&Bytes>) -> Result<(), ServeError> {
    let sizes: Option<Vec<usize>> = input.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    let shape = sizes.filter(|sizes| sizes.len() <= MAX_RANK);
    let shape = shape.ok_or_else(|| wrong(format!("shape must be up to {MAX_RANK} sizes from 0 up")))?;
    let elements;
    let data = match (raw, &input.contents) {
        (Some(raw), None) => raw.as_ref(),
        (None, Some(contents)) => {
            elements = typed(contents, &input.datatype)?;
            &elements
        }
        // An empty tensor has nothing to be anywhere.
        (None, None) if shape.contains(&0) => &[],
        _ => return Err(wrong("the elements must be either in contents or in raw_input_contents")),
    };
    let scaling = Scaling::of(number(&input.parameters, "scale")?, number(&input.parameters, "zero_point")?);
    let (name, datatype) = (&input.name, &input.datatype);
    inputs.add(&Described { name, datatype, shape, scaling, data: Data::Binary(data) })
}

/// The elements of a type's own field as little-endian bytes.
fn typed(contents: &InferTensorContents, datatype: &str) -> Result<Vec<u8>, ServeError> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    let all = bool_contents.len()
        + int_contents.len()
        + int64_contents.len()
        + uint_contents.len()
        + uint64_contents.len()
        + fp32_contents.len()
        + fp64_contents.len()
        + bytes_contents.len();
    let (count, bytes) = match dtype(datatype) {
        Some(DType::Bool) => (bool_contents.len(), Some(bool_contents.iter().map(|&b| u8::from(b)).collect())),
        Some(DType::I8) => {
            let narrow = int_contents.iter().map(|&n| i8::try_from(n).map(|n| n as u8));
            (int_contents.len(), narrow.collect::<Result<Vec<u8>, _>>().ok())
        }
        Some(DType::U8) => {
            let narrow = uint_contents.iter().map(|&n| u8::try_from(n));
            (uint_contents.len(), narrow.collect::<Result<Vec<u8>, _>>().ok())
        }
        Some(DType::I32) => (int_contents.len(), Some(int_contents.iter().flat_map(|n| n.to_le_bytes()).collect())),
        Some(DType::I64) => (int64_contents.len(), Some(int64_contents.iter().flat_map(|n| n.to_le_bytes()).collect())),
        Some(DType::F32) => (fp32_contents.len(), Some(fp32_contents.iter().flat_map(|x| x.to_le_bytes()).collect())),
        Some(DType::F16) => return Err(wrong("FP16 has no field in contents; send it in raw_input_contents")),
        // It is refused by its name.
        None => (all, Some(vec![])),
    };
    if count != all {
        return Err(wrong(format!("contents holds elements of another type than {datatype}")));
    }
    bytes.ok_or_else(|| {
        ServeError::bad_request("invalid_tensor", format!("contents holds an element that is no {datatype}"))
    })
}

/// A parameter, if it is there.
fn choice<'p>(parameters: &'p Parameters, name: &str) -> Option<&'p ParameterChoice> {
    parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref())
}

fn invalid<T>(name: &str, expected: &str) -> Result<T, ServeError> {
    Err(ServeError::bad_request("invalid_type", format!("{name} must be {expected}")).at(name))
}

fn flag(parameters: &Parameters, name: &str) -> Result<Option<bool>, ServeError> {
    match choice(parameters, name) {
        None => Ok(None),
        Some(ParameterChoice::BoolParam(value)) => Ok(Some(*value)),
        Some(_) => invalid(name, "true or false"),
    }
}

fn whole(parameters: &Parameters, name: &str) -> Result<Option<u64>, ServeError> {
    match choice(parameters, name) {
        None => Ok(None),
        Some(ParameterChoice::Uint64Param(value)) => Ok(Some(*value)),
        Some(ParameterChoice::Int64Param(value)) if *value >= 0 => Ok(Some(value.unsigned_abs())),
        Some(_) => invalid(name, "a whole number from 0 up"),
    }
}

fn number(parameters: &Parameters, name: &str) -> Result<Option<f32>, ServeError> {
    match choice(parameters, name) {
        None => Ok(None),
        Some(ParameterChoice::DoubleParam(value)) => Ok(Some(*value as f32)),
        Some(ParameterChoice::Int64Param(value)) => Ok(Some(*value as f32)),
        Some(ParameterChoice::Uint64Param(value)) => Ok(Some(*value as f32)),
        Some(_) => invalid(name, "a number"),
    }
}

/// The answer. Where no output is wanted raw, and all of them have a field of their type, they are in `contents`.
pub(super) fn answer(
    model_name: String,
    id: String,
    wanted: &[Wanted],
    tensors: &[Tensor],
) -> Result<ModelInferResponse, ServeError> {
    let typed: Option<Vec<InferTensorContents>> =
        if wanted.iter().any(|output| output.binary) { None } else { tensors.iter().map(contents).collect() };
    let raw =
        if typed.is_some() { vec![] } else { tensors.iter().map(|t| Bytes::copy_from_slice(t.bytes())).collect() };
    let mut typed = typed.unwrap_or_default().into_iter();
    let output = |(wanted, tensor): (&Wanted, &Tensor)| InferOutputTensor {
        name: wanted.name.clone(),
        datatype: datatype(tensor.dtype()).to_owned(),
        shape: tensor.shape().iter().map(|&n| n as i64).collect(),
        parameters: HashMap::new(),
        contents: typed.next(),
    };
    Ok(ModelInferResponse {
        model_name,
        model_version: VERSION.to_owned(),
        id,
        parameters: HashMap::new(),
        outputs: wanted.iter().zip(tensors).map(output).collect(),
        raw_output_contents: raw,
    })
}

/// The elements in their type's own field; half precision has none.
fn contents(tensor: &Tensor) -> Option<InferTensorContents> {
    let integers = || tensor.to_i64_vec().unwrap_or_default();
    let mut contents = InferTensorContents::default();
    match tensor.dtype() {
        DType::F32 => contents.fp32_contents = tensor.to_f32_vec().unwrap_or_default(),
        DType::F16 => return None,
        DType::I64 => contents.int64_contents = integers(),
        DType::I32 | DType::I8 => contents.int_contents = integers().into_iter().map(|n| n as i32).collect(),
        DType::U8 => contents.uint_contents = integers().into_iter().map(|n| n as u32).collect(),
        DType::Bool => contents.bool_contents = tensor.bytes().iter().map(|&b| b != 0).collect(),
    }
    Some(contents)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn elements_are_in_the_field_of_their_type() {
        let contents = InferTensorContents { int_contents: vec![-128, 127], ..InferTensorContents::default() };
        assert_eq!(typed(&contents, "INT8").unwrap(), [0x80, 0x7f]);
        assert_eq!(typed(&contents, "INT32").unwrap(), [0x80, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0]);
        for other in ["INT64", "FP32", "UINT8", "BOOL", "FP16"] {
            assert_eq!(typed(&contents, other).unwrap_err().code, "invalid_request", "{other}");
        }
        let wide = InferTensorContents { int_contents: vec![128], ..InferTensorContents::default() };
        assert_eq!(typed(&wide, "INT8").unwrap_err().code, "invalid_tensor");
        let both = InferTensorContents { fp32_contents: vec![1.0], ..wide };
        assert_eq!(typed(&both, "INT32").unwrap_err().code, "invalid_request");
    }

    #[test]
    fn answers_are_typed_only_where_all_can_be() {
        let tensor = Tensor::from_slice(&[2], &[1f32, 2.0]).unwrap();
        let half = Tensor::from_slice(&[1], &[f16::ONE]).unwrap();
        let want = |name: &str, binary| Wanted { name: name.into(), binary };
        let of = |wanted: &[Wanted], tensors: &[Tensor]| answer("m".into(), "1".into(), wanted, tensors).unwrap();
        let typed = of(&[want("x", false)], std::slice::from_ref(&tensor));
        assert_eq!(typed.outputs[0].contents.as_ref().unwrap().fp32_contents, [1.0, 2.0]);
        assert!(typed.raw_output_contents.is_empty());
        let raw = of(&[want("x", false), want("y", false)], &[tensor, half]);
        assert!(raw.outputs.iter().all(|output| output.contents.is_none()));
        assert_eq!(raw.raw_output_contents[1].as_ref(), f16::ONE.to_le_bytes());
    }
}
