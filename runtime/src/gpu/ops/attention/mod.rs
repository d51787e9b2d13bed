//! Scaled dot-product attention.
//!
//! One kernel reads queries, keys and values through strides, so every layout is served in place. A cache that grows in
//! place first gets the new rows; one that is given is first copied, with the new rows behind it, into the present
//! outputs or into scratch memory.

use bytemuck::{Pod, Zeroable};

use super::{Ctx, Facts};
use crate::error::KernelError;
#[cfg(test)]
use crate::gpu::device::Caps;
use crate::gpu::ops::shared::broadcast_strides;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::gpu::tensor::GpuTensor;
use crate::graph::{Attention, HeadLayout, Op};
use crate::tensor::DType;

static FLASH: Shader = Shader { name: "attention_flash", inputs: 5, outputs: 1, text: include_str!("flash.wgsl") };
static APPEND: Shader = Shader { name: "attention_append", inputs: 1, outputs: 1, text: include_str!("append.wgsl") };
static PARAMS: Snippet = Snippet { name: "attention_params", text: include_str!("params.wgsl") };

/// Elements of a head that an invocation group can hold.
const MAX_HEAD: usize = 256;
/// Queries of a workgroup.
const QUERIES: usize = 8;

/// `Params` of `params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    q_strides: [u32; 4],
    k_strides: [u32; 4],
    v_strides: [u32; 4],
    y_strides: [u32; 4],
    bias_strides: [u32; 4],
    heads: u32,
    group: u32,
    queries: u32,
    keys: u32,
    head_size: u32,
    v_head_size: u32,
    scale: f32,
    flags: u32,
    empty_row: u32,
    unused: [u32; 3],
}

const BIAS: u32 = 1;
const LENGTHS: u32 = 2;
const CAUSAL: u32 = 4;

/// `Params` of `append.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AppendParams {
    elements: u32,
    heads: u32,
    head_size: u32,
    rows: u32,
    first: u32,
    capacity: u32,
    unused: [u32; 2],
    strides: [u32; 4],
}

/// Sizes of one operand, and its strides in the order batch, head, position, element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operand {
    batch: usize,
    positions: usize,
    head_size: usize,
    strides: [usize; 4],
}

impl Operand {
    /// `None` if the shape is not one of `layout` with `heads` heads.
    fn new(shape: &[usize], layout: HeadLayout, heads: usize) -> Option<Operand> {
        match (layout, shape) {
            (HeadLayout::Merged, &[batch, positions, width]) if heads > 0 && width.is_multiple_of(heads) => {
                let head_size = width / heads;
                Some(Operand { batch, positions, head_size, strides: [positions * width, head_size, width, 1] })
            }
            (HeadLayout::Split, &[batch, h, positions, head_size]) if h == heads => {
                let plane = positions * head_size;
                Some(Operand { batch, positions, head_size, strides: [h * plane, plane, head_size, 1] })
            }
            (HeadLayout::SplitTransposed, &[batch, h, head_size, positions]) if h == heads => {
                let plane = positions * head_size;
                Some(Operand { batch, positions, head_size, strides: [h * plane, plane, 1, positions] })
            }
            _ => None,
        }
    }

    fn packed(self) -> [u32; 4] {
        self.strides.map(|s| s as u32)
    }
}

/// What is computed from the shapes alone.
#[derive(Clone, Copy, Debug)]
struct Plan {
    q: Operand,
    k: Operand,
    v: Operand,
    past: usize,
}

impl Plan {
    fn new(op: &Attention, q: &[usize], k: &[usize], v: &[usize], past: Option<(&[usize], &[usize])>) -> Option<Plan> {
        let q = Operand::new(q, op.q_layout, op.heads)?;
        let k = Operand::new(k, op.k_layout, op.kv_heads)?;
        let v = Operand::new(v, op.v_layout, op.kv_heads)?;
        let past = match past {
            None => 0,
            Some(([b, h, p, d], [b2, h2, p2, d2])) => {
                let fits = [*b, *h, *d] == [k.batch, op.kv_heads, k.head_size]
                    && [*b2, *h2, *p2, *d2] == [v.batch, op.kv_heads, *p, v.head_size];
                if !fits {
                    return None;
                }
                *p
            }
            Some(_) => return None,
        };
        let fits = op.kv_heads > 0
            && op.heads.is_multiple_of(op.kv_heads)
            && q.batch == k.batch
            && q.batch == v.batch
            && k.positions == v.positions
            && q.head_size == k.head_size
            && q.head_size <= MAX_HEAD
            && v.head_size <= MAX_HEAD;
        fits.then_some(Plan { q, k, v, past })
    }

    fn keys(&self) -> usize {
        self.past + self.k.positions
    }

    fn grid(&self, heads: usize) -> [usize; 2] {
        [self.q.positions.div_ceil(QUERIES), self.q.batch * heads]
    }
}

