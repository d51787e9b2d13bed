//! CumSum and Trilu.

use crate::cpu::args::{axis, input, integer, invalid, optional, output, product};
use crate::cpu::elementwise::Integer;
use crate::error::KernelError;
use crate::tensor::{DType, Element, TensorView, TensorViewMut};

/// Running sums of `x` along the axis in the second input. f32, i64, i32.
pub(crate) fn cumsum(
    exclusive: bool,
    reverse: bool,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "CumSum";
    let x = input(OP, inputs, 0)?;
    let at = axis(OP, integer(OP, input(OP, inputs, 1)?)?, x.shape.len())?;
    let (length, inner) = (x.shape[at], product(&x.shape[at + 1..]));
    let y = output(OP, outputs, 0, x.dtype, x.shape)?;
    let order = (length, inner, exclusive, reverse);
    match x.dtype {
        DType::F32 => running(order, x.as_slice()?, y.as_mut_slice()?, 0f32, |a, b| a + b),
        DType::I64 => running(order, x.as_slice()?, y.as_mut_slice()?, 0i64, Integer::add),
        DType::I32 => running(order, x.as_slice()?, y.as_mut_slice()?, 0i32, Integer::add),
        other => return Err(KernelError::unsupported_type("cpu", OP, other)),
    }
    Ok(())
}

fn running<T: Element>(
    (length, inner, exclusive, reverse): (usize, usize, bool, bool),
    x: &[T],
    y: &mut [T],
    zero: T,
    add: impl Fn(T, T) -> T,
) {
    if x.is_empty() {
        return;
    }
    let block = length * inner;
    for (x, y) in x.chunks_exact(block).zip(y.chunks_exact_mut(block)) {
        for column in 0..inner {
            let mut sum = zero;
            for i in 0..length {
                let at = if reverse { length - 1 - i } else { i } * inner + column;
                let next = add(sum, x[at]);
                y[at] = if exclusive { sum } else { next };
                sum = next;
            }
        }
    }
}

/// The upper or lower triangle of the last two dimensions, `k` diagonals from the main one; zeros elsewhere.
pub(crate) fn trilu(
    upper: bool,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Trilu";
    let x = input(OP, inputs, 0)?;
    let k = optional(inputs, 1)?.map_or(Ok(0), |k| integer(OP, k))?;
    let [.., rows, columns] = *x.shape else {
        return Err(invalid(OP, "a triangle needs two dimensions"));
    };
    let y = output(OP, outputs, 0, x.dtype, x.shape)?;
    y.bytes.copy_from_slice(x.bytes);
    if x.is_empty() {
        return Ok(());
    }
    let size = x.dtype.size();
    for (i, y) in y.bytes.chunks_exact_mut(columns * size).enumerate() {
        // The first column of the upper part; the lower part ends one further, on the diagonal itself.
        let diagonal = ((i % rows) as i64).saturating_add(k);
        if upper {
            y[..diagonal.clamp(0, columns as i64) as usize * size].fill(0);
        } else {
            y[diagonal.saturating_add(1).clamp(0, columns as i64) as usize * size..].fill(0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{run, values};
    use crate::tensor::Tensor;

    #[test]
    fn running_sums() {
        let x = Tensor::from_slice(&[2, 3], &[1i64, 2, 3, 4, 5, 6]).unwrap();
        let of = |at: i64, e, r| {
            let at = Tensor::scalar(at);
            run(&[Some(&x), Some(&at)], &[(DType::I64, &[2, 3])], |i, o| cumsum(e, r, i, o))
                .map(|y| values::<i64>(&y[0]))
        };
        assert_eq!(of(1, false, false).unwrap(), [1, 3, 6, 4, 9, 15]);
        assert_eq!(of(-1, true, false).unwrap(), [0, 1, 3, 0, 4, 9]);
        assert_eq!(of(1, false, true).unwrap(), [6, 5, 3, 15, 11, 6]);
        assert_eq!(of(0, true, true).unwrap(), [4, 5, 6, 0, 0, 0]);
        assert!(of(2, false, false).is_err());
        let (empty, at) = (Tensor::from_slice::<f32>(&[2, 0], &[]).unwrap(), Tensor::vector(&[1i32]));
        assert!(run(&[Some(&empty), Some(&at)], &[(DType::F32, &[2, 0])], |i, o| cumsum(false, false, i, o)).is_ok());
    }

    #[test]
    fn triangles() {
        let x = Tensor::from_slice(&[2, 2, 3], &[1i32, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]).unwrap();
        let of = |upper, k: i64| {
            let k = Tensor::scalar(k);
            let y = run(&[Some(&x), Some(&k)], &[(DType::I32, &[2, 2, 3])], |i, o| trilu(upper, i, o)).unwrap();
            let y = values::<i32>(&y[0]);
            assert_eq!(y[..6], y[6..]);
            y[..6].to_vec()
        };
        assert_eq!(of(true, 0), [1, 2, 3, 0, 5, 6]);
        assert_eq!(of(false, 0), [1, 0, 0, 4, 5, 0]);
        assert_eq!(of(true, 2), [0, 0, 3, 0, 0, 0]);
        assert_eq!(of(false, -1), [0, 0, 0, 4, 0, 0]);
        assert_eq!(of(true, i64::MIN), [1, 2, 3, 4, 5, 6]);
        assert_eq!(of(false, i64::MAX), [1, 2, 3, 4, 5, 6]);
        let v = Tensor::vector(&[1i32]);
        assert!(run(&[Some(&v)], &[(DType::I32, &[1])], |i, o| trilu(true, i, o)).is_err());
    }
}
