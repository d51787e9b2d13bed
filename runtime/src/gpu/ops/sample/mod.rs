//! The choice of the next token.

use bytemuck::{Pod, Zeroable};

use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid};
use crate::gpu::tensor::GpuTensor;
use crate::graph::SAMPLE_PARAMS;
use crate::tensor::DType;

static SAMPLE: Shader = Shader { name: "sample", inputs: 4, outputs: 3, text: include_str!("sample.wgsl") };

/// `Params` of `sample.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    vocab: u32,
    history: u32,
    recent: u32,
    stride: u32,
    seen: u32,
    pad: [u32; 2],
}

fn key() -> PipelineKey {
    PipelineKey::new(&SAMPLE).with(&shared::LINEAR)
}

/// f32 logits of at least one token, and parameters of one row or as many as there are.
pub(crate) fn supports(facts: &Facts<'_>) -> bool {
    let (Some((DType::F32, &[batch, vocab])), Some((DType::F32, &[rows, SAMPLE_PARAMS]))) =
        (facts.input(0), facts.input(2))
    else {
        return false;
    };
    let ids = |i: usize| match facts.input(i) {
        None => true,
        Some((dtype, shape)) => matches!(dtype, DType::I64 | DType::I32) && matches!(*shape, [b, _] if b == batch),
    };
    let outputs = matches!(facts.outputs, [(DType::I64, t), (DType::F32, s)] if **t == [batch] && **s == [batch]);
    vocab > 0 && (rows == batch || rows == 1) && ids(1) && ids(3) && outputs
}

pub(crate) fn record(ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (logits, params, tokens, scores) = (ctx.input(0)?, ctx.input(2)?, ctx.output(0)?, ctx.output(1)?);
    let misfit = || KernelError::Invalid(format!("{}: {:?} with {:?}", ctx.name, logits.shape, params.shape));
    let (&[batch, vocab], &[rows, SAMPLE_PARAMS]) = (&logits.shape[..], &params.shape[..]) else {
        return Err(misfit());
    };
    if vocab == 0 || (rows != batch && rows != 1) || tokens.len() != batch || scores.len() != batch {
        return Err(misfit());
    }
    if batch == 0 {
        return Ok(());
    }
    let width = |ids: Option<&GpuTensor>| match ids.map(|t| &t.shape[..]) {
        None => Ok(0),
        Some(&[b, n]) if b == batch => Ok(n as u32),
        Some(_) => Err(misfit()),
    };
    let (history, recent) = (ctx.optional(1), ctx.optional(3));
    let block = Params {
        rows: batch as u32,
        vocab: vocab as u32,
        history: width(history)?,
        recent: width(recent)?,
        stride: if rows == 1 { 0 } else { SAMPLE_PARAMS as u32 },
        seen: vocab.div_ceil(32) as u32,
        pad: [0; 2],
    };
    // The kernel clears its own part: the pool's buffers hold anything.
    let seen = ctx.scratch(DType::I32, &[batch, block.seen as usize])?;
    ctx.dispatch(Dispatch {
        key: key(),
        params: bytemuck::bytes_of(&block),
        inputs: &[Some(logits), history, Some(params), recent],
        outputs: &[Some(tokens), Some(scores), Some(&seen)],
        groups: grid(batch as u64, ctx.caps()),
    })
}

/// The one pipeline.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    vec![key()]
}

#[cfg(test)]
mod tests;