/// All layouts, grouped heads, bias, lengths, causal masks and caches, for heads of up to 256 elements.
/// `GroupQueryAttention` runs on the CPU backend.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let Op::Attention(op) = op else { return false };
    let shape = |i: usize| match facts.input(i) {
        Some((DType::F32, shape)) => Some(shape),
        _ => None,
    };
    let (Some(q), Some(k), Some(v)) = (shape(0), shape(1), shape(2)) else { return false };
    let past = match (facts.input(5), facts.input(6)) {
        (None, None) => None,
        (Some((DType::F32, k)), Some((DType::F32, v))) => Some((k, v)),
        _ => return false,
    };
    let Some(plan) = Plan::new(op, q, k, v, past) else { return false };
    let scores = [plan.q.batch, op.heads, plan.q.positions, plan.keys()];
    let bias_fits = match facts.input(3) {
        None => true,
        Some((t, shape)) => t == DType::F32 && broadcast_strides(shape, &scores).is_some(),
    };
    let lengths_fit = match facts.input_type(4) {
        None => true,
        Some(t) => matches!(t, DType::I32 | DType::I64) && facts.input_len(4) == plan.q.batch,
    };
    let max = facts.caps.max_workgroups_per_dimension as usize;
    bias_fits
        && lengths_fit
        && plan.grid(op.heads).iter().all(|&g| g <= max)
        && facts.outputs.iter().all(|&(t, _)| t == DType::F32)
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let Op::Attention(op) = op else { return Err(ctx.unsupported("no kernel".into())) };
    let (q, mut k, mut v) = (ctx.input(0)?, ctx.input(1)?, ctx.input(2)?);
    let past = ctx.optional(5).zip(ctx.optional(6));
    let mut plan = Plan::new(op, &q.shape, &k.shape, &v.shape, past.map(|(k, v)| (&k.shape[..], &v.shape[..])))
        .ok_or_else(|| ctx.unsupported(format!("shapes {:?}, {:?} and {:?}", q.shape, k.shape, v.shape)))?;

    // Joined with the cache when there is one, or when the result is asked for.
    let joined_k = join(ctx, op, k, plan.k, past.map(|p| p.0), ctx.outputs.get(1).copied())?;
    let joined_v = join(ctx, op, v, plan.v, past.map(|p| p.1), ctx.outputs.get(2).copied())?;
    if let Some(joined) = &joined_k {
        (k, plan.k) = (joined, cached(&joined.shape, joined.shape[2]));
    }
    if let Some(joined) = &joined_v {
        (v, plan.v) = (joined, cached(&joined.shape, joined.shape[2]));
    }
    attend(ctx, op, &plan, [q, k, v])
}

/// Like [`record`] with caches of keys and values [batch, heads, capacity, size] that hold `past` rows: only the new rows are
/// written to them. Inputs 5 and 6 are not read.
pub(crate) fn record_growing(
    op: &Attention,
    ctx: &Ctx<'_>,
    keys: &GpuTensor,
    values: &GpuTensor,
    past: usize,
) -> Result<(), KernelError> {
    let (q, k, v) = (ctx.input(0)?, ctx.input(1)?, ctx.input(2)?);
    let plan = Plan::new(op, &q.shape, &k.shape, &v.shape, None);
    let fits = |p: &Plan| {
        let room = |cache: &GpuTensor, new: Operand| {
            matches!(*cache.shape, [b, h, capacity, d]
                if [b, h, d] == [new.batch, op.kv_heads, new.head_size] && past + new.positions <= capacity)
        };
        room(keys, p.k) && room(values, p.v)
    };
    let Some(mut plan) = plan.filter(fits) else {
        return Err(ctx.unsupported(format!(
            "shapes {:?}, {:?} and {:?} behind {past} rows of a cache {:?}",
            q.shape, k.shape, v.shape, keys.shape
        )));
    };
    append(ctx, op.kv_heads, k, plan.k, keys, past)?;
    append(ctx, op.kv_heads, v, plan.v, values, past)?;
    let total = past + plan.k.positions;
    (plan.k, plan.v) = (cached(&keys.shape, total), cached(&values.shape, total));
    attend(ctx, op, &plan, [q, keys, values])
}

/// Copies the first `rows` rows of each head of one cache into a larger one.
pub(crate) fn record_move(ctx: &Ctx<'_>, from: &GpuTensor, to: &GpuTensor, rows: usize) -> Result<(), KernelError> {
    append(ctx, from.shape[1], from, cached(&from.shape, rows), to, 0)
}

