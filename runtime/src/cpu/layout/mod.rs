//! Operators that move elements without looking at them, by element size over bytes.

pub(crate) mod gather;
pub(crate) mod generate;
pub(crate) mod join;
pub(crate) mod pad;
pub(crate) mod scan;
pub(crate) mod strided;
pub(crate) mod views;

use crate::cpu::args::{input, output};
use crate::error::KernelError;
use crate::tensor::{TensorView, TensorViewMut};

/// Reshape, Squeeze, Unsqueeze, Flatten, Identity: the same bytes, for when the executor cannot share the buffer.
pub(crate) fn alias(
    op: &'static str,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let x = input(op, inputs, 0)?;
    output(op, outputs, 0, x.dtype, x.shape)?.bytes.copy_from_slice(x.bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{run, values};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn aliases_copy() {
        let x = Tensor::from_slice(&[2, 3], &[1i64, 2, 3, 4, 5, 6]).unwrap();
        let y = run(&[Some(&x)], &[(DType::I64, &[6])], |i, o| alias("Reshape", i, o)).unwrap();
        assert_eq!(values::<i64>(&y[0]), [1, 2, 3, 4, 5, 6]);
        assert!(run(&[Some(&x)], &[(DType::I64, &[5])], |i, o| alias("Reshape", i, o)).is_err());
        assert!(run(&[Some(&x)], &[(DType::I32, &[6])], |i, o| alias("Reshape", i, o)).is_err());
    }
}
