//! Host tensors: contiguous, row-major, 64-byte aligned, cheap to clone.

mod buffer;
mod dtype;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

pub use buffer::{ALIGNMENT, AlignedBytes, BufferPool};
pub use dtype::{Bool, DType, Element};

/// Why a tensor could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The number of bytes or elements does not fit the shape.
    #[error("a tensor of shape {shape:?} and type {dtype} needs {expected} bytes, got {got}")]
    Length {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The element type asked for.
        dtype: DType,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The tensor holds another type of element.
    #[error("expected a tensor of {expected}, got {got}")]
    DType {
        /// What was asked for.
        expected: DType,
        /// What is there.
        got: DType,
    },
    /// The size of the shape overflows the address space.
    #[error("a tensor of shape {shape:?} is too large for this machine")]
    TooLarge {
        /// The shape asked for.
        shape: Vec<usize>,
    },
}

/// The number of elements of `shape`, or an error if it overflows.
pub fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= isize::MAX as usize / 8)
        .ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec() })
}

/// An immutable tensor on the host. Clones share the memory.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Arc<Data>,
}

/// The memory that clones of a tensor share, and the name it goes by once a kernel keeps something made of it.
struct Data {
    bytes: AlignedBytes,
    id: OnceLock<ConstantId>,
}

impl Data {
    fn new(bytes: AlignedBytes) -> Arc<Self> {
        Arc::new(Data { bytes, id: OnceLock::new() })
    }
}

impl Tensor {
    /// A tensor of `shape` from its elements in row-major order.
    pub fn from_slice<T: Element>(shape: &[usize], elements: &[T]) -> Result<Self, TensorError> {
        Self::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A tensor of `shape` from the little-endian bytes of its elements in row-major order.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self, TensorError> {
        let expected = element_count(shape)? * dtype.size();
        if bytes.len() != expected {
            return Err(TensorError::Length { shape: shape.to_vec(), dtype, expected, got: bytes.len() });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), data: Data::new(AlignedBytes::of_weight(bytes)) })
    }

    /// A tensor that takes over `data`.
    pub fn from_buffer(dtype: DType, shape: &[usize], data: AlignedBytes) -> Result<Self, TensorError> {
        let expected = element_count(shape)? * dtype.size();
        if data.len() != expected {
            return Err(TensorError::Length { shape: shape.to_vec(), dtype, expected, got: data.len() });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), data: Data::new(data) })
    }

    /// A tensor with one element and no dimension.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::from_slice(&[], &[value]).expect("one element fits a scalar")
    }

    /// A tensor with one dimension.
    pub fn vector<T: Element>(elements: &[T]) -> Self {
        Self::from_slice(&[elements.len()], elements).expect("the length is the slice's")
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes.as_slice()
    }

    /// The elements as bytes, to change, unless a clone shares them.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Arc::get_mut(&mut self.data).filter(|d| d.id.get().is_none()).map(|d| d.bytes.as_mut_slice())
    }

    /// The elements, if they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        self.view().as_slice()
    }

    /// The same elements under another shape with as many elements.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self, TensorError> {
        let expected = element_count(shape)? * self.dtype.size();
        if expected != self.data.bytes.len() {
            let got = self.data.bytes.len();
            return Err(TensorError::Length { shape: shape.to_vec(), dtype: self.dtype, expected, got });
        }
        Ok(Tensor { dtype: self.dtype, shape: shape.to_vec(), data: self.data.clone() })
    }

    /// A view for kernels. It carries no constant's identity.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { dtype: self.dtype, shape: &self.shape, bytes: self.data.bytes.as_slice(), constant: None }
    }

    /// A view of a constant: kernels may keep what they make of it, under the identity of its memory.
    pub(crate) fn constant_view(&self) -> TensorView<'_> {
        TensorView { constant: Some(self.constant_id()), ..self.view() }
    }

    /// Stands for this constant where only what kernels made of it is read: of its type, shape and identity, but
    /// without its elements.
    pub(crate) fn without_elements(&self) -> Self {
        let id = self.constant_id().into();
        Tensor { data: Arc::new(Data { bytes: AlignedBytes::zeroed(0), id }), ..self.clone() }
    }

    /// Whether a clone shares the memory.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.data) > 1
    }

    /// The memory, if no clone shares it.
    pub(crate) fn into_memory(self) -> Option<AlignedBytes> {
        Arc::try_unwrap(self.data).ok().map(|data| data.bytes)
    }

    /// The identity of this tensor's memory, unlike that of any other memory there was or will be.
    pub(crate) fn constant_id(&self) -> ConstantId {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        *self.data.id.get_or_init(|| ConstantId(NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The integers of an `i64`, `i32`, `u8`, `i8` or `bool` tensor, widened; `None` for floats.
    pub fn to_i64_vec(&self) -> Option<Vec<i64>> {
        let bytes = self.bytes();
        Some(match self.dtype {
            DType::I64 => bytemuck::cast_slice::<u8, i64>(bytes).to_vec(),
            DType::I32 => bytemuck::cast_slice::<u8, i32>(bytes).iter().map(|&x| x as i64).collect(),
            DType::U8 | DType::Bool => bytes.iter().map(|&x| x as i64).collect(),
            DType::I8 => bytes.iter().map(|&x| x as i8 as i64).collect(),
            DType::F32 | DType::F16 => return None,
        })
    }

    /// The elements of an `f32` or `f16` tensor as `f32`; `None` for integers.
    pub fn to_f32_vec(&self) -> Option<Vec<f32>> {
        match self.dtype {
            DType::F32 => Some(bytemuck::cast_slice(self.bytes()).to_vec()),
            DType::F16 => {
                Some(bytemuck::cast_slice::<u8, half::f16>(self.bytes()).iter().map(|x| x.to_f32()).collect())
            }
            _ => None,
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

/// The identity of a constant: kernels keep packed forms of weights under it, whichever session reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConstantId(pub u32);

/// A tensor that a kernel reads.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: DType,
    /// Shape, outermost dimension first.
    pub shape: &'a [usize],
    /// Row-major elements, aligned to [`ALIGNMENT`].
    pub bytes: &'a [u8],
    /// Set when the tensor is a constant of the model: the same id means the same elements on each call.
    pub constant: Option<ConstantId>,
}

impl<'a> TensorView<'a> {
    /// The elements, if they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DType { expected: T::DTYPE, got: self.dtype });
        }
        Ok(bytemuck::cast_slice(self.bytes))
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor that a kernel writes. Its content before the call is unspecified.
pub struct TensorViewMut<'a> {
    /// Element type.
    pub dtype: DType,
    /// Shape, outermost dimension first.
    pub shape: &'a [usize],
    /// Room for the row-major elements, aligned to [`ALIGNMENT`].
    pub bytes: &'a mut [u8],
}

impl TensorViewMut<'_> {
    /// Room for the elements, if they are of type `T`.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DType { expected: T::DTYPE, got: self.dtype });
        }
        Ok(bytemuck::cast_slice_mut(self.bytes))
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lengths_and_types_are_errors() {
        assert!(Tensor::from_slice(&[2, 2], &[1f32; 3]).is_err());
        let t = Tensor::from_slice(&[2, 2], &[1f32, 2., 3., 4.]).unwrap();
        assert_eq!(t.as_slice::<i64>().unwrap_err(), TensorError::DType { expected: DType::I64, got: DType::F32 });
        assert!(t.reshaped(&[3]).is_err());
        assert_eq!(t.reshaped(&[4]).unwrap().as_slice::<f32>().unwrap(), [1., 2., 3., 4.]);
        assert!(element_count(&[usize::MAX, 2]).is_err());
    }
}
