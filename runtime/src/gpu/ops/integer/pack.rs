//! Operands of exact products in the form that the kernels read.

use bytemuck::{Pod, Zeroable};

use crate::error::KernelError;
use crate::gpu::device::Caps;
use crate::gpu::ops::Ctx;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::{Dispatch, grid};
use crate::gpu::tensor::GpuTensor;
use crate::tensor::DType;

static PACK: Shader = Shader { name: "integer_pack", inputs: 2, outputs: 1, text: include_str!("pack.wgsl") };
static PARAMS: Snippet = Snippet { name: "integer_pack_params", text: include_str!("pack_params.wgsl") };
static MATRIX: Snippet = Snippet { name: "integer_fetch_matrix", text: include_str!("fetch_matrix.wgsl") };

/// `Params` of `pack_params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct PackParams {
    pub(crate) rows: u32,
    pub(crate) k: u32,
    pub(crate) quads: u32,
    pub(crate) unused: u32,
    pub(crate) rows_per_batch: u32,
    pub(crate) batch_stride: u32,
    pub(crate) row_stride: u32,
    pub(crate) k_stride: u32,
    pub(crate) shift: u32,
    pub(crate) zero_mode: u32,
    pub(crate) groups: u32,
    pub(crate) out_width: u32,
    pub(crate) input: [u32; 2],
    pub(crate) kernel: [u32; 2],
    pub(crate) stride: [u32; 2],
    pub(crate) dilation: [u32; 2],
    pub(crate) pad: [u32; 2],
    pub(crate) unused2: [u32; 2],
}

/// A packed operand.
#[derive(Clone)]
pub(crate) struct Packed {
    /// Rows of signed bytes, then their sums, then their zero points.
    pub(crate) tensor: GpuTensor,
    /// How many rows.
    pub(crate) rows: usize,
}

/// Quads of words that a row of `k` bytes takes.
pub(crate) fn quads(k: usize) -> usize {
    k.div_ceil(16)
}

fn words(rows: usize, k: usize) -> usize {
    rows * quads(k) * 4 + 2 * rows.next_multiple_of(4)
}

/// Whether a packed operand of this size can be bound.
pub(crate) fn fits(rows: usize, k: usize, caps: &Caps) -> bool {
    words(rows, k) as u64 * 4 <= caps.max_storage_buffer_binding_size.min(caps.max_buffer_size)
}

impl PackParams {
    /// `rows` of `k` bytes of type `dtype`, without a window.
    pub(crate) fn new(dtype: DType, rows: usize, k: usize, zero: Option<&GpuTensor>) -> PackParams {
        PackParams {
            rows: rows as u32,
            k: k as u32,
            quads: quads(k) as u32,
            rows_per_batch: rows.max(1) as u32,
            shift: if dtype == DType::U8 { 128 } else { 0 },
            zero_mode: zero.map_or(0, |z| if z.len() > 1 { 2 } else { 1 }),
            ..PackParams::zeroed()
        }
    }
}

/// Records the packing of `src` with the snippet that fetches its bytes.
pub(crate) fn pack(
    ctx: &Ctx<'_>,
    fetch: &'static Snippet,
    src: &GpuTensor,
    zero: Option<&GpuTensor>,
    params: PackParams,
) -> Result<Packed, KernelError> {
    let rows = params.rows as usize;
    let tensor = ctx.scratch(DType::I32, &[words(rows, params.k as usize)])?;
    if rows > 0 {
        ctx.dispatch(Dispatch {
            key: key(fetch),
            params: bytemuck::bytes_of(&params),
            inputs: &[Some(src), zero],
            outputs: &[Some(&tensor)],
            groups: grid(rows as u64, ctx.caps()),
        })?;
    }
    Ok(Packed { tensor, rows })
}

/// The pipeline that packs what `fetch` brings.
pub(crate) fn key(fetch: &'static Snippet) -> PipelineKey {
    PipelineKey::new(&PACK).with(&shared::LINEAR).with(&PARAMS).with(fetch)
}

/// The pipeline that packs matrices.
#[cfg(test)]
pub(crate) fn matrix_key() -> PipelineKey {
    key(&MATRIX)
}

/// Keeps what `make` packs as long as the constant `src`, under the first name, or the second with zero points.
///
/// The zero points are part of the packed form, so it is only reused with the same ones; a constant that meets a second
/// set of zero points, or is seen under a second shape, is packed each time.
fn packed_once(
    src: &GpuTensor,
    zero: Option<&GpuTensor>,
    names: [&'static str; 2],
    rows: usize,
    k: usize,
    make: impl Fn() -> Result<Packed, KernelError>,
) -> Result<Packed, KernelError> {
    if !src.constant {
        return make();
    }
    if let Some(zero) = zero {
        // A tensor that held itself would never be freed.
        if !zero.constant || zero.buffer.id == src.buffer.id {
            return make();
        }
        let first = src.derived("zero points it was packed with", || Ok(zero.clone()))?;
        if first.buffer.id != zero.buffer.id {
            return make();
        }
    }
    let tensor = src.derived(names[zero.is_some() as usize], || Ok(make()?.tensor))?;
    if tensor.len() != words(rows, k) {
        return make();
    }
    Ok(Packed { tensor, rows })
}

/// Packs the matrices of `src`, along their rows or along their columns. `per_batch` rows or columns lie in a matrix.
pub(crate) fn pack_matrix(
    ctx: &Ctx<'_>,
    src: &GpuTensor,
    zero: Option<&GpuTensor>,
    names: [&'static str; 2],
    per_batch: usize,
    k: usize,
    columns: bool,
) -> Result<Packed, KernelError> {
    let rows = src.len().checked_div(k).unwrap_or_else(|| matrices(&src.shape) * per_batch);
    let (row_stride, k_stride) = if columns { (1, per_batch) } else { (k, 1) };
    let params = PackParams {
        rows_per_batch: per_batch as u32,
        batch_stride: (per_batch * k) as u32,
        row_stride: row_stride as u32,
        k_stride: k_stride as u32,
        ..PackParams::new(src.dtype, rows, k, zero)
    };
    packed_once(src, zero, names, rows, k, || pack(ctx, &MATRIX, src, zero, params))
}

fn matrices(shape: &[usize]) -> usize {
    shape[..shape.len().saturating_sub(2)].iter().product()
}