/// The computation, once all keys and values lie together.
fn attend(ctx: &Ctx<'_>, op: &Attention, plan: &Plan, [q, k, v]: [&GpuTensor; 3]) -> Result<(), KernelError> {
    let y = ctx.output(0)?;
    if y.is_empty() {
        return Ok(());
    }
    // A cache may be joined on one side only, when only one present output is asked for and there is no past.
    let keys = plan.k.positions;
    let scores = [plan.q.batch, op.heads, plan.q.positions, keys];
    let mut bias_strides = [0; 4];
    if let Some(bias) = ctx.optional(3) {
        let strides = broadcast_strides(&bias.shape, &scores)
            .ok_or_else(|| ctx.unsupported(format!("a bias of shape {:?}", bias.shape)))?;
        for (to, from) in bias_strides.iter_mut().zip(strides) {
            *to = from as u32;
        }
    }
    let (heads, rows, size) = (op.heads, plan.q.positions, plan.v.head_size);
    let y_strides = if op.merged_output {
        [rows * heads * size, size, heads * size, 1]
    } else {
        [heads * rows * size, rows * size, size, 1]
    };
    let mut flags = 0;
    for (flag, set) in [(BIAS, ctx.optional(3).is_some()), (LENGTHS, ctx.optional(4).is_some()), (CAUSAL, op.causal)] {
        flags |= if set { flag } else { 0 };
    }
    let params = Params {
        q_strides: plan.q.packed(),
        k_strides: plan.k.packed(),
        v_strides: plan.v.packed(),
        y_strides: y_strides.map(|s| s as u32),
        bias_strides,
        heads: heads as u32,
        group: (heads / op.kv_heads) as u32,
        queries: rows as u32,
        keys: keys as u32,
        head_size: plan.q.head_size as u32,
        v_head_size: size as u32,
        scale: op.scale.unwrap_or_else(|| 1.0 / (plan.q.head_size as f32).sqrt()),
        flags,
        empty_row: if op.zero_masked_rows { 0 } else { f32::NAN.to_bits() },
        unused: [0; 3],
    };
    let [x, planes] = plan.grid(heads);
    ctx.dispatch(Dispatch {
        key: flash_key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(q), Some(k), Some(v), ctx.optional(3), ctx.optional(4)],
        outputs: &[Some(y)],
        groups: [x as u32, planes as u32, 1],
    })
}

/// How the first `rows` rows of a cache of `shape` [batch, heads, capacity, size] lie.
fn cached(shape: &[usize], rows: usize) -> Operand {
    let (heads, capacity, head_size) = (shape[1], shape[2], shape[3]);
    let plane = capacity * head_size;
    Operand { batch: shape[0], positions: rows, head_size, strides: [heads * plane, plane, head_size, 1] }
}

/// Writes the rows of `new` into `cache` from row `first` on.
fn append(
    ctx: &Ctx<'_>,
    heads: usize,
    new: &GpuTensor,
    operand: Operand,
    cache: &GpuTensor,
    first: usize,
) -> Result<(), KernelError> {
    let elements = operand.batch * heads * operand.positions * operand.head_size;
    if elements == 0 {
        return Ok(());
    }
    let params = AppendParams {
        elements: elements as u32,
        heads: heads as u32,
        head_size: operand.head_size as u32,
        rows: operand.positions as u32,
        first: first as u32,
        capacity: cache.shape[2] as u32,
        unused: [0; 2],
        strides: operand.packed(),
    };
    ctx.dispatch(Dispatch {
        key: append_key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(new)],
        outputs: &[Some(cache)],
        groups: grid_for(elements as u64, 64, ctx.caps()),
    })
}

/// The past and the new keys or values in one tensor, if there is a past or the tensor is an output.
fn join(
    ctx: &Ctx<'_>,
    op: &Attention,
    fresh: &GpuTensor,
    operand: Operand,
    past: Option<&GpuTensor>,
    present: Option<&GpuTensor>,
) -> Result<Option<GpuTensor>, KernelError> {
    if past.is_none() && present.is_none() {
        return Ok(None);
    }
    let length = past.map_or(0, |p| p.shape[2]);
    let total = length + operand.positions;
    let shape = [operand.batch, op.kv_heads, total, operand.head_size];
    let joined = match present {
        Some(present) if present.shape == shape => present.clone(),
        Some(present) => {
            return Err(KernelError::Invalid(format!(
                "{}: the present output has shape {:?}, not {shape:?}",
                ctx.name, present.shape
            )));
        }
        None => ctx.scratch(DType::F32, &shape)?,
    };
    if let Some(past) = past {
        append(ctx, op.kv_heads, past, cached(&past.shape, length), &joined, 0)?;
    }
    append(ctx, op.kv_heads, fresh, operand, &joined, length)?;
    Ok(Some(joined))
}

fn flash_key() -> PipelineKey {
    PipelineKey::new(&FLASH).with(&PARAMS)
}

fn append_key() -> PipelineKey {
    PipelineKey::new(&APPEND).with(&shared::LINEAR)
}

/// All pipelines.
#[cfg(test)]
pub(crate) fn variants(_caps: &Caps) -> Vec<PipelineKey> {
    vec![flash_key(), append_key()]
}

#[cfg(test)]
mod tests;
