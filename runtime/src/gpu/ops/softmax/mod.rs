//! Softmax along one dimension.

use bytemuck::{Pod, Zeroable};

use super::shared::{axis_of, lanes_for};
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid};
use crate::tensor::DType;

static SOFTMAX: Shader = Shader { name: "softmax", inputs: 1, outputs: 1, text: include_str!("softmax.wgsl") };

/// `Params` of `softmax.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    n: u32,
    inner: u32,
    masked: f32,
}

fn key(lanes: u32) -> PipelineKey {
    PipelineKey::new(&SOFTMAX).with(&shared::LINEAR).with(&shared::ROWS).set("LANES", lanes)
}

/// f32, any axis, rows of any length.
pub(crate) fn supports(axis: i64, facts: &Facts<'_>) -> bool {
    match (facts.input(0), facts.output_type(0)) {
        (Some((DType::F32, x)), Some(DType::F32)) => axis_of(axis, x.len()).is_some(),
        _ => false,
    }
}

pub(crate) fn record(axis: i64, zero_masked_rows: bool, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y) = (ctx.input(0)?, ctx.output(0)?);
    let axis = axis_of(axis, x.shape.len()).filter(|_| x.shape == y.shape);
    let axis = axis.ok_or_else(|| KernelError::Invalid(format!("{}: axis of {:?}", ctx.name, x.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    let n = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let rows = x.len() / n;
    let lanes = lanes_for(n, rows);
    let masked = if zero_masked_rows { 0.0 } else { f32::NAN };
    let params = Params { rows: rows as u32, n: n as u32, inner: inner as u32, masked };
    ctx.dispatch(Dispatch {
        key: key(lanes),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x)],
        outputs: &[Some(y)],
        groups: grid((rows as u64).div_ceil((256 / lanes) as u64), ctx.caps()),
    })
}

/// Pipelines of all lane counts.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    super::shared::LANES.map(key).to_vec()
}

#[cfg(test)]
mod tests {
    use crate::gpu::testing::{Lcg, assert_close, gpu, run};
    use crate::graph::Op;
    use crate::tensor::{DType, Tensor};

    fn naive(x: &[f32], shape: &[usize], axis: usize) -> Vec<f32> {
        let n = shape[axis];
        let inner: usize = shape[axis + 1..].iter().product();
        let mut y = vec![0f32; x.len()];
        for r in 0..x.len() / n.max(1) {
            let at = |k: usize| r / inner * n * inner + k * inner + r % inner;
            let top = (0..n).map(|k| x[at(k)]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = (0..n).map(|k| ((x[at(k)] - top) as f64).exp()).sum();
            (0..n).for_each(|k| y[at(k)] = (((x[at(k)] - top) as f64).exp() / sum) as f32);
        }
        y
    }

    #[test]
    fn rows_of_all_lengths_and_axes() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(7);
        let cases: [(&[usize], i64); 9] = [
            (&[2, 12, 50, 50], -1),
            (&[3, 7], -1),
            (&[1, 100_000], 1),
            (&[5, 1], -1),
            (&[4, 300, 3], 1),
            (&[17, 5], 0),
            (&[0, 5], -1),
            (&[70_000, 3], -1),
            (&[3, 1000], -1),
        ];
        for (shape, axis) in cases {
            let n = shape.iter().product();
            let x: Vec<f32> = rng.floats(n).iter().map(|v| v * 10.0).collect();
            let want = naive(&x, shape, axis.rem_euclid(shape.len() as i64) as usize);
            let op = Op::Softmax { axis, zero_masked_rows: false };
            let t = Tensor::from_slice(shape, &x).unwrap();
            let got = run(&gpu, &op, &[Some(t)], &[(DType::F32, shape)]);
            assert_close(&got[0], &want, 3e-5, 1e-7, shape);
        }
    }

    #[test]
    fn masked_rows() {
        let Some(gpu) = gpu() else { return };
        let inf = f32::NEG_INFINITY;
        let x = Tensor::from_slice(&[2, 3], &[inf, inf, inf, inf, 1.0, 1.0]).unwrap();
        for zero in [true, false] {
            let op = Op::Softmax { axis: -1, zero_masked_rows: zero };
            let got = run(&gpu, &op, &[Some(x.clone())], &[(DType::F32, &[2, 3])]);
            let masked = if zero { 0.0 } else { f32::NAN };
            assert_close(&got[0], &[masked, masked, masked, 0.0, 0.5, 0.5], 1e-6, 0.0, zero);
        }
    }
}
