//! Convolutions and pooling over one or two spatial dimensions.
//!
//! Weights by the im2col matrix, which is never stored for floats: the tile kernel of `matmul` reads it through the window
//! (`b_window.wgsl`), and where the window is a single element it is the input itself. Integers are packed through the
//! window into the rows that the exact products read. Groups with few channels go element by element instead.

mod integer;
mod shape;

use bytemuck::{Pod, Zeroable};
use shape::Geometry;

use super::matmul::{self, Extents, KernelChoice, Params, choose, epilogue_fits, fits, flags, scaled};
use super::unary::{activation_code, is_activation};
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::graph::{Conv, Op, Pool};
use crate::tensor::DType;

static DIRECT: Shader = Shader { name: "conv_direct", inputs: 4, outputs: 1, text: include_str!("direct.wgsl") };
static POOL: Shader = Shader { name: "pool", inputs: 1, outputs: 1, text: include_str!("pool.wgsl") };
static B_WINDOW: Snippet = Snippet { name: "conv_b_window", text: include_str!("b_window.wgsl") };

/// `Params` of `direct.wgsl`.
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
    activation: u32,
    activation_params: [f32; 2],
}

/// `Params` of `pool.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PoolParams {
    elements: u32,
    flags: u32,
    input: [u32; 2],
    output: [u32; 2],
    kernel: [u32; 2],
    stride: [u32; 2],
    dilation: [u32; 2],
    pad: [u32; 2],
    padded: [u32; 2],
}

/// Which kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConvChoice {
    /// One invocation an output: groups with few channels.
    Direct,
    /// The input is the matrix: a window of one element that moves by one.
    Pointwise,
    /// Through the window.
    Implicit,
}

/// The kernel for a convolution of this geometry, or the forced one where it can serve.
fn choose_conv(g: &Geometry, forced: Option<ConvChoice>) -> ConvChoice {
    let pointwise = g.kernel == [1; 2] && g.stride == [1; 2] && g.input == g.output && g.pad == [0; 2];
    match forced {
        Some(ConvChoice::Pointwise) | None if pointwise && g.group_out() >= 8 => ConvChoice::Pointwise,
        Some(ConvChoice::Direct) => ConvChoice::Direct,
        Some(_) => ConvChoice::Implicit,
        // A tile has 64 rows; with few of them in use, the direct kernel reads less.
        None if g.group_out() < 8 => ConvChoice::Direct,
        None => ConvChoice::Implicit,
    }
}

/// Groups, strides, dilations and padding of any size in one or two spatial dimensions; weights of f32 and f16; integer
/// convolutions of u8 and i8.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    match op {
        Op::Conv(c) => supports_float(c, facts),
        Op::ConvInteger(_) | Op::ConvIntegerToFloat(_) => integer::supports(op, facts),
        Op::Pool(p) => {
            let (Some((DType::F32, x)), Some(&(DType::F32, y))) = (facts.input(0), facts.outputs.first()) else {
                return false;
            };
            facts.outputs.len() == 1 && Geometry::pool(x, y, p).is_some()
        }
        _ => false,
    }
}

fn supports_float(op: &Conv, facts: &Facts<'_>) -> bool {
    let (Some((DType::F32, x)), Some((tw, w)), Some(&(DType::F32, y))) =
        (facts.input(0), facts.input(1), facts.outputs.first())
    else {
        return false;
    };
    let Some(g) = Geometry::new(x, w, y, op.groups, &op.window) else { return false };
    matches!(tw, DType::F32 | DType::F16)
        && is_activation(op.activation)
        && fits(matmul::tiles(KernelChoice::Tile, g.group_out(), g.pixels()), facts.caps)
        && epilogue_fits(facts, 2, g.channels)
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    match op {
        Op::Conv(c) => record_conv(c, ctx, None),
        Op::ConvInteger(_) | Op::ConvIntegerToFloat(_) => integer::record(op, ctx, None),
        Op::Pool(p) => record_pool(p, ctx),
        _ => Err(ctx.unsupported("no kernel".into())),
    }
}

