//! Quantized operators, ONNX's and ONNX Runtime's.
//!
//! Those with a requantized output become an exact integer product, one multiplication by `a_scale * b_scale / y_scale` and
//! a rounding, which is what ONNX Runtime computes.

use super::neural::conv_attributes;
use super::{NodeContext, Outputs, one};
use crate::graph::{Binary, ConvInteger, Dim, GatherBlockQuantized, MatMulIntegerToFloat, MatMulNBits, Op, ValueId};
use crate::tensor::DType;

pub(super) fn import(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    let value = match cx.op_type() {
        "DynamicQuantizeLinear" => return Some(dynamic_quantize(cx)),
        "QuantizeLinear" => quantize(cx),
        "DequantizeLinear" => dequantize(cx),
        "MatMulInteger" => cx.inputs().and_then(|i| cx.emit(Op::MatMulInteger, &i)),
        "QLinearMatMul" => qlinear_matmul(cx),
        "QLinearConv" => qlinear_conv(cx),
        _ => return None,
    };
    one(value)
}

pub(super) fn import_contrib(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    let value = match cx.op_type() {
        "QuantizeLinear" => quantize(cx),
        "DequantizeLinear" => dequantize(cx),
        "DynamicQuantizeMatMul" => dynamic_quantize_matmul(cx),
        "MatMulIntegerToFloat" => {
            cx.inputs().and_then(|i| cx.emit(Op::MatMulIntegerToFloat(MatMulIntegerToFloat::default()), &i))
        }
        "QLinearAdd" => qlinear_binary(cx, Binary::Add),
        "QLinearMul" => qlinear_binary(cx, Binary::Mul),
        "QGemm" => qgemm(cx),
        "MatMulNBits" => matmul_nbits(cx),
        "GatherBlockQuantized" => gather_block_quantized(cx),
        _ => return None,
    };
    one(value)
}

fn dynamic_quantize(cx: &mut NodeContext<'_, '_>) -> Outputs {
    let x = cx.need(0)?;
    Ok(cx.emit_many(Op::DynamicQuantizeLinear, &[Some(x)], 3)?.into_iter().map(Some).collect())
}

fn quantize(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    cx.attributes.ignore(&["saturate"]);
    cx.attributes.only("precision", 0)?;
    let axis = cx.attributes.int_or("axis", 1)?;
    let block = cx.attributes.size_or("block_size", 0)?;
    let declared = cx.attributes.int_or("output_dtype", 0)?;
    let to = match (cx.input(2)?, declared) {
        (Some(zero), _) => cx.fact(zero)?.dtype,
        (None, 0) => DType::U8,
        (None, number) => crate::onnx::tensor::dtype_of(number as i32)
            .ok_or_else(|| format!("element type {number} is not supported"))?,
    };
    if !to.is_int8() {
        return Err(format!("quantizing to {to} is not supported"));
    }
    let inputs = cx.inputs()?;
    cx.emit(Op::QuantizeLinear { axis, to, block }, &inputs)
}

fn dequantize(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let axis = cx.attributes.int_or("axis", 1)?;
    let block = cx.attributes.size_or("block_size", 0)?;
    let inputs = cx.inputs()?;
    cx.emit(Op::DequantizeLinear { axis, block }, &inputs)
}

