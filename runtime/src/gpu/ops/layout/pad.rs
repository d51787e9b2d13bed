//! Padding.

use bytemuck::{Pod, Zeroable};

use crate::error::KernelError;
use crate::gpu::ops::select::is_word;
use crate::gpu::ops::shared::{MAX_RANK, axis_of, pack};
use crate::gpu::ops::{Ctx, Facts};
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::graph::PadMode;

static PAD: Shader = Shader { name: "pad", inputs: 2, outputs: 1, text: include_str!("pad.wgsl") };

/// `Params` of `pad.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    rank: u32,
    pad: [u32; 2],
    out_dims: [u32; MAX_RANK],
    in_dims: [u32; MAX_RANK],
    before: [i32; MAX_RANK],
}

fn key(mode: PadMode) -> PipelineKey {
    let mode = match mode {
        PadMode::Constant => 0,
        PadMode::Reflect => 1,
        PadMode::Edge => 2,
    };
    PipelineKey::new(&PAD).with(&shared::LINEAR).set("MODE", mode)
}

/// Types of 32 bits, up to eight dimensions.
pub(super) fn supports(facts: &Facts<'_>) -> bool {
    let Some((dtype, x)) = facts.input(0) else { return false };
    is_word(dtype) && x.len() <= MAX_RANK && facts.input_type(2).is_none_or(|t| t == dtype)
}

pub(super) fn record(mode: PadMode, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y) = (ctx.input(0)?, ctx.output(0)?);
    let misfit = || KernelError::Invalid(format!("{}: the padding does not fit {:?}", ctx.name, x.shape));
    let rank = x.shape.len();
    let pads = ctx.host_i64(1)?.ok_or_else(misfit)?;
    let axes: Vec<i64> = ctx.host_i64(3)?.unwrap_or_else(|| (0..rank as i64).collect());
    if pads.len() != 2 * axes.len() || rank > MAX_RANK || y.shape.len() != rank {
        return Err(misfit());
    }
    let mut before = [0i32; MAX_RANK];
    for (&axis, &pad) in axes.iter().zip(&pads) {
        before[axis_of(axis, rank).ok_or_else(misfit)?] = i32::try_from(pad).map_err(|_| misfit())?;
    }
    if y.is_empty() {
        return Ok(());
    }
    if x.is_empty() && mode != PadMode::Constant {
        return Err(misfit());
    }
    let params = Params {
        len: y.len() as u32,
        rank: rank as u32,
        pad: [0; 2],
        out_dims: pack(&y.shape),
        in_dims: pack(&x.shape),
        before,
    };
    ctx.dispatch(Dispatch {
        key: key(mode),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x), ctx.optional(2)],
        outputs: &[Some(y)],
        groups: grid_for(y.len() as u64, 256, ctx.caps()),
    })
}

/// Pipelines of all modes.
#[cfg(test)]
pub(super) fn variants() -> Vec<PipelineKey> {
    [PadMode::Constant, PadMode::Reflect, PadMode::Edge].map(key).to_vec()
}