/// Records a convolution, with a kernel forced for tests and measurements.
fn record_conv(op: &Conv, ctx: &Ctx<'_>, forced: Option<ConvChoice>) -> Result<(), KernelError> {
    let (x, w, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
    let g = Geometry::new(&x.shape, &w.shape, &y.shape, op.groups, &op.window)
        .ok_or_else(|| ctx.unsupported(format!("shapes {:?} and {:?}", x.shape, w.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    let (bias, residual) = (ctx.optional(2), ctx.optional(3));
    let choice = choose_conv(&g, forced);
    if choice == ConvChoice::Direct {
        let (activation, activation_params) = activation_code(op.activation);
        let mut bits = 0;
        let set = [(flags::BIAS, bias.is_some()), (flags::RESIDUAL, residual.is_some()), (flags::RELU, op.relu)];
        for (flag, set) in set {
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
            activation,
            activation_params,
        };
        return ctx.dispatch(Dispatch {
            key: direct_key(w.dtype),
            params: bytemuck::bytes_of(&params),
            inputs: &[Some(x), Some(w), bias, residual],
            outputs: &[Some(y)],
            groups: grid_for(y.len() as u64, 64, ctx.caps()),
        });
    }
    let e = g.extents();
    let pointwise = choice == ConvChoice::Pointwise;
    let params = Params {
        // The bias goes along the rows, which are channels.
        flags: flags::BIAS_ROW | if op.relu { flags::RELU } else { 0 },
        groups: g.groups as u32,
        batch: scaled(e.batch, 1),
        a_batch: scaled(e.a_batch, e.m * e.k),
        b_batch: scaled(e.b_batch, g.group_in * g.input[0] * g.input[1]),
        input: g.input.map(|v| v as u32),
        kernel: g.kernel.map(|v| v as u32),
        stride: g.stride.map(|v| v as u32),
        dilation: g.dilation.map(|v| v as u32),
        pad: g.pad.map(|v| v as u32),
        out_width: g.output[1] as u32,
        ..Params::dense(e.m, e.n, e.k, op.activation)
    };
    let b = if pointwise { matmul::b_loader(DType::F32, e.n, false) } else { &B_WINDOW };
    let loaders = [matmul::a_loader(w.dtype, e.k, false), b];
    let kernel = choose(e.m, Some(KernelChoice::Tile));
    // The weights are the rows, the input the columns.
    matmul::dispatch(ctx, kernel, loaders, params, e.batches(), [Some(w), Some(x), bias, residual], y)
}

fn record_pool(op: &Pool, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y) = (ctx.input(0)?, ctx.output(0)?);
    let g = Geometry::pool(&x.shape, &y.shape, op).ok_or_else(|| ctx.unsupported(format!("shape {:?}", x.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    let params = PoolParams {
        elements: y.len() as u32,
        flags: op.max as u32 | (op.count_include_pad as u32) << 1,
        input: g.input.map(|v| v as u32),
        output: g.output.map(|v| v as u32),
        kernel: g.kernel.map(|v| v as u32),
        stride: g.stride.map(|v| v as u32),
        dilation: g.dilation.map(|v| v as u32),
        pad: g.pad.map(|v| v as u32),
        padded: [0, 1].map(|i| (g.input[i] + g.pad[i] + g.pad_end[i]) as u32),
    };
    ctx.dispatch(Dispatch {
        key: pool_key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x)],
        outputs: &[Some(y)],
        groups: grid_for(y.len() as u64, 64, ctx.caps()),
    })
}

fn direct_key(weights: DType) -> PipelineKey {
    PipelineKey::new(&DIRECT).with(&shared::LINEAR).with(&shared::UNARY).with(matmul::stored(weights))
}

fn pool_key() -> PipelineKey {
    PipelineKey::new(&POOL).with(&shared::LINEAR)
}

impl Geometry {
    /// Weights by im2col matrices, one for each image and group.
    fn extents(&self) -> Extents {
        Extents {
            m: self.group_out(),
            n: self.pixels(),
            k: self.group_in * self.kernel[0] * self.kernel[1],
            batch: [1, 1, self.images, self.groups],
            a_batch: [0, 0, 0, 1],
            // Images and the groups of their channels lie one behind the other.
            b_batch: [0, 0, self.groups, 1],
        }
    }
}

/// All pipelines.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    let mut keys = integer::variants();
    keys.extend([direct_key(DType::F32), direct_key(DType::F16), pool_key()]);
    for (dtype, k) in [(DType::F32, 4), (DType::F32, 5), (DType::F16, 4)] {
        keys.extend(matmul::variant(matmul::a_loader(dtype, k, false), &B_WINDOW));
    }
    keys
}

#[cfg(test)]
mod tests;
