//! From floats to bytes and back.
//!
//! Rounding equals the CPU's: `divide.wgsl` says how, with a division that the language only promises to a few units in
//! the last place.

use bytemuck::{Pod, Zeroable};

use super::shared::axis_of;
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::gpu::tensor::GpuTensor;
use crate::graph::Op;
use crate::tensor::DType;

static RANGE: Shader = Shader { name: "quantize_range", inputs: 1, outputs: 1, text: include_str!("range.wgsl") };
static SCALE: Shader = Shader { name: "quantize_scale", inputs: 1, outputs: 2, text: include_str!("scale.wgsl") };
static QUANTIZE: Shader = Shader { name: "quantize", inputs: 3, outputs: 1, text: include_str!("quantize.wgsl") };
static DEQUANTIZE: Shader = Shader { name: "dequantize", inputs: 3, outputs: 1, text: include_str!("dequantize.wgsl") };
static DIVIDE: Snippet = Snippet { name: "quantize_divide", text: include_str!("divide.wgsl") };
static INDEX: Snippet = Snippet { name: "quantize_index", text: include_str!("index.wgsl") };

/// Workgroups that share the search for the range of a tensor.
const MAX_RANGES: usize = 256;

/// `Params` of `quantize.wgsl` and `dequantize.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Params {
    elements: u32,
    flags: u32,
    inner: u32,
    size: u32,
    block: u32,
    block_stride: u32,
    outer_stride: u32,
    inner_stride: u32,
}

const SIGNED: u32 = 1;
const ZEROS: u32 = 2;
const WORDS: u32 = 4;

/// How the scales of shape `scale` lie along `x`; `None` if they do not fit.
fn layout(x: &[usize], scale: &[usize], axis: i64, block: usize) -> Option<Params> {
    let elements = x.iter().product::<usize>() as u32;
    let one =
        Params { elements, flags: 0, inner: 1, size: 1, block: 1, block_stride: 0, outer_stride: 0, inner_stride: 0 };
    let scales: usize = scale.iter().product();
    if block == 0 && scales == 1 {
        return Some(one);
    }
    let axis = axis_of(axis, x.len())?;
    let inner: usize = x[axis + 1..].iter().product();
    let outer: usize = x[..axis].iter().product();
    let size = x[axis];
    let shared = Params { inner: inner.max(1) as u32, size: size.max(1) as u32, ..one };
    if block == 0 {
        return (scales == size).then_some(Params { block_stride: 1, ..shared });
    }
    let blocks = size.div_ceil(block);
    (scales == outer * blocks * inner).then_some(Params {
        block: block as u32,
        block_stride: inner as u32,
        outer_stride: (blocks * inner) as u32,
        inner_stride: 1,
        ..shared
    })
}

/// f32 to and from u8 and i8, i32 to f32; a scale for all, along a dimension, or blocked.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let Some((tx, x)) = facts.input(0) else { return false };
    let output = facts.output_type(0);
    let scales_fit = |axis, block, zero: Option<DType>| {
        let Some((DType::F32, scale)) = facts.input(1) else { return false };
        layout(x, scale, axis, block).is_some()
            && facts.input(2).is_none_or(|(t, z)| Some(t) == zero && z.iter().product::<usize>() == facts.input_len(1))
    };
    match *op {
        Op::DynamicQuantizeLinear => tx == DType::F32 && output == Some(DType::U8),
        Op::QuantizeLinear { axis, to, block } => {
            tx == DType::F32 && to.is_int8() && output == Some(to) && scales_fit(axis, block, Some(to))
        }
        Op::DequantizeLinear { axis, block } => {
            (tx.is_int8() || tx == DType::I32) && output == Some(DType::F32) && scales_fit(axis, block, Some(tx))
        }
        _ => false,
    }
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    match *op {
        Op::DynamicQuantizeLinear => dynamic(ctx),
        Op::QuantizeLinear { axis, block, .. } => {
            let (x, scale, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
            let params = layout(&x.shape, &scale.shape, axis, block)
                .ok_or_else(|| ctx.unsupported(format!("scales of shape {:?}", scale.shape)))?;
            quantize(ctx, x, scale, ctx.optional(2), y, params)
        }
        Op::DequantizeLinear { axis, block } => {
            let (x, scale, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
            let mut params = layout(&x.shape, &scale.shape, axis, block)
                .ok_or_else(|| ctx.unsupported(format!("scales of shape {:?}", scale.shape)))?;
            if y.is_empty() {
                return Ok(());
            }
            params.flags = flags(x.dtype, ctx.optional(2));
            ctx.dispatch(Dispatch {
                key: dequantize_key(),
                params: bytemuck::bytes_of(&params),
                inputs: &[Some(x), Some(scale), ctx.optional(2)],
                outputs: &[Some(y)],
                groups: grid_for(y.len() as u64, 64, ctx.caps()),
            })
        }
        _ => Err(ctx.unsupported("no kernel".into())),
    }
}

fn flags(bytes: DType, zero: Option<&GpuTensor>) -> u32 {
    let signed = if bytes == DType::I8 { SIGNED } else { 0 };
    let words = if bytes == DType::I32 { WORDS } else { 0 };
    signed | words | if zero.is_some() { ZEROS } else { 0 }
}

fn quantize(
    ctx: &Ctx<'_>,
    x: &GpuTensor,
    scale: &GpuTensor,
    zero: Option<&GpuTensor>,
    y: &GpuTensor,
    params: Params,
) -> Result<(), KernelError> {
    if y.is_empty() {
        return Ok(());
    }
    let params = Params { flags: flags(y.dtype, zero), ..params };
    ctx.dispatch(Dispatch {
        key: quantize_key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x), Some(scale), zero],
        outputs: &[Some(y)],
        groups: grid_for((y.len() as u64).div_ceil(4), 64, ctx.caps()),
    })
}

