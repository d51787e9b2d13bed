//! Exact products of bytes.
//!
//! Both operands are first brought into one form (`pack.wgsl`): rows along k of signed bytes, unsigned ones less 128,
//! padded with zeros to whole quads of words, with each row's sum behind them. A constant is packed once. The product
//! kernels then see one type only and correct the zero points exactly from the sums, modulo 2^32 as the CPU does.
//! Integer convolutions bring their own way of packing (`conv/fetch_window.wgsl`) and go through [`dispatch`].

mod pack;

use bytemuck::{Pod, Zeroable};
#[cfg(test)]
pub(crate) use pack::key as pack_key;
pub(crate) use pack::{PackParams, Packed, fits as pack_fits, pack, pack_matrix};

use super::matmul::{self, Extents, KernelChoice, choose, epilogue_fits, fits, scaled};
use super::unary::{activation_code, is_activation};
use super::{Ctx, Facts};
use crate::error::KernelError;
#[cfg(test)]
use crate::gpu::device::Caps;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::Dispatch;
use crate::gpu::tensor::GpuTensor;
use crate::graph::{Op, Unary};
use crate::tensor::DType;

static TILE: Shader = Shader { name: "integer_tile", inputs: 6, outputs: 1, text: include_str!("tile.wgsl") };
static MATVEC: Shader = Shader { name: "integer_matvec", inputs: 6, outputs: 1, text: include_str!("matvec.wgsl") };
static PARAMS: Snippet = Snippet { name: "integer_params", text: include_str!("params.wgsl") };
static DOT4: Snippet = Snippet { name: "integer_dot4", text: include_str!("dot4_builtin.wgsl") };
static DOT4_PLAIN: Snippet = Snippet { name: "integer_dot4_plain", text: include_str!("dot4_plain.wgsl") };

/// `Params` of `params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    k: u32,
    flags: u32,
    batch: [u32; 4],
    a_batch: [u32; 4],
    b_batch: [u32; 4],
    a_rows: u32,
    b_rows: u32,
    quads: u32,
    first_batch: u32,
    groups: u32,
    activation: u32,
    activation_params: [f32; 2],
}

/// Names that packed constants are kept under, without and with zero points.
pub(crate) const ROWS: [&str; 2] = ["packed rows", "packed rows with zero points"];
const COLUMNS: [&str; 2] = ["packed columns", "packed columns with zero points"];

const BIAS: u32 = 1;
const PER_ROW: u32 = 2;
const RESIDUAL: u32 = 4;
const TO_FLOAT: u32 = 8;
const A_SCALES: u32 = 16;
const B_SCALES: u32 = 32;
const RELU: u32 = 64;

/// What follows the accumulators when the output is f32.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// a's scale: one element, or one a row.
    pub(crate) a_scale: &'a GpuTensor,
    /// b's scale: one element, or one a column.
    pub(crate) b_scale: &'a GpuTensor,
    /// One element a column, or a row if `per_row`.
    pub(crate) bias: Option<&'a GpuTensor>,
    /// Of the output's shape.
    pub(crate) residual: Option<&'a GpuTensor>,
    /// Bias and a's scale go along rows (channels of a convolution), not columns.
    pub(crate) per_row: bool,
    /// Between bias and residual.
    pub(crate) activation: Option<Unary>,
    /// After the residual.
    pub(crate) relu: bool,
}

/// One exact product.
pub(crate) struct Product<'a> {
    /// Sizes and batches.
    pub(crate) extents: Extents,
    /// The rows.
    pub(crate) a: &'a Packed,
    /// The columns.
    pub(crate) b: &'a Packed,
    /// Batches that share one bias; the groups of a convolution.
    pub(crate) groups: usize,
    /// `None` writes the accumulators.
    pub(crate) epilogue: Option<Epilogue<'a>>,
}

fn key(choice: KernelChoice, dot4: bool) -> PipelineKey {
    let shader = match choice {
        KernelChoice::Tile => &TILE,
        KernelChoice::MatVec => &MATVEC,
    };
    PipelineKey::new(shader).with(&shared::UNARY).with(if dot4 { &DOT4 } else { &DOT4_PLAIN }).with(&PARAMS)
}

/// Workgroups along columns and rows.
pub(crate) fn tiles(choice: KernelChoice, m: usize, n: usize) -> [usize; 2] {
    match choice {
        KernelChoice::Tile => [n.div_ceil(64), m.div_ceil(64)],
        KernelChoice::MatVec => [n.div_ceil(16), 1],
    }
}

