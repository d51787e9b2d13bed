//! Tensors of the protocol, and tensors of graphs.
//!
//! A client may send less than a graph takes: half precision where it takes single, or 8-bit integers with `scale` and
//! `zero_point`, for a quarter of the bytes. They are widened here.

use half::f16;
use lenslet::tensor::{Bool, DType, Tensor, element_count};
use serde_json::Value;

use crate::engine::TensorSpec;
use crate::error::ServeError;
use crate::oip::datatype;

/// Where the elements are.
pub(in crate::api) enum Data<'r> {
    /// Little-endian, behind the JSON.
    Binary(&'r [u8]),
    /// Numbers or booleans, nested or not.
    Json(&'r Value),
}

/// How 8-bit integers stand for numbers: `(q - zero_point) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::api) struct Scaling {
    pub(super) scale: f32,
    pub(super) zero_point: f32,
}

impl Scaling {
    /// What a request says; `None` where it says neither.
    pub(in crate::api) fn of(scale: Option<f32>, zero_point: Option<f32>) -> Option<Scaling> {
        (scale.is_some() || zero_point.is_some())
            .then(|| Scaling { scale: scale.unwrap_or(1.0), zero_point: zero_point.unwrap_or(0.0) })
    }
}

fn wrong(what: impl Into<String>) -> ServeError {
    ServeError::bad_request("invalid_tensor", what)
}

/// The tensor of `shape` and the protocol's type.
pub(super) fn read(dtype: DType, shape: &[usize], data: &Data<'_>) -> Result<Tensor, ServeError> {
    let count = element_count(shape).map_err(|e| wrong(e.to_string()))?;
    match data {
        Data::Binary(bytes) => {
            if dtype == DType::Bool && bytes.iter().any(|b| *b > 1) {
                return Err(wrong("a BOOL is a byte of 0 or 1"));
            }
            Tensor::from_bytes(dtype, shape, bytes).map_err(|e| wrong(e.to_string()))
        }
        Data::Json(value) => {
            // What was parsed bounds the work, whatever the shape says.
            let mut bytes = Vec::new();
            let mut found = 0;
            push(value, dtype, &mut bytes, &mut found)?;
            if found != count {
                return Err(wrong(format!("data has {found} elements, the shape {shape:?} has {count}")));
            }
            Tensor::from_bytes(dtype, shape, &bytes).map_err(|e| wrong(e.to_string()))
        }
    }
}

fn push(value: &Value, dtype: DType, bytes: &mut Vec<u8>, found: &mut usize) -> Result<(), ServeError> {
    if let Value::Array(list) = value {
        return list.iter().try_for_each(|value| push(value, dtype, bytes, found));
    }
    *found += 1;
    let bad = || wrong(format!("data holds an element that is no {}", datatype(dtype)));
    let integer = || value.as_i64().ok_or_else(bad);
    let float = || value.as_f64().map(|x| x as f32).ok_or_else(bad);
    match dtype {
        DType::F32 => bytes.extend(float()?.to_le_bytes()),
        DType::F16 => bytes.extend(f16::from_f32(float()?).to_le_bytes()),
        DType::I64 => bytes.extend(integer()?.to_le_bytes()),
        DType::I32 => bytes.extend(i32::try_from(integer()?).map_err(|_| bad())?.to_le_bytes()),
        DType::U8 => bytes.push(u8::try_from(integer()?).map_err(|_| bad())?),
        DType::I8 => bytes.extend(i8::try_from(integer()?).map_err(|_| bad())?.to_le_bytes()),
        DType::Bool => bytes.push(u8::from(value.as_bool().ok_or_else(bad)?)),
    }
    Ok(())
}

