//! Functions of two numbers, with broadcasting.

use bytemuck::{Pod, Zeroable};

use super::shared::{MAX_RANK, broadcast_strides, collapse, pack};
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::graph::Binary;
use crate::tensor::DType;

static VEC4: Shader = Shader { name: "binary_vec4", inputs: 2, outputs: 1, text: include_str!("binary_vec4.wgsl") };
static STRIDED: Shader =
    Shader { name: "binary_strided", inputs: 2, outputs: 1, text: include_str!("binary_strided.wgsl") };
static F32: Snippet = Snippet { name: "binary_f32", text: include_str!("binary_f32.wgsl") };
static I32: Snippet = Snippet { name: "binary_i32", text: include_str!("binary_i32.wgsl") };
static BOOL: Snippet = Snippet { name: "binary_bool", text: include_str!("binary_bool.wgsl") };
static ARITH: Snippet = Snippet { name: "binary_arith", text: include_str!("binary_arith.wgsl") };
static PREDICATE: Snippet = Snippet { name: "binary_predicate", text: include_str!("binary_predicate.wgsl") };

/// `Params` of `binary_vec4.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Vec4Params {
    vectors: u32,
    a_period: u32,
    b_period: u32,
    pad: u32,
}

/// `Params` of `binary_strided.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct StridedParams {
    len: u32,
    rank: u32,
    pad: [u32; 2],
    dims: [u32; MAX_RANK],
    a_strides: [u32; MAX_RANK],
    b_strides: [u32; MAX_RANK],
}

/// How an operand of the vector kernel is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    /// One element for all.
    Scalar,
    /// Repeats after so many elements, a multiple of four or all of them.
    Period(usize),
}

/// Which kernel runs.
#[derive(Debug, PartialEq, Eq)]
enum Kernel {
    Vec4(Operand, Operand),
    Strided { dims: Vec<usize>, a: Vec<usize>, b: Vec<usize> },
}

/// The kernel for operands of shapes `a` and `b`; `None` if they do not broadcast to `out`, or with too many dimensions.
fn choose(a: &[usize], b: &[usize], out: &[usize]) -> Option<Kernel> {
    let (sa, sb) = (broadcast_strides(a, out)?, broadcast_strides(b, out)?);
    let (dims, mut strides) = collapse(out, &[sa, sb]);
    let (sb, sa) = (strides.pop()?, strides.pop()?);
    let total: usize = dims.iter().product();
    // An operand repeats whole if its inner dimensions are dense and its outer ones do not move it.
    let operand = |s: &[usize]| {
        let inner: usize = s.iter().zip(&dims).filter(|(s, _)| **s != 0).map(|(_, n)| n).product();
        let mut want = 1;
        for (&stride, &n) in s.iter().zip(&dims).rev() {
            if want == inner && stride == 0 {
                continue;
            }
            if stride != want {
                return None;
            }
            want *= n;
        }
        match inner {
            1 => Some(Operand::Scalar),
            n if n == total || n % 4 == 0 => Some(Operand::Period(n)),
            _ => None,
        }
    };
    match (operand(&sa), operand(&sb)) {
        (Some(oa), Some(ob)) => Some(Kernel::Vec4(oa, ob)),
        _ if dims.len() <= MAX_RANK => Some(Kernel::Strided { dims, a: sa, b: sb }),
        _ => None,
    }
}

fn code(op: Binary) -> u32 {
    match op {
        Binary::Add => 0,
        Binary::Sub => 1,
        Binary::Mul => 2,
        Binary::Div => 3,
        Binary::Pow => 4,
        Binary::Mod => 5,
        Binary::Fmod => 6,
        Binary::Min => 7,
        Binary::Max => 8,
        Binary::Equal => 9,
        Binary::Less => 10,
        Binary::LessOrEqual => 11,
        Binary::Greater => 12,
        Binary::GreaterOrEqual => 13,
        Binary::And => 14,
        Binary::Or => 15,
        Binary::Xor => 16,
    }
}

