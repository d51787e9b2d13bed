//! What every kernel needs before it starts: its operands, checked, and the arithmetic of shapes.

use crate::error::KernelError;
use crate::tensor::{DType, TensorError, TensorView, TensorViewMut, element_count};

/// Input `i` of `op` with as many bytes as its shape needs.
pub(crate) fn input<'a>(
    op: &'static str,
    inputs: &[Option<TensorView<'a>>],
    i: usize,
) -> Result<TensorView<'a>, KernelError> {
    optional(inputs, i)?.ok_or_else(|| KernelError::Invalid(format!("{op} lacks its input {i}")))
}

/// Input `i` if it is there, with as many bytes as its shape needs.
pub(crate) fn optional<'a>(inputs: &[Option<TensorView<'a>>], i: usize) -> Result<Option<TensorView<'a>>, KernelError> {
    let Some(view) = inputs.get(i).copied().flatten() else { return Ok(None) };
    check_length(view.dtype, view.shape, view.bytes.len())?;
    Ok(Some(view))
}

/// Output `i` of `op`, which must have this type and as many elements as `shape`.
///
/// Only the number of elements is compared: shape inference owns the rank (reduced dimensions may be kept or dropped).
pub(crate) fn output<'o, 'a>(
    op: &'static str,
    outputs: &'o mut [TensorViewMut<'a>],
    i: usize,
    dtype: DType,
    shape: &[usize],
) -> Result<&'o mut TensorViewMut<'a>, KernelError> {
    let view = outputs.get_mut(i).ok_or_else(|| KernelError::Invalid(format!("{op} lacks its output {i}")))?;
    check_length(view.dtype, view.shape, view.bytes.len())?;
    if view.dtype != dtype {
        return Err(TensorError::DType { expected: dtype, got: view.dtype }.into());
    }
    if element_count(view.shape)? != element_count(shape)? {
        let got = view.shape;
        return Err(KernelError::Invalid(format!("{op} computes {shape:?}, its output has room for {got:?}")));
    }
    Ok(view)
}

fn check_length(dtype: DType, shape: &[usize], got: usize) -> Result<(), KernelError> {
    let expected = element_count(shape)? * dtype.size();
    if expected != got {
        return Err(TensorError::Length { shape: shape.to_vec(), dtype, expected, got }.into());
    }
    Ok(())
}

/// An error about inputs of `op` that do not fit.
pub(crate) fn invalid(op: &'static str, what: impl std::fmt::Display) -> KernelError {
    KernelError::Invalid(format!("{op}: {what}"))
}

/// `axis` counted from the front.
pub(crate) fn axis(op: &'static str, axis: i64, rank: usize) -> Result<usize, KernelError> {
    let at = if axis < 0 { axis.checked_add(rank as i64).unwrap_or(-1) } else { axis };
    usize::try_from(at)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| invalid(op, format_args!("axis {axis} is outside a tensor of {rank} dimensions")))
}

/// The integers of an i64 or i32 tensor.
pub(crate) fn integers(op: &'static str, view: TensorView<'_>) -> Result<Vec<i64>, KernelError> {
    match view.dtype {
        DType::I64 => Ok(view.as_slice::<i64>()?.to_vec()),
        DType::I32 => Ok(view.as_slice::<i32>()?.iter().map(|&v| v as i64).collect()),
        other => Err(KernelError::unsupported_type("cpu", op, other)),
    }
}

/// The one element of an i64 or i32 tensor.
pub(crate) fn integer(op: &'static str, view: TensorView<'_>) -> Result<i64, KernelError> {
    match integers(op, view)?.as_slice() {
        [one] => Ok(*one),
        many => Err(invalid(op, format_args!("expected one number, got {}", many.len()))),
    }
}

/// Distances in elements between neighbours along each dimension of a row-major tensor.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// The product of some dimensions.
pub(crate) fn product(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// The element types that moving data needs: one for each size in bytes.
macro_rules! by_size {
    ($size:expr, $t:ident => $body:expr) => {
        match $size {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            _ => {
                type $t = u64;
                $body
            }
        }
    };
}
pub(crate) use by_size;

/// Inputs and outputs made from owned tensors, for tests of kernels.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::tensor::{AlignedBytes, Element, Tensor};

    /// Runs a kernel on `inputs` and returns outputs of the given types and shapes.
    pub(crate) fn run(
        inputs: &[Option<&Tensor>],
        outputs: &[(DType, &[usize])],
        kernel: impl FnOnce(&[Option<TensorView<'_>>], &mut [TensorViewMut<'_>]) -> Result<(), KernelError>,
    ) -> Result<Vec<Tensor>, KernelError> {
        let views: Vec<_> = inputs.iter().map(|t| t.map(|t| t.view())).collect();
        let mut buffers: Vec<AlignedBytes> =
            outputs.iter().map(|(d, s)| AlignedBytes::zeroed(product(s) * d.size())).collect();
        // What is not written must show.
        buffers.iter_mut().for_each(|b| b.as_mut_slice().fill(0xa5));
        let mut room: Vec<TensorViewMut<'_>> = outputs
            .iter()
            .zip(&mut buffers)
            .map(|(&(dtype, shape), b)| TensorViewMut { dtype, shape, bytes: b.as_mut_slice() })
            .collect();
        kernel(&views, &mut room)?;
        drop(room);
        Ok(outputs
            .iter()
            .zip(buffers)
            .map(|(&(dtype, shape), b)| Tensor::from_buffer(dtype, shape, b).unwrap())
            .collect())
    }

    /// The elements of a tensor.
    pub(crate) fn values<T: Element>(t: &Tensor) -> Vec<T> {
        t.as_slice::<T>().unwrap().to_vec()
    }

    /// Seeded numbers in -1..1.
    pub(crate) struct Rng(pub(crate) u64);

    impl Rng {
        /// The next 32 random bits.
        pub(crate) fn bits(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 32) as u32
        }

        /// The next number below `n`.
        pub(crate) fn below(&mut self, n: usize) -> usize {
            self.bits() as usize % n
        }

        /// The next number in -1..1.
        pub(crate) fn float(&mut self) -> f32 {
            self.bits() as i32 as f32 / (1u32 << 31) as f32
        }

        /// A tensor of them.
        pub(crate) fn tensor(&mut self, shape: &[usize]) -> Tensor {
            let v: Vec<f32> = (0..product(shape)).map(|_| self.float()).collect();
            Tensor::from_slice(shape, &v).unwrap()
        }
    }

    /// Whether all elements are within `tolerance`, relative above 1 and absolute below.
    pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
        assert_eq!(got.len(), want.len());
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let same = g == w || (g.is_nan() && w.is_nan());
            assert!(same || (g - w).abs() <= tolerance * w.abs().max(1.0), "element {i}: got {g}, want {w}");
        }
    }
}
