//! Transpose, Slice, Expand, Tile: a [`Strided`] reading each.

use super::strided::Strided;
use crate::cpu::Cpu;
use crate::cpu::args::{axis, by_size, input, integers, invalid, optional, output, strides};
use crate::error::KernelError;
use crate::tensor::{TensorView, TensorViewMut};

/// Runs `plan` over bytes of elements of x's size.
fn copy(cpu: &Cpu, plan: Strided, x: TensorView<'_>, y: &mut TensorViewMut<'_>) {
    by_size!(x.dtype.size(), T => {
        let (x, y): (&[T], &mut [T]) = (bytemuck::cast_slice(x.bytes), bytemuck::cast_slice_mut(y.bytes));
        plan.copy(cpu.threads(), x, y);
    });
}

/// Dimension i of the output is dimension `perm[i]` of `x`; `None` reverses.
pub(crate) fn transpose(
    cpu: &Cpu,
    perm: Option<&[usize]>,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Transpose";
    let x = input(OP, inputs, 0)?;
    let rank = x.shape.len();
    let perm = perm.map_or_else(|| (0..rank).rev().collect(), |p| p.to_vec());
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return Err(invalid(OP, format_args!("{perm:?} is no order of {rank} dimensions")));
    }
    let own = strides(x.shape);
    let shape: Vec<usize> = perm.iter().map(|&d| x.shape[d]).collect();
    let mut plan = Strided::new(0);
    perm.iter().for_each(|&d| plan.push(x.shape[d], own[d] as isize));
    copy(cpu, plan, x, output(OP, outputs, 0, x.dtype, &shape)?);
    Ok(())
}

/// One dimension of a slice: first element, number of elements, step. ONNX clamps starts and ends to the dimension, and
/// a step backwards ends before the element -1.
pub(crate) fn slice_range(size: usize, start: i64, end: i64, step: i64) -> Option<(usize, usize)> {
    let n = i64::try_from(size).ok()?;
    let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let start = from_end(start).clamp(if step > 0 { 0 } else { low.min(high) }, high.max(low));
    let end = from_end(end).clamp(low, high.max(low));
    let count = match step {
        0 => return None,
        1.. => (end - start).max(0) as u64 / step as u64 + ((end - start).max(0) as u64 % step as u64 != 0) as u64,
        _ => {
            let (span, step) = ((start - end).max(0) as u64, step.unsigned_abs());
            span / step + (span % step != 0) as u64
        }
    };
    Some((if count == 0 { 0 } else { start as usize }, count as usize))
}

/// Inputs: `x`, `starts`, `ends`, `axes?`, `steps?`.
pub(crate) fn slice(
    cpu: &Cpu,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Slice";
    let x = input(OP, inputs, 0)?;
    let starts = integers(OP, input(OP, inputs, 1)?)?;
    let ends = integers(OP, input(OP, inputs, 2)?)?;
    let axes = match optional(inputs, 3)? {
        Some(axes) => integers(OP, axes)?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = match optional(inputs, 4)? {
        Some(steps) => integers(OP, steps)?,
        None => vec![1; starts.len()],
    };
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(invalid(OP, "starts, ends, axes and steps differ in length"));
    }
    let own = strides(x.shape);
    let mut shape = x.shape.to_vec();
    let mut step_of: Vec<isize> = own.iter().map(|&s| s as isize).collect();
    let mut start = 0;
    for (((&first, &end), &at), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let d = axis(OP, at, x.shape.len())?;
        let (from, count) =
            slice_range(x.shape[d], first, end, step).ok_or_else(|| invalid(OP, "a step of 0 goes nowhere"))?;
        shape[d] = count;
        start += from * own[d];
        // With one element at most the step is never taken, so it may not fit.
        step_of[d] = if count > 1 { step as isize * own[d] as isize } else { 0 };
    }
    let mut plan = Strided::new(start);
    shape.iter().zip(step_of).for_each(|(&d, s)| plan.push(d, s));
    copy(cpu, plan, x, output(OP, outputs, 0, x.dtype, &shape)?);
    Ok(())
}

