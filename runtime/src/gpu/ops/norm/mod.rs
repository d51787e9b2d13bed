//! LayerNorm and RMSNorm.

use bytemuck::{Pod, Zeroable};

use super::shared::{axis_of, lanes_for};
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid};
use crate::graph::Norm;
use crate::tensor::DType;

static NORM: Shader = Shader { name: "norm", inputs: 3, outputs: 3, text: include_str!("norm.wgsl") };

/// `Params` of `norm.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    n: u32,
    epsilon: f32,
    pad: u32,
}

/// The constants of `norm.wgsl`.
#[derive(Clone, Copy)]
struct Variant {
    lanes: u32,
    rms: bool,
    gamma: bool,
    beta: bool,
    mean: bool,
    inv_std: bool,
}

fn key(v: Variant) -> PipelineKey {
    PipelineKey::new(&NORM)
        .with(&shared::LINEAR)
        .with(&shared::ROWS)
        .set("LANES", v.lanes)
        .set("RMS", v.rms as u8)
        .set("GAMMA", v.gamma as u8)
        .set("BETA", v.beta as u8)
        .set("MEAN", v.mean as u8)
        .set("INV_STD", v.inv_std as u8)
}

/// f32 with gamma and beta of f32.
pub(crate) fn supports(norm: &Norm, facts: &Facts<'_>) -> bool {
    let Some((DType::F32, x)) = facts.input(0) else { return false };
    let Some(axis) = axis_of(norm.axis, x.len()) else { return false };
    let n: usize = x[axis..].iter().product();
    let fits = |i| facts.input(i).is_none_or(|(t, s)| t == DType::F32 && s.iter().product::<usize>() == n);
    fits(1) && fits(2) && facts.outputs.iter().all(|&(t, _)| t == DType::F32) && facts.outputs.len() <= 3
}

pub(crate) fn record(norm: &Norm, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y) = (ctx.input(0)?, ctx.output(0)?);
    let misfit = || KernelError::Invalid(format!("{}: {:?} to {:?}", ctx.name, x.shape, y.shape));
    let axis = axis_of(norm.axis, x.shape.len()).filter(|_| x.shape == y.shape).ok_or_else(misfit)?;
    if y.is_empty() {
        return Ok(());
    }
    let n: usize = x.shape[axis..].iter().product();
    let rows = x.len() / n;
    let (gamma, beta) = (ctx.optional(1), ctx.optional(2));
    let (mean, inv_std) = (ctx.outputs.get(1).copied(), ctx.outputs.get(2).copied());
    if [gamma, beta].iter().flatten().any(|t| t.len() != n) || [mean, inv_std].iter().flatten().any(|t| t.len() != rows)
    {
        return Err(misfit());
    }
    let lanes = lanes_for(n, rows);
    let (has_gamma, has_beta) = (gamma.is_some(), beta.is_some());
    let (has_mean, has_inv_std) = (mean.is_some(), inv_std.is_some());
    let variant =
        Variant { lanes, rms: norm.rms, gamma: has_gamma, beta: has_beta, mean: has_mean, inv_std: has_inv_std };
    let params = Params { rows: rows as u32, n: n as u32, epsilon: norm.epsilon, pad: 0 };
    ctx.dispatch(Dispatch {
        key: key(variant),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x), gamma, beta],
        outputs: &[Some(y), mean, inv_std],
        groups: grid((rows as u64).div_ceil((256 / lanes) as u64), ctx.caps()),
    })
}

/// Pipelines of all lane counts, with and without each optional tensor.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    let mut keys = Vec::new();
    for lanes in super::shared::LANES {
        for bits in 0..32 {
            let bit = |i: u32| bits >> i & 1 == 1;
            let (rms, gamma, beta, mean, inv_std) = (bit(0), bit(1), bit(2), bit(3), bit(4));
            keys.push(key(Variant { lanes, rms, gamma, beta, mean, inv_std }));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{Lcg, assert_close, gpu, run};
    use crate::graph::Op;
    use crate::tensor::Tensor;

    #[test]
    fn rows_match_the_host() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(8);
        let cases: [(&[usize], i64); 6] =
            [(&[2, 50, 768], -1), (&[3, 7], 1), (&[5, 4, 6], -2), (&[1, 5000], -1), (&[0, 8], -1), (&[66_000, 2], -1)];
        for (shape, axis) in cases {
            let start = axis.rem_euclid(shape.len() as i64) as usize;
            let n: usize = shape[start..].iter().product();
            // Far from zero, where a naive variance cancels; in short rows any variance would.
            let far = if n >= 100 { 30.0 } else { 0.0 };
            let x: Vec<f32> = rng.floats(shape.iter().product()).iter().map(|v| v * 2.0 + far).collect();
            let (gamma, beta) = (rng.floats(n), rng.floats(n));
            for (rms, with) in [(false, true), (true, true), (false, false)] {
                let norm = Norm { axis, epsilon: 1e-5, rms };
                let (mut want, mut means, mut invs) = (Vec::new(), Vec::new(), Vec::new());
                for row in x.chunks(n) {
                    let mean = if rms { 0.0 } else { row.iter().map(|&v| v as f64).sum::<f64>() / n as f64 };
                    let var = row.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n as f64;
                    let inv = 1.0 / (var + 1e-5).sqrt();
                    means.push(mean as f32);
                    invs.push(inv as f32);
                    want.extend(row.iter().enumerate().map(|(k, &v)| {
                        let v = (v as f64 - mean) * inv;
                        (if with { v * gamma[k] as f64 + beta[k] as f64 } else { v }) as f32
                    }));
                }
                let scale = |v: &[f32]| with.then(|| Tensor::from_slice(&shape[start..], v).unwrap());
                let inputs = [Some(Tensor::from_slice(shape, &x).unwrap()), scale(&gamma), scale(&beta)];
                let mut stats = shape.to_vec();
                stats[start..].fill(1);
                let outputs = [(DType::F32, shape), (DType::F32, &stats), (DType::F32, &stats)];
                let outputs = if with { &outputs[..] } else { &outputs[..1] };
                let got = run(&gpu, &Op::Norm(norm), &inputs, outputs);
                assert_close(&got[0], &want, 2e-4, 2e-4, (shape, rms, with));
                if with {
                    assert_close(&got[1], &means, 1e-5, 1e-6, "mean");
                    assert_close(&got[2], &invs, 1e-3, 1e-6, "inverse deviation");
                }
            }
        }
    }
}
