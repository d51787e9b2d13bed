//! Elements and rows by index: Gather, GatherElements, GatherND.

use bytemuck::{Pod, Zeroable};

use super::select::is_word;
use super::shared::{MAX_RANK, axis_of, pack, strides};
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared, types};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::gpu::tensor::device_bytes;
use crate::graph::Op;
use crate::tensor::DType;

static GATHER: Shader = Shader { name: "gather", inputs: 2, outputs: 1, text: include_str!("gather.wgsl") };
static ELEMENTS: Shader =
    Shader { name: "gather_elements", inputs: 2, outputs: 1, text: include_str!("gather_elements.wgsl") };
static ND: Shader = Shader { name: "gather_nd", inputs: 2, outputs: 1, text: include_str!("gather_nd.wgsl") };
static WHOLE: Snippet = Snippet { name: "gather_whole", text: include_str!("whole.wgsl") };
static PARTS: Snippet = Snippet { name: "gather_parts", text: include_str!("parts.wgsl") };
static WORDS4: Snippet = Snippet { name: "T=vec4<u32>", text: "alias T = vec4<u32>;\n" };

/// `Params` of `gather.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    inner: u32,
    count: u32,
    size: u32,
}

/// `Params` of `gather_elements.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ElementsParams {
    len: u32,
    rank: u32,
    axis: u32,
    size: u32,
    dims: [u32; MAX_RANK],
    strides: [u32; MAX_RANK],
}

/// `Params` of `gather_nd.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NdParams {
    len: u32,
    slice: u32,
    depth: u32,
    per_batch: u32,
    batch: u32,
    pad: [u32; 3],
    sizes: [u32; MAX_RANK],
    strides: [u32; MAX_RANK],
}

/// What an invocation of `gather.wgsl` moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// Four words; rows are counted in so many elements each.
    Words4(usize),
    /// One word; rows are counted in so many elements each.
    Words(usize),
    /// Two f16 of rows of odd length.
    Halves,
    /// Four 8-bit numbers of rows of any length.
    Bytes,
    /// One f16 widened.
    Widen,
}

/// The kernel for rows of `inner` elements.
fn choose(from: DType, to: DType, inner: usize) -> Option<Kernel> {
    let per_word = match from {
        DType::U8 | DType::I8 => 4,
        DType::F16 => 2,
        _ => 1,
    };
    match (from, to) {
        (DType::F16, DType::F32) => Some(Kernel::Widen),
        (from, to) if from != to => None,
        _ if inner.is_multiple_of(4 * per_word) => Some(Kernel::Words4(4 * per_word)),
        _ if inner.is_multiple_of(per_word) => Some(Kernel::Words(per_word)),
        (DType::F16, _) => Some(Kernel::Halves),
        _ => Some(Kernel::Bytes),
    }
}

fn key(kernel: Kernel) -> PipelineKey {
    let base = PipelineKey::new(&GATHER).with(&shared::LINEAR);
    match kernel {
        Kernel::Words4(_) => base.with(&WORDS4).with(&WHOLE).set("KIND", 0),
        Kernel::Words(_) => base.with(&types::U32).with(&WHOLE).set("KIND", 0),
        Kernel::Halves => base.with(&shared::PACKED_BYTES).with(&PARTS).set("KIND", 1),
        Kernel::Bytes => base.with(&shared::PACKED_BYTES).with(&PARTS).set("KIND", 2),
        Kernel::Widen => base.with(&shared::PACKED).with(&PARTS).set("KIND", 3),
    }
}

fn plain_key(shader: &'static Shader) -> PipelineKey {
    PipelineKey::new(shader).with(&shared::LINEAR)
}

fn is_index(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::I64 | DType::I32))
}