fn binary(cx: &mut NodeContext<'_, '_>, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, String> {
    cx.emit(Op::Binary(op), &[Some(a), Some(b)])
}

/// `saturate(round(acc * (a_scale * b_scale / y_scale)) + y_zero)`. `shape` turns a scale a channel into one that
/// broadcasts along the accumulators' channels.
fn requantize(
    cx: &mut NodeContext<'_, '_>,
    acc: ValueId,
    scales: [ValueId; 3],
    zero: Option<ValueId>,
    to: DType,
    channel_dims: usize,
) -> Result<ValueId, String> {
    let product = binary(cx, Binary::Mul, scales[0], scales[1])?;
    let mut factor = binary(cx, Binary::Div, product, scales[2])?;
    let per_channel = cx.fact(factor)?.shape.iter().any(|d| *d != Dim::Const(1));
    if per_channel && channel_dims > 0 {
        let axes = Some((1..=channel_dims as i64).collect());
        factor = cx.emit(Op::Unsqueeze { axes }, &[Some(factor)])?;
    }
    let float = cx.emit(Op::Cast { to: DType::F32 }, &[Some(acc)])?;
    let scaled = binary(cx, Binary::Mul, float, factor)?;
    let unit = cx.scalar(1f32);
    cx.emit(Op::QuantizeLinear { axis: 1, to, block: 0 }, &[Some(scaled), Some(unit), zero])
}

fn qlinear_matmul(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let (a, a_scale, a_zero) = (cx.need(0)?, cx.need(1)?, cx.input(2)?);
    let (b, b_scale, b_zero) = (cx.need(3)?, cx.need(4)?, cx.input(5)?);
    let (y_scale, y_zero) = (cx.need(6)?, cx.input(7)?);
    let to = match y_zero {
        Some(z) => cx.fact(z)?.dtype,
        None => cx.fact(a)?.dtype,
    };
    let acc = cx.emit(Op::MatMulInteger, &[Some(a), Some(b), a_zero, b_zero])?;
    requantize(cx, acc, [a_scale, b_scale, y_scale], y_zero, to, 0)
}

fn qlinear_conv(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let (x, x_scale, x_zero) = (cx.need(0)?, cx.need(1)?, cx.input(2)?);
    let (w, w_scale, w_zero) = (cx.need(3)?, cx.need(4)?, cx.input(5)?);
    let (y_scale, y_zero) = (cx.need(6)?, cx.input(7)?);
    cx.attributes.only("channels_last", 0)?;
    let (groups, window) = conv_attributes(cx, w)?;
    let spatial = window.strides.len();
    let to = match y_zero {
        Some(z) => cx.fact(z)?.dtype,
        None => cx.fact(x)?.dtype,
    };
    let mut acc = cx.emit(Op::ConvInteger(ConvInteger { groups, window }), &[Some(x), Some(w), x_zero, w_zero])?;
    if let Some(bias) = cx.input(8)? {
        let axes = Some((1..=spatial as i64).collect());
        let bias = cx.emit(Op::Unsqueeze { axes }, &[Some(bias)])?;
        acc = binary(cx, Binary::Add, acc, bias)?;
    }
    requantize(cx, acc, [x_scale, w_scale, y_scale], y_zero, to, spatial)
}

/// `a * ra + (b * rb + (y_zero - (ra * a_zero + rb * b_zero)))` with `ra = a_scale / y_scale` and `rb` likewise, or
/// `(a - a_zero) * (b - b_zero) * (a_scale * b_scale / y_scale) + y_zero`, rounded once behind the zero point: the order in
/// which ONNX Runtime rounds, where halves go to the even result and not to the even distance from the zero point.
fn qlinear_binary(cx: &mut NodeContext<'_, '_>, op: Binary) -> Result<ValueId, String> {
    let number = |cx: &mut NodeContext<'_, '_>, at: usize| match cx.input(at)? {
        Some(x) => cx.emit(Op::Cast { to: DType::F32 }, &[Some(x)]),
        None => Ok(cx.scalar(0f32)),
    };
    let (a, a_zero) = (number(cx, 0)?, number(cx, 2)?);
    let (b, b_zero, y_zero) = (number(cx, 3)?, number(cx, 5)?, number(cx, 7)?);
    let (a_scale, b_scale, y_scale) = (cx.need(1)?, cx.need(4)?, cx.need(6)?);
    let y = if op == Binary::Add {
        let a_ratio = binary(cx, Binary::Div, a_scale, y_scale)?;
        let b_ratio = binary(cx, Binary::Div, b_scale, y_scale)?;
        let a_offset = binary(cx, Binary::Mul, a_ratio, a_zero)?;
        let b_offset = binary(cx, Binary::Mul, b_ratio, b_zero)?;
        let offset = binary(cx, Binary::Add, a_offset, b_offset)?;
        let offset = binary(cx, Binary::Sub, y_zero, offset)?;
        let a = binary(cx, Binary::Mul, a, a_ratio)?;
        let b = binary(cx, Binary::Mul, b, b_ratio)?;
        let rest = binary(cx, Binary::Add, b, offset)?;
        binary(cx, Binary::Add, a, rest)?
    } else {
        let a = binary(cx, Binary::Sub, a, a_zero)?;
        let b = binary(cx, Binary::Sub, b, b_zero)?;
        let product = binary(cx, Binary::Mul, a, b)?;
        let scale = binary(cx, Binary::Mul, a_scale, b_scale)?;
        let scale = binary(cx, Binary::Div, scale, y_scale)?;
        let scaled = binary(cx, Binary::Mul, product, scale)?;
        binary(cx, Binary::Add, scaled, y_zero)?
    };
    let to = cx.fact(cx.need(0)?)?.dtype;
    let unit = cx.scalar(1f32);
    cx.emit(Op::QuantizeLinear { axis: 1, to, block: 0 }, &[Some(y), Some(unit)])
}

fn qgemm(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let alpha = cx.attributes.float_or("alpha", 1.0)?;
    cx.attributes.only("transA", 0)?;
    let trans_b = cx.attributes.flag("transB", false)?;
    let (a, a_scale, a_zero) = (cx.need(0)?, cx.need(1)?, cx.input(2)?);
    let (mut b, b_scale, b_zero) = (cx.need(3)?, cx.need(4)?, cx.input(5)?);
    if trans_b {
        b = cx.emit(Op::Transpose { perm: Some(vec![1, 0]) }, &[Some(b)])?;
    }
    let mut acc = cx.emit(Op::MatMulInteger, &[Some(a), Some(b), a_zero, b_zero])?;
    if let Some(c) = cx.input(6)? {
        acc = binary(cx, Binary::Add, acc, c)?;
    }
    let alpha = cx.scalar(alpha);
    let a_scale = binary(cx, Binary::Mul, a_scale, alpha)?;
    if let Some(y_scale) = cx.input(7)? {
        let zero = cx.input(8)?;
        let to = match zero {
            Some(z) => cx.fact(z)?.dtype,
            None => cx.fact(a)?.dtype,
        };
        return requantize(cx, acc, [a_scale, b_scale, y_scale], zero, to, 0);
    }
    let factor = binary(cx, Binary::Mul, a_scale, b_scale)?;
    let float = cx.emit(Op::Cast { to: DType::F32 }, &[Some(acc)])?;
    binary(cx, Binary::Mul, float, factor)
}

fn dynamic_quantize_matmul(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let (x, b, b_scale) = (cx.need(0)?, cx.need(1)?, cx.need(2)?);
    let (b_zero, bias) = (cx.input(3)?, cx.input(4)?);
    let quantized = cx.emit_many(Op::DynamicQuantizeLinear, &[Some(x)], 3)?;
    let inputs = [Some(quantized[0]), Some(b), Some(quantized[1]), Some(b_scale), Some(quantized[2]), b_zero, bias];
    cx.emit(Op::MatMulIntegerToFloat(MatMulIntegerToFloat::default()), &inputs)
}

fn matmul_nbits(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    // The accuracy level allows ONNX Runtime to quantize the activations; full precision satisfies every level.
    cx.attributes.ignore(&["accuracy_level"]);
    let bits = cx.attributes.int_or("bits", 4)?;
    let (k, n) = (cx.attributes.size("K")?, cx.attributes.size("N")?);
    let block = cx.attributes.size("block_size")?;
    if !matches!(bits, 4 | 8) || !block.is_power_of_two() || block < 16 {
        return Err(format!("{bits} bits in blocks of {block} are not supported"));
    }
    cx.refuse_input(4, "g_idx")?;
    let op = MatMulNBits { bits: bits as u32, block, k, n, activation: None };
    let inputs = [Some(cx.need(0)?), Some(cx.need(1)?), Some(cx.need(2)?), cx.input(3)?, cx.input(5)?];
    cx.emit(Op::MatMulNBits(op), &inputs)
}

fn gather_block_quantized(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let bits = cx.attributes.int_or("bits", 4)?;
    let block = cx.attributes.size_or("block_size", 128)?;
    if !matches!(bits, 4 | 8) {
        return Err(format!("{bits} bits are not supported"));
    }
    let rank = cx.rank(cx.need(0)?)?;
    let axis = |name, default| crate::graph::resolve_axis(cx.attributes.int_or(name, default)?, rank);
    let (gather_axis, quantize_axis) = (axis("gather_axis", 0)?, axis("quantize_axis", 1)?);
    if quantize_axis != rank - 1 {
        return Err("blocks along another dimension than the last are not supported".into());
    }
    let inputs = cx.inputs()?;
    cx.emit(
        Op::GatherBlockQuantized(GatherBlockQuantized { bits: bits as u32, block, gather_axis, quantize_axis }),
        &inputs,
    )
}
