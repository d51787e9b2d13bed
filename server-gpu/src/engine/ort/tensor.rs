//! Tensors of the runtime, and values of ONNX Runtime.

use std::borrow::Cow;

use lenslet::tensor::{Bool, DType, Element, Tensor};
use ort::session::SessionInputValue;

use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};

use crate::engine::TensorSpec;
use crate::error::ServeError;

/// The type, if the runtime has it.
fn dtype(ty: TensorElementType) -> Option<DType> {
    Some(match ty {
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    })
}

/// An input or output as this server describes it.
pub(super) fn spec(name: &str, ty: &ValueType) -> Result<TensorSpec, ServeError> {
    let unsupported = || ServeError::internal("ort_type", format!("{name} is {ty}, which is not served"));
    let ValueType::Tensor { ty, shape, .. } = ty else { return Err(unsupported()) };
    let dtype = dtype(*ty).ok_or_else(unsupported)?;
    let shape = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    Ok(TensorSpec { name: name.to_owned(), dtype, shape })
}

fn failed(error: impl std::fmt::Display) -> ServeError {
    ServeError::internal("ort_tensor", error.to_string())
}

/// A tensor as an input. Nothing is copied where the element types are the same in memory.
pub(super) fn input(tensor: &Tensor) -> Result<SessionInputValue<'_>, ServeError> {
    fn view<T: Element + PrimitiveTensorElementType>(tensor: &Tensor) -> Result<SessionInputValue<'_>, ServeError> {
        let data = tensor.as_slice::<T>().map_err(failed)?;
        Ok(TensorRef::from_array_view((tensor.shape(), data)).map_err(failed)?.into())
    }
    match tensor.dtype() {
        DType::F32 => view::<f32>(tensor),
        DType::F16 => view::<half::f16>(tensor),
        DType::I64 => view::<i64>(tensor),
        DType::I32 => view::<i32>(tensor),
        DType::U8 => view::<u8>(tensor),
        DType::I8 => view::<i8>(tensor),
        DType::Bool => {
            let data: Vec<bool> = tensor.bytes().iter().map(|&b| b != 0).collect();
            Ok(ort::value::Tensor::from_array((tensor.shape(), data)).map_err(failed)?.into())
        }
    }
}

/// An output as a tensor.
pub(super) fn output(value: &DynValue) -> Result<Tensor, ServeError> {
    fn copy<T: Element + PrimitiveTensorElementType>(value: &DynValue) -> Result<Tensor, ServeError> {
        let (shape, data) = value.try_extract_tensor::<T>().map_err(failed)?;
        Tensor::from_slice(&sizes(shape), data).map_err(failed)
    }
    let ValueType::Tensor { ty, .. } = value.dtype() else { return Err(failed("an output is no tensor")) };
    match dtype(*ty).ok_or_else(|| failed(format!("an output is of type {ty}")))? {
        DType::F32 => copy::<f32>(value),
        DType::F16 => copy::<half::f16>(value),
        DType::I64 => copy::<i64>(value),
        DType::I32 => copy::<i32>(value),
        DType::U8 => copy::<u8>(value),
        DType::I8 => copy::<i8>(value),
        DType::Bool => {
            let (shape, data) = value.try_extract_tensor::<bool>().map_err(failed)?;
            let data: Cow<'_, [Bool]> = data.iter().map(|&b| Bool::from(b)).collect();
            Tensor::from_slice(&sizes(shape), &data).map_err(failed)
        }
    }
}

fn sizes(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect()
}
