//! Weights of 4 and 8 bits in blocks that share a scale.
//!
//! Products of many rows go through the tile kernel of `matmul` with a loader that widens the weights; few rows have a
//! kernel of their own that reads each word and each scale once.

use bytemuck::{Pod, Zeroable};

use super::matmul::{self, KernelChoice, Params, choose, epilogue_fits, fits, flags};
use super::shared::axis_of;
use super::unary::is_activation;
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::graph::{GatherBlockQuantized, MatMulNBits, Op};
use crate::tensor::DType;

static TILE: Shader = Shader { name: "nbits_tile", inputs: 6, outputs: 1, text: matmul::TILE_TEXT };
static MATVEC: Shader = Shader { name: "nbits_matvec", inputs: 6, outputs: 1, text: include_str!("matvec.wgsl") };
static GATHER: Shader = Shader { name: "nbits_gather", inputs: 4, outputs: 1, text: include_str!("gather.wgsl") };
static B_NBITS: Snippet = Snippet { name: "nbits_b", text: include_str!("b_nbits.wgsl") };

/// `Params` of `gather.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GatherParams {
    elements: u32,
    unused: u32,
    bits: u32,
    flags: u32,
    inner: u32,
    rows: u32,
    indices: u32,
    block: u32,
    q_inner: u32,
    q_size: u32,
    q_blocks: u32,
    scale_row: u32,
}

fn key(choice: KernelChoice, a: &'static Snippet, scales: DType) -> PipelineKey {
    let shader = match choice {
        KernelChoice::Tile => &TILE,
        KernelChoice::MatVec => &MATVEC,
    };
    let key = PipelineKey::new(shader).with(&matmul::PARAMS).with(&shared::UNARY).with(&matmul::EPILOGUE);
    key.with(a).with(matmul::stored(scales)).with(&B_NBITS)
}

fn is_scale(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::F32 | DType::F16))
}

/// Both operators, 4 and 8 bits, scales of f32 and f16, packed and float zero points.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    match op {
        Op::MatMulNBits(m) => supports_product(m, facts),
        Op::GatherBlockQuantized(g) => supports_gather(g, facts),
        _ => false,
    }
}

fn supports_product(op: &MatMulNBits, facts: &Facts<'_>) -> bool {
    let Some((ta, a)) = facts.input(0) else { return false };
    let rows: usize = a.iter().take(a.len().saturating_sub(1)).product();
    if !matches!(op.bits, 4 | 8) || !op.block.is_power_of_two() || op.block < 16 {
        return false;
    }
    let blocks = op.k.div_ceil(op.block);
    let zeros_fit = match facts.input_type(3) {
        None => true,
        Some(DType::U8) => facts.input_len(3) == op.n * (blocks * op.bits as usize).div_ceil(8),
        t => t == facts.input_type(2) && facts.input_len(3) == op.n * blocks,
    };
    // The kernel counts a word's place in bits.
    let bits_fit = (op.k.next_multiple_of(op.block) as u64 * op.bits as u64) < u32::MAX as u64
        && op.n as u64 * blocks as u64 * (op.bits as u64) < u32::MAX as u64 - 64;
    ta == DType::F32
        && a.last() == Some(&op.k)
        && facts.input_type(1) == Some(DType::U8)
        && facts.input_len(1) == op.n * blocks * op.block * op.bits as usize / 8
        && is_scale(facts.input_type(2))
        && facts.input_len(2) == op.n * blocks
        && zeros_fit
        && bits_fit
        && facts.output_type(0) == Some(DType::F32)
        && is_activation(op.activation)
        && fits(tiles(choose(rows, None), rows, op.n), facts.caps)
        && epilogue_fits(facts, 4, op.n)
}

fn tiles(choice: KernelChoice, m: usize, n: usize) -> [usize; 2] {
    match choice {
        KernelChoice::Tile => matmul::tiles(choice, m, n),
        KernelChoice::MatVec => [n.div_ceil(16), 1],
    }
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    match op {
        Op::MatMulNBits(m) => record_product(m, ctx, None),
        Op::GatherBlockQuantized(g) => record_gather(g, ctx),
        _ => Err(ctx.unsupported("no kernel".into())),
    }
}

