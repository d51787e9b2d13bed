//! Exact convolutions of bytes.

use bytemuck::{Pod, Zeroable};

use super::shape::Geometry;
use crate::error::KernelError;
use crate::gpu::ops::integer::{self, Epilogue, PackParams, Product, pack, pack_fits, pack_matrix};
use crate::gpu::ops::matmul::{KernelChoice, choose, epilogue_fits, fits, flags};
use crate::gpu::ops::unary::{activation_code, is_activation};
use crate::gpu::ops::{Ctx, Facts};
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::gpu::tensor::GpuTensor;
use crate::graph::{Op, Unary, Window};
use crate::tensor::DType;

static DIRECT: Shader =
    Shader { name: "conv_direct_integer", inputs: 4, outputs: 1, text: include_str!("direct_integer.wgsl") };
static RESCALE: Shader = Shader { name: "conv_rescale", inputs: 5, outputs: 1, text: include_str!("rescale.wgsl") };
static WINDOW: Snippet = Snippet { name: "conv_fetch_window", text: include_str!("fetch_window.wgsl") };

/// `Params` of `direct_integer.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DirectParams {
    elements: u32,
    channels: u32,
    group_out: u32,
    group_in: u32,
    input: [u32; 2],
    output: [u32; 2],
    kernel: [u32; 2],
    stride: [u32; 2],
    dilation: [u32; 2],
    pad: [u32; 2],
    flags: u32,
    unused: [u32; 3],
}

const X_SIGNED: u32 = 1;
const W_SIGNED: u32 = 2;
const W_ZEROS: u32 = 4;

/// `Params` of `rescale.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RescaleParams {
    elements: u32,
    channels: u32,
    pixels: u32,
    flags: u32,
    activation: u32,
    activation_params: [f32; 2],
    unused: u32,
}

const W_SCALES: u32 = 8;

/// Which kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntegerChoice {
    /// One invocation an output: groups with few channels.
    Direct,
    /// Packed through the window, then an exact product.
    Packed,
}

/// The kernel for groups of `group_out` output channels, or the forced one.
fn choose_integer(group_out: usize, forced: Option<IntegerChoice>) -> IntegerChoice {
    // Packing repeats each input byte for each tap; few rows do not earn that back.
    forced.unwrap_or(if group_out < 8 { IntegerChoice::Direct } else { IntegerChoice::Packed })
}

/// The parts of the two operators, and where their zero points lie.
struct Parts<'a> {
    groups: usize,
    window: &'a Window,
    zeros: usize,
    activation: Option<Unary>,
    relu: bool,
    to_float: bool,
}

fn parts(op: &Op) -> Option<Parts<'_>> {
    match op {
        Op::ConvInteger(c) => Some(Parts {
            groups: c.groups,
            window: &c.window,
            zeros: 2,
            activation: None,
            relu: false,
            to_float: false,
        }),
        Op::ConvIntegerToFloat(c) => Some(Parts {
            groups: c.groups,
            window: &c.window,
            zeros: 4,
            activation: c.activation,
            relu: c.relu,
            to_float: true,
        }),
        _ => None,
    }
}

pub(super) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let (Some(parts), Some((tx, x)), Some((tw, w)), Some(&(ty, y))) =
        (parts(op), facts.input(0), facts.input(1), facts.outputs.first())
    else {
        return false;
    };
    let Some(g) = Geometry::new(x, w, y, parts.groups, parts.window) else { return false };
    let many = |i: usize, dtype: DType, optional: bool, counts: &[usize]| match facts.input_type(i) {
        None => optional,
        Some(t) => t == dtype && counts.contains(&facts.input_len(i)),
    };
    let e = g.extents();
    let packed_fits = choose_integer(e.m, None) == IntegerChoice::Direct
        || (fits(integer::tiles(choose(e.m, None), e.m, e.n), facts.caps)
            && pack_fits(g.images * g.groups * e.n, e.k, facts.caps)
            && pack_fits(g.channels, e.k, facts.caps));
    tx.is_int8()
        && tw.is_int8()
        && ty == if parts.to_float { DType::F32 } else { DType::I32 }
        && is_activation(parts.activation)
        && packed_fits
        && many(parts.zeros, tx, true, &[1])
        && many(parts.zeros + 1, tw, true, &[1, g.channels])
        && (!parts.to_float
            || (many(2, DType::F32, false, &[1])
                && many(3, DType::F32, false, &[1, g.channels])
                && epilogue_fits(facts, 6, g.channels)))
}

