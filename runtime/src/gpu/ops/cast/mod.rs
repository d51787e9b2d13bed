//! Conversions between element types.

use bytemuck::{Pod, Zeroable};

use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::gpu::tensor::device_bytes;
use crate::tensor::DType;

static CAST: Shader = Shader { name: "cast", inputs: 1, outputs: 1, text: include_str!("cast.wgsl") };

/// `Params` of `cast.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    words: u32,
    pad: [u32; 3],
}

/// The number of a type in `cast.wgsl`. On the device an i64 is an i32.
fn code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::I32 | DType::I64 => 1,
        DType::Bool => 2,
        DType::F16 => 3,
        DType::U8 => 4,
        DType::I8 => 5,
    }
}

fn key(from: DType, to: DType) -> PipelineKey {
    let halves = from == DType::F16 || to == DType::F16;
    let packed = if halves { &shared::PACKED } else { &shared::PACKED_BYTES };
    let key = PipelineKey::new(&CAST).with(&shared::LINEAR).with(packed);
    key.set("FROM", code(from)).set("TO", code(to))
}

/// All types. Integers beyond 32 bits saturate, as they do everywhere on the device.
pub(crate) fn supports(facts: &Facts<'_>) -> bool {
    facts.input(0).is_some() && facts.outputs.len() == 1
}

pub(crate) fn record(ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y) = (ctx.input(0)?, ctx.output(0)?);
    if x.len() != y.len() {
        return Err(KernelError::Invalid(format!("{}: {:?} into {:?}", ctx.name, x.shape, y.shape)));
    }
    if y.is_empty() {
        return Ok(());
    }
    let words = (device_bytes(y.dtype, y.len()) / 4) as u32;
    ctx.dispatch(Dispatch {
        key: key(x.dtype, y.dtype),
        params: bytemuck::bytes_of(&Params { words, pad: [0; 3] }),
        inputs: &[Some(x)],
        outputs: &[Some(y)],
        groups: grid_for(words as u64, 256, ctx.caps()),
    })
}

#[cfg(test)]
const ALL: [DType; 6] = [DType::F32, DType::I32, DType::Bool, DType::F16, DType::U8, DType::I8];

/// Every pair of types.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    ALL.iter().flat_map(|&from| ALL.map(|to| key(from, to))).collect()
}

#[cfg(test)]
mod tests {
    use half::f16;

    use crate::gpu::Caps;
    use crate::gpu::testing::{gpu, run, validate};
    use crate::graph::Op;
    use crate::tensor::{Bool, DType, Tensor};

    #[test]
    fn only_casts_of_f16_need_it() {
        let caps = Caps { packed_f16: false, ..Caps::minimal() };
        for from in super::ALL {
            for to in super::ALL.into_iter().filter(|&to| to != DType::F16 && from != DType::F16) {
                validate(&super::key(from, to), &caps);
            }
        }
    }

    #[test]
    fn every_type_from_and_to() {
        let Some(gpu) = gpu() else { return };
        let numbers = [0i64, 1, 7, 100, 0, 3, 127];
        let sources = [
            Tensor::vector(&numbers),
            Tensor::vector(&numbers.map(|n| n as i32)),
            Tensor::vector(&numbers.map(|n| n as f32 + if n > 0 { 0.5 } else { 0.0 })),
            Tensor::vector(&numbers.map(|n| f16::from_f32(n as f32))),
            Tensor::vector(&numbers.map(|n| n as u8)),
            Tensor::vector(&numbers.map(|n| n as i8)),
        ];
        for source in sources {
            for to in [DType::F32, DType::I32, DType::I64, DType::Bool, DType::F16, DType::U8, DType::I8] {
                let op = Op::Cast { to };
                let got = run(&gpu, &op, &[Some(source.clone())], &[(to, &[7])]).remove(0);
                let from_half = source.dtype() == DType::F32 && to.is_float();
                let values = match got.to_f32_vec() {
                    Some(v) => v.iter().map(|&v| (v * 2.0) as i64).collect::<Vec<_>>(),
                    None => got.to_i64_vec().unwrap().iter().map(|v| v * 2).collect(),
                };
                for (v, n) in values.iter().zip(numbers) {
                    let want = if to == DType::Bool { (n != 0) as i64 } else { n };
                    assert_eq!(*v, want * 2 + (from_half && n > 0) as i64, "{} to {to}: {n}", source.dtype());
                }
            }
        }
    }

    #[test]
    fn negative_numbers_truncate_and_bools_count() {
        let Some(gpu) = gpu() else { return };
        let x = Tensor::vector(&[-1.7f32, 2.9, -0.2]);
        let got = run(&gpu, &Op::Cast { to: DType::I64 }, &[Some(x)], &[(DType::I64, &[3])]);
        assert_eq!(got[0].as_slice::<i64>().unwrap(), [-1, 2, 0]);
        let x = Tensor::vector(&[-1i8, -128, 5]);
        let got = run(&gpu, &Op::Cast { to: DType::F32 }, &[Some(x)], &[(DType::F32, &[3])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [-1.0, -128.0, 5.0]);
        let x = Tensor::vector(&[Bool(1), Bool(0)]);
        let got = run(&gpu, &Op::Cast { to: DType::F32 }, &[Some(x)], &[(DType::F32, &[2])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [1.0, 0.0]);
    }
}
