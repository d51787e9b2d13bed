//! Reductions over any dimensions, and ArgMax.

use crate::cpu::args::{axis, input, integers, optional, output, product, strides};
use crate::cpu::elementwise::Integer;
use crate::cpu::layout::strided::Strided;
use crate::cpu::{Cpu, math, parallel};
use crate::error::KernelError;
use crate::graph::{Op, Reduce};
use crate::tensor::{DType, Element, TensorView, TensorViewMut};

/// What a reduction over a shape comes to, dimensions of size 1 dropped and neighbours of one kind merged.
struct Plan {
    /// Dimensions, kept and reduced alternating.
    dims: Vec<usize>,
    reduced: Vec<bool>,
    /// Elements of the output.
    kept: usize,
    /// Elements that each of them is made from.
    count: usize,
}

impl Plan {
    fn new(shape: &[usize], flags: &[bool]) -> Self {
        let (mut dims, mut reduced) = (Vec::<usize>::new(), Vec::<bool>::new());
        for (&d, &r) in shape.iter().zip(flags).filter(|(d, _)| **d != 1) {
            match (dims.last_mut(), reduced.last()) {
                (Some(last), Some(&kind)) if kind == r => *last *= d,
                _ => {
                    dims.push(d);
                    reduced.push(r);
                }
            }
        }
        let of = |kind| dims.iter().zip(&reduced).filter(|(_, r)| **r == kind).map(|(d, _)| d).product();
        let (kept, count) = (of(false), of(true));
        Plan { dims, reduced, kept, count }
    }
}

/// `axes` of a tensor of `rank` dimensions as flags; no axes at all mean every dimension, unless `noop`.
fn flags(op: &'static str, axes: Option<Vec<i64>>, noop: bool, rank: usize) -> Result<Vec<bool>, KernelError> {
    let axes = axes.unwrap_or_default();
    if axes.is_empty() {
        return Ok(vec![!noop; rank]);
    }
    let mut flags = vec![false; rank];
    for at in axes {
        flags[axis(op, at, rank)?] = true;
    }
    Ok(flags)
}

/// Inputs: `x`, `axes?`. f32 for all kinds; i64, i32, u8 and i8 for all but the norm (a mean truncates, as ONNX Runtime's).
///
/// Sums of f32 are added as trees, so that their error grows with the logarithm of the count. The maximum or minimum of
/// something with a NaN is NaN; of nothing, minus or plus infinity (integers: the least or greatest value).
pub(crate) fn run(
    cpu: &Cpu,
    kind: Reduce,
    axes: Option<&[i64]>,
    noop_with_empty_axes: bool,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let op = Op::Reduce { kind, axes: None, keep_dims: false, noop_with_empty_axes }.name();
    let x = input(op, inputs, 0)?;
    let axes = match (axes, optional(inputs, 1)?) {
        (Some(axes), _) => Some(axes.to_vec()),
        (None, Some(axes)) => Some(integers(op, axes)?),
        (None, None) => None,
    };
    // ONNX: the no-op returns x itself, even where the kind would change single elements (a square).
    if noop_with_empty_axes && axes.as_ref().is_none_or(|a| a.is_empty()) {
        output(op, outputs, 0, x.dtype, x.shape)?.bytes.copy_from_slice(x.bytes);
        return Ok(());
    }
    let plan = Plan::new(x.shape, &flags(op, axes, noop_with_empty_axes, x.shape.len())?);
    let y = output(op, outputs, 0, x.dtype, &[plan.kept])?;
    match x.dtype {
        DType::F32 => {
            floats(cpu, kind, &plan, x.as_slice()?, y.as_mut_slice()?);
            Ok(())
        }
        DType::I64 => whole_numbers::<i64>(cpu, op, kind, &plan, x, y),
        DType::I32 => whole_numbers::<i32>(cpu, op, kind, &plan, x, y),
        DType::U8 => whole_numbers::<u8>(cpu, op, kind, &plan, x, y),
        DType::I8 => whole_numbers::<i8>(cpu, op, kind, &plan, x, y),
        other => Err(KernelError::unsupported_type("cpu", op, other)),
    }
}