/// The tensor in the type that the graph declares.
pub(super) fn fit(tensor: Tensor, spec: &TensorSpec, scaling: Option<Scaling>) -> Result<Tensor, ServeError> {
    let (from, to) = (tensor.dtype(), spec.dtype);
    if scaling.is_some() && !(from.is_int8() && to.is_float()) {
        return Err(wrong("scale and zero_point belong to INT8 or UINT8 data of a floating-point input"));
    }
    if from == to {
        return Ok(tensor);
    }
    let shape = tensor.shape().to_vec();
    let mismatch = || {
        let what = format!("{} data does not fit the input, which takes {}", datatype(from), datatype(to));
        ServeError::bad_request("input_mismatch", what)
    };
    let floats = |values: Vec<f32>| match to {
        DType::F16 => {
            let half: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            Tensor::from_slice(&shape, &half)
        }
        _ => Tensor::from_slice(&shape, &values),
    };
    let fitted = match (tensor.to_f32_vec(), tensor.to_i64_vec()) {
        (Some(values), _) if to.is_float() => floats(values),
        (_, Some(values)) if to.is_float() && from.is_int8() => {
            let Scaling { scale, zero_point } = scaling.unwrap_or(Scaling { scale: 1.0, zero_point: 0.0 });
            floats(values.into_iter().map(|q| (q as f32 - zero_point) * scale).collect())
        }
        (_, Some(values)) if to == DType::I64 => Tensor::from_slice(&shape, &values),
        (_, Some(values)) if to == DType::I32 => {
            let narrow: Result<Vec<i32>, _> = values.into_iter().map(i32::try_from).collect();
            Tensor::from_slice(
                &shape,
                &narrow.map_err(|_| wrong("an INT64 element is beyond the INT32 that the input takes"))?,
            )
        }
        (_, Some(values)) if to == DType::Bool => {
            let bools: Vec<Bool> = values.into_iter().map(|x| Bool::from(x != 0)).collect();
            Tensor::from_slice(&shape, &bools)
        }
        _ => return Err(mismatch()),
    };
    fitted.map_err(|e| wrong(e.to_string()))
}

/// The elements as JSON. What is no number (JSON has no such) is null.
pub(super) fn to_json(tensor: &Tensor) -> Value {
    if tensor.dtype() == DType::Bool {
        return tensor.bytes().iter().map(|&b| b != 0).collect::<Vec<_>>().into();
    }
    match tensor.to_f32_vec() {
        Some(values) => values.into(),
        None => tensor.to_i64_vec().unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(dtype: DType) -> TensorSpec {
        TensorSpec { name: "x".into(), dtype, shape: vec![None] }
    }

    #[test]
    fn json_of_the_wrong_kind_or_length_is_refused() {
        for (dtype, data) in [
            (DType::F32, json!([1, "a"])),
            (DType::F32, json!([1])),
            (DType::I64, json!([1.5, 2])),
            (DType::U8, json!([256, 0])),
            (DType::I8, json!([-129, 0])),
            (DType::I32, json!([5_000_000_000i64, 0])),
            (DType::Bool, json!([0, 1])),
            (DType::F32, json!({"a": 1})),
            (DType::F32, json!([null, 1])),
        ] {
            assert_eq!(read(dtype, &[2], &Data::Json(&data)).unwrap_err().code, "invalid_tensor", "{dtype} {data}");
        }
        let nested = read(DType::F32, &[2, 1], &Data::Json(&json!([[1], [2.5]]))).unwrap();
        assert_eq!(nested.as_slice::<f32>().unwrap(), [1.0, 2.5]);
        assert!(read(DType::F32, &[usize::MAX, 2], &Data::Json(&json!([]))).is_err());
        assert!(read(DType::F32, &[2], &Data::Binary(&[0; 7])).is_err());
        assert!(read(DType::Bool, &[1], &Data::Binary(&[2])).is_err());
    }

    #[test]
    fn small_types_are_widened() {
        let half = read(DType::F16, &[2], &Data::Json(&json!([0.5, -2]))).unwrap();
        assert_eq!(fit(half, &spec(DType::F32), None).unwrap().as_slice::<f32>().unwrap(), [0.5, -2.0]);
        let bytes = read(DType::U8, &[2], &Data::Binary(&[0, 255])).unwrap();
        let scaling = Scaling { scale: 0.5, zero_point: 128.0 };
        let floats = fit(bytes.clone(), &spec(DType::F32), Some(scaling)).unwrap();
        assert_eq!(floats.as_slice::<f32>().unwrap(), [-64.0, 63.5]);
        assert_eq!(fit(bytes.clone(), &spec(DType::I64), None).unwrap().as_slice::<i64>().unwrap(), [0, 255]);
        assert!(fit(bytes, &spec(DType::I64), Some(scaling)).is_err());
        let floats = read(DType::F32, &[1], &Data::Json(&json!([1.0]))).unwrap();
        assert_eq!(fit(floats, &spec(DType::I64), None).unwrap_err().code, "input_mismatch");
        let wide = read(DType::I64, &[1], &Data::Json(&json!([5_000_000_000i64]))).unwrap();
        assert!(fit(wide, &spec(DType::I32), None).is_err());
    }
}
