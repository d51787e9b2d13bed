//! Norms, embeddings, activations and fused forms that ONNX Runtime's optimiser writes.

use super::math::{gemm, unary, with};
use super::neural::conv;
use super::{NodeContext, Outputs, one};
use crate::graph::{Binary, MatMul, Norm, Op, Reduce, RotaryEmbedding, Unary, ValueId};
use crate::tensor::DType;

/// Operators of ONNX's own domain, or that ONNX Runtime writes there.
pub(super) fn import_standard(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    match cx.op_type() {
        "LayerNormalization" => Some(norm(cx, false)),
        "SimplifiedLayerNormalization" | "RMSNormalization" => Some(norm(cx, true)),
        _ => None,
    }
}

pub(super) fn import(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    match cx.op_type() {
        "SimplifiedLayerNormalization" => Some(norm(cx, true)),
        "SkipLayerNormalization" => Some(skip_norm(cx, false)),
        "SkipSimplifiedLayerNormalization" => Some(skip_norm(cx, true)),
        "EmbedLayerNormalization" => Some(embed_norm(cx, false)),
        "QEmbedLayerNormalization" => Some(embed_norm(cx, true)),
        "Gelu" => unary(cx, Unary::Gelu),
        "QuickGelu" => with(cx, |cx| Ok(Unary::QuickGelu { alpha: cx.attributes.float_or("alpha", 1.702)? })),
        "BiasGelu" => one(bias_activation(cx, Unary::Gelu)),
        "FastGelu" => one(bias_activation(cx, Unary::GeluTanh)),
        "FusedMatMul" => one(fused_matmul(cx)),
        "FusedGemm" => one(activation(cx).and_then(|a| gemm(cx, a))),
        "FusedConv" => one(fused_conv(cx)),
        "RotaryEmbedding" => one(rotary(cx)),
        _ => None,
    }
}

