//! Concat and Split.

use crate::cpu::args::{axis, input, integers, invalid, optional, output, product};
use crate::error::KernelError;
use crate::tensor::{TensorError, TensorView, TensorViewMut};

/// Inputs one after the other along `at`.
pub(crate) fn concat(
    at: i64,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Concat";
    let first = input(OP, inputs, 0)?;
    let at = axis(OP, at, first.shape.len())?;
    let mut shape = first.shape.to_vec();
    shape[at] = 0;
    let mut parts = Vec::with_capacity(inputs.len());
    for i in 0..inputs.len() {
        let x = input(OP, inputs, i)?;
        if x.dtype != first.dtype {
            return Err(TensorError::DType { expected: first.dtype, got: x.dtype }.into());
        }
        let others = |s: &[usize]| s.len() == shape.len() && (0..s.len()).all(|d| d == at || s[d] == shape[d]);
        if !others(x.shape) {
            let (a, b) = (first.shape, x.shape);
            return Err(invalid(OP, format_args!("shapes {a:?} and {b:?} differ off axis {at}")));
        }
        shape[at] += x.shape[at];
        parts.push(x);
    }
    let y = output(OP, outputs, 0, first.dtype, &shape)?;
    let inner = product(&shape[at + 1..]) * first.dtype.size();
    let row = shape[at] * inner;
    let mut column = 0;
    for x in parts {
        let run = x.shape[at] * inner;
        if run > 0 {
            let rows = y.bytes.chunks_exact_mut(row).zip(x.bytes.chunks_exact(run));
            rows.for_each(|(y, x)| y[column..][..run].copy_from_slice(x));
        }
        column += run;
    }
    Ok(())
}

/// Parts of `x` along `at`: of `sizes`, or of the sizes in the second input, or equal ones with a smaller last.
pub(crate) fn split(
    at: i64,
    sizes: Option<&[i64]>,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Split";
    let x = input(OP, inputs, 0)?;
    let at = axis(OP, at, x.shape.len())?;
    let total = x.shape[at];
    let sizes = match (sizes, optional(inputs, 1)?) {
        (Some(sizes), _) => sizes.to_vec(),
        (None, Some(sizes)) => integers(OP, sizes)?,
        (None, None) => {
            let each = total.div_ceil(outputs.len().max(1));
            (0..outputs.len()).map(|i| each.min(total.saturating_sub(i * each)) as i64).collect()
        }
    };
    let fits = sizes.len() == outputs.len()
        && sizes.iter().all(|&s| s >= 0)
        && sizes.iter().try_fold(0i64, |n, &s| n.checked_add(s)) == i64::try_from(total).ok();
    if !fits {
        let parts = outputs.len();
        return Err(invalid(OP, format_args!("sizes {sizes:?} do not cut {total} into {parts} parts")));
    }
    let inner = product(&x.shape[at + 1..]) * x.dtype.size();
    let row = total * inner;
    let mut column = 0;
    for (i, &size) in sizes.iter().enumerate() {
        let mut shape = x.shape.to_vec();
        shape[at] = size as usize;
        let y = output(OP, outputs, i, x.dtype, &shape)?;
        let run = size as usize * inner;
        if run > 0 {
            let rows = x.bytes.chunks_exact(row).zip(y.bytes.chunks_exact_mut(run));
            rows.for_each(|(x, y)| y.copy_from_slice(&x[column..][..run]));
        }
        column += run;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, run, values};
    use crate::tensor::{DType, Tensor};

    #[test]
    fn split_undoes_concat() {
        let mut rng = Rng(4);
        for at in [0i64, 1, -1] {
            let d = axis("Concat", at, 3).unwrap();
            // An empty part, as a cache before the first step.
            let shapes: Vec<[usize; 3]> = [0, 2, 1, 3]
                .iter()
                .map(|&n| {
                    let mut s = [2, 3, 4];
                    s[d] = n;
                    s
                })
                .collect();
            let parts: Vec<Tensor> = shapes.iter().map(|s| rng.tensor(s)).collect();
            let mut whole = [2, 3, 4];
            whole[d] = 6;
            let inputs: Vec<_> = parts.iter().map(Some).collect();
            let joined = run(&inputs, &[(DType::F32, &whole)], |i, o| concat(at, i, o)).unwrap().remove(0);
            // Row-major check of one element of the third part.
            let mut index = [1, 2, 3];
            index[d] = 2;
            let flat = |s: &[usize], i: [usize; 3]| (i[0] * s[1] + i[1]) * s[2] + i[2];
            let mut own = index;
            own[d] = 0;
            assert_eq!(
                values::<f32>(&joined)[flat(&whole, index)],
                values::<f32>(&parts[2])[flat(parts[2].shape(), own)]
            );
            let rooms: Vec<(DType, &[usize])> = shapes.iter().map(|s| (DType::F32, &s[..])).collect();
            let sizes = Tensor::vector(&[0i64, 2, 1, 3]);
            let apart = run(&[Some(&joined), Some(&sizes)], &rooms, |i, o| split(at, None, i, o)).unwrap();
            for (a, b) in apart.iter().zip(&parts) {
                assert_eq!(values::<f32>(a), values::<f32>(b));
            }
        }
    }

    #[test]
    fn equal_parts_and_bad_input() {
        let x = Tensor::vector(&[1i64, 2, 3, 4, 5]);
        let rooms: [(DType, &[usize]); 3] = [(DType::I64, &[2]), (DType::I64, &[2]), (DType::I64, &[1])];
        let parts = run(&[Some(&x)], &rooms, |i, o| split(0, None, i, o)).unwrap();
        assert_eq!(values::<i64>(&parts[1]), [3, 4]);
        assert_eq!(values::<i64>(&parts[2]), [5]);
        assert!(run(&[Some(&x)], &rooms, |i, o| split(0, Some(&[2, 2, 2]), i, o)).is_err());
        assert!(run(&[Some(&x)], &rooms, |i, o| split(0, Some(&[6, -2, 1]), i, o)).is_err());
        assert!(run(&[Some(&x)], &rooms, |i, o| split(1, None, i, o)).is_err());
        let other = Tensor::vector(&[1f32]);
        assert!(run(&[Some(&x), Some(&other)], &[(DType::I64, &[6])], |i, o| concat(0, i, o)).is_err());
        let deep = Tensor::from_slice(&[1, 1], &[1i64]).unwrap();
        assert!(run(&[Some(&x), Some(&deep)], &[(DType::I64, &[6])], |i, o| concat(0, i, o)).is_err());
        let scalar = Tensor::scalar(1i64);
        assert!(run(&[Some(&scalar)], &[(DType::I64, &[1])], |i, o| concat(0, i, o)).is_err());
    }
}
