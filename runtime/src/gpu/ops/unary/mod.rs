//! Functions of one number.

use bytemuck::{Pod, Zeroable};

use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::graph::Unary;
use crate::tensor::DType;

static FLOAT: Shader = Shader { name: "unary", inputs: 1, outputs: 1, text: include_str!("unary.wgsl") };
static BITS: Shader = Shader { name: "unary_bits", inputs: 1, outputs: 1, text: include_str!("unary_bits.wgsl") };

/// `Params` of both shaders.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    vectors: u32,
    a: f32,
    b: f32,
    pad: u32,
}

/// The number and the parameters of a function in `unary_fn.wgsl` and `unary_bits.wgsl`.
pub(crate) fn unary_code(u: Unary) -> (u32, [f32; 2]) {
    match u {
        Unary::Abs => (1, [0.0; 2]),
        Unary::Neg => (2, [0.0; 2]),
        Unary::Exp => (3, [0.0; 2]),
        Unary::Log => (4, [0.0; 2]),
        Unary::Sqrt => (5, [0.0; 2]),
        Unary::Reciprocal => (6, [0.0; 2]),
        Unary::Erf => (7, [0.0; 2]),
        Unary::Tanh => (8, [0.0; 2]),
        Unary::Sigmoid => (9, [0.0; 2]),
        Unary::Relu => (10, [0.0; 2]),
        Unary::Sin => (11, [0.0; 2]),
        Unary::Cos => (12, [0.0; 2]),
        Unary::Floor => (13, [0.0; 2]),
        Unary::Ceil => (14, [0.0; 2]),
        Unary::Round => (15, [0.0; 2]),
        Unary::Sign => (16, [0.0; 2]),
        Unary::Clip { min, max } => (17, [min, max]),
        Unary::LeakyRelu { slope } => (18, [slope, 0.0]),
        Unary::HardSigmoid { alpha, beta } => (19, [alpha, beta]),
        Unary::HardSwish => (20, [0.0; 2]),
        Unary::Gelu => (21, [0.0; 2]),
        Unary::GeluTanh => (22, [0.0; 2]),
        Unary::QuickGelu { alpha } => (23, [alpha, 0.0]),
        Unary::Not => (100, [0.0; 2]),
        Unary::IsNan => (101, [0.0; 2]),
    }
}

/// The number and the parameters of an epilogue's activation; none is number 0.
pub(crate) fn activation_code(activation: Option<Unary>) -> (u32, [f32; 2]) {
    activation.map_or((0, [0.0; 2]), unary_code)
}

/// Whether `activation` can follow a product: every function from f32 to f32.
pub(crate) fn is_activation(activation: Option<Unary>) -> bool {
    activation_code(activation).0 < 100
}

fn shader_for(u: Unary, from: DType, to: DType) -> Option<&'static Shader> {
    match (u, from, to) {
        (Unary::Not, DType::Bool, DType::Bool) => Some(&BITS),
        (Unary::IsNan, DType::F32, DType::Bool) => Some(&BITS),
        (Unary::Not | Unary::IsNan, ..) => None,
        (_, DType::F32, DType::F32) => Some(&FLOAT),
        (Unary::Abs | Unary::Neg | Unary::Sign, DType::I32, DType::I32) => Some(&BITS),
        (Unary::Abs | Unary::Neg | Unary::Sign, DType::I64, DType::I64) => Some(&BITS),
        _ => None,
    }
}

fn key(u: Unary, shader: &'static Shader) -> PipelineKey {
    let key = PipelineKey::new(shader).with(&shared::LINEAR);
    let key = if std::ptr::eq(shader, &FLOAT) { key.with(&shared::UNARY) } else { key };
    key.set("OP", unary_code(u).0)
}

/// Every function on f32; `Abs`, `Neg`, `Sign` on i32 and i64; `Not` on bool.
pub(crate) fn supports(u: Unary, facts: &Facts<'_>) -> bool {
    match (facts.input_type(0), facts.output_type(0)) {
        (Some(from), Some(to)) => shader_for(u, from, to).is_some(),
        _ => false,
    }
}

pub(crate) fn record(u: Unary, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y) = (ctx.input(0)?, ctx.output(0)?);
    let shader =
        shader_for(u, x.dtype, y.dtype).ok_or_else(|| KernelError::unsupported_type("gpu", ctx.name, x.dtype))?;
    if x.len() != y.len() {
        return Err(KernelError::Invalid(format!("{}: {:?} into {:?}", ctx.name, x.shape, y.shape)));
    }
    if y.is_empty() {
        return Ok(());
    }
    let vectors = y.len().div_ceil(4) as u32;
    let [a, b] = unary_code(u).1;
    let params = Params { vectors, a, b, pad: 0 };
    ctx.dispatch(Dispatch {
        key: key(u, shader),
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x)],
        outputs: &[Some(y)],
        groups: grid_for(vectors as u64, 256, ctx.caps()),
    })
}

