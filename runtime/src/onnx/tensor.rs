//! Weights: from the model file, or from files beside it.

use super::LoadError;
use super::model_file::read_weight;
use super::proto::TensorProto;
use crate::tensor::{AlignedBytes, DType, Tensor, element_count};
use half::f16;

/// Where weights that are not in the model file come from.
///
/// `read(location, offset, length)` returns the bytes of a file beside the model. `location` was checked: it is relative and
/// does not leave the model's folder.
pub trait ExternalData {
    /// Reads `length` bytes (all that follow, if `None`) of `location` from `offset` on, into memory made by
    /// [`AlignedBytes::for_weight`]: as a rule it becomes the weight's own.
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> std::io::Result<AlignedBytes>;
}

/// For models that have all their weights inside.
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn read(&self, _: &str, _: u64, _: Option<u64>) -> std::io::Result<AlignedBytes> {
        Err(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "the model was loaded from memory without its data files",
        ))
    }
}

/// External data in a folder.
pub struct Folder(
    /// The folder that holds the model.
    pub std::path::PathBuf,
);

impl ExternalData for Folder {
    fn read(&self, location: &str, offset: u64, length: Option<u64>) -> std::io::Result<AlignedBytes> {
        read_weight(&std::fs::File::open(self.0.join(location))?, "file", offset, length)
    }
}

/// Element types of ONNX, by number.
const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;
const INT64: i32 = 7;
const BOOL: i32 = 9;
const FLOAT16: i32 = 10;
const DOUBLE: i32 = 11;
const BFLOAT16: i32 = 16;
const UINT4: i32 = 21;
const INT4: i32 = 22;

/// The type that elements of ONNX type `number` are stored as. Doubles and bfloat16 become f32, nibbles become bytes.
pub(super) fn dtype_of(number: i32) -> Option<DType> {
    Some(match number {
        FLOAT | DOUBLE | BFLOAT16 => DType::F32,
        FLOAT16 => DType::F16,
        INT64 => DType::I64,
        INT32 => DType::I32,
        UINT8 | UINT4 => DType::U8,
        INT8 | INT4 => DType::I8,
        BOOL => DType::Bool,
        _ => return None,
    })
}

/// Makes a tensor of `t`; `what` names it in errors.
pub(super) fn read_tensor(t: &TensorProto<'_>, data: &dyn ExternalData, what: &str) -> Result<Tensor, LoadError> {
    let bad = |reason: String| LoadError::Weight { name: what.to_owned(), reason };
    let dtype = dtype_of(t.data_type).ok_or_else(|| bad(format!("element type {} is not supported", t.data_type)))?;
    let shape: Vec<usize> = t
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| bad(format!("its shape is {:?}", t.dims))))
        .collect::<Result<_, _>>()?;
    let count = element_count(&shape).map_err(|e| bad(e.to_string()))?;
    let finish = |result: Result<Tensor, crate::tensor::TensorError>| result.map_err(|e| bad(e.to_string()));
    let external;
    let raw = if t.is_external {
        external = read_external(t, data, what)?;
        // Little-endian, as all machines that this runs on.
        if !matches!(t.data_type, DOUBLE | BFLOAT16 | UINT4 | INT4) {
            return finish(Tensor::from_buffer(dtype, &shape, external));
        }
        Some(external.as_slice())
    } else {
        t.raw
    };
    // Nibbles that are not raw come as one byte, two nibbles, a number.
    let bytes;
    let raw = match (raw, t.data_type) {
        (None, UINT4 | INT4) => {
            bytes = t.ints.iter().map(|&x| x as u8).collect::<Vec<_>>();
            Some(bytes.as_slice())
        }
        _ => raw,
    };
    if let Some(raw) = raw {
        return match t.data_type {
            DOUBLE => {
                let (chunks, rest) = raw.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(bad("its bytes are cut".into()));
                }
                let v: Vec<f32> = chunks.iter().map(|b| f64::from_le_bytes(*b) as f32).collect();
                finish(Tensor::from_slice(&shape, &v))
            }
            BFLOAT16 => {
                let v: Vec<f32> =
                    raw.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect();
                finish(Tensor::from_slice(&shape, &v))
            }
            UINT4 | INT4 => {
                if raw.len() != count.div_ceil(2) {
                    return Err(bad(format!("{count} nibbles in {} bytes", raw.len())));
                }
                let nibble = |i: usize| (raw[i / 2] >> (4 * (i % 2))) & 15;
                let v: Vec<u8> = match t.data_type {
                    UINT4 => (0..count).map(nibble).collect(),
                    _ => (0..count).map(|i| (((nibble(i) << 4) as i8) >> 4) as u8).collect(),
                };
                finish(Tensor::from_bytes(dtype, &shape, &v))
            }
            _ => finish(Tensor::from_bytes(dtype, &shape, raw)),
        };
    }
    match t.data_type {
        FLOAT => finish(Tensor::from_slice(&shape, &t.floats)),
        DOUBLE => finish(Tensor::from_slice(&shape, &t.doubles.iter().map(|&x| x as f32).collect::<Vec<_>>())),
        INT64 => finish(Tensor::from_slice(&shape, &t.ints)),
        INT32 => finish(Tensor::from_slice(&shape, &t.ints.iter().map(|&x| x as i32).collect::<Vec<_>>())),
        UINT8 | INT8 | BOOL => {
            finish(Tensor::from_bytes(dtype, &shape, &t.ints.iter().map(|&x| x as u8).collect::<Vec<_>>()))
        }
        FLOAT16 => {
            let v: Vec<f16> = t.ints.iter().map(|&x| f16::from_bits(x as u16)).collect();
            finish(Tensor::from_slice(&shape, &v))
        }
        _ => Err(bad(format!("elements of type {} are only read from raw bytes", t.data_type))),
    }
}

fn read_external(t: &TensorProto<'_>, data: &dyn ExternalData, what: &str) -> Result<AlignedBytes, LoadError> {
    let find = |key: &str| t.external.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
    let location = find("location").unwrap_or("");
    let outside = location.is_empty()
        || location.contains(['\\', '\0', ':'])
        || location.starts_with('/')
        || location.split('/').any(|part| part == "..");
    if outside {
        return Err(LoadError::ExternalOutside { name: what.to_owned(), location: location.to_owned() });
    }
    let number = |key: &str| match find(key) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| LoadError::Weight {
            name: what.to_owned(),
            reason: format!("its {key} is {text:?}, not a number"),
        }),
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    data.read(location, offset, length).map_err(|error| LoadError::External {
        name: what.to_owned(),
        location: location.to_owned(),
        reason: error.to_string(),
    })
}
