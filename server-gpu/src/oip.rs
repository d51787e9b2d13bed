//! The words of the Open Inference Protocol that both of its ends need: this server's, and the `remote` engine's.

use lenslet::tensor::DType;

/// Says how many bytes of a body are JSON; binary tensors follow.
pub(crate) const HEADER_LENGTH: &str = "inference-header-content-length";

/// The protocol's name of a type.
pub(crate) fn datatype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "FP32",
        DType::F16 => "FP16",
        DType::I64 => "INT64",
        DType::I32 => "INT32",
        DType::U8 => "UINT8",
        DType::I8 => "INT8",
        DType::Bool => "BOOL",
    }
}

/// The type of the protocol's name.
pub(crate) fn dtype(datatype: &str) -> Option<DType> {
    [DType::F32, DType::F16, DType::I64, DType::I32, DType::U8, DType::I8, DType::Bool]
        .into_iter()
        .find(|dtype| self::datatype(*dtype) == datatype)
}