fn floats(cpu: &Cpu, kind: Reduce, plan: &Plan, x: &[f32], y: &mut [f32]) {
    if y.is_empty() {
        return;
    }
    match (&plan.dims[..], &plan.reduced[..]) {
        (_, [.., true]) if plan.dims.len() <= 2 => rows(cpu, kind, plan.count, x, y),
        // The kept dimension runs innermost: whole rows at a time, which vectorises over it.
        ([.., _, inner], [.., true, false]) if plan.dims.len() <= 3 => {
            let inner = *inner;
            parallel::for_each_chunk(cpu.threads(), y, inner, |i, y| {
                columns(kind, &x[i * plan.count * inner..][..plan.count * inner], y);
            });
        }
        ([] | [_], _) => rows(cpu, kind, plan.count, x, y),
        _ => {
            let mut room = cpu.scratch.take(size_of_val(x));
            let moved: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
            reduced_last(cpu, plan, x, moved);
            rows(cpu, kind, plan.count, moved, y);
        }
    }
}

/// Copies `x` so that the reduced dimensions are innermost.
fn reduced_last<T: Copy + Send + Sync>(cpu: &Cpu, plan: &Plan, x: &[T], out: &mut [T]) {
    let own = strides(&plan.dims);
    let mut moved = Strided::new(0);
    for kind in [false, true] {
        for (i, &d) in plan.dims.iter().enumerate().filter(|(i, _)| plan.reduced[*i] == kind) {
            moved.push(d, own[i] as isize);
        }
    }
    moved.copy(cpu.threads(), x, out);
}

/// Each output from `count` neighbours.
fn rows(cpu: &Cpu, kind: Reduce, count: usize, x: &[f32], y: &mut [f32]) {
    // Rows of one task together hold enough elements to be worth one.
    let size = (16 * 1024usize).div_ceil(count.max(1));
    parallel::for_each_chunk(cpu.threads(), y, size, |i, y| {
        for (r, y) in y.iter_mut().enumerate() {
            *y = row(kind, &x[(i * size + r) * count..][..count]);
        }
    });
}

fn row(kind: Reduce, x: &[f32]) -> f32 {
    match kind {
        Reduce::Sum => math::sum(x),
        Reduce::Mean => math::sum(x) / x.len() as f32,
        Reduce::SumSquare => math::sum_squares(x, 0.0),
        Reduce::L2 => math::sum_squares(x, 0.0).sqrt(),
        Reduce::Prod => x.iter().product(),
        Reduce::Max => x.iter().copied().fold(f32::NEG_INFINITY, larger),
        Reduce::Min => x.iter().copied().fold(f32::INFINITY, smaller),
    }
}

/// The larger; NaN of either stays.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if b < a || b.is_nan() { b } else { a }
}

/// `y[j]` from column j of the rows of `x`.
fn columns(kind: Reduce, x: &[f32], y: &mut [f32]) {
    let count = x.len() / y.len().max(1);
    match kind {
        Reduce::Sum => sum_columns(x, y, |v| v),
        Reduce::Mean => {
            sum_columns(x, y, |v| v);
            y.iter_mut().for_each(|y| *y /= count as f32);
        }
        Reduce::SumSquare => sum_columns(x, y, |v| v * v),
        Reduce::L2 => {
            sum_columns(x, y, |v| v * v);
            y.iter_mut().for_each(|y| *y = y.sqrt());
        }
        Reduce::Prod => fold_columns(x, y, 1.0, |a, b| a * b),
        Reduce::Max => fold_columns(x, y, f32::NEG_INFINITY, larger),
        Reduce::Min => fold_columns(x, y, f32::INFINITY, smaller),
    }
}

