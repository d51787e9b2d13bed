//! Operators that make numbers from shapes: ConstantOfShape, Range, Shape, Size, NonZero.

use half::f16;

use crate::cpu::args::{by_size, input, invalid, output, strides};
use crate::error::KernelError;
use crate::tensor::{DType, Tensor, TensorView, TensorViewMut};

/// Fills the output with the one element of `value`.
pub(crate) fn constant_of_shape(value: &Tensor, outputs: &mut [TensorViewMut<'_>]) -> Result<(), KernelError> {
    const OP: &str = "ConstantOfShape";
    if value.len() != 1 {
        return Err(invalid(OP, format_args!("its value has {} elements", value.len())));
    }
    let shape = outputs.first().map_or(&[][..], |y| y.shape);
    let y = output(OP, outputs, 0, value.dtype(), shape)?;
    by_size!(value.dtype().size(), T => {
        bytemuck::cast_slice_mut::<u8, T>(y.bytes).fill(bytemuck::cast_slice::<u8, T>(value.bytes())[0]);
    });
    Ok(())
}

/// `start, start + delta, ...` below `limit` (above it for a negative delta). f32, i64, i32.
pub(crate) fn range(inputs: &[Option<TensorView<'_>>], outputs: &mut [TensorViewMut<'_>]) -> Result<(), KernelError> {
    const OP: &str = "Range";
    let (start, limit, delta) = (input(OP, inputs, 0)?, input(OP, inputs, 1)?, input(OP, inputs, 2)?);
    if [start.len(), limit.len(), delta.len()] != [1; 3] {
        return Err(invalid(OP, "start, limit and delta are single numbers"));
    }
    let shape = outputs.first().map_or(&[][..], |y| y.shape);
    let y = output(OP, outputs, 0, start.dtype, shape)?;
    // Each element is a multiple, not a running sum, so that rounding does not pile up.
    match start.dtype {
        DType::F32 => {
            let (start, delta) = (start.as_slice::<f32>()?[0], delta.as_slice::<f32>()?[0]);
            let y = y.as_mut_slice::<f32>()?;
            y.iter_mut().enumerate().for_each(|(i, y)| *y = start + i as f32 * delta);
        }
        DType::I64 => {
            let (start, delta) = (start.as_slice::<i64>()?[0], delta.as_slice::<i64>()?[0]);
            let y = y.as_mut_slice::<i64>()?;
            y.iter_mut().enumerate().for_each(|(i, y)| *y = start.wrapping_add((i as i64).wrapping_mul(delta)));
        }
        DType::I32 => {
            let (start, delta) = (start.as_slice::<i32>()?[0], delta.as_slice::<i32>()?[0]);
            let y = y.as_mut_slice::<i32>()?;
            y.iter_mut().enumerate().for_each(|(i, y)| *y = start.wrapping_add((i as i32).wrapping_mul(delta)));
        }
        other => return Err(KernelError::unsupported_type("cpu", OP, other)),
    }
    Ok(())
}

/// Dimensions `start..end` of the input as i64. Both are clamped to the rank, as ONNX says.
pub(crate) fn shape(
    start: i64,
    end: Option<i64>,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Shape";
    let x = input(OP, inputs, 0)?;
    let rank = x.shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (from, to) = (clamp(start), clamp(end.unwrap_or(rank)));
    let dims = &x.shape[from..to.max(from)];
    let y = output(OP, outputs, 0, DType::I64, &[dims.len()])?.as_mut_slice::<i64>()?;
    y.iter_mut().zip(dims).for_each(|(y, &d)| *y = d as i64);
    Ok(())
}

/// The number of elements as an i64 scalar.
pub(crate) fn size(inputs: &[Option<TensorView<'_>>], outputs: &mut [TensorViewMut<'_>]) -> Result<(), KernelError> {
    let x = input("Size", inputs, 0)?;
    output("Size", outputs, 0, DType::I64, &[])?.as_mut_slice::<i64>()?[0] = x.len() as i64;
    Ok(())
}

/// Positions of the elements that are not zero, as i64 [rank, count] in row-major order. A scalar counts as \[1\], as NumPy
/// and ONNX Runtime have it.
pub(crate) fn nonzero(inputs: &[Option<TensorView<'_>>]) -> Result<Tensor, KernelError> {
    const OP: &str = "NonZero";
    let x = input(OP, inputs, 0)?;
    // A negative zero is a zero, so floats are compared as numbers.
    let hits: Vec<usize> = match x.dtype {
        DType::F32 => positions(x.as_slice::<f32>()?, |v| *v != 0.0),
        DType::F16 => positions(x.as_slice::<f16>()?, |v| v.to_f32() != 0.0),
        DType::I64 => positions(x.as_slice::<i64>()?, |v| *v != 0),
        DType::I32 => positions(x.as_slice::<i32>()?, |v| *v != 0),
        DType::U8 | DType::I8 | DType::Bool => positions(x.bytes, |v| *v != 0),
    };
    let shape = if x.shape.is_empty() { &[1] } else { x.shape };
    let own = strides(shape);
    let list: Vec<i64> = own
        .iter()
        .zip(shape)
        .flat_map(|(&stride, &dim)| hits.iter().map(move |&at| (at / stride % dim) as i64))
        .collect();
    Ok(Tensor::from_slice(&[shape.len(), hits.len()], &list)?)
}

fn positions<T>(x: &[T], keep: impl Fn(&T) -> bool) -> Vec<usize> {
    x.iter().enumerate().filter(|(_, v)| keep(v)).map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{run, values};
    use crate::tensor::Bool;

    #[test]
    fn constants_and_ranges() {
        let value = Tensor::vector(&[-1i64]);
        let y = run(&[], &[(DType::I64, &[2, 2])], |_, o| constant_of_shape(&value, o)).unwrap();
        assert_eq!(values::<i64>(&y[0]), [-1; 4]);
        assert!(run(&[], &[(DType::F32, &[2])], |_, o| constant_of_shape(&value, o)).is_err());
        let two = Tensor::vector(&[1i64, 2]);
        assert!(run(&[], &[(DType::I64, &[2])], |_, o| constant_of_shape(&two, o)).is_err());
        let of = |a: Tensor, b: Tensor, c: Tensor, n: usize| {
            run(&[Some(&a), Some(&b), Some(&c)], &[(a.dtype(), &[n])], range).unwrap().remove(0)
        };
        let y = of(Tensor::scalar(10i64), Tensor::scalar(3i64), Tensor::scalar(-3i64), 3);
        assert_eq!(values::<i64>(&y), [10, 7, 4]);
        let y = of(Tensor::scalar(0f32), Tensor::scalar(1f32), Tensor::scalar(0.25f32), 4);
        assert_eq!(values::<f32>(&y), [0.0, 0.25, 0.5, 0.75]);
    }

    #[test]
    fn shapes_and_sizes() {
        let x = Tensor::from_slice::<f32>(&[2, 0, 4], &[]).unwrap();
        let of = |s, e, n: usize| {
            run(&[Some(&x)], &[(DType::I64, &[n])], |i, o| shape(s, e, i, o)).map(|y| values::<i64>(&y[0]))
        };
        assert_eq!(of(0, None, 3).unwrap(), [2, 0, 4]);
        assert_eq!(of(-1, None, 1).unwrap(), [4]);
        assert_eq!(of(-10, Some(-1), 2).unwrap(), [2, 0]);
        assert_eq!(of(2, Some(1), 0).unwrap(), [0i64; 0]);
        assert!(of(0, None, 2).is_err());
        assert_eq!(values::<i64>(&run(&[Some(&x)], &[(DType::I64, &[])], size).unwrap()[0]), [0]);
    }

    #[test]
    fn nonzero_lists_positions() {
        let x = Tensor::from_slice(&[2, 3], &[0f32, 1.0, -0.0, f32::NAN, 0.0, 5.0]).unwrap();
        let y = nonzero(&[Some(x.view())]).unwrap();
        assert_eq!((y.shape(), values::<i64>(&y)), (&[2, 3][..], vec![0, 1, 1, 1, 0, 2]));
        let scalar = nonzero(&[Some(Tensor::scalar(3i64).view())]).unwrap();
        assert_eq!((scalar.shape(), values::<i64>(&scalar)), (&[1, 1][..], vec![0]));
        let none = Tensor::vector(&[Bool(0); 4]);
        assert_eq!(nonzero(&[Some(none.view())]).unwrap().shape(), [1, 0]);
        let empty = Tensor::from_slice::<i64>(&[0, 3], &[]).unwrap();
        assert_eq!(nonzero(&[Some(empty.view())]).unwrap().shape(), [2, 0]);
    }
}
