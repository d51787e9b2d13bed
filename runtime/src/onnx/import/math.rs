//! Elementwise operators, products, reductions.

use super::{NodeContext, Outputs, one};
use crate::graph::{Binary, MatMul, Op, Reduce, Unary, ValueId};
use crate::onnx::tensor::dtype_of;

pub(super) fn import(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    use Binary::*;
    match cx.op_type() {
        "Abs" => unary(cx, Unary::Abs),
        "Neg" => unary(cx, Unary::Neg),
        "Exp" => unary(cx, Unary::Exp),
        "Log" => unary(cx, Unary::Log),
        "Sqrt" => unary(cx, Unary::Sqrt),
        "Reciprocal" => unary(cx, Unary::Reciprocal),
        "Erf" => unary(cx, Unary::Erf),
        "Tanh" => unary(cx, Unary::Tanh),
        "Sigmoid" => unary(cx, Unary::Sigmoid),
        "Relu" => unary(cx, Unary::Relu),
        "Sin" => unary(cx, Unary::Sin),
        "Cos" => unary(cx, Unary::Cos),
        "Floor" => unary(cx, Unary::Floor),
        "Ceil" => unary(cx, Unary::Ceil),
        "Round" => unary(cx, Unary::Round),
        "Sign" => unary(cx, Unary::Sign),
        "Not" => unary(cx, Unary::Not),
        "IsNaN" => unary(cx, Unary::IsNan),
        "HardSwish" => unary(cx, Unary::HardSwish),
        "LeakyRelu" => with(cx, |cx| Ok(Unary::LeakyRelu { slope: cx.attributes.float_or("alpha", 0.01)? })),
        "HardSigmoid" => with(cx, |cx| {
            let (alpha, beta) = (cx.attributes.float_or("alpha", 0.2)?, cx.attributes.float_or("beta", 0.5)?);
            Ok(Unary::HardSigmoid { alpha, beta })
        }),
        "Gelu" => with(cx, |cx| match cx.attributes.text_or("approximate", "none")? {
            "none" => Ok(Unary::Gelu),
            "tanh" => Ok(Unary::GeluTanh),
            other => Err(format!("attribute approximate = {other:?} is not supported")),
        }),
        "Clip" => one(clip(cx)),
        "Add" => binary(cx, Add),
        "Sub" => binary(cx, Sub),
        "Mul" => binary(cx, Mul),
        "Div" => binary(cx, Div),
        "Pow" => binary(cx, Pow),
        "Equal" => binary(cx, Equal),
        "Less" => binary(cx, Less),
        "LessOrEqual" => binary(cx, LessOrEqual),
        "Greater" => binary(cx, Greater),
        "GreaterOrEqual" => binary(cx, GreaterOrEqual),
        "And" => binary(cx, And),
        "Or" => binary(cx, Or),
        "Xor" => binary(cx, Xor),
        "Mod" => match cx.attributes.flag("fmod", false) {
            Ok(fmod) => binary(cx, if fmod { Fmod } else { Mod }),
            Err(e) => Some(Err(e)),
        },
        "Min" => one(chain(cx, Min)),
        "Max" => one(chain(cx, Max)),
        "Sum" => one(chain(cx, Add)),
        "Where" => one(cx.inputs().and_then(|i| cx.emit(Op::Where, &i))),
        "Cast" => one(cast(cx)),
        "MatMul" => one(matmul(cx)),
        "Gemm" => one(gemm(cx, None)),
        "Softmax" => one(softmax(cx)),
        "ReduceMean" => one(reduce(cx, Reduce::Mean)),
        "ReduceSum" => one(reduce(cx, Reduce::Sum)),
        "ReduceMax" => one(reduce(cx, Reduce::Max)),
        "ReduceMin" => one(reduce(cx, Reduce::Min)),
        "ReduceProd" => one(reduce(cx, Reduce::Prod)),
        "ReduceL2" => one(reduce(cx, Reduce::L2)),
        "ReduceSumSquare" => one(reduce(cx, Reduce::SumSquare)),
        "ArgMax" => one(arg_max(cx, false)),
        "ArgMin" => one(arg_max(cx, true)),
        "CumSum" => one(cumsum(cx)),
        _ => None,
    }
}

pub(super) fn unary(cx: &mut NodeContext<'_, '_>, op: Unary) -> Option<Outputs> {
    one(cx.need(0).and_then(|x| cx.emit(Op::Unary(op), &[Some(x)])))
}

pub(super) fn with(
    cx: &mut NodeContext<'_, '_>,
    read: impl FnOnce(&mut NodeContext<'_, '_>) -> Result<Unary, String>,
) -> Option<Outputs> {
    match read(cx) {
        Ok(op) => unary(cx, op),
        Err(e) => Some(Err(e)),
    }
}

fn binary(cx: &mut NodeContext<'_, '_>, op: Binary) -> Option<Outputs> {
    let emit = |cx: &mut NodeContext<'_, '_>| {
        let (a, b) = (cx.need(0)?, cx.need(1)?);
        cx.emit(Op::Binary(op), &[Some(a), Some(b)])
    };
    one(emit(cx))
}

fn chain(cx: &mut NodeContext<'_, '_>, op: Binary) -> Result<ValueId, String> {
    let mut acc = cx.need(0)?;
    for i in 1..cx.input_count() {
        let next = cx.need(i)?;
        acc = cx.emit(Op::Binary(op), &[Some(acc), Some(next)])?;
    }
    Ok(acc)
}