pub(super) fn record(op: &Op, ctx: &Ctx<'_>, forced: Option<IntegerChoice>) -> Result<(), KernelError> {
    let (x, w, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
    let parts = parts(op).ok_or_else(|| ctx.unsupported("not an integer convolution".into()))?;
    let g = Geometry::new(&x.shape, &w.shape, &y.shape, parts.groups, parts.window)
        .ok_or_else(|| ctx.unsupported(format!("shapes {:?} and {:?}", x.shape, w.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    let (x_zero, w_zero) = (ctx.optional(parts.zeros), ctx.optional(parts.zeros + 1));
    if choose_integer(g.group_out(), forced) == IntegerChoice::Direct {
        let sums = if parts.to_float { Some(ctx.scratch(DType::I32, &y.shape)?) } else { None };
        direct(ctx, &g, x, w, [x_zero, w_zero], sums.as_ref().unwrap_or(y))?;
        return match sums {
            Some(sums) => rescale(ctx, &g, &sums, &parts, y),
            None => Ok(()),
        };
    }
    let extents = g.extents();
    let rows = g.images * g.groups * extents.n;
    let columns = PackParams {
        rows_per_batch: extents.n as u32,
        batch_stride: (g.group_in * g.input[0] * g.input[1]) as u32,
        groups: g.groups as u32,
        out_width: g.output[1] as u32,
        input: g.input.map(|v| v as u32),
        kernel: g.kernel.map(|v| v as u32),
        stride: g.stride.map(|v| v as u32),
        dilation: g.dilation.map(|v| v as u32),
        pad: g.pad.map(|v| v as u32),
        ..PackParams::new(x.dtype, rows, extents.k, x_zero)
    };
    let columns = pack(ctx, &WINDOW, x, x_zero, columns)?;
    let weights = pack_matrix(ctx, w, w_zero, integer::ROWS, g.channels, extents.k, false)?;
    let epilogue = match parts.to_float {
        false => None,
        true => Some(Epilogue {
            a_scale: ctx.input(3)?,
            b_scale: ctx.input(2)?,
            bias: ctx.optional(6),
            residual: ctx.optional(7),
            per_row: true,
            activation: parts.activation,
            relu: parts.relu,
        }),
    };
    let choice: KernelChoice = choose(extents.m, None);
    integer::dispatch(ctx, choice, &Product { extents, a: &weights, b: &columns, groups: g.groups, epilogue }, y)
}

fn direct(
    ctx: &Ctx<'_>,
    g: &Geometry,
    x: &GpuTensor,
    w: &GpuTensor,
    zeros: [Option<&GpuTensor>; 2],
    y: &GpuTensor,
) -> Result<(), KernelError> {
    let mut bits = 0;
    for (flag, set) in [
        (X_SIGNED, x.dtype == DType::I8),
        (W_SIGNED, w.dtype == DType::I8),
        (W_ZEROS, zeros[1].is_some_and(|z| z.len() > 1)),
    ] {
        bits |= if set { flag } else { 0 };
    }
    let params = DirectParams {
        elements: y.len() as u32,
        channels: g.channels as u32,
        group_out: g.group_out() as u32,
        group_in: g.group_in as u32,
        input: g.input.map(|v| v as u32),
        output: g.output.map(|v| v as u32),
        kernel: g.kernel.map(|v| v as u32),
        stride: g.stride.map(|v| v as u32),
        dilation: g.dilation.map(|v| v as u32),
        pad: g.pad.map(|v| v as u32),
        flags: bits,
        unused: [0; 3],
    };
    ctx.dispatch(Dispatch {
        key: direct_key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x), Some(w), zeros[0], zeros[1]],
        outputs: &[Some(y)],
        groups: grid_for(y.len() as u64, 64, ctx.caps()),
    })
}

fn rescale(ctx: &Ctx<'_>, g: &Geometry, sums: &GpuTensor, parts: &Parts<'_>, y: &GpuTensor) -> Result<(), KernelError> {
    let (x_scale, w_scale) = (ctx.input(2)?, ctx.input(3)?);
    let (activation, activation_params) = activation_code(parts.activation);
    let mut bits = 0;
    for (flag, set) in [
        (flags::BIAS, ctx.optional(6).is_some()),
        (flags::RESIDUAL, ctx.optional(7).is_some()),
        (W_SCALES, w_scale.len() > 1),
        (flags::RELU, parts.relu),
    ] {
        bits |= if set { flag } else { 0 };
    }
    let params = RescaleParams {
        elements: y.len() as u32,
        channels: g.channels as u32,
        pixels: g.pixels() as u32,
        flags: bits,
        activation,
        activation_params,
        unused: 0,
    };
    ctx.dispatch(Dispatch {
        key: rescale_key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(sums), Some(x_scale), Some(w_scale), ctx.optional(6), ctx.optional(7)],
        outputs: &[Some(y)],
        groups: grid_for(y.len() as u64, 64, ctx.caps()),
    })
}

fn direct_key() -> PipelineKey {
    PipelineKey::new(&DIRECT).with(&shared::LINEAR)
}

fn rescale_key() -> PipelineKey {
    PipelineKey::new(&RESCALE).with(&shared::LINEAR).with(&shared::UNARY)
}

/// The pipelines of this file; those of the product are listed by its family.
#[cfg(test)]
pub(super) fn variants() -> Vec<PipelineKey> {
    vec![direct_key(), rescale_key(), integer::pack_key(&WINDOW)]
}