/// The range in two stages, then scale and zero point, then the bytes.
fn dynamic(ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y, scale, zero) = (ctx.input(0)?, ctx.output(0)?, ctx.output(1)?, ctx.output(2)?);
    // Sixteen elements an invocation before another workgroup pays.
    let ranges = x.len().div_ceil(256 * 16).clamp(1, MAX_RANGES);
    let partial = ctx.scratch(DType::F32, &[2 * ranges])?;
    ctx.dispatch(Dispatch {
        key: PipelineKey::new(&RANGE),
        params: bytemuck::bytes_of(&[x.len() as u32, 256 * ranges as u32, 0, 0]),
        inputs: &[Some(x)],
        outputs: &[Some(&partial)],
        groups: [ranges as u32, 1, 1],
    })?;
    ctx.dispatch(Dispatch {
        key: scale_key(),
        params: bytemuck::bytes_of(&[ranges as u32, 0, 0, 0]),
        inputs: &[Some(&partial)],
        outputs: &[Some(scale), Some(zero)],
        groups: [1, 1, 1],
    })?;
    let params = layout(&x.shape, &[], 0, 0).ok_or_else(|| ctx.unsupported("no scale".into()))?;
    quantize(ctx, x, scale, Some(zero), y, params)
}

fn scale_key() -> PipelineKey {
    PipelineKey::new(&SCALE).with(&DIVIDE)
}

fn quantize_key() -> PipelineKey {
    PipelineKey::new(&QUANTIZE).with(&shared::LINEAR).with(&DIVIDE).with(&INDEX)
}

fn dequantize_key() -> PipelineKey {
    PipelineKey::new(&DEQUANTIZE).with(&shared::LINEAR).with(&INDEX)
}

