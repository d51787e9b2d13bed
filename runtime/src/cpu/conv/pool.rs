//! The largest or the mean of a window.

use super::geometry::Geometry;
use crate::cpu::Cpu;
use crate::cpu::operands::Operands;
use crate::cpu::parallel;
use crate::error::KernelError;
use crate::graph::Pool;
use crate::tensor::{TensorView, TensorViewMut, element_count};

/// Runs [`crate::graph::Op::Pool`].
pub(crate) fn run(
    cpu: &Cpu,
    op: &Pool,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let name = if op.max { "MaxPool" } else { "AveragePool" };
    let operands = Operands::new(name, inputs);
    let x = operands.required(0, "x")?;
    let g = Geometry::of(name, x.shape, &op.kernel, &op.window, op.ceil)?;
    let (n, image) = (g.output_len(), g.input_len());
    let len = element_count(&[g.batch, g.channels, n])?;
    let x = x.as_slice::<f32>()?;
    let out = operands.output::<f32>(outputs, 0, len)?;
    parallel::for_each_chunk(cpu.threads(), out, n, |plane, out| {
        let x = &x[plane * image..][..image];
        let [_, height, width] = g.output;
        for (line, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let (d, h) = (line / height, line % height);
            out.fill(if op.max { f32::NEG_INFINITY } else { 0.0 });
            pool_line(&g, op.max, x, d, h, out);
            if !op.max {
                let rows = count(&g, 0, d, op.count_include_pad) * count(&g, 1, h, op.count_include_pad);
                for (w, out) in out.iter_mut().enumerate() {
                    *out /= (rows * count(&g, 2, w, op.count_include_pad)) as f32;
                }
            }
        }
    });
    Ok(())
}

/// Folds the windows of the output line (`d`, `h`) of the channel `x` into `out`.
fn pool_line(g: &Geometry, max: bool, x: &[f32], d: usize, h: usize, out: &mut [f32]) {
    for kd in 0..g.kernel[0] {
        let Some(id) = g.source(0, d, kd) else { continue };
        for kh in 0..g.kernel[1] {
            let Some(ih) = g.source(1, h, kh) else { continue };
            let line = &x[(id * g.input[1] + ih) * g.input[2]..][..g.input[2]];
            for kw in 0..g.kernel[2] {
                let valid = g.valid(2, kw);
                if valid.is_empty() {
                    continue;
                }
                let first = valid.start * g.strides[2] + kw * g.dilations[2] - g.before[2];
                let pairs = out[valid].iter_mut().zip(line[first..].iter().step_by(g.strides[2]));
                if max {
                    // A NaN stays: it is greater than nothing, and nothing replaces it.
                    pairs.for_each(|(out, &x)| *out = if x > *out || x.is_nan() { x } else { *out });
                } else {
                    pairs.for_each(|(out, &x)| *out += x);
                }
            }
        }
    }
}

/// Elements along dimension `d` that the mean of output `o` counts: those inside the input, or inside its padding too.
/// With rounded-up output sizes a window may reach beyond the padding; what lies there never counts.
fn count(g: &Geometry, d: usize, o: usize, with_padding: bool) -> usize {
    let inside = |tap: &usize| {
        let position = o * g.strides[d] + tap * g.dilations[d];
        if with_padding {
            position < g.before[d] + g.input[d] + g.after[d]
        } else {
            position >= g.before[d] && position < g.before[d] + g.input[d]
        }
    };
    (0..g.kernel[d]).filter(inside).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Padding, Window};
    use crate::tensor::{DType, Tensor};

    fn pool(op: &Pool, x: &Tensor, len: usize) -> Result<Vec<f32>, KernelError> {
        let mut out = vec![0f32; len];
        let view = TensorViewMut { dtype: DType::F32, shape: &[len], bytes: bytemuck::cast_slice_mut(&mut out) };
        run(&Cpu::new(2), op, &[Some(x.view())], &mut [view]).map(|()| out)
    }

    fn op(max: bool, kernel: &[usize], strides: &[usize], pads: &[usize], ceil: bool, include: bool) -> Pool {
        let (strides, dilations) = (strides.to_vec(), vec![1; kernel.len()]);
        let window = Window { strides, dilations, pads: Padding::Explicit(pads.to_vec()) };
        Pool { max, kernel: kernel.to_vec(), window, ceil, count_include_pad: include }
    }

    #[test]
    fn pools_lines_with_padding() {
        let x = Tensor::from_slice(&[1, 1, 5], &[1f32, -2., 3., 4., 6.]).unwrap();
        let max = op(true, &[2], &[2], &[0, 0], false, false);
        assert_eq!(pool(&max, &x, 2).unwrap(), [1., 4.]);
        let max = op(true, &[2], &[2], &[0, 0], true, false);
        assert_eq!(pool(&max, &x, 3).unwrap(), [1., 4., 6.]);
        let mean = op(false, &[3], &[2], &[1, 1], false, false);
        assert_eq!(pool(&mean, &x, 3).unwrap(), [-0.5, 5. / 3., 5.]);
        let mean = op(false, &[3], &[2], &[1, 1], false, true);
        assert_eq!(pool(&mean, &x, 3).unwrap(), [-1. / 3., 5. / 3., 10. / 3.]);
        // Rounded up, the last window holds one element, and no padding to count.
        let mean = op(false, &[2], &[2], &[0, 0], true, true);
        assert_eq!(pool(&mean, &x, 3).unwrap(), [-0.5, 3.5, 6.]);
        assert!(pool(&mean, &x, 4).is_err());
        assert!(pool(&op(true, &[9], &[1], &[0, 0], false, false), &x, 1).is_err());
    }

    #[test]
    fn pools_planes_of_each_channel() {
        let data: Vec<f32> = (0..2 * 3 * 16).map(|i| ((i * 29) % 31) as f32).collect();
        let x = Tensor::from_slice(&[2, 3, 4, 4], &data).unwrap();
        let got = pool(&op(true, &[2, 2], &[2, 2], &[0; 4], false, false), &x, 24).unwrap();
        for (i, got) in got.iter().enumerate() {
            let (plane, h, w) = (i / 4, i / 2 % 2, i % 2);
            let at = |a: usize, b: usize| data[plane * 16 + (2 * h + a) * 4 + 2 * w + b];
            assert_eq!(*got, at(0, 0).max(at(0, 1)).max(at(1, 0)).max(at(1, 1)));
        }
    }
}