/// Pipelines of all functions.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    let mut keys: Vec<_> = tests::all().into_iter().map(|u| key(u, &FLOAT)).collect();
    keys.extend([Unary::Abs, Unary::Neg, Unary::Sign, Unary::Not, Unary::IsNan].map(|u| key(u, &BITS)));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{Lcg, assert_close, gpu, run};
    use crate::graph::Op;
    use crate::tensor::{Bool, Tensor};

    /// Every function from f32 to f32.
    pub(super) fn all() -> Vec<Unary> {
        use Unary::*;
        vec![
            Abs,
            Neg,
            Exp,
            Log,
            Sqrt,
            Reciprocal,
            Erf,
            Tanh,
            Sigmoid,
            Relu,
            Sin,
            Cos,
            Floor,
            Ceil,
            Round,
            Sign,
            Clip { min: -0.5, max: 1.5 },
            LeakyRelu { slope: 0.1 },
            HardSigmoid { alpha: 0.2, beta: 0.5 },
            HardSwish,
            Gelu,
            GeluTanh,
            QuickGelu { alpha: 1.702 },
        ]
    }

    /// Abramowitz and Stegun 7.1.26 is too coarse for a reference; the series and the continued fraction are not.
    fn erf(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= -x * x / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut f = 0.0;
        for k in (1..60).rev() {
            f = k as f64 / 2.0 / (x.abs() + f);
        }
        (1.0 - (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + f)).copysign(x)
    }

    fn host(u: Unary, x: f32) -> f32 {
        let x = x as f64;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        (match u {
            Unary::Abs => x.abs(),
            Unary::Neg => -x,
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Reciprocal => 1.0 / x,
            Unary::Erf => erf(x),
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => sigmoid(x),
            Unary::Relu => x.max(0.0),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Floor => x.floor(),
            Unary::Ceil => x.ceil(),
            Unary::Round => x.round_ties_even(),
            Unary::Sign => (x > 0.0) as i32 as f64 - (x < 0.0) as i32 as f64,
            Unary::Clip { min, max } => x.max(min as f64).min(max as f64),
            Unary::LeakyRelu { slope } => {
                if x >= 0.0 {
                    x
                } else {
                    slope as f64 * x
                }
            }
            Unary::HardSigmoid { alpha, beta } => (alpha as f64 * x + beta as f64).clamp(0.0, 1.0),
            Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Unary::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Unary::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            }
            Unary::QuickGelu { alpha } => x * sigmoid(alpha as f64 * x),
            Unary::Not | Unary::IsNan => unreachable!(),
        }) as f32
    }

    #[test]
    fn float_functions_match_the_host() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(1);
        let mut values: Vec<f32> = (0..1021).map(|_| rng.f32() * 8.0).collect();
        values.extend([0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 20.0, -20.0, 40.0, -40.0]);
        for u in all() {
            let positive = matches!(u, Unary::Log | Unary::Sqrt);
            let x: Vec<f32> = values.iter().map(|&v| if positive { v.abs() + 1e-3 } else { v }).collect();
            let x: Vec<f32> = x.into_iter().filter(|&v| u != Unary::Reciprocal || v != 0.0).collect();
            let want: Vec<f32> = x.iter().map(|&v| host(u, v)).collect();
            let shape = [x.len()];
            let got = run(&gpu, &Op::Unary(u), &[Some(Tensor::vector(&x))], &[(DType::F32, &shape)]);
            assert_close(&got[0], &want, 2e-5, 2e-6, u);
        }
    }

    #[test]
    fn integers_bools_and_nan() {
        let Some(gpu) = gpu() else { return };
        let x = Tensor::vector(&[3i64, -4, 0, 5, -6]);
        let got = run(&gpu, &Op::Unary(Unary::Abs), &[Some(x.clone())], &[(DType::I64, &[5])]);
        assert_eq!(got[0].as_slice::<i64>().unwrap(), [3, 4, 0, 5, 6]);
        let got = run(&gpu, &Op::Unary(Unary::Sign), &[Some(x)], &[(DType::I64, &[5])]);
        assert_eq!(got[0].as_slice::<i64>().unwrap(), [1, -1, 0, 1, -1]);
        let got =
            run(&gpu, &Op::Unary(Unary::Not), &[Some(Tensor::vector(&[Bool(1), Bool(0)]))], &[(DType::Bool, &[2])]);
        assert_eq!(got[0].bytes(), [0, 1]);
        let x = Tensor::vector(&[f32::NAN, f32::INFINITY, 1.0, -f32::NAN]);
        let got = run(&gpu, &Op::Unary(Unary::IsNan), &[Some(x)], &[(DType::Bool, &[4])]);
        assert_eq!(got[0].bytes(), [1, 0, 0, 1]);
    }

    #[test]
    fn empty_and_large() {
        let Some(gpu) = gpu() else { return };
        let empty = Tensor::from_slice::<f32>(&[0, 3], &[]).unwrap();
        let got = run(&gpu, &Op::Unary(Unary::Exp), &[Some(empty)], &[(DType::F32, &[0, 3])]);
        assert!(got[0].is_empty());
        let x: Vec<f32> = (0..3_000_001).map(|i| i as f32).collect();
        let want: Vec<f32> = x.iter().map(|v| -v).collect();
        let got = run(&gpu, &Op::Unary(Unary::Neg), &[Some(Tensor::vector(&x))], &[(DType::F32, &[3_000_001])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), want);
    }
}
