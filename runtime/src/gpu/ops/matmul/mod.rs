//! Products of floats.
//!
//! One tile kernel and one matrix-vector kernel serve all of them: what differs is how four neighbours of an operand are
//! loaded, and that is a snippet (dense rows, any strides, halves, the window of a convolution, weights of few bits).
//! The families `conv` and `nbits` bring their own loaders and go through [`dispatch`].

mod shape;

pub(crate) use shape::{Extents, Params, flags, scaled};

use super::unary::is_activation;
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::device::Caps;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::Dispatch;
use crate::gpu::tensor::GpuTensor;
use crate::graph::MatMul;
use crate::tensor::DType;

static TILE: Shader = Shader { name: "matmul_tile", inputs: 4, outputs: 1, text: include_str!("tile.wgsl") };
static MATVEC: Shader = Shader { name: "matmul_matvec", inputs: 4, outputs: 1, text: include_str!("matvec.wgsl") };
/// The text of the tile kernel, for families with other bindings.
pub(crate) const TILE_TEXT: &str = include_str!("tile.wgsl");

/// The uniform and the batches.
pub(crate) static PARAMS: Snippet = Snippet { name: "matmul_params", text: include_str!("params.wgsl") };
/// What follows the sum.
pub(crate) static EPILOGUE: Snippet = Snippet { name: "matmul_epilogue", text: include_str!("epilogue.wgsl") };
static OUTPUT: Snippet = Snippet { name: "matmul_output", text: include_str!("output.wgsl") };
static A_VEC4: Snippet = Snippet { name: "matmul_a_vec4", text: include_str!("a_vec4.wgsl") };
static A_STRIDED: Snippet = Snippet { name: "matmul_a_strided", text: include_str!("a_strided.wgsl") };
static A_HALF: Snippet = Snippet { name: "matmul_a_half", text: include_str!("a_half.wgsl") };
static B_VEC4: Snippet = Snippet { name: "matmul_b_vec4", text: include_str!("b_vec4.wgsl") };
static B_STRIDED: Snippet = Snippet { name: "matmul_b_strided", text: include_str!("b_strided.wgsl") };
static B_HALF: Snippet = Snippet { name: "matmul_b_half", text: include_str!("b_half.wgsl") };
static B_HALF4: Snippet = Snippet { name: "matmul_b_half4", text: include_str!("b_half4.wgsl") };

static STORED_F32: Snippet = Snippet { name: "stored_f32", text: include_str!("stored_f32.wgsl") };
static STORED_F16: Snippet = Snippet { name: "stored_f16", text: include_str!("stored_f16.wgsl") };

/// `stored_word` and `stored`, which read numbers of `dtype` from words. Two snippets and no branch, since a device
/// without packed halves must not even see the other.
pub(crate) fn stored(dtype: DType) -> &'static Snippet {
    if dtype == DType::F16 { &STORED_F16 } else { &STORED_F32 }
}

/// Rows that a matrix-vector kernel takes.
pub(crate) const MATVEC_ROWS: usize = 4;

/// Which kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelChoice {
    /// 64 x 64 outputs a workgroup.
    Tile,
    /// Up to four rows, k split over lanes.
    MatVec,
}

/// The kernel for `m` rows, or the forced one where it can serve them.
pub(crate) fn choose(m: usize, forced: Option<KernelChoice>) -> KernelChoice {
    match forced {
        Some(KernelChoice::Tile) => KernelChoice::Tile,
        _ if m <= MATVEC_ROWS => KernelChoice::MatVec,
        _ => KernelChoice::Tile,
    }
}

/// The loader for rows of `k` elements.
pub(crate) fn a_loader(dtype: DType, k: usize, transposed: bool) -> &'static Snippet {
    match dtype {
        DType::F16 => &A_HALF,
        _ if !transposed && k.is_multiple_of(4) => &A_VEC4,
        _ => &A_STRIDED,
    }
}

/// The loader for rows of `n` elements.
pub(crate) fn b_loader(dtype: DType, n: usize, transposed: bool) -> &'static Snippet {
    match (dtype, !transposed && n.is_multiple_of(4)) {
        (DType::F16, true) => &B_HALF4,
        (DType::F16, false) => &B_HALF,
        (_, true) => &B_VEC4,
        (_, false) => &B_STRIDED,
    }
}

/// Workgroups along columns and rows.
pub(crate) fn tiles(choice: KernelChoice, m: usize, n: usize) -> [usize; 2] {
    match choice {
        KernelChoice::Tile => [n.div_ceil(64), m.div_ceil(64)],
        KernelChoice::MatVec => [n.div_ceil(64), 1],
    }
}

/// Whether a grid of `tiles` fits one dispatch (batches are split by [`in_batches`]).
pub(crate) fn fits(tiles: [usize; 2], caps: &Caps) -> bool {
    tiles.iter().all(|&t| t <= caps.max_workgroups_per_dimension as usize)
}

/// Calls `dispatch(first, count)` so that no call has more batches than a grid's dimension allows.
pub(crate) fn in_batches(
    batches: usize,
    caps: &Caps,
    mut dispatch: impl FnMut(u32, u32) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let most = caps.max_workgroups_per_dimension as usize;
    for first in (0..batches).step_by(most) {
        dispatch(first as u32, most.min(batches - first) as u32)?;
    }
    Ok(())
}