/// Records the product of packed operands.
pub(crate) fn dispatch(
    ctx: &Ctx<'_>,
    choice: KernelChoice,
    product: &Product<'_>,
    y: &GpuTensor,
) -> Result<(), KernelError> {
    let e = &product.extents;
    let last = product.epilogue;
    let (activation, activation_params) = activation_code(last.and_then(|l| l.activation));
    let mut flags = 0;
    if let Some(l) = &last {
        flags |= TO_FLOAT;
        for (flag, set) in [
            (BIAS, l.bias.is_some()),
            (RESIDUAL, l.residual.is_some()),
            (RELU, l.relu),
            (PER_ROW, l.per_row),
            (A_SCALES, l.a_scale.len() > 1),
            (B_SCALES, l.b_scale.len() > 1),
        ] {
            flags |= if set { flag } else { 0 };
        }
    }
    let [x, rows] = tiles(choice, e.m, e.n);
    let inputs = [
        Some(&product.a.tensor),
        Some(&product.b.tensor),
        last.map(|l| l.a_scale),
        last.map(|l| l.b_scale),
        last.and_then(|l| l.bias),
        last.and_then(|l| l.residual),
    ];
    matmul::in_batches(e.batches(), ctx.caps(), |first_batch, count| {
        let params = Params {
            m: e.m as u32,
            n: e.n as u32,
            k: e.k as u32,
            flags,
            batch: scaled(e.batch, 1),
            a_batch: scaled(e.a_batch, e.m),
            b_batch: scaled(e.b_batch, e.n),
            a_rows: product.a.rows as u32,
            b_rows: product.b.rows as u32,
            quads: pack::quads(e.k) as u32,
            first_batch,
            groups: product.groups as u32,
            activation,
            activation_params,
        };
        ctx.dispatch(Dispatch {
            key: key(choice, ctx.caps().dot4),
            params: bytemuck::bytes_of(&params),
            inputs: &inputs,
            outputs: &[Some(y)],
            groups: [x as u32, rows as u32, count],
        })
    })
}

/// Where an operator's optional inputs lie.
struct Inputs {
    a_zero: usize,
    b_zero: usize,
    activation: Option<Unary>,
    to_float: bool,
}

fn inputs_of(op: &Op) -> Option<Inputs> {
    match op {
        Op::MatMulInteger => Some(Inputs { a_zero: 2, b_zero: 3, activation: None, to_float: false }),
        Op::MatMulIntegerToFloat(m) => Some(Inputs { a_zero: 4, b_zero: 5, activation: m.activation, to_float: true }),
        _ => None,
    }
}

/// u8 and i8 in any pair; zero points scalar, one a row of a, one a column of b.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let (Some(at), Some((ta, a)), Some((tb, b))) = (inputs_of(op), facts.input(0), facts.input(1)) else {
        return false;
    };
    let Some(e) = Extents::new(a, b, false, false) else { return false };
    // A zero point a row of a is counted within one matrix, so folded batches repeat it.
    let rows = if a.len() > 1 { a[a.len() - 2] } else { 1 };
    let zero_fits = |i: usize, dtype: DType, many: usize| match facts.input_type(i) {
        None => true,
        Some(t) => t == dtype && [1, many].contains(&facts.input_len(i)),
    };
    let scale_fits =
        |i: usize, many: usize| facts.input_type(i) == Some(DType::F32) && [1, many].contains(&facts.input_len(i));
    let output = if at.to_float { DType::F32 } else { DType::I32 };
    ta.is_int8()
        && tb.is_int8()
        && facts.output_type(0) == Some(output)
        && is_activation(at.activation)
        && fits(tiles(choose(e.m, None), e.m, e.n), facts.caps)
        && pack::fits(a.iter().product::<usize>() / e.k.max(1), e.k, facts.caps)
        && pack::fits(b.iter().product::<usize>() / e.k.max(1), e.k, facts.caps)
        && zero_fits(at.a_zero, ta, rows)
        && zero_fits(at.b_zero, tb, e.n)
        && (!at.to_float || (scale_fits(2, 1) && scale_fits(3, e.n) && epilogue_fits(facts, 6, e.n)))
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    record_with(op, ctx, None)
}

/// [`record`] with a kernel forced, for tests and measurements.
pub(crate) fn record_with(op: &Op, ctx: &Ctx<'_>, forced: Option<KernelChoice>) -> Result<(), KernelError> {
    let (a, b, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
    let at = inputs_of(op).ok_or_else(|| ctx.unsupported("not an integer product".into()))?;
    let extents = Extents::new(&a.shape, &b.shape, false, false)
        .ok_or_else(|| ctx.unsupported(format!("shapes {:?} and {:?}", a.shape, b.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    let a_rows = if a.shape.len() > 1 { a.shape[a.shape.len() - 2] } else { 1 };
    let a_packed = pack_matrix(ctx, a, ctx.optional(at.a_zero), ROWS, a_rows, extents.k, false)?;
    let b_packed = pack_matrix(ctx, b, ctx.optional(at.b_zero), COLUMNS, extents.n, extents.k, true)?;
    let epilogue = match at.to_float {
        false => None,
        true => Some(Epilogue {
            a_scale: ctx.input(2)?,
            b_scale: ctx.input(3)?,
            bias: ctx.optional(6),
            residual: ctx.optional(7),
            per_row: false,
            activation: at.activation,
            relu: false,
        }),
    };
    let choice = choose(extents.m, forced);
    dispatch(ctx, choice, &Product { extents, a: &a_packed, b: &b_packed, groups: 1, epilogue }, y)
}

/// Every kernel with and without the dot product of the language, and both ways of packing.
#[cfg(test)]
pub(crate) fn variants(caps: &Caps) -> Vec<PipelineKey> {
    let mut keys = vec![pack::matrix_key()];
    for choice in [KernelChoice::Tile, KernelChoice::MatVec] {
        keys.push(key(choice, caps.dot4));
    }
    keys
}

#[cfg(test)]
mod tests;