fn snippet(op: Binary, a: DType, b: DType, out: DType) -> Option<&'static Snippet> {
    use Binary::*;
    if a != b || out != if op.is_predicate() { DType::Bool } else { a } {
        return None;
    }
    match (a, op) {
        (DType::Bool, And | Or | Xor | Equal) => Some(&BOOL),
        (_, And | Or | Xor) => None,
        (DType::F32, _) => Some(&F32),
        (DType::I32 | DType::I64, _) => Some(&I32),
        _ => None,
    }
}

fn key(op: Binary, shader: &'static Shader, types: &'static Snippet) -> PipelineKey {
    let result = if op.is_predicate() { &PREDICATE } else { &ARITH };
    PipelineKey::new(shader).with(&shared::LINEAR).with(types).with(result).set("OP", code(op))
}

/// f32, i32, i64 with both operands of one type; bool for `And`, `Or`, `Xor`, `Equal`.
pub(crate) fn supports(op: Binary, facts: &Facts<'_>) -> bool {
    match (facts.input(0), facts.input(1), facts.outputs) {
        (Some((ta, a)), Some((tb, b)), [(to, out)]) => {
            snippet(op, ta, tb, *to).is_some() && choose(a, b, out).is_some()
        }
        _ => false,
    }
}

pub(crate) fn record(op: Binary, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (a, b, y) = (ctx.input(0)?, ctx.input(1)?, ctx.output(0)?);
    let types = snippet(op, a.dtype, b.dtype, y.dtype)
        .ok_or_else(|| KernelError::unsupported_type("gpu", ctx.name, a.dtype))?;
    let kernel = choose(&a.shape, &b.shape, &y.shape)
        .ok_or_else(|| ctx.unsupported(format!("shapes {:?} and {:?} to {:?}", a.shape, b.shape, y.shape)))?;
    if y.is_empty() {
        return Ok(());
    }
    let inputs = &[Some(a), Some(b)];
    let outputs = &[Some(y)];
    match kernel {
        Kernel::Vec4(oa, ob) => {
            let period = |o| match o {
                Operand::Scalar => 1,
                Operand::Period(n) => n.div_ceil(4) as u32,
            };
            let vectors = y.len().div_ceil(4) as u32;
            let params = Vec4Params { vectors, a_period: period(oa), b_period: period(ob), pad: 0 };
            let key = key(op, &VEC4, types)
                .set("A_SCALAR", (oa == Operand::Scalar) as u8)
                .set("B_SCALAR", (ob == Operand::Scalar) as u8);
            let groups = grid_for(vectors as u64, 256, ctx.caps());
            ctx.dispatch(Dispatch { key, params: bytemuck::bytes_of(&params), inputs, outputs, groups })
        }
        Kernel::Strided { dims, a, b } => {
            let params = StridedParams {
                len: y.len() as u32,
                rank: dims.len() as u32,
                pad: [0; 2],
                dims: pack(&dims),
                a_strides: pack(&a),
                b_strides: pack(&b),
            };
            let key = key(op, &STRIDED, types);
            let groups = grid_for(y.len() as u64, 256, ctx.caps());
            ctx.dispatch(Dispatch { key, params: bytemuck::bytes_of(&params), inputs, outputs, groups })
        }
    }
}