fn key(choice: KernelChoice, a: &'static Snippet, b: &'static Snippet) -> PipelineKey {
    let shader = match choice {
        KernelChoice::Tile => &TILE,
        KernelChoice::MatVec => &MATVEC,
    };
    PipelineKey::new(shader).with(&PARAMS).with(&shared::UNARY).with(&EPILOGUE).with(&OUTPUT).with(a).with(b)
}

/// Records a product with the given loaders. `inputs` are a, b, bias and residual; the flags for the last two are set
/// here, `BIAS_ROW` by the caller.
pub(crate) fn dispatch(
    ctx: &Ctx<'_>,
    choice: KernelChoice,
    loaders: [&'static Snippet; 2],
    mut params: Params,
    batches: usize,
    inputs: [Option<&GpuTensor>; 4],
    y: &GpuTensor,
) -> Result<(), KernelError> {
    if inputs[2].is_some() {
        params.flags |= flags::BIAS;
    }
    if inputs[3].is_some() {
        params.flags |= flags::RESIDUAL;
    }
    let [x, rows] = tiles(choice, params.m as usize, params.n as usize);
    in_batches(batches, ctx.caps(), |first, count| {
        let params = Params { first_batch: first, ..params };
        ctx.dispatch(Dispatch {
            key: key(choice, loaders[0], loaders[1]),
            params: bytemuck::bytes_of(&params),
            inputs: &inputs,
            outputs: &[Some(y)],
            groups: [x as u32, rows as u32, count],
        })
    })
}

/// Whether a bias and a residual, at inputs `bias` and `bias + 1`, are what an epilogue reads.
pub(crate) fn epilogue_fits(facts: &Facts<'_>, bias: usize, channels: usize) -> bool {
    let outputs: usize = facts.outputs.first().map_or(0, |(_, s)| s.iter().product());
    let fits = |i: usize, len: usize| match facts.input_type(i) {
        None => true,
        Some(t) => t == DType::F32 && facts.input_len(i) == len,
    };
    fits(bias, channels) && fits(bias + 1, outputs)
}

/// f32 by f32, or by f16 (in either place where a model may have a constant).
pub(crate) fn supports(op: &MatMul, facts: &Facts<'_>) -> bool {
    let (Some((ta, a)), Some((tb, b))) = (facts.input(0), facts.input(1)) else { return false };
    let Some(e) = Extents::new(a, b, op.trans_a, op.trans_b) else { return false };
    ta == DType::F32
        && matches!(tb, DType::F32 | DType::F16)
        && facts.output_type(0) == Some(DType::F32)
        && is_activation(op.activation)
        && fits(tiles(choose(e.m, None), e.m, e.n), facts.caps)
        && epilogue_fits(facts, 2, e.n)
}

pub(crate) fn record(op: &MatMul, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    record_with(op, ctx, None)
}

/// [`record`] with a kernel forced, for tests and measurements.
pub(crate) fn record_with(op: &MatMul, ctx: &Ctx<'_>, forced: Option<KernelChoice>) -> Result<(), KernelError> {
    let (a, b, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
    let e = Extents::new(&a.shape, &b.shape, op.trans_a, op.trans_b)
        .ok_or_else(|| ctx.unsupported(format!("shapes {:?} and {:?}", a.shape, b.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    // One-dimensional operands have nothing to transpose.
    let (trans_a, trans_b) = (op.trans_a && a.shape.len() > 1, op.trans_b && b.shape.len() > 1);
    let choice = choose(e.m, forced);
    let mut params = Params {
        alpha: op.alpha,
        batch: scaled(e.batch, 1),
        a_batch: scaled(e.a_batch, e.m * e.k),
        b_batch: scaled(e.b_batch, e.k * e.n),
        ..Params::dense(e.m, e.n, e.k, op.activation)
    };
    if trans_a {
        (params.a_row, params.a_col) = (1, e.m as u32);
    }
    if trans_b {
        (params.b_row, params.b_col) = (1, e.k as u32);
        params.flags |= flags::K_CONTIGUOUS;
    }
    let loaders = [a_loader(a.dtype, e.k, trans_a), b_loader(b.dtype, e.n, trans_b)];
    let inputs = [Some(a), Some(b), ctx.optional(2), ctx.optional(3)];
    dispatch(ctx, choice, loaders, params, e.batches(), inputs, y)
}

/// Every kernel with every pair of loaders of this family.
#[cfg(test)]
pub(crate) fn variants(_caps: &Caps) -> Vec<PipelineKey> {
    let mut keys = Vec::new();
    for choice in [KernelChoice::Tile, KernelChoice::MatVec] {
        for a in [&A_VEC4, &A_STRIDED, &A_HALF] {
            keys.extend([&B_VEC4, &B_STRIDED, &B_HALF, &B_HALF4].map(|b| key(choice, a, b)));
        }
    }
    keys
}

/// The key of the tile kernel with a loader of another family.
#[cfg(test)]
pub(crate) fn variant(a: &'static Snippet, b: &'static Snippet) -> [PipelineKey; 2] {
    [key(KernelChoice::Tile, a, b), key(KernelChoice::MatVec, a, b)]
}

#[cfg(test)]
mod tests;
