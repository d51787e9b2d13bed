//! `Where`: one of two numbers by a condition, with broadcasting.

use bytemuck::{Pod, Zeroable};

use super::shared::{MAX_RANK, broadcast_strides, collapse, pack};
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::tensor::DType;

static WHERE: Shader = Shader { name: "where", inputs: 3, outputs: 1, text: include_str!("where.wgsl") };

/// `Params` of `where.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    rank: u32,
    pad: [u32; 2],
    dims: [u32; MAX_RANK],
    strides: [[u32; MAX_RANK]; 3],
}

/// Dimensions and the strides of condition, a and b; `None` if they do not broadcast or have too many dimensions.
fn plan(shapes: [&[usize]; 3], out: &[usize]) -> Option<(Vec<usize>, Vec<Vec<usize>>)> {
    let strides = shapes.iter().map(|s| broadcast_strides(s, out)).collect::<Option<Vec<_>>>()?;
    Some(collapse(out, &strides)).filter(|(dims, _)| dims.len() <= MAX_RANK)
}

fn key() -> PipelineKey {
    PipelineKey::new(&WHERE).with(&shared::LINEAR)
}

/// Types that take one word an element.
pub(crate) fn is_word(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::I32 | DType::I64 | DType::Bool)
}

/// Every type that takes 32 bits an element on the device.
pub(crate) fn supports(facts: &Facts<'_>) -> bool {
    match (facts.input(0), facts.input(1), facts.input(2), facts.outputs) {
        (Some((DType::Bool, c)), Some((ta, a)), Some((tb, b)), &[(t, out)]) => {
            ta == tb && ta == t && is_word(t) && plan([c, a, b], out).is_some()
        }
        _ => false,
    }
}

pub(crate) fn record(ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (c, a, b, y) = (ctx.input(0)?, ctx.input(1)?, ctx.input(2)?, ctx.output(0)?);
    let (dims, strides) = plan([&c.shape, &a.shape, &b.shape], &y.shape)
        .ok_or_else(|| ctx.unsupported(format!("{:?}, {:?}, {:?} to {:?}", c.shape, a.shape, b.shape, y.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    let params = Params {
        len: y.len() as u32,
        rank: dims.len() as u32,
        pad: [0; 2],
        dims: pack(&dims),
        strides: [pack(&strides[0]), pack(&strides[1]), pack(&strides[2])],
    };
    ctx.dispatch(Dispatch {
        key: key(),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(c), Some(a), Some(b)],
        outputs: &[Some(y)],
        groups: grid_for(y.len() as u64, 256, ctx.caps()),
    })
}

/// The one pipeline.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    vec![key()]
}

#[cfg(test)]
mod tests {
    use crate::gpu::testing::{gpu, run};
    use crate::graph::Op;
    use crate::tensor::{Bool, DType, Tensor};

    #[test]
    fn conditions_broadcast() {
        let Some(gpu) = gpu() else { return };
        let c = Tensor::from_slice(&[3, 1], &[Bool(1), Bool(0), Bool(1)]).unwrap();
        let a = Tensor::from_slice(&[2, 1, 2], &[1f32, 2., 3., 4.]).unwrap();
        let b = Tensor::scalar(-9f32);
        let got = run(&gpu, &Op::Where, &[Some(c), Some(a), Some(b)], &[(DType::F32, &[2, 3, 2])]);
        let want = [1., 2., -9., -9., 1., 2., 3., 4., -9., -9., 3., 4.];
        assert_eq!(got[0].as_slice::<f32>().unwrap(), want);
    }

    #[test]
    fn integers_and_nothing() {
        let Some(gpu) = gpu() else { return };
        let c = Tensor::vector(&[Bool(1), Bool(0)]);
        let inputs = [Some(c), Some(Tensor::vector(&[1i64, 2])), Some(Tensor::scalar(7i64))];
        let got = run(&gpu, &Op::Where, &inputs, &[(DType::I64, &[2])]);
        assert_eq!(got[0].as_slice::<i64>().unwrap(), [1, 7]);
        let none = Tensor::from_slice::<f32>(&[0, 2], &[]).unwrap();
        let c = Tensor::vector(&[Bool(1), Bool(0)]);
        let got = run(&gpu, &Op::Where, &[Some(c), Some(none.clone()), Some(none)], &[(DType::F32, &[0, 2])]);
        assert!(got[0].is_empty());
    }
}
