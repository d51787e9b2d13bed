//! Softmax along any dimension.

use crate::cpu::args::{axis, input, output, product};
use crate::cpu::{Cpu, math, parallel};
use crate::error::KernelError;
use crate::graph::Unary;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// `y = exp(x - max) / sum(exp(x - max))` along `at`, f32.
///
/// A row with NaN or plus infinity is NaN, and so is one that is minus infinity throughout, unless `zero_masked_rows`.
pub(crate) fn run(
    cpu: &Cpu,
    at: i64,
    zero_masked_rows: bool,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Softmax";
    let x = input(OP, inputs, 0)?;
    if x.dtype != DType::F32 {
        return Err(KernelError::unsupported_type("cpu", OP, x.dtype));
    }
    let at = axis(OP, at, x.shape.len())?;
    let (count, inner) = (x.shape[at], product(&x.shape[at + 1..]));
    let y = output(OP, outputs, 0, DType::F32, x.shape)?.as_mut_slice::<f32>()?;
    let x = x.as_slice::<f32>()?;
    if x.is_empty() {
        return Ok(());
    }
    if inner == 1 {
        // Rows of one task together hold enough elements to be worth one.
        let size = (16 * 1024usize).div_ceil(count) * count;
        parallel::for_each_chunk(cpu.threads(), y, size, |i, y| {
            y.copy_from_slice(&x[i * size..][..y.len()]);
            y.chunks_exact_mut(count).for_each(|row| softmax_row(row, zero_masked_rows));
        });
    } else {
        let block = count * inner;
        parallel::for_each_chunk(cpu.threads(), y, block, |i, y| {
            y.copy_from_slice(&x[i * block..][..block]);
            let mut room = cpu.scratch.take(2 * inner * size_of::<f32>());
            columns(y, bytemuck::cast_slice_mut(room.as_mut_slice()), zero_masked_rows);
        });
    }
    Ok(())
}

/// Softmax of one row in place; also the rows of attention.
pub(crate) fn softmax_row(row: &mut [f32], zero_masked_rows: bool) {
    let max = math::row_max(row);
    if zero_masked_rows && max == f32::NEG_INFINITY && !row.iter().any(|v| v.is_nan()) {
        row.fill(0.0);
        return;
    }
    let factor = 1.0 / math::exp_minus_max_sum(row, max);
    row.iter_mut().for_each(|v| *v *= factor);
}

/// Softmax down each column, whole rows at a time. `room` holds two rows: the maxima and the sums.
fn columns(y: &mut [f32], room: &mut [f32], zero_masked_rows: bool) {
    let inner = room.len() / 2;
    let (max, sum) = room.split_at_mut(inner);
    max.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    for row in y.chunks_exact(inner) {
        // NaN counts here, so that a masked column can be told from a broken one.
        max.iter_mut().zip(row).for_each(|(m, &v)| *m = if v > *m || v.is_nan() { v } else { *m });
    }
    for row in y.chunks_exact_mut(inner) {
        row.iter_mut().zip(&*max).for_each(|(v, m)| *v -= m);
        math::apply_unary(Unary::Exp, row);
        sum.iter_mut().zip(&*row).for_each(|(s, v)| *s += v);
    }
    for (sum, max) in sum.iter_mut().zip(&*max) {
        *sum = 1.0 / *sum;
        if zero_masked_rows && *max == f32::NEG_INFINITY {
            *sum = 0.0;
        }
    }
    for row in y.chunks_exact_mut(inner) {
        for ((v, s), m) in row.iter_mut().zip(&*sum).zip(&*max) {
            *v = if zero_masked_rows && *m == f32::NEG_INFINITY { 0.0 } else { *v * s };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::strides;
    use crate::cpu::args::testing::{Rng, assert_close, run as run_kernel, values};
    use crate::tensor::Tensor;

    fn softmax(x: &Tensor, at: i64, zero: bool) -> Result<Vec<f32>, KernelError> {
        let cpu = Cpu::new(2);
        let shape = x.shape().to_vec();
        Ok(values(&run_kernel(&[Some(x)], &[(DType::F32, &shape)], |i, o| run(&cpu, at, zero, i, o))?[0]))
    }

    #[test]
    fn every_axis_equals_a_naive_loop() {
        let mut rng = Rng(8);
        for shape in [[3, 4, 5], [1, 1, 1000], [7, 50, 33], [2, 0, 3], [1, 17, 1]] {
            let x = rng.tensor(&shape);
            let v = values::<f32>(&x);
            for at in 0..3 {
                let own = strides(&shape);
                let want: Vec<f32> = (0..v.len())
                    .map(|i| {
                        let start = i - i / own[at] % shape[at] * own[at];
                        let sum: f64 = (0..shape[at]).map(|k| (v[start + k * own[at]] as f64).exp()).sum();
                        ((v[i] as f64).exp() / sum) as f32
                    })
                    .collect();
                assert_close(&softmax(&x, at as i64, false).unwrap(), &want, 1e-6);
            }
        }
    }

    #[test]
    fn masked_rows_infinities_and_nan() {
        let m = f32::NEG_INFINITY;
        let rows = [[m, m, m], [m, 0.0, m], [f32::NAN, m, m], [1.0, f32::INFINITY, 0.0], [-1e38, 1e38, 3e38]];
        let x = Tensor::from_slice(&[5, 3], &rows.concat()).unwrap();
        let across: Vec<f32> = (0..15).map(|i| rows[i % 5][i / 5]).collect();
        let across = Tensor::from_slice(&[3, 5], &across).unwrap();
        for zero in [false, true] {
            let y = softmax(&x, -1, zero).unwrap();
            let z = softmax(&across, 0, zero).unwrap();
            let z: Vec<f32> = (0..15).map(|i| z[i % 3 * 5 + i / 3]).collect();
            for y in [y, z] {
                assert!(y[..3].iter().all(|v| if zero { *v == 0.0 } else { v.is_nan() }), "{y:?}");
                assert_eq!(y[3..6], [0.0, 1.0, 0.0]);
                assert!(y[6..9].iter().all(|v| v.is_nan()), "{y:?}");
                assert!(y[10].is_nan());
                assert_eq!(y[12..], [0.0, 0.0, 1.0]);
            }
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(softmax(&Tensor::scalar(1f32), 0, false).is_err());
        let ints = Tensor::vector(&[1i64]);
        assert!(run_kernel(&[Some(&ints)], &[(DType::F32, &[1])], |i, o| run(&Cpu::new(1), 0, false, i, o)).is_err());
    }
}