/// Records a product, with a kernel forced for tests and measurements.
fn record_product(op: &MatMulNBits, ctx: &Ctx<'_>, forced: Option<KernelChoice>) -> Result<(), KernelError> {
    let (a, y, scales) = (ctx.input(0)?, ctx.output(0)?, ctx.input(2)?);
    if y.is_empty() {
        return Ok(());
    }
    let m = y.len() / op.n;
    let choice = choose(m, forced);
    let mut params = Params::dense(m, op.n, op.k, op.activation);
    (params.block, params.bits) = (op.block as u32, op.bits);
    // A word holds neighbours in k.
    params.flags = flags::K_CONTIGUOUS;
    for (flag, set) in [
        (flags::ZEROS_PACKED, ctx.optional(3).is_some_and(|z| z.dtype == DType::U8)),
        (flags::ZEROS_FLOAT, ctx.optional(3).is_some_and(|z| z.dtype != DType::U8)),
        (flags::BIAS, ctx.optional(4).is_some()),
        (flags::RESIDUAL, ctx.optional(5).is_some()),
    ] {
        params.flags |= if set { flag } else { 0 };
    }
    let [x, rows] = tiles(choice, m, op.n);
    ctx.dispatch(Dispatch {
        key: key(choice, matmul::a_loader(DType::F32, op.k, false), scales.dtype),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(a), Some(ctx.input(1)?), ctx.optional(4), ctx.optional(5), Some(scales), ctx.optional(3)],
        outputs: &[Some(y)],
        groups: [x as u32, rows as u32, 1],
    })
}

fn gather_params(op: &GatherBlockQuantized, data: &[usize], indices: usize) -> Option<GatherParams> {
    let mut shape = data.to_vec();
    // The last dimension holds two elements a byte.
    *shape.last_mut()? *= 8 / op.bits.clamp(1, 8) as usize;
    let gather = axis_of(op.gather_axis as i64, shape.len())?;
    let quantize = axis_of(op.quantize_axis as i64, shape.len())?;
    let blocks = shape[quantize].div_ceil(op.block);
    let scale_row = if quantize + 1 == shape.len() { blocks } else { *shape.last()? };
    let product = |s: &[usize]| s.iter().product::<usize>();
    let elements = product(&shape[..gather]) * indices * product(&shape[gather + 1..]);
    // The kernel counts an element's place in bits.
    if product(&shape) as u64 * op.bits as u64 > u32::MAX as u64 {
        return None;
    }
    Some(GatherParams {
        elements: elements as u32,
        unused: 0,
        bits: op.bits,
        flags: 0,
        inner: product(&shape[gather + 1..]) as u32,
        rows: shape[gather] as u32,
        indices: indices as u32,
        block: op.block as u32,
        q_inner: product(&shape[quantize + 1..]) as u32,
        q_size: shape[quantize] as u32,
        q_blocks: blocks as u32,
        scale_row: scale_row as u32,
    })
}

fn supports_gather(op: &GatherBlockQuantized, facts: &Facts<'_>) -> bool {
    let Some((DType::U8, data)) = facts.input(0) else { return false };
    if !matches!(op.bits, 4 | 8) || op.block == 0 {
        return false;
    }
    let Some(p) = gather_params(op, data, facts.input_len(1)) else { return false };
    let outer: usize = data[..op.quantize_axis].iter().product();
    matches!(facts.input_type(1), Some(DType::I64 | DType::I32))
        && is_scale(facts.input_type(2))
        && facts.input_len(2) == outer * p.q_blocks as usize * p.q_inner as usize
        && matches!(facts.input_type(3), None | Some(DType::U8))
        && facts.output_type(0) == Some(DType::F32)
}

fn record_gather(op: &GatherBlockQuantized, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (data, indices, scales, y) = (ctx.input(0)?, ctx.input(1)?, ctx.input(2)?, ctx.output(0)?);
    if y.is_empty() {
        return Ok(());
    }
    let mut params = gather_params(op, &data.shape, indices.len())
        .ok_or_else(|| ctx.unsupported(format!("data of shape {:?}", data.shape)))?;
    params.flags = (ctx.optional(3).is_some() as u32) << 1;
    ctx.dispatch(Dispatch {
        key: gather_key(scales.dtype),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(data), Some(indices), Some(scales), ctx.optional(3)],
        outputs: &[Some(y)],
        groups: grid_for(y.len() as u64, 64, ctx.caps()),
    })
}

fn gather_key(scales: DType) -> PipelineKey {
    PipelineKey::new(&GATHER).with(&shared::LINEAR).with(matmul::stored(scales))
}

/// Both kernels of products with both loaders, and the gather.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    let mut keys = Vec::new();
    for scales in [DType::F32, DType::F16] {
        keys.push(gather_key(scales));
        for choice in [KernelChoice::Tile, KernelChoice::MatVec] {
            keys.extend([4, 5].map(|k| key(choice, matmul::a_loader(DType::F32, k, false), scales)));
        }
    }
    keys
}

#[cfg(test)]
mod tests;