/// `x` broadcast to the output's shape, which inference made from both shapes.
pub(crate) fn expand(
    cpu: &Cpu,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Expand";
    let x = input(OP, inputs, 0)?;
    let shape = outputs.first().map_or(&[][..], |y| y.shape);
    let y = output(OP, outputs, 0, x.dtype, shape)?;
    let lead = shape.len().checked_sub(x.shape.len());
    let fits = |lead: usize| x.shape.iter().zip(&shape[lead..]).all(|(&a, &b)| a == b || a == 1);
    let Some(lead) = lead.filter(|&lead| fits(lead)) else {
        return Err(invalid(OP, format_args!("shape {:?} does not broadcast to {shape:?}", x.shape)));
    };
    let own = strides(x.shape);
    let mut plan = Strided::new(0);
    for (i, &d) in shape.iter().enumerate() {
        let repeated = i < lead || x.shape[i - lead] != d;
        plan.push(d, if repeated { 0 } else { own[i - lead] as isize });
    }
    copy(cpu, plan, x, y);
    Ok(())
}

/// Each dimension i of `x` repeated `repeats[i]` times.
pub(crate) fn tile(
    cpu: &Cpu,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Tile";
    let x = input(OP, inputs, 0)?;
    let repeats = integers(OP, input(OP, inputs, 1)?)?;
    if repeats.len() != x.shape.len() {
        return Err(invalid(OP, format_args!("{} repeats for shape {:?}", repeats.len(), x.shape)));
    }
    let own = strides(x.shape);
    let mut shape = Vec::with_capacity(repeats.len());
    let mut plan = Strided::new(0);
    for ((&d, &s), &r) in x.shape.iter().zip(&own).zip(&repeats) {
        let r = usize::try_from(r).map_err(|_| invalid(OP, format_args!("{r} repeats")))?;
        let dim = d.checked_mul(r).ok_or_else(|| invalid(OP, "the output is too large"))?;
        shape.push(dim);
        plan.push(r, 0);
        plan.push(d, s as isize);
    }
    copy(cpu, plan, x, output(OP, outputs, 0, x.dtype, &shape)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::product;
    use crate::cpu::args::testing::{Rng, run, values};
    use crate::tensor::{DType, Tensor};

    fn numbers(shape: &[usize]) -> Tensor {
        Tensor::from_slice(shape, &(0..product(shape) as i32).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn transposes() {
        let cpu = Cpu::new(2);
        let cases: [(&[usize], &[usize]); 8] = [
            (&[2, 3], &[1, 0]),
            (&[65, 130], &[1, 0]),
            (&[2, 5, 3, 7], &[0, 2, 1, 3]),
            (&[2, 5, 3, 7], &[0, 3, 1, 2]),
            (&[2, 5, 3, 7], &[3, 2, 1, 0]),
            (&[2, 3, 20, 33], &[0, 1, 3, 2]),
            (&[4, 0, 2], &[2, 1, 0]),
            (&[], &[]),
        ];
        for (shape, perm) in cases {
            let x = numbers(shape);
            let out: Vec<usize> = perm.iter().map(|&d| shape[d]).collect();
            let y = run(&[Some(&x)], &[(DType::I32, &out)], |i, o| transpose(&cpu, Some(perm), i, o)).unwrap();
            let (own, outer) = (strides(shape), strides(&out));
            for (i, &got) in values::<i32>(&y[0]).iter().enumerate() {
                let want: usize = (0..perm.len()).map(|d| i / outer[d] % out[d] * own[perm[d]]).sum();
                assert_eq!(got as usize, want, "{shape:?} {perm:?}");
            }
        }
        let x = numbers(&[2, 3]);
        assert!(run(&[Some(&x)], &[(DType::I32, &[3, 2])], |i, o| transpose(&cpu, Some(&[0, 0]), i, o)).is_err());
        let y = run(&[Some(&x)], &[(DType::I32, &[3, 2])], |i, o| transpose(&cpu, None, i, o)).unwrap();
        assert_eq!(values::<i32>(&y[0]), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn slices_clamp_like_python() {
        // Python's own rules, for all small cases.
        for n in 0..4i64 {
            for start in -6..6 {
                for end in -6..6 {
                    for step in [-3, -2, -1, 1, 2, 3] {
                        let mut want = Vec::new();
                        let norm = |v: i64, low, high| (if v < 0 { v + n } else { v }).clamp(low, high);
                        let (mut i, stop) = if step > 0 {
                            (norm(start, 0, n), norm(end, 0, n))
                        } else {
                            (norm(start, -1, n - 1), norm(end, -1, n - 1))
                        };
                        while if step > 0 { i < stop } else { i > stop } {
                            want.push(i);
                            i += step;
                        }
                        let (first, count) = slice_range(n as usize, start, end, step).unwrap();
                        let got: Vec<i64> = (0..count as i64).map(|k| first as i64 + k * step).collect();
                        assert_eq!(got, want, "n {n} {start}:{end}:{step}");
                    }
                }
            }
        }
        assert_eq!(slice_range(5, i64::MAX, i64::MIN, -1), Some((4, 5)));
        assert_eq!(slice_range(5, 0, i64::MAX, i64::MAX), Some((0, 1)));
        assert_eq!(slice_range(5, 4, i64::MIN, i64::MIN), Some((4, 1)));
        assert_eq!(slice_range(5, 0, 5, 0), None);
    }

    #[test]
    fn slice_of_two_axes() {
        let cpu = Cpu::new(1);
        let x = numbers(&[3, 4]);
        let v = |v: &[i64]| Tensor::vector(v);
        let (starts, ends, axes, steps) = (v(&[-1, 1]), v(&[i64::MIN, 100]), v(&[0, -1]), v(&[-2, 2]));
        let inputs = [Some(&x), Some(&starts), Some(&ends), Some(&axes), Some(&steps)];
        let y = run(&inputs, &[(DType::I32, &[2, 2])], |i, o| slice(&cpu, i, o)).unwrap();
        assert_eq!(values::<i32>(&y[0]), [9, 11, 1, 3]);
        assert!(run(&inputs, &[(DType::I32, &[3, 2])], |i, o| slice(&cpu, i, o)).is_err());
        let short = v(&[1]);
        let inputs = [Some(&x), Some(&starts), Some(&short)];
        assert!(run(&inputs, &[(DType::I32, &[2, 2])], |i, o| slice(&cpu, i, o)).is_err());
    }

    #[test]
    fn expand_and_tile() {
        let cpu = Cpu::new(2);
        let x = numbers(&[3, 1]);
        let shape = Tensor::vector(&[2i64, 1, 4]);
        let y = run(&[Some(&x), Some(&shape)], &[(DType::I32, &[2, 3, 4])], |i, o| expand(&cpu, i, o)).unwrap();
        let want: Vec<i32> = (0..24).map(|i| i / 4 % 3).collect();
        assert_eq!(values::<i32>(&y[0]), want);
        assert!(run(&[Some(&x), Some(&shape)], &[(DType::I32, &[2, 4, 4])], |i, o| expand(&cpu, i, o)).is_err());
        let x = Rng(1).tensor(&[2, 3]);
        let repeats = Tensor::vector(&[2i64, 2]);
        let y = run(&[Some(&x), Some(&repeats)], &[(DType::F32, &[4, 6])], |i, o| tile(&cpu, i, o)).unwrap();
        let x = values::<f32>(&x);
        let want: Vec<f32> = (0..24).map(|i| x[i / 6 % 2 * 3 + i % 6 % 3]).collect();
        assert_eq!(values::<f32>(&y[0]), want);
    }
}
