//! Operators that make elements: ConstantOfShape, Range, Trilu.

use bytemuck::{Pod, Zeroable};

use super::select::is_word;
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared, types};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::gpu::tensor::device_bytes;
use crate::graph::Op;
use crate::tensor::{DType, Tensor};

static FILL: Shader = Shader { name: "fill", inputs: 0, outputs: 1, text: include_str!("fill.wgsl") };
static RANGE: Shader = Shader { name: "range", inputs: 2, outputs: 1, text: include_str!("range.wgsl") };
static TRILU: Shader = Shader { name: "trilu", inputs: 2, outputs: 1, text: include_str!("trilu.wgsl") };

/// `Params` of all three shaders; the meaning of the numbers is each shader's.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params([u32; 4]);

/// The word that, repeated, fills a tensor with `value`; `None` unless it has one element.
fn word_of(value: &Tensor) -> Option<u32> {
    let bytes = value.bytes();
    Some(match (value.dtype(), bytes) {
        (DType::I64, &[..]) if value.len() == 1 => {
            let v = *value.to_i64_vec()?.first()?;
            v.clamp(i32::MIN as i64, i32::MAX as i64) as i32 as u32
        }
        (DType::Bool, &[b]) => (b != 0) as u32,
        (DType::U8 | DType::I8, &[b]) => u32::from_le_bytes([b; 4]),
        (DType::F16, &[a, b]) => u32::from_le_bytes([a, b, a, b]),
        (_, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
        _ => return None,
    })
}

fn fill_key() -> PipelineKey {
    PipelineKey::new(&FILL).with(&shared::LINEAR)
}

fn range_key(alias: &'static Snippet) -> PipelineKey {
    PipelineKey::new(&RANGE).with(&shared::LINEAR).with(alias)
}

fn trilu_key() -> PipelineKey {
    PipelineKey::new(&TRILU).with(&shared::LINEAR)
}

fn range_alias(dtype: DType) -> Option<&'static Snippet> {
    match dtype {
        DType::F32 => Some(&types::F32),
        DType::I32 | DType::I64 => Some(&types::I32),
        _ => None,
    }
}

/// ConstantOfShape of every type, Range of f32, i32 and i64, Trilu of 32-bit types.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let Some(&(to, out)) = facts.outputs.first() else { return false };
    match op {
        Op::ConstantOfShape { value } => value.dtype() == to && word_of(value).is_some(),
        Op::Range => range_alias(to).is_some() && (0..3).all(|i| facts.input_type(i) == Some(to)),
        Op::Trilu { .. } => is_word(to) && facts.input_type(0) == Some(to) && out.len() >= 2,
        _ => false,
    }
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let y = ctx.output(0)?;
    if y.is_empty() {
        return Ok(());
    }
    let words = (device_bytes(y.dtype, y.len()) / 4) as u32;
    let groups = grid_for(words as u64, 256, ctx.caps());
    let outputs = &[Some(y)];
    let unsupported = || KernelError::unsupported_type("gpu", ctx.name, y.dtype);
    match op {
        Op::ConstantOfShape { value } => {
            let word = word_of(value).ok_or_else(unsupported)?;
            let params = Params([words, word, 0, 0]);
            let params = bytemuck::bytes_of(&params);
            ctx.dispatch(Dispatch { key: fill_key(), params, inputs: &[], outputs, groups })
        }
        Op::Range => {
            let alias = range_alias(y.dtype).ok_or_else(unsupported)?;
            let inputs = &[Some(ctx.input(0)?), Some(ctx.input(2)?)];
            let params = Params([words, 0, 0, 0]);
            let params = bytemuck::bytes_of(&params);
            ctx.dispatch(Dispatch { key: range_key(alias), params, inputs, outputs, groups })
        }
        Op::Trilu { upper } => {
            let &[.., rows, columns] = y.shape.as_slice() else { return Err(unsupported()) };
            let inputs = &[Some(ctx.input(0)?), ctx.optional(1)];
            let params = Params([words, rows as u32, columns as u32, *upper as u32]);
            let params = bytemuck::bytes_of(&params);
            ctx.dispatch(Dispatch { key: trilu_key(), params, inputs, outputs, groups })
        }
        _ => Err(ctx.unsupported("no kernel".into())),
    }
}

/// Pipelines of all types.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    vec![fill_key(), range_key(&types::F32), range_key(&types::I32), trilu_key()]
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::gpu::testing::{gpu, run};

    #[test]
    fn constants_of_every_type() {
        let Some(gpu) = gpu() else { return };
        let values = [
            Tensor::vector(&[2.5f32]),
            Tensor::vector(&[-3i32]),
            Tensor::vector(&[-7i64]),
            Tensor::vector(&[200u8]),
            Tensor::vector(&[f16::from_f32(0.5)]),
            Tensor::vector(&[crate::tensor::Bool(1)]),
        ];
        for value in values {
            let shape = Some(Tensor::vector(&[3i64, 5]));
            let op = Op::ConstantOfShape { value: value.clone() };
            let got = run(&gpu, &op, &[shape], &[(value.dtype(), &[3, 5])]);
            assert_eq!(got[0].bytes(), value.bytes().repeat(15));
        }
        assert_eq!(word_of(&Tensor::vector(&[1f32, 2.0])), None);
    }

    #[test]
    fn ranges_and_triangles() {
        let Some(gpu) = gpu() else { return };
        let scalars = |v: [i64; 3]| v.map(|v| Some(Tensor::scalar(v)));
        let got = run(&gpu, &Op::Range, &scalars([10, 0, -3]), &[(DType::I64, &[4])]);
        assert_eq!(got[0].as_slice::<i64>().unwrap(), [10, 7, 4, 1]);
        let x = Tensor::from_slice(&[2, 3, 4], &(1..=24).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
        for (upper, k) in [(true, None), (false, None), (true, Some(2)), (false, Some(-1)), (false, Some(i64::MAX))] {
            let inputs = [Some(x.clone()), k.map(Tensor::scalar)];
            let got = run(&gpu, &Op::Trilu { upper }, &inputs, &[(DType::F32, &[2, 3, 4])]);
            for (i, (g, v)) in got[0].as_slice::<f32>().unwrap().iter().zip(1..).enumerate() {
                let (r, c, k) = ((i / 4 % 3) as i64, (i % 4) as i64, k.unwrap_or(0).min(100));
                let keep = if upper { c - r >= k } else { c - r <= k };
                assert_eq!(*g, if keep { v as f32 } else { 0.0 }, "{upper} {k} {r} {c}");
            }
        }
    }
}
