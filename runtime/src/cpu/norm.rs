//! LayerNorm and RMSNorm.

use crate::cpu::args::{axis, input, invalid, optional, output, product};
use crate::cpu::parallel::SharedMut;
use crate::cpu::{Cpu, math, parallel};
use crate::error::KernelError;
use crate::graph::Norm;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// `y = (x - mean) / sqrt(variance + epsilon) * gamma + beta` over the dimensions from `axis` on (see [`Norm`]), f32.
///
/// The variance takes a second pass over the row, which is in cache by then: the one-pass form loses all digits where
/// the mean is large against the spread. With `rms` the mean output, if asked for, is zero.
pub(crate) fn run(
    cpu: &Cpu,
    norm: &Norm,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let op = if norm.rms { "RmsNorm" } else { "LayerNorm" };
    let x = input(op, inputs, 0)?;
    let at = axis(op, norm.axis, x.shape.len())?;
    let (rows, width) = (product(&x.shape[..at]), product(&x.shape[at..]));
    let vector = |i: usize| -> Result<Option<&[f32]>, KernelError> {
        let Some(v) = optional(inputs, i)? else { return Ok(None) };
        if v.len() != width {
            return Err(invalid(op, format_args!("scale or bias of shape {:?} for rows of {width}", v.shape)));
        }
        Ok(Some(v.as_slice()?))
    };
    let (gamma, beta) = (vector(1)?, vector(2)?);
    let x = x.as_slice::<f32>()?;
    let wanted = ((outputs.len() > 1) as usize, (outputs.len() > 2) as usize);
    for i in 1..outputs.len() {
        output(op, outputs, i, DType::F32, &[rows])?;
    }
    output(op, outputs, 0, DType::F32, &[rows, width])?;
    // Outputs that are not asked for are empty slices, which no row writes.
    let mut slices: [&mut [f32]; 3] = [&mut [], &mut [], &mut []];
    for (slice, view) in slices.iter_mut().zip(outputs.iter_mut()) {
        *slice = view.as_mut_slice()?;
    }
    let [y, means, inverses] = slices.map(SharedMut::new);
    // Rows of one task together hold enough elements to be worth one.
    let size = parallel::even_chunks(cpu.threads(), rows, (4 * 1024usize).div_ceil(width.max(1)));
    parallel::for_each(cpu.threads(), rows.div_ceil(size), |task| {
        for r in task * size..rows.min((task + 1) * size) {
            // SAFETY: each row belongs to one task, and each output has `rows` rows of these widths.
            let (y, mean_out, inverse_out) = unsafe {
                (y.slice(r * width, width), means.slice(r * wanted.0, wanted.0), inverses.slice(r * wanted.1, wanted.1))
            };
            let x = &x[r * width..][..width];
            let mean = if norm.rms { 0.0 } else { math::sum(x) / width as f32 };
            let variance = math::sum_squares(x, mean) / width as f32;
            let inverse = 1.0 / (variance + norm.epsilon).sqrt();
            write_row(x, mean, inverse, gamma, beta, y);
            mean_out.fill(mean);
            inverse_out.fill(inverse);
        }
    });
    Ok(())
}

fn write_row(x: &[f32], mean: f32, inverse: f32, gamma: Option<&[f32]>, beta: Option<&[f32]>, y: &mut [f32]) {
    math::dispatch(WriteRow { x, mean, inverse, gamma, beta, y });
}