fn clip(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let x = cx.need(0)?;
    let (low, high) = (cx.input(1)?, cx.input(2)?);
    let number = |cx: &NodeContext<'_, '_>, id: Option<ValueId>, default: f32| match id {
        None => Some(default),
        Some(id) => cx.constant_of(id).and_then(|t| t.to_f32_vec()).and_then(|v| v.first().copied()),
    };
    let limits = (number(cx, low, f32::NEG_INFINITY), number(cx, high, f32::INFINITY));
    if let (true, (Some(min), Some(max))) = (cx.fact(x)?.dtype.is_float(), limits) {
        return cx.emit(Op::Unary(Unary::Clip { min, max }), &[Some(x)]);
    }
    let mut y = x;
    if low.is_some() {
        y = cx.emit(Op::Binary(Binary::Max), &[Some(y), low])?;
    }
    if high.is_some() {
        y = cx.emit(Op::Binary(Binary::Min), &[Some(y), high])?;
    }
    Ok(y)
}

fn cast(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    cx.attributes.ignore(&["saturate"]);
    let number = cx.attributes.int("to")?.ok_or("attribute to is missing")?;
    let to = dtype_of(number as i32).ok_or_else(|| format!("element type {number} is not supported"))?;
    let x = cx.need(0)?;
    if cx.fact(x)?.dtype == to {
        return cx.emit(Op::Identity, &[Some(x)]);
    }
    cx.emit(Op::Cast { to }, &[Some(x)])
}

fn matmul(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let (a, b) = (cx.need(0)?, cx.need(1)?);
    cx.emit(Op::MatMul(MatMul::default()), &[Some(a), Some(b)])
}

/// `alpha a b + beta c`, then `activation`.
pub(super) fn gemm(cx: &mut NodeContext<'_, '_>, activation: Option<Unary>) -> Result<ValueId, String> {
    let (alpha, beta) = (cx.attributes.float_or("alpha", 1.0)?, cx.attributes.float_or("beta", 1.0)?);
    let (trans_a, trans_b) = (cx.attributes.flag("transA", false)?, cx.attributes.flag("transB", false)?);
    let (a, b, c) = (cx.need(0)?, cx.need(1)?, cx.input(2)?);
    let columns = cx.fact(b)?.shape[if trans_b { 0 } else { 1 }].clone();
    let is_bias = match c {
        Some(c) => beta == 1.0 && cx.fact(c)?.shape == [columns],
        None => false,
    };
    let mut op = MatMul { alpha, trans_a, trans_b, activation: None };
    if is_bias || c.is_none() {
        op.activation = activation;
        let mut inputs = vec![Some(a), Some(b)];
        if is_bias {
            inputs.push(c);
        }
        return cx.emit(Op::MatMul(op), &inputs);
    }
    let mut y = cx.emit(Op::MatMul(op), &[Some(a), Some(b)])?;
    if let Some(mut c) = c {
        if beta != 1.0 {
            let beta = cx.float_like(beta, c)?;
            c = cx.emit(Op::Binary(Binary::Mul), &[Some(c), Some(beta)])?;
        }
        y = cx.emit(Op::Binary(Binary::Add), &[Some(y), Some(c)])?;
    }
    match activation {
        Some(activation) => cx.emit(Op::Unary(activation), &[Some(y)]),
        None => Ok(y),
    }
}

fn softmax(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let x = cx.need(0)?;
    let softmax = |axis| Op::Softmax { axis, zero_masked_rows: false };
    if cx.opset() >= 13 {
        let axis = cx.attributes.int_or("axis", -1)?;
        return cx.emit(softmax(axis), &[Some(x)]);
    }
    // Until opset 12 all dimensions from `axis` on are one.
    let axis = cx.attributes.int_or("axis", 1)?;
    let rank = cx.rank(x)? as i64;
    if axis == -1 || axis == rank - 1 {
        return cx.emit(softmax(-1), &[Some(x)]);
    }
    let shape = cx.emit(Op::Shape { start: 0, end: None }, &[Some(x)])?;
    let flat = cx.emit(Op::Flatten { axis }, &[Some(x)])?;
    let y = cx.emit(softmax(-1), &[Some(flat)])?;
    cx.emit(Op::Reshape { allow_zero: true }, &[Some(y), Some(shape)])
}

fn reduce(cx: &mut NodeContext<'_, '_>, kind: Reduce) -> Result<ValueId, String> {
    let axes = cx.attributes.ints("axes")?.map(<[i64]>::to_vec);
    let keep_dims = cx.attributes.flag("keepdims", true)?;
    let noop_with_empty_axes = cx.attributes.flag("noop_with_empty_axes", false)?;
    let inputs = cx.inputs()?;
    cx.emit(Op::Reduce { kind, axes, keep_dims, noop_with_empty_axes }, &inputs)
}

fn arg_max(cx: &mut NodeContext<'_, '_>, min: bool) -> Result<ValueId, String> {
    let axis = cx.attributes.int_or("axis", 0)?;
    let keep_dims = cx.attributes.flag("keepdims", true)?;
    let last = cx.attributes.flag("select_last_index", false)?;
    let x = cx.need(0)?;
    cx.emit(Op::ArgMax { axis, keep_dims, last, min }, &[Some(x)])
}

fn cumsum(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let exclusive = cx.attributes.flag("exclusive", false)?;
    let reverse = cx.attributes.flag("reverse", false)?;
    let inputs = cx.inputs()?;
    cx.emit(Op::CumSum { exclusive, reverse }, &inputs)
}