fn fold_columns(x: &[f32], y: &mut [f32], start: f32, f: impl Fn(f32, f32) -> f32) {
    y.fill(start);
    for row in x.chunks_exact(y.len()) {
        y.iter_mut().zip(row).for_each(|(y, &x)| *y = f(*y, x));
    }
}

/// Strips of columns in registers; each adds blocks of rows and then the blocks' sums, so that errors stay small.
fn sum_columns(x: &[f32], y: &mut [f32], term: impl Fn(f32) -> f32) {
    const STRIP: usize = 16;
    const BLOCK: usize = 64;
    let width = y.len();
    for (s, y) in y.chunks_mut(STRIP).enumerate() {
        let mut total = [0.0f32; STRIP];
        for block in x.chunks(BLOCK * width) {
            let mut sum = [0.0f32; STRIP];
            for row in block.chunks_exact(width) {
                let row = &row[s * STRIP..][..y.len()];
                if let Ok(row) = <&[f32; STRIP]>::try_from(row) {
                    sum.iter_mut().zip(row).for_each(|(s, &x)| *s += term(x));
                } else {
                    sum.iter_mut().zip(row).for_each(|(s, &x)| *s += term(x));
                }
            }
            total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
        }
        y.copy_from_slice(&total[..y.len()]);
    }
}

fn whole_numbers<T: Integer>(
    cpu: &Cpu,
    op: &'static str,
    kind: Reduce,
    plan: &Plan,
    x: TensorView<'_>,
    y: &mut TensorViewMut<'_>,
) -> Result<(), KernelError> {
    let (x, y) = (x.as_slice::<T>()?, y.as_mut_slice::<T>()?);
    let mut room = cpu.scratch.take(size_of_val(x));
    let moved: &mut [T] = bytemuck::cast_slice_mut(room.as_mut_slice());
    reduced_last(cpu, plan, x, moved);
    let mut each = |f: &dyn Fn(&[T]) -> T| {
        y.iter_mut().enumerate().for_each(|(i, y)| *y = f(&moved[i * plan.count..][..plan.count]));
    };
    let wide = |x: &[T]| x.iter().fold(0i64, |a, v| a.wrapping_add(v.to_i64()));
    match kind {
        Reduce::Sum => each(&|x| T::from_i64(wide(x))),
        // Of nothing: 0, because integers have no NaN.
        Reduce::Mean => each(&|x| T::from_i64(wide(x) / x.len().max(1) as i64)),
        Reduce::Max => each(&|x| x.iter().fold(T::LEAST, |a, &b| if b > a { b } else { a })),
        Reduce::Min => each(&|x| x.iter().fold(T::GREATEST, |a, &b| if b < a { b } else { a })),
        Reduce::Prod => each(&|x| x.iter().fold(T::ONE, |a, &b| a.multiply(b))),
        Reduce::SumSquare => each(&|x| x.iter().fold(T::ZERO, |a, &b| a.add(b.multiply(b)))),
        Reduce::L2 => return Err(KernelError::unsupported_type("cpu", op, T::DTYPE)),
    }
    Ok(())
}

/// Where the largest (least, if `min`) element along `at` is, as i64; of equals the first, or the `last`.
///
/// NaN is passed over unless there is nothing else. f32, i64, i32, u8, i8.
pub(crate) fn arg_max(
    at: i64,
    last: bool,
    min: bool,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let op = if min { "ArgMin" } else { "ArgMax" };
    let x = input(op, inputs, 0)?;
    let at = axis(op, at, x.shape.len())?;
    let (outer, count, inner) = (product(&x.shape[..at]), x.shape[at], product(&x.shape[at + 1..]));
    let y = output(op, outputs, 0, DType::I64, &[outer, inner])?.as_mut_slice::<i64>()?;
    if count == 0 && !y.is_empty() {
        return Err(KernelError::OutOfRange(format!("{op}: axis {at} is empty")));
    }
    let order = (count, inner, last, min);
    match x.dtype {
        DType::F32 => search(order, x.as_slice::<f32>()?, y),
        DType::I64 => search(order, x.as_slice::<i64>()?, y),
        DType::I32 => search(order, x.as_slice::<i32>()?, y),
        DType::U8 => search(order, x.as_slice::<u8>()?, y),
        DType::I8 => search(order, x.as_slice::<i8>()?, y),
        other => return Err(KernelError::unsupported_type("cpu", op, other)),
    }
    Ok(())
}