fn binary(cx: &mut NodeContext<'_, '_>, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, String> {
    cx.emit(Op::Binary(op), &[Some(a), Some(b)])
}

fn norm(cx: &mut NodeContext<'_, '_>, rms: bool) -> Outputs {
    let axis = cx.attributes.int_or("axis", -1)?;
    let epsilon = cx.attributes.float_or("epsilon", 1e-5)?;
    cx.attributes.only("stash_type", 1)?;
    let inputs = cx.inputs()?;
    if rms && cx.wants_output(1) {
        // An RMSNorm's second output is the inverse deviation, which is the third of this graph's norm.
        let out = cx.emit_many(Op::Norm(Norm { axis, epsilon, rms }), &inputs, 3)?;
        return Ok(vec![Some(out[0]), Some(out[2])]);
    }
    let count = cx.output_count();
    let out = cx.emit_many(Op::Norm(Norm { axis, epsilon, rms }), &inputs, count)?;
    Ok(out.into_iter().map(Some).collect())
}

/// `norm(x + skip + bias)`, with the sum as fourth output.
fn skip_norm(cx: &mut NodeContext<'_, '_>, rms: bool) -> Outputs {
    let epsilon = cx.attributes.float_or("epsilon", 1e-12)?;
    let (x, skip, gamma) = (cx.need(0)?, cx.need(1)?, cx.need(2)?);
    let (beta, bias) = if rms { (None, cx.input(3)?) } else { (cx.input(3)?, cx.input(4)?) };
    let mut sum = binary(cx, Binary::Add, x, skip)?;
    if let Some(bias) = bias {
        sum = binary(cx, Binary::Add, sum, bias)?;
    }
    let mut inputs = vec![Some(sum), Some(gamma)];
    inputs.extend(beta.map(Some));
    let out = cx.emit_many(Op::Norm(Norm { axis: -1, epsilon, rms }), &inputs, 3)?;
    Ok(vec![Some(out[0]), Some(out[1]), Some(out[2]), Some(sum)])
}

/// Sum of the embeddings of words, positions and segments, normed. The second output counts the tokens that the mask
/// keeps in each row, the third is the sum.
fn embed_norm(cx: &mut NodeContext<'_, '_>, quantized: bool) -> Outputs {
    let epsilon = cx.attributes.float_or("epsilon", 1e-12)?;
    cx.attributes.ignore(&["mask_index_type"]);
    let (ids, segments) = (cx.need(0)?, cx.input(1)?);
    // Quantized tables come with scales behind the mask, and zero points behind these.
    let table = |cx: &mut NodeContext<'_, '_>, i: usize, at: Option<ValueId>| {
        let Some(rows) = cx.input(2 + i)? else { return Ok(None) };
        let picked = match at {
            Some(at) => cx.emit(Op::Gather { axis: 0 }, &[Some(rows), Some(at)])?,
            None => rows,
        };
        if !quantized {
            return Ok::<_, String>(Some(picked));
        }
        let inputs = [Some(picked), Some(cx.need(8 + i)?), cx.input(13 + i)?];
        cx.emit(Op::DequantizeLinear { axis: 1, block: 0 }, &inputs).map(Some)
    };
    let positions = if quantized { None } else { cx.input(8)? };
    let positions = match positions {
        Some(positions) => positions,
        None => {
            let shape = cx.emit(Op::Shape { start: 1, end: Some(2) }, &[Some(ids)])?;
            let (zero, one) = (cx.scalar(0i64), cx.scalar(1i64));
            let limit = cx.emit(Op::Squeeze { axes: Some(vec![0]) }, &[Some(shape)])?;
            cx.emit(Op::Range, &[Some(zero), Some(limit), Some(one)])?
        }
    };
    let words = table(cx, 0, Some(ids))?.ok_or("the table of words is missing")?;
    let places = table(cx, 1, Some(positions))?.ok_or("the table of positions is missing")?;
    let mut sum = binary(cx, Binary::Add, words, places)?;
    if let Some(segments) = segments
        && let Some(kinds) = table(cx, 2, Some(segments))?
    {
        sum = binary(cx, Binary::Add, sum, kinds)?;
    }
    let gamma = table(cx, 3, None)?.ok_or("gamma is missing")?;
    let beta = table(cx, 4, None)?;
    let y = cx.emit(Op::Norm(Norm { axis: -1, epsilon, rms: false }), &[Some(sum), Some(gamma), beta])?;
    let counts = if cx.wants_output(1) {
        let mask = match cx.input(7)? {
            Some(mask) => mask,
            None => binary(cx, Binary::Sub, ids, ids)?,
        };
        let axes = Some(vec![1]);
        let op = Op::Reduce { kind: Reduce::Sum, axes, keep_dims: false, noop_with_empty_axes: false };
        let counts = cx.emit(op, &[Some(mask)])?;
        Some(if cx.fact(counts)?.dtype == DType::I32 {
            counts
        } else {
            cx.emit(Op::Cast { to: DType::I32 }, &[Some(counts)])?
        })
    } else {
        None
    };
    Ok(vec![Some(y), counts, Some(sum)])
}

fn bias_activation(cx: &mut NodeContext<'_, '_>, activation: Unary) -> Result<ValueId, String> {
    let mut x = cx.need(0)?;
    if let Some(bias) = cx.input(1)? {
        x = binary(cx, Binary::Add, x, bias)?;
    }
    cx.emit(Op::Unary(activation), &[Some(x)])
}

fn fused_matmul(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let alpha = cx.attributes.float_or("alpha", 1.0)?;
    let (trans_a, trans_b) = (cx.attributes.flag("transA", false)?, cx.attributes.flag("transB", false)?);
    cx.attributes.only("transBatchA", 0)?;
    cx.attributes.only("transBatchB", 0)?;
    let (a, b) = (cx.need(0)?, cx.need(1)?);
    cx.emit(Op::MatMul(MatMul { alpha, trans_a, trans_b, activation: None }), &[Some(a), Some(b)])
}

/// The activation that the fused operators name.
fn activation(cx: &NodeContext<'_, '_>) -> Result<Option<Unary>, String> {
    let parameters = cx.attributes.floats("activation_params")?.unwrap_or(&[]);
    let parameter = |i: usize, name: &str, default: f32| {
        Ok::<f32, String>(match cx.attributes.float(name)? {
            Some(x) => x,
            None => parameters.get(i).copied().unwrap_or(default),
        })
    };
    Ok(Some(match cx.attributes.text_or("activation", "")? {
        "" => return Ok(None),
        "Relu" => Unary::Relu,
        "Tanh" => Unary::Tanh,
        "Sigmoid" => Unary::Sigmoid,
        "LeakyRelu" => Unary::LeakyRelu { slope: parameter(0, "activation_alpha", 0.01)? },
        "Clip" => Unary::Clip {
            min: parameter(0, "activation_alpha", f32::MIN)?,
            max: parameter(1, "activation_beta", f32::MAX)?,
        },
        "HardSigmoid" => Unary::HardSigmoid {
            alpha: parameter(0, "activation_alpha", 0.2)?,
            beta: parameter(1, "activation_beta", 0.5)?,
        },
        other => return Err(format!("attribute activation = {other:?} is not supported")),
    }))
}

/// `activation(conv(x, w) + bias + z)`
fn fused_conv(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let activation = activation(cx)?;
    let Some(z) = cx.input(3)? else { return conv(cx, activation) };
    let y = conv(cx, None)?;
    let sum = binary(cx, Binary::Add, y, z)?;
    match activation {
        Some(activation) => cx.emit(Op::Unary(activation), &[Some(sum)]),
        None => Ok(sum),
    }
}

fn rotary(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let interleaved = cx.attributes.flag("interleaved", false)?;
    let heads = cx.attributes.size_or("num_heads", 0)?;
    let rotary_dim = cx.attributes.size_or("rotary_embedding_dim", 0)?;
    cx.attributes.only("is_packed_batching", 0)?;
    if cx.attributes.float_or("scale", 1.0)? != 1.0 {
        return Err("attribute scale is not supported".into());
    }
    let inputs = cx.inputs()?;
    cx.emit(Op::RotaryEmbedding(RotaryEmbedding { heads, rotary_dim, interleaved }), &inputs)
}