/// Gather of every type, and from f16 to f32; the other two of 32-bit types with up to eight dimensions.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let (Some((from, x)), Some(&(to, _))) = (facts.input(0), facts.outputs.first()) else { return false };
    if !is_index(facts.input_type(1)) {
        return false;
    }
    match op {
        Op::Gather { axis } => axis_of(*axis, x.len()).is_some() && choose(from, to, 1).is_some(),
        _ => from == to && is_word(from) && x.len() <= MAX_RANK,
    }
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, indices, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
    let misfit =
        || KernelError::Invalid(format!("{}: {:?} by {:?} to {:?}", ctx.name, x.shape, indices.shape, y.shape));
    if y.is_empty() {
        return Ok(());
    }
    if x.is_empty() {
        return Err(KernelError::OutOfRange(format!("{}: an index into an empty dimension", ctx.name)));
    }
    let inputs = &[Some(x), Some(indices)];
    let outputs = &[Some(y)];
    match op {
        Op::Gather { axis } => {
            let axis = axis_of(*axis, x.shape.len()).ok_or_else(misfit)?;
            let outer: usize = x.shape[..axis].iter().product();
            let inner: usize = x.shape[axis + 1..].iter().product();
            if outer * indices.len() * inner != y.len() {
                return Err(misfit());
            }
            let kernel = choose(x.dtype, y.dtype, inner)
                .ok_or_else(|| KernelError::unsupported_type("gpu", ctx.name, x.dtype))?;
            let unit = match kernel {
                Kernel::Words4(n) | Kernel::Words(n) => n,
                _ => 1,
            };
            let params = Params {
                len: (y.len() / unit) as u32,
                inner: (inner / unit) as u32,
                count: indices.len() as u32,
                size: x.shape[axis] as u32,
            };
            let items = match kernel {
                Kernel::Words4(n) | Kernel::Words(n) => (y.len() / n) as u64,
                _ => device_bytes(y.dtype, y.len()) / 4,
            };
            let groups = grid_for(items, 256, ctx.caps());
            let params = bytemuck::bytes_of(&params);
            ctx.dispatch(Dispatch { key: key(kernel), params, inputs, outputs, groups })
        }
        Op::GatherElements { axis } => {
            let rank = x.shape.len();
            let axis = axis_of(*axis, rank).ok_or_else(misfit)?;
            if y.shape != indices.shape || y.shape.len() != rank || rank > MAX_RANK {
                return Err(misfit());
            }
            let params = ElementsParams {
                len: y.len() as u32,
                rank: rank as u32,
                axis: axis as u32,
                size: x.shape[axis] as u32,
                dims: pack(&y.shape),
                strides: pack(&strides(&x.shape)),
            };
            let groups = grid_for(y.len() as u64, 256, ctx.caps());
            let params = bytemuck::bytes_of(&params);
            ctx.dispatch(Dispatch { key: plain_key(&ELEMENTS), params, inputs, outputs, groups })
        }
        Op::GatherNd { batch_dims } => {
            let (b, rank) = (*batch_dims, x.shape.len());
            let Some((&depth, tuples)) = indices.shape.split_last() else { return Err(misfit()) };
            if b > tuples.len() || b + depth > rank || rank > MAX_RANK {
                return Err(misfit());
            }
            let own = strides(&x.shape);
            let slice: usize = x.shape[b + depth..].iter().product();
            let params = NdParams {
                len: y.len() as u32,
                slice: slice as u32,
                depth: depth as u32,
                per_batch: tuples[b..].iter().product::<usize>() as u32,
                batch: x.shape[b..].iter().product::<usize>() as u32,
                pad: [0; 3],
                sizes: pack(&x.shape[b..b + depth]),
                strides: pack(&own[b..b + depth]),
            };
            if tuples.iter().product::<usize>() * slice != y.len() {
                return Err(misfit());
            }
            let groups = grid_for(y.len() as u64, 256, ctx.caps());
            let params = bytemuck::bytes_of(&params);
            ctx.dispatch(Dispatch { key: plain_key(&ND), params, inputs, outputs, groups })
        }
        _ => Err(ctx.unsupported("no kernel".into())),
    }
}