struct WriteRow<'a> {
    x: &'a [f32],
    mean: f32,
    inverse: f32,
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl math::Kernel for WriteRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let WriteRow { x, mean, inverse, gamma, beta, y } = self;
        match (gamma, beta) {
            (Some(gamma), Some(beta)) => {
                for (((y, &x), &g), &b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                    *y = (x - mean) * inverse * g + b;
                }
            }
            (Some(gamma), None) => {
                for ((y, &x), &g) in y.iter_mut().zip(x).zip(gamma) {
                    *y = (x - mean) * inverse * g;
                }
            }
            (None, _) => {
                for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                    *y = (x - mean) * inverse + beta.map_or(0.0, |b| b[i]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, assert_close, run as run_kernel, values};
    use crate::tensor::Tensor;

    fn naive(x: &[f32], width: usize, rms: bool, gamma: &[f32], beta: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut y, mut means, mut inverses) = (Vec::new(), Vec::new(), Vec::new());
        for row in x.chunks(width) {
            let mean = if rms { 0.0 } else { row.iter().map(|&v| v as f64).sum::<f64>() / width as f64 };
            let variance = row.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / width as f64;
            let inverse = 1.0 / (variance + 1e-5).sqrt();
            let each = row.iter().zip(gamma).zip(beta);
            y.extend(each.map(|((&v, &g), &b)| ((v as f64 - mean) * inverse * g as f64 + b as f64) as f32));
            means.push(mean as f32);
            inverses.push(inverse as f32);
        }
        (y, means, inverses)
    }

    #[test]
    fn equals_a_naive_loop_with_and_without_its_options() {
        let mut rng = Rng(12);
        for (shape, at) in
            [([2usize, 3, 64], -1i64), ([3, 4, 5], 1), ([1, 700, 33], 2), ([4, 0, 8], -1), ([2, 2, 1], 2)]
        {
            let width: usize = shape[axis("", at, 3).unwrap()..].iter().product();
            let rows = product(&shape).checked_div(width).unwrap_or(4);
            let x = rng.tensor(&shape);
            let (gamma, beta) = (rng.tensor(&[width]), rng.tensor(&[width]));
            let (ones, zeros) = (vec![1.0; width], vec![0.0; width]);
            for rms in [false, true] {
                for (g, b) in [(false, false), (true, false), (false, true), (true, true)] {
                    let norm = Norm { axis: at, epsilon: 1e-5, rms };
                    let inputs = [Some(&x), g.then_some(&gamma), b.then_some(&beta)];
                    let rooms: [(DType, &[usize]); 3] =
                        [(DType::F32, &shape), (DType::F32, &[rows]), (DType::F32, &[rows])];
                    for wanted in 1..=3 {
                        let y = run_kernel(&inputs, &rooms[..wanted], |i, o| run(&Cpu::new(2), &norm, i, o)).unwrap();
                        let gamma = if g { values(&gamma) } else { ones.clone() };
                        let beta = if b { values(&beta) } else { zeros.clone() };
                        let (want, means, inverses) = naive(&values::<f32>(&x), width.max(1), rms, &gamma, &beta);
                        assert_close(&values::<f32>(&y[0]), &want, 3e-6);
                        if wanted == 3 && width > 0 {
                            assert_close(&values::<f32>(&y[1]), &means, 1e-6);
                            assert_close(&values::<f32>(&y[2]), &inverses, 3e-6);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_mean_does_not_drown_the_spread() {
        let x: Vec<f32> = (0..768).map(|i| 10_000.0 + (i % 5) as f32 * 0.01).collect();
        let x = Tensor::from_slice(&[1, 768], &x).unwrap();
        let norm = Norm { axis: -1, epsilon: 1e-5, rms: false };
        let y = run_kernel(&[Some(&x)], &[(DType::F32, &[1, 768])], |i, o| run(&Cpu::new(1), &norm, i, o)).unwrap();
        let (want, ..) = naive(&values::<f32>(&x), 768, false, &[1.0; 768], &[0.0; 768]);
        // The mean itself is only known to half a unit of 10000 in f32.
        assert_close(&values::<f32>(&y[0]), &want, 0.06);
    }

    #[test]
    fn bad_input_is_an_error() {
        let x = Tensor::from_slice(&[2, 3], &[0f32; 6]).unwrap();
        let short = Tensor::vector(&[1f32, 2.0]);
        let of = |axis, inputs: &[Option<&Tensor>]| {
            let norm = Norm { axis, epsilon: 0.0, rms: true };
            run_kernel(inputs, &[(DType::F32, &[2, 3])], |i, o| run(&Cpu::new(1), &norm, i, o))
        };
        assert!(of(-1, &[Some(&x), Some(&short)]).is_err());
        assert!(of(2, &[Some(&x)]).is_err());
        assert!(of(-1, &[]).is_err());
        assert!(of(-1, &[Some(&Tensor::from_slice(&[2, 3], &[0i64; 6]).unwrap())]).is_err());
    }
}