/// Pipelines of all functions and types.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    let mut keys = Vec::new();
    for op in tests::ALL {
        for t in [DType::F32, DType::I32, DType::Bool] {
            let out = if op.is_predicate() { DType::Bool } else { t };
            let Some(types) = snippet(op, t, t, out) else { continue };
            keys.push(key(op, &STRIDED, types));
            for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                keys.push(key(op, &VEC4, types).set("A_SCALAR", a).set("B_SCALAR", b));
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{Lcg, assert_close, gpu, run};
    use crate::graph::Op;
    use crate::tensor::{Bool, Tensor};

    pub(super) const ALL: [Binary; 17] = {
        use Binary::*;
        [Add, Sub, Mul, Div, Pow, Mod, Fmod, Min, Max, Equal, Less, LessOrEqual, Greater, GreaterOrEqual, And, Or, Xor]
    };

    #[test]
    fn kernels_are_chosen_by_shape() {
        use Operand::*;
        let vec4 = |a: &[usize], b: &[usize], out: &[usize]| choose(a, b, out);
        assert_eq!(vec4(&[2, 3], &[2, 3], &[2, 3]), Some(Kernel::Vec4(Period(6), Period(6))));
        assert_eq!(vec4(&[2, 3], &[], &[2, 3]), Some(Kernel::Vec4(Period(6), Scalar)));
        assert_eq!(vec4(&[5, 7, 8], &[8], &[5, 7, 8]), Some(Kernel::Vec4(Period(280), Period(8))));
        assert_eq!(vec4(&[1, 1, 8], &[5, 7, 8], &[5, 7, 8]), Some(Kernel::Vec4(Period(8), Period(280))));
        // A row whose length is no multiple of four, and a column.
        assert!(matches!(vec4(&[5, 7], &[7], &[5, 7]), Some(Kernel::Strided { .. })));
        assert!(matches!(vec4(&[5, 8], &[5, 1], &[5, 8]), Some(Kernel::Strided { .. })));
        assert!(matches!(vec4(&[3, 5, 8], &[3, 1, 8], &[3, 5, 8]), Some(Kernel::Strided { .. })));
        assert_eq!(vec4(&[4], &[3], &[4]), None);
    }

    fn host(op: Binary, a: f32, b: f32) -> f32 {
        use Binary::*;
        match op {
            Add => a + b,
            Sub => a - b,
            Mul => a * b,
            Div => a / b,
            Pow => a.powf(b),
            Mod => a - b * (a / b).floor(),
            Fmod => a % b,
            Min => a.min(b),
            Max => a.max(b),
            Equal => (a == b) as u8 as f32,
            Less => (a < b) as u8 as f32,
            LessOrEqual => (a <= b) as u8 as f32,
            Greater => (a > b) as u8 as f32,
            GreaterOrEqual => (a >= b) as u8 as f32,
            And => (a != 0.0 && b != 0.0) as u8 as f32,
            Or => (a != 0.0 || b != 0.0) as u8 as f32,
            Xor => ((a != 0.0) != (b != 0.0)) as u8 as f32,
        }
    }

    /// The broadcast result of `op`, element by element.
    fn naive(op: Binary, a: (&[usize], &[f32]), b: (&[usize], &[f32]), out: &[usize]) -> Vec<f32> {
        let (sa, sb) = (broadcast_strides(a.0, out).unwrap(), broadcast_strides(b.0, out).unwrap());
        let total: usize = out.iter().product();
        (0..total)
            .map(|i| {
                let (mut rest, mut ia, mut ib) = (i, 0, 0);
                for d in (0..out.len()).rev() {
                    ia += rest % out[d] * sa[d];
                    ib += rest % out[d] * sb[d];
                    rest /= out[d];
                }
                host(op, a.1[ia], b.1[ib])
            })
            .collect()
    }

    #[test]
    fn broadcasting_matches_the_host() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(2);
        let shapes: [(&[usize], &[usize], &[usize]); 11] = [
            (&[7, 13], &[7, 13], &[7, 13]),
            (&[7, 13], &[], &[7, 13]),
            (&[1], &[7, 13], &[7, 13]),
            (&[], &[], &[]),
            (&[5, 3, 8], &[8], &[5, 3, 8]),
            (&[5, 3, 7], &[7], &[5, 3, 7]),
            (&[5, 1, 7], &[3, 1], &[5, 3, 7]),
            (&[2, 3, 1, 5, 1, 2], &[1, 3, 4, 1, 3, 2], &[2, 3, 4, 5, 3, 2]),
            (&[1, 4], &[3, 1], &[3, 4]),
            (&[0, 4], &[1, 4], &[0, 4]),
            (&[300, 1000], &[300, 1], &[300, 1000]),
        ];
        for (sa, sb, so) in shapes {
            for op in ALL.into_iter().take(14) {
                if so.len() == 2 && so[0] == 300 && op != Binary::Add {
                    continue;
                }
                let positive = op == Binary::Pow;
                let mut data = |s: &[usize]| -> Vec<f32> {
                    let values = rng.floats(s.iter().product());
                    values.into_iter().map(|v| if positive { v.abs() * 3.0 } else { v * 4.0 }).collect()
                };
                let (a, b) = (data(sa), data(sb));
                let want = naive(op, (sa, &a), (sb, &b), so);
                let inputs = [Some(Tensor::from_slice(sa, &a).unwrap()), Some(Tensor::from_slice(sb, &b).unwrap())];
                let out = if op.is_predicate() { DType::Bool } else { DType::F32 };
                let got = run(&gpu, &Op::Binary(op), &inputs, &[(out, so)]).remove(0);
                let got = match got.to_i64_vec() {
                    Some(bools) => Tensor::vector(&bools.iter().map(|&b| b as f32).collect::<Vec<_>>()),
                    None => got,
                };
                // Remainders near a multiple of the divisor may fall on either side.
                if matches!(op, Binary::Mod | Binary::Fmod) {
                    let close = |(i, g): (usize, &f32)| (g - want[i]).abs() < 1e-4 || (g - want[i]).abs() > 1e-3;
                    assert!(got.as_slice::<f32>().unwrap().iter().enumerate().all(close));
                } else {
                    assert_close(&got, &want, 3e-5, 1e-6, (op, sa, sb));
                }
            }
        }
    }

    #[test]
    fn integers_and_bools() {
        let Some(gpu) = gpu() else { return };
        let a = [7i64, -7, 7, -7, 0, 9];
        let b = [3i64, 3, -3, -3, 5, 2];
        let expect: [(Binary, [i64; 6]); 8] = [
            (Binary::Add, [10, -4, 4, -10, 5, 11]),
            (Binary::Div, [2, -2, -2, 2, 0, 4]),
            (Binary::Mod, [1, 2, -2, -1, 0, 1]),
            (Binary::Fmod, [1, -1, 1, -1, 0, 1]),
            (Binary::Pow, [343, -343, 0, 0, 0, 81]),
            (Binary::Min, [3, -7, -3, -7, 0, 2]),
            (Binary::Less, [0, 1, 0, 1, 1, 0]),
            (Binary::Equal, [0; 6]),
        ];
        for (op, want) in expect {
            let out = if op.is_predicate() { DType::Bool } else { DType::I64 };
            let inputs = [Some(Tensor::vector(&a)), Some(Tensor::vector(&b))];
            let got = run(&gpu, &Op::Binary(op), &inputs, &[(out, &[6])]);
            assert_eq!(got[0].to_i64_vec().unwrap(), want, "{op:?}");
        }
        let a = Tensor::vector(&[Bool(0), Bool(0), Bool(1), Bool(1)]);
        let b = Tensor::vector(&[Bool(0), Bool(1), Bool(0), Bool(1)]);
        for (op, want) in [(Binary::And, [0u8, 0, 0, 1]), (Binary::Or, [0, 1, 1, 1]), (Binary::Xor, [0, 1, 1, 0])] {
            let inputs = [Some(a.clone()), Some(b.clone())];
            let got = run(&gpu, &Op::Binary(op), &inputs, &[(DType::Bool, &[4])]);
            assert_eq!(got[0].bytes(), want, "{op:?}");
        }
    }

    #[test]
    fn a_negative_base_has_whole_powers() {
        let Some(gpu) = gpu() else { return };
        let inputs = [Some(Tensor::vector(&[-2f32, -2.0, -3.0, 2.0])), Some(Tensor::vector(&[2f32, 3.0, 5.0, -1.0]))];
        let got = run(&gpu, &Op::Binary(Binary::Pow), &inputs, &[(DType::F32, &[4])]);
        assert_close(&got[0], &[4.0, -8.0, -243.0, 0.5], 1e-5, 0.0, "pow");
    }
}