/// Pipelines of all kinds of word.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    let kinds = [Kernel::Words4(4), Kernel::Words(1), Kernel::Halves, Kernel::Bytes, Kernel::Widen];
    let mut keys = kinds.map(key).to_vec();
    keys.extend([plain_key(&ELEMENTS), plain_key(&ND)]);
    keys
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::gpu::testing::{Lcg, gpu, run};
    use crate::tensor::Tensor;

    #[test]
    fn kernels_are_chosen_by_row() {
        assert_eq!(choose(DType::F32, DType::F32, 512), Some(Kernel::Words4(4)));
        assert_eq!(choose(DType::F16, DType::F16, 512), Some(Kernel::Words4(8)));
        assert_eq!(choose(DType::F16, DType::F16, 6), Some(Kernel::Words(2)));
        assert_eq!(choose(DType::F16, DType::F16, 7), Some(Kernel::Halves));
        assert_eq!(choose(DType::U8, DType::U8, 5), Some(Kernel::Bytes));
        assert_eq!(choose(DType::F16, DType::F32, 512), Some(Kernel::Widen));
        assert_eq!(choose(DType::F32, DType::F16, 512), None);
    }

    #[test]
    fn rows_of_every_type() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(3);
        for (outer, n, inner) in [(1, 50, 16), (1, 9, 7), (3, 5, 2), (2, 11, 1), (1, 40, 512)] {
            let count = 13;
            let indices: Vec<i64> = (0..count).map(|_| rng.below(2 * n) as i64 - n as i64).collect();
            let total = outer * n * inner;
            let at = |i: usize| {
                let (row, c) = (i / inner, i % inner);
                let j = indices[row % count].rem_euclid(n as i64) as usize;
                (row / count * n + j) * inner + c
            };
            let (shape, out) = ([outer, n, inner], [outer, count, inner]);
            let len = outer * count * inner;
            let index = Some(Tensor::vector(&indices));
            let op = Op::Gather { axis: 1 };

            let x = rng.floats(total);
            let halves: Vec<f16> = x.iter().map(|&v| f16::from_f32(v)).collect();
            let bytes: Vec<i8> = (0..total).map(|_| rng.next() as i8).collect();
            let t = Tensor::from_slice(&shape, &x).unwrap();
            let got = run(&gpu, &op, &[Some(t), index.clone()], &[(DType::F32, &out)]);
            assert_eq!(got[0].as_slice::<f32>().unwrap(), (0..len).map(|i| x[at(i)]).collect::<Vec<_>>());
            let t = Tensor::from_slice(&shape, &halves).unwrap();
            let got = run(&gpu, &op, &[Some(t.clone()), index.clone()], &[(DType::F16, &out)]);
            assert_eq!(got[0].as_slice::<f16>().unwrap(), (0..len).map(|i| halves[at(i)]).collect::<Vec<_>>());
            let got = run(&gpu, &op, &[Some(t), index.clone()], &[(DType::F32, &out)]);
            let want: Vec<_> = (0..len).map(|i| halves[at(i)].to_f32()).collect();
            assert_eq!(got[0].as_slice::<f32>().unwrap(), want);
            let t = Tensor::from_slice(&shape, &bytes).unwrap();
            let got = run(&gpu, &op, &[Some(t), index], &[(DType::I8, &out)]);
            assert_eq!(got[0].as_slice::<i8>().unwrap(), (0..len).map(|i| bytes[at(i)]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_scalar_index_and_one_out_of_range() {
        let Some(gpu) = gpu() else { return };
        let x = Tensor::from_slice(&[3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let op = Op::Gather { axis: 0 };
        let got = run(&gpu, &op, &[Some(x.clone()), Some(Tensor::scalar(-1i64))], &[(DType::F32, &[2])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [5., 6.]);
        let got = run(&gpu, &op, &[Some(x), Some(Tensor::vector(&[3i32, -4]))], &[(DType::F32, &[2, 2])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [0.0; 4]);
    }

    #[test]
    fn elements_and_tuples() {
        let Some(gpu) = gpu() else { return };
        let x = Tensor::from_slice(&[3, 3], &(1..=9).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        let i = Tensor::from_slice(&[2, 3], &[1i64, -1, 0, 2, 0, 0]).unwrap();
        let op = Op::GatherElements { axis: 0 };
        let got = run(&gpu, &op, &[Some(x.clone()), Some(i)], &[(DType::F32, &[2, 3])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [4., 8., 3., 7., 2., 3.]);
        let i = Tensor::from_slice(&[2, 2], &[0i64, 1, 2, -1]).unwrap();
        let op = Op::GatherNd { batch_dims: 0 };
        let got = run(&gpu, &op, &[Some(x), Some(i)], &[(DType::F32, &[2])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [2., 9.]);
        let x = Tensor::from_slice(&[2, 3, 2], &(0..12).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        let i = Tensor::from_slice(&[2, 1], &[2i64, 0]).unwrap();
        let op = Op::GatherNd { batch_dims: 1 };
        let got = run(&gpu, &op, &[Some(x), Some(i)], &[(DType::F32, &[2, 2])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [4., 5., 6., 7.]);
    }
}