fn search<T: Element>((count, inner, last, min): (usize, usize, bool, bool), x: &[T], y: &mut [i64]) {
    // A value that differs from itself is NaN.
    #[allow(clippy::eq_op)]
    let wins = |new: T, best: T| {
        (if min { new < best } else { new > best }) || (last && new == best) || (best != best && new == new)
    };
    for (i, y) in y.iter_mut().enumerate() {
        let start = i / inner * count * inner + i % inner;
        let (mut best, mut at) = (x[start], 0);
        for j in 1..count {
            let new = x[start + j * inner];
            if wins(new, best) {
                (best, at) = (new, j as i64);
            }
        }
        *y = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, assert_close, run as run_kernel, values};
    use crate::tensor::Tensor;

    fn reduce(kind: Reduce, x: &Tensor, axes: Option<&[i64]>, shape: &[usize]) -> Result<Tensor, KernelError> {
        let cpu = Cpu::new(2);
        Ok(run_kernel(&[Some(x)], &[(x.dtype(), shape)], |i, o| run(&cpu, kind, axes, false, i, o))?.remove(0))
    }

    const KINDS: [Reduce; 7] =
        [Reduce::Mean, Reduce::Sum, Reduce::Max, Reduce::Min, Reduce::Prod, Reduce::L2, Reduce::SumSquare];

    fn naive(kind: Reduce, x: &[f32]) -> f32 {
        let wide = |f: &dyn Fn(f64) -> f64| x.iter().map(|&v| f(v as f64)).sum::<f64>();
        (match kind {
            Reduce::Mean => wide(&|v| v) / x.len() as f64,
            Reduce::Sum => wide(&|v| v),
            Reduce::Max => return x.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            Reduce::Min => return x.iter().copied().fold(f32::INFINITY, f32::min),
            Reduce::Prod => x.iter().map(|&v| v as f64).product(),
            Reduce::L2 => wide(&|v| v * v).sqrt(),
            Reduce::SumSquare => wide(&|v| v * v),
        }) as f32
    }

    #[test]
    fn any_axes_equal_a_naive_loop() {
        let mut rng = Rng(6);
        for shape in [[3, 4, 5, 6], [1, 70, 1, 33], [2, 1, 130, 3], [2, 3, 0, 2], [0, 2, 3, 1]] {
            let x = rng.tensor(&shape);
            let v = values::<f32>(&x);
            let own = strides(&shape);
            for mask in 1..16u32 {
                let axes: Vec<i64> =
                    (0..4).filter(|d| mask >> d & 1 == 1).map(|d| if d % 2 == 0 { d } else { d - 4 }).collect();
                let kept: Vec<usize> = (0..4).map(|d| if mask >> d & 1 == 1 { 1 } else { shape[d] }).collect();
                let outer = strides(&kept);
                let mut groups = vec![Vec::new(); product(&kept)];
                for (i, &v) in v.iter().enumerate() {
                    let at: usize =
                        (0..4).filter(|d| mask >> d & 1 == 0).map(|d| i / own[d] % shape[d] * outer[d]).sum();
                    groups[at].push(v);
                }
                for kind in KINDS {
                    let got = values::<f32>(&reduce(kind, &x, Some(&axes), &kept).unwrap());
                    let want: Vec<f32> = groups.iter().map(|g| naive(kind, g)).collect();
                    assert_close(&got, &want, 2e-6);
                }
            }
            let all = values::<f32>(&reduce(Reduce::Sum, &x, None, &[]).unwrap());
            assert_close(&all, &[naive(Reduce::Sum, &v)], 2e-6);
        }
    }

    #[test]
    fn long_sums_stay_accurate() {
        for shape in [[1 << 20, 1], [1, 1 << 20]] {
            let x = Tensor::from_slice(&shape, &vec![0.1f32; 1 << 20]).unwrap();
            let y = values::<f32>(&reduce(Reduce::Mean, &x, Some(&[0, 1]), &[]).unwrap());
            assert!((y[0] - 0.1).abs() < 1e-7, "{}", y[0]);
        }
        let x = Tensor::from_slice(&[1 << 14, 3], &vec![0.1f32; 3 << 14]).unwrap();
        assert_close(&values::<f32>(&reduce(Reduce::Mean, &x, Some(&[0]), &[3]).unwrap()), &[0.1; 3], 1e-6);
    }

    #[test]
    fn nan_and_infinity() {
        let x = Tensor::from_slice(&[2, 3], &[1.0f32, f32::NAN, 2.0, f32::NEG_INFINITY, 5.0, 3.0]).unwrap();
        for (axes, shape, at) in [(&[1i64], &[2usize], 0), (&[0], &[3], 1)] {
            for kind in [Reduce::Max, Reduce::Min] {
                let y = values::<f32>(&reduce(kind, &x, Some(axes), shape).unwrap());
                assert!(y.iter().enumerate().all(|(i, v)| v.is_nan() == (i == at)), "{y:?}");
            }
        }
    }

    #[test]
    fn whole_numbers_axes_input_and_noop() {
        let x = Tensor::from_slice(&[2, 3], &[1i64, -2, 3, 4, 5, -7]).unwrap();
        let of = |kind| values::<i64>(&reduce(kind, &x, Some(&[1]), &[2]).unwrap());
        assert_eq!(of(Reduce::Sum), [2, 2]);
        assert_eq!(of(Reduce::Max), [3, 5]);
        assert_eq!(of(Reduce::Min), [-2, -7]);
        assert_eq!(of(Reduce::Prod), [-6, -140]);
        assert_eq!(of(Reduce::Mean), [0, 0]);
        assert!(reduce(Reduce::L2, &x, Some(&[1]), &[2]).is_err());
        assert!(reduce(Reduce::Sum, &x, Some(&[2]), &[2]).is_err());
        let cpu = Cpu::new(1);
        let axes = Tensor::vector(&[0i64]);
        let y = run_kernel(&[Some(&x), Some(&axes)], &[(DType::I64, &[1, 3])], |i, o| {
            run(&cpu, Reduce::Sum, None, true, i, o)
        });
        assert_eq!(values::<i64>(&y.unwrap()[0]), [5, 3, -4]);
        let y =
            run_kernel(&[Some(&x)], &[(DType::I64, &[2, 3])], |i, o| run(&cpu, Reduce::SumSquare, None, true, i, o));
        assert_eq!(values::<i64>(&y.unwrap()[0]), [1, -2, 3, 4, 5, -7]);
    }

    #[test]
    fn positions() {
        let x = Tensor::from_slice(&[2, 3], &[1f32, 3.0, 3.0, f32::NAN, -1.0, -1.0]).unwrap();
        let of = |at: i64, last, min, n: usize| {
            run_kernel(&[Some(&x)], &[(DType::I64, &[n])], |i, o| arg_max(at, last, min, i, o))
                .map(|y| values::<i64>(&y[0]))
        };
        assert_eq!(of(1, false, false, 2).unwrap(), [1, 1]);
        assert_eq!(of(-1, true, false, 2).unwrap(), [2, 2]);
        assert_eq!(of(0, false, true, 3).unwrap(), [0, 1, 1]);
        assert!(of(2, false, false, 2).is_err());
        let empty = Tensor::from_slice::<f32>(&[2, 0], &[]).unwrap();
        assert!(run_kernel(&[Some(&empty)], &[(DType::I64, &[2])], |i, o| arg_max(1, false, false, i, o)).is_err());
    }
}