/// All pipelines.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    vec![PipelineKey::new(&RANGE), scale_key(), quantize_key(), dequantize_key()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{Lcg, assert_close, gpu, run};
    use crate::tensor::Tensor;

    /// What ONNX Runtime computes.
    fn dynamic_on_host(x: &[f32]) -> (Vec<u8>, f32, u8) {
        let min = x.iter().fold(0f32, |m, &v| m.min(v));
        let max = x.iter().fold(0f32, |m, &v| m.max(v));
        let scale = if min == max { 1.0 } else { (max - min) / 255.0 };
        let zero = (-min / scale).clamp(0.0, 255.0).round_ties_even();
        let y = x.iter().map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8).collect();
        (y, scale, zero as u8)
    }

    #[test]
    fn dynamic_quantization_equals_the_host_bit_for_bit() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(11);
        let mut cases: Vec<Vec<f32>> = vec![vec![0.0; 5], vec![1.0, 2.0, 3.0], vec![-3.0, -1.0], vec![], vec![7.5]];
        // Multiples of half a step: every quotient is a tie or next to one.
        cases.push((0..1021).map(|i| (i as f32 - 300.0) * 0.5 * 0.0371).collect());
        cases.push((0..511).map(|i| i as f32 * 0.5).collect());
        for n in [1, 3, 63, 1000, 4097, 70001] {
            let spread = 10f32.powi(rng.below(9) as i32 - 4);
            cases.push(rng.floats(n).into_iter().map(|v| v * spread).collect());
        }
        for x in cases {
            let (y, scale, zero) = dynamic_on_host(&x);
            let n = [x.len()];
            let outputs: [(DType, &[usize]); 3] = [(DType::U8, &n), (DType::F32, &[]), (DType::U8, &[])];
            let got = run(&gpu, &Op::DynamicQuantizeLinear, &[Some(Tensor::vector(&x))], &outputs);
            assert_eq!(got[1].as_slice::<f32>().unwrap(), [scale], "{n:?}");
            assert_eq!(got[2].bytes(), [zero], "{n:?}");
            assert_eq!(got[0].bytes(), y, "{n:?}");
        }
    }

    #[test]
    fn scales_for_all_along_a_dimension_and_in_blocks() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(12);
        // Shape, axis, block, shape of the scales.
        let cases: [(&[usize], i64, usize, &[usize]); 7] = [
            (&[37], 0, 0, &[]),
            (&[3, 5, 7], 1, 0, &[1]),
            (&[3, 5, 7], 1, 0, &[5]),
            (&[3, 5, 7], -1, 0, &[7]),
            (&[3, 5, 7], 0, 0, &[3]),
            (&[3, 10, 7], 1, 4, &[3, 3, 7]),
            (&[6, 32], -1, 16, &[6, 2]),
        ];
        for (shape, axis, block, scale_shape) in cases {
            for to in [DType::U8, DType::I8] {
                let total: usize = shape.iter().product();
                let scales: Vec<f32> =
                    rng.floats(scale_shape.iter().product()).iter().map(|v| v.abs() * 0.1 + 0.01).collect();
                let zeros: Vec<u8> = scales.iter().map(|_| rng.next() as u8).collect();
                let zero = |i: usize| if to == DType::U8 { zeros[i] as f32 } else { zeros[i] as i8 as f32 };
                let x: Vec<f32> = rng.floats(total).iter().map(|v| v * 12.0).collect();
                let at = if axis < 0 { (axis + shape.len() as i64) as usize } else { axis as usize };
                let inner: usize = shape[at + 1..].iter().product();
                let index = |i: usize| match (scales.len(), block) {
                    (1, 0) => 0,
                    (_, 0) => i / inner % shape[at],
                    (_, b) => {
                        let along = i / inner % shape[at] / b;
                        (i / inner / shape[at] * shape[at].div_ceil(b) + along) * inner + i % inner
                    }
                };
                let (low, high) = if to == DType::U8 { (0.0, 255.0) } else { (-128.0, 127.0) };
                let want: Vec<u8> = (0..total)
                    .map(|i| {
                        let q = (x[i] / scales[index(i)]).round_ties_even() + zero(index(i));
                        q.clamp(low, high) as i32 as u8
                    })
                    .collect();
                let scale = Some(Tensor::from_slice(scale_shape, &scales).unwrap());
                let zero_tensor = Some(Tensor::from_bytes(to, scale_shape, &zeros).unwrap());
                let inputs = [Some(Tensor::from_slice(shape, &x).unwrap()), scale.clone(), zero_tensor.clone()];
                let got = run(&gpu, &Op::QuantizeLinear { axis, to, block }, &inputs, &[(to, shape)]).remove(0);
                assert_eq!(got.bytes(), want, "{shape:?} {axis} {block} {to}");

                let value = |i: usize| if to == DType::U8 { want[i] as f32 } else { want[i] as i8 as f32 };
                let back: Vec<f32> = (0..total).map(|i| (value(i) - zero(index(i))) * scales[index(i)]).collect();
                let inputs = [Some(got), scale.clone(), zero_tensor];
                let op = Op::DequantizeLinear { axis, block };
                let got = run(&gpu, &op, &inputs, &[(DType::F32, shape)]).remove(0);
                assert_close(&got, &back, 0.0, 0.0, (shape, axis, block, to));

                let wide: Vec<i32> = (0..total).map(|_| rng.next() as i32 - (1 << 30)).collect();
                let back: Vec<f32> = (0..total).map(|i| wide[i] as f32 * scales[index(i)]).collect();
                let inputs = [Some(Tensor::from_slice(shape, &wide).unwrap()), scale, None];
                let got = run(&gpu, &op, &inputs, &[(DType::F32, shape)]).remove(0);
                assert_close(&got, &back, 0.0, 0.0, ("i32", shape, axis, block));
            }
        }
    }

    #[test]
    fn far_values_saturate() {
        let Some(gpu) = gpu() else { return };
        let x = Tensor::vector(&[1e30f32, -1e30, 127.5, 128.5, -0.5]);
        let inputs = [Some(x), Some(Tensor::scalar(1f32)), None];
        let op = Op::QuantizeLinear { axis: 0, to: DType::U8, block: 0 };
        let got = run(&gpu, &op, &inputs, &[(DType::U8, &[5])]).remove(0);
        assert_eq!(got.bytes(), [255, 0, 128, 128, 0]);
    }
}
