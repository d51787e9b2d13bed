//! The largest or the mean of a window.

use super::geometry::Geometry;
use crate::cpu::Cpu;
use crate::cpu::operands::Operands;
use crate::cpu::{math, parallel};
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
    let shared = parallel::SharedMut::new(out);
    let init = || cpu.scratch.take(g.input[2] * size_of::<f32>());
    parallel::for_each_with(cpu.threads(), g.batch * g.channels, init, |room, plane| {
        let x = &x[plane * image..][..image];
        // SAFETY: each plane is one task's.
        let out = unsafe { shared.slice(plane * n, n) };
        let folded: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        let [_, height, width] = g.output;
        for (line, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let (d, h) = (line / height, line % height);
            math::dispatch(Line { g: &g, max: op.max, x, at: [d, h], folded: &mut *folded, out: &mut *out });
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

/// Folds the windows of the output line `at` of the channel `x` into `out`.
struct Line<'a> {
    g: &'a Geometry,
    max: bool,
    x: &'a [f32],
    at: [usize; 2],
    /// A line of the input.
    folded: &'a mut [f32],
    out: &'a mut [f32],
}

impl math::Kernel for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        if self.max {
            // A NaN stays: it is greater than nothing, and nothing replaces it.
            self.fold(f32::NEG_INFINITY, |so_far, x| if x > so_far || x.is_nan() { x } else { so_far });
        } else {
            self.fold(0.0, |so_far, x| so_far + x);
        }
    }
}

impl Line<'_> {
    /// First the lines that the windows cover, whole; then along the line, where strides keep vectors out.
    #[inline(always)]
    fn fold(self, nothing: f32, fold: impl Fn(f32, f32) -> f32) {
        let Line { g, x, at: [d, h], folded, out, .. } = self;
        folded.fill(nothing);
        for id in (0..g.kernel[0]).filter_map(|tap| g.source(0, d, tap)) {
            for ih in (0..g.kernel[1]).filter_map(|tap| g.source(1, h, tap)) {
                let line = &x[(id * g.input[1] + ih) * g.input[2]..][..g.input[2]];
                folded.iter_mut().zip(line).for_each(|(so_far, &x)| *so_far = fold(*so_far, x));
            }
        }
        out.fill(nothing);
        for tap in 0..g.kernel[2] {
            let valid = g.valid(2, tap);
            if valid.is_empty() {
                continue;
            }
            let first = valid.start * g.strides[2] + tap * g.dilations[2] - g.before[2];
            let pairs = out[valid].iter_mut().zip(folded[first..].iter().step_by(g.strides[2]));
            pairs.for_each(|(out, &x)| *out = fold(*out, x));
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
