//! Rotary position embedding.

use bytemuck::{Pod, Zeroable};

use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::graph::RotaryEmbedding;
use crate::tensor::DType;

static ROTARY: Shader = Shader { name: "rotary", inputs: 4, outputs: 1, text: include_str!("rotary.wgsl") };

/// `Params` of `rotary.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Params {
    len: u32,
    seq: u32,
    heads: u32,
    dim: u32,
    rotary: u32,
    batch_stride: u32,
    head_stride: u32,
    seq_stride: u32,
    positions: u32,
    interleaved: u32,
    pad: [u32; 2],
}

/// The parameters for x of shape `x`, `positions` position ids and tables of `table` columns; `None` if they do not fit.
fn plan(op: &RotaryEmbedding, x: &[usize], positions: usize, table: usize) -> Option<Params> {
    let (heads, seq, dim, merged) = match *x {
        [_, heads, seq, dim] => (heads, seq, dim, false),
        [_, seq, hidden] => {
            // Without a number of heads, the tables tell the head's size, if all of it is rotated.
            let dim = hidden.checked_div(op.heads).unwrap_or(table * 2);
            if dim == 0 || hidden % dim != 0 {
                return None;
            }
            (hidden / dim, seq, dim, true)
        }
        _ => return None,
    };
    let rotary = if op.rotary_dim == 0 { dim } else { op.rotary_dim };
    let batch = x[0];
    if rotary > dim || rotary % 2 != 0 || table != rotary / 2 || (positions != 1 && positions != batch * seq) {
        return None;
    }
    let (head_stride, seq_stride) = if merged { (dim, heads * dim) } else { (seq * dim, dim) };
    Some(Params {
        len: (batch * heads * seq * dim) as u32,
        seq: seq as u32,
        heads: heads as u32,
        dim: dim as u32,
        rotary: rotary as u32,
        batch_stride: (heads * seq * dim) as u32,
        head_stride: head_stride as u32,
        seq_stride: seq_stride as u32,
        positions: positions as u32,
        interleaved: op.interleaved as u32,
        pad: [0; 2],
    })
}

fn key() -> PipelineKey {
    PipelineKey::new(&ROTARY).with(&shared::LINEAR)
}

/// f32 in either layout, positions of i64 or i32, tables of f32.
pub(crate) fn supports(op: &RotaryEmbedding, facts: &Facts<'_>) -> bool {
    match (facts.input(0), facts.input(1), facts.input(2), facts.input(3)) {
        (Some((DType::F32, x)), Some((DType::I64 | DType::I32, ids)), Some((DType::F32, c)), Some((DType::F32, s))) => {
            let table = c.last().copied().unwrap_or(0);
            c == s && c.len() == 2 && plan(op, x, ids.iter().product(), table).is_some()
        }
        _ => false,
    }
}

pub(crate) fn record(op: &RotaryEmbedding, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, ids, cos, sin, y) = (ctx.input(0)?, ctx.input(1)?, ctx.input(2)?, ctx.input(3)?, ctx.output(0)?);
    let table = cos.shape.last().copied().unwrap_or(0);
    let params = plan(op, &x.shape, ids.len(), table).filter(|_| x.shape == y.shape && cos.shape == sin.shape);
    let params = params.ok_or_else(|| ctx.unsupported(format!("x {:?}, tables {:?}", x.shape, cos.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    ctx.dispatch(Dispatch {
        key: key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x), Some(ids), Some(cos), Some(sin)],
        outputs: &[Some(y)],
        groups: grid_for(y.len() as u64, 256, ctx.caps()),
    })
}

/// The one pipeline.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    vec![key()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{Lcg, assert_close, gpu, run};
    use crate::graph::Op;
    use crate::tensor::Tensor;

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let op = RotaryEmbedding { heads: 0, rotary_dim: 0, interleaved: false };
        assert!(plan(&op, &[2, 3, 4, 8], 1, 4).is_some());
        assert!(plan(&op, &[2, 3, 4, 8], 5, 4).is_none());
        assert!(plan(&op, &[2, 3, 4, 8], 1, 3).is_none());
        assert!(plan(&op, &[2, 3, 30], 1, 4).is_none());
    }

    #[test]
    fn layouts_match_the_host() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(9);
        let (batch, heads, seq, dim, max) = (2, 3, 5, 8, 20);
        for merged in [false, true] {
            for interleaved in [false, true] {
                for (rotary_dim, offset) in [(0, true), (4, false)] {
                    let rotary = if rotary_dim == 0 { dim } else { rotary_dim };
                    let half = rotary / 2;
                    let x = rng.floats(batch * heads * seq * dim);
                    let (cos, sin) = (rng.floats(max * half), rng.floats(max * half));
                    let ids: Vec<i64> = if offset { vec![7] } else { (0..10).map(|_| rng.below(max) as i64).collect() };
                    let mut want = x.clone();
                    for b in 0..batch {
                        for h in 0..heads {
                            for s in 0..seq {
                                let base = if merged {
                                    ((b * seq + s) * heads + h) * dim
                                } else {
                                    ((b * heads + h) * seq + s) * dim
                                };
                                let position = if offset { 7 + s } else { ids[b * seq + s] as usize };
                                for k in 0..half {
                                    let (i, j) = if interleaved { (2 * k, 2 * k + 1) } else { (k, k + half) };
                                    let (c, n) = (cos[position * half + k], sin[position * half + k]);
                                    let (u, v) = (x[base + i], x[base + j]);
                                    want[base + i] = u * c - v * n;
                                    want[base + j] = v * c + u * n;
                                }
                            }
                        }
                    }
                    let shape: &[usize] = if merged { &[batch, seq, heads * dim] } else { &[batch, heads, seq, dim] };
                    let id_shape: &[usize] = if offset { &[1] } else { &[batch, seq] };
                    let op = RotaryEmbedding { heads: if merged { heads } else { 0 }, rotary_dim, interleaved };
                    let inputs = [
                        Some(Tensor::from_slice(shape, &x).unwrap()),
                        Some(Tensor::from_slice(id_shape, &ids).unwrap()),
                        Some(Tensor::from_slice(&[max, half], &cos).unwrap()),
                        Some(Tensor::from_slice(&[max, half], &sin).unwrap()),
                    ];
                    let got = run(&gpu, &Op::RotaryEmbedding(op), &inputs, &[(DType::F32, shape)]);
                    assert_close(&got[0], &want, 1e-5, 1e-6, (merged, interleaved, offset));
                }
            }
        }
    }
}
