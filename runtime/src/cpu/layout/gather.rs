//! Gather, GatherND, GatherElements: selection by index.

use crate::cpu::args::{axis, by_size, input, invalid, output, product, strides};
use crate::error::KernelError;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// Indices of either width.
enum Indices<'a> {
    Wide(&'a [i64]),
    Narrow(&'a [i32]),
}

impl<'a> Indices<'a> {
    fn new(op: &'static str, view: TensorView<'a>) -> Result<Self, KernelError> {
        match view.dtype {
            DType::I64 => Ok(Indices::Wide(view.as_slice()?)),
            DType::I32 => Ok(Indices::Narrow(view.as_slice()?)),
            other => Err(KernelError::unsupported_type("cpu", op, other)),
        }
    }

    /// Index `i`, counted from the front of a dimension of `size`.
    fn resolve(&self, op: &'static str, i: usize, size: usize) -> Result<usize, KernelError> {
        let index = match self {
            Indices::Wide(v) => v[i],
            Indices::Narrow(v) => v[i] as i64,
        };
        let at = if index < 0 { index.saturating_add_unsigned(size as u64) } else { index };
        usize::try_from(at).ok().filter(|&at| at < size).ok_or_else(|| {
            KernelError::OutOfRange(format!("{op}: index {index} is outside a dimension of size {size}"))
        })
    }
}

/// `y = x[..., indices, ...]` along `at`.
pub(crate) fn gather(
    at: i64,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Gather";
    let (x, indices) = (input(OP, inputs, 0)?, input(OP, inputs, 1)?);
    let at = axis(OP, at, x.shape.len())?;
    let (outer, size) = (product(&x.shape[..at]), x.shape[at]);
    let run = product(&x.shape[at + 1..]) * x.dtype.size();
    let shape = [&x.shape[..at], indices.shape, &x.shape[at + 1..]].concat();
    let y = output(OP, outputs, 0, x.dtype, &shape)?;
    let count = indices.len();
    let indices = Indices::new(OP, indices)?;
    // The indices are checked even where there is nothing to copy.
    for i in 0..count {
        let from = indices.resolve(OP, i, size)? * run;
        for o in 0..outer {
            y.bytes[(o * count + i) * run..][..run].copy_from_slice(&x.bytes[o * size * run + from..][..run]);
        }
    }
    Ok(())
}

/// The last dimension of `indices` [batch..., ..., n] names positions in the n dimensions of `x` behind the batch ones.
pub(crate) fn gather_nd(
    batch_dims: usize,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "GatherND";
    let (x, indices) = (input(OP, inputs, 0)?, input(OP, inputs, 1)?);
    let Some((&depth, lead)) = indices.shape.split_last() else {
        return Err(invalid(OP, "indices need a dimension"));
    };
    let fits = batch_dims <= lead.len()
        && batch_dims.checked_add(depth).is_some_and(|d| d <= x.shape.len())
        && x.shape[..batch_dims] == lead[..batch_dims];
    if !fits {
        let (a, b) = (x.shape, indices.shape);
        return Err(invalid(OP, format_args!("indices {b:?} with {batch_dims} batch dimensions do not fit {a:?}")));
    }
    let rest = &x.shape[batch_dims + depth..];
    let y = output(OP, outputs, 0, x.dtype, &[lead, rest].concat())?;
    let run = product(rest) * x.dtype.size();
    let dims = &x.shape[batch_dims..batch_dims + depth];
    let own = strides(dims);
    let batch = product(dims) * run;
    let tuples = product(lead);
    let tuples_per_batch = product(&lead[batch_dims..]).max(1);
    let indices = Indices::new(OP, indices)?;
    for t in 0..tuples {
        let mut from = 0;
        for (j, (&size, &stride)) in dims.iter().zip(&own).enumerate() {
            from += indices.resolve(OP, t * depth + j, size)? * stride;
        }
        let from = t / tuples_per_batch * batch + from * run;
        y.bytes[t * run..][..run].copy_from_slice(&x.bytes[from..][..run]);
    }
    Ok(())
}

/// `y[i][j] = x[indices[i][j]][j]` for `at` 0, and so on: indices and x have one rank.
pub(crate) fn gather_elements(
    at: i64,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "GatherElements";
    let (x, indices) = (input(OP, inputs, 0)?, input(OP, inputs, 1)?);
    let at = axis(OP, at, x.shape.len())?;
    let shape = indices.shape;
    let fits = shape.len() == x.shape.len() && (0..shape.len()).all(|d| d == at || shape[d] <= x.shape[d]);
    if !fits {
        return Err(invalid(OP, format_args!("indices {shape:?} do not fit {:?}", x.shape)));
    }
    let y = output(OP, outputs, 0, x.dtype, shape)?;
    let own = strides(x.shape);
    let list = Indices::new(OP, indices)?;
    let mut index = vec![0usize; shape.len()];
    by_size!(x.dtype.size(), T => {
        let (x, y, size): (&[T], &mut [T], usize) =
            (bytemuck::cast_slice(x.bytes), bytemuck::cast_slice_mut(y.bytes), x.shape[at]);
        // The offset of all dimensions but the selected one, as a counter.
        let mut base = 0;
        for (i, y) in y.iter_mut().enumerate() {
            *y = x[base + list.resolve(OP, i, size)? * own[at]];
            for d in (0..shape.len()).rev() {
                let step = if d == at { 0 } else { own[d] };
                index[d] += 1;
                base += step;
                if index[d] < shape[d] {
                    break;
                }
                base -= step * shape[d];
                index[d] = 0;
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, run, values};
    use crate::tensor::Tensor;

    #[test]
    fn gathers_along_any_axis() {
        let x = Rng(2).tensor(&[3, 4, 5]);
        let v = values::<f32>(&x);
        let indices = Tensor::from_slice(&[2, 2], &[0i64, -1, 2, 1]).unwrap();
        let narrow = Tensor::from_slice(&[2, 2], &[0i32, -1, 2, 1]).unwrap();
        for list in [&indices, &narrow] {
            let y = run(&[Some(&x), Some(list)], &[(DType::F32, &[3, 2, 2, 5])], |i, o| gather(1, i, o)).unwrap();
            for (at, got) in values::<f32>(&y[0]).iter().enumerate() {
                let row = [0, 3, 2, 1][at / 5 % 4];
                assert_eq!(*got, v[(at / 20 * 4 + row) * 5 + at % 5]);
            }
        }
        let scalar = Tensor::scalar(-2i64);
        let y = run(&[Some(&x), Some(&scalar)], &[(DType::F32, &[3, 4])], |i, o| gather(-1, i, o)).unwrap();
        assert_eq!(values::<f32>(&y[0]), (0..12).map(|i| v[i * 5 + 3]).collect::<Vec<_>>());
    }

    #[test]
    fn an_index_out_of_range_is_named() {
        let x = Rng(2).tensor(&[3, 4]);
        for bad in [3i64, -4, i64::MAX, i64::MIN] {
            let list = Tensor::vector(&[0, bad]);
            let error = run(&[Some(&x), Some(&list)], &[(DType::F32, &[2, 4])], |i, o| gather(0, i, o)).unwrap_err();
            let KernelError::OutOfRange(text) = error else { panic!("{error}") };
            assert!(text.contains(&bad.to_string()) && text.contains("size 3"), "{text}");
        }
        let float = Tensor::vector(&[0f32]);
        assert!(run(&[Some(&x), Some(&float)], &[(DType::F32, &[1, 4])], |i, o| gather(0, i, o)).is_err());
        // Indices into an empty dimension, and no indices at all.
        let empty = Tensor::from_slice::<f32>(&[0, 4], &[]).unwrap();
        let none = Tensor::from_slice::<i64>(&[0], &[]).unwrap();
        let zero = Tensor::vector(&[0i64]);
        assert!(run(&[Some(&empty), Some(&zero)], &[(DType::F32, &[1, 4])], |i, o| gather(0, i, o)).is_err());
        assert!(run(&[Some(&x), Some(&none)], &[(DType::F32, &[0, 4])], |i, o| gather(0, i, o)).is_ok());
    }

    #[test]
    fn gather_nd_as_the_standard_shows() {
        let x = Tensor::from_slice(&[2, 2, 2], &[0i32, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        let nd = |list: &Tensor, batch, shape: &[usize]| {
            run(&[Some(&x), Some(list)], &[(DType::I32, shape)], |i, o| gather_nd(batch, i, o))
                .map(|y| values::<i32>(&y[0]))
        };
        let list = Tensor::from_slice(&[2, 2], &[0i64, 1, 1, 0]).unwrap();
        assert_eq!(nd(&list, 0, &[2, 2]).unwrap(), [2, 3, 4, 5]);
        let list = Tensor::from_slice(&[2, 1], &[1i64, 0]).unwrap();
        assert_eq!(nd(&list, 1, &[2, 2]).unwrap(), [2, 3, 4, 5]);
        let list = Tensor::from_slice(&[1, 3], &[-1i64, -1, -2]).unwrap();
        assert_eq!(nd(&list, 0, &[1]).unwrap(), [6]);
        let list = Tensor::from_slice(&[1, 4], &[0i64; 4]).unwrap();
        assert!(nd(&list, 0, &[1]).is_err());
        let list = Tensor::from_slice(&[1, 1], &[2i64]).unwrap();
        assert!(matches!(nd(&list, 0, &[1, 2, 2]), Err(KernelError::OutOfRange(_))));
    }

    #[test]
    fn gather_elements_as_the_standard_shows() {
        let x = Tensor::from_slice(&[3, 3], &[1i64, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        let list = Tensor::from_slice(&[2, 3], &[1i64, 2, 0, -1, 0, 0]).unwrap();
        let of =
            |at| run(&[Some(&x), Some(&list)], &[(DType::I64, &[2, 3])], |i, o| gather_elements(at, i, o)).unwrap();
        assert_eq!(values::<i64>(&of(0)[0]), [4, 8, 3, 7, 2, 3]);
        assert_eq!(values::<i64>(&of(1)[0]), [2, 3, 1, 6, 4, 4]);
    }
}
