//! ONNX Runtime's attention operators, as projections, masks and one [`Op::Attention`].

use super::{NodeContext, Outputs};
use crate::graph::{
    Attention, Binary, Dim, GroupQueryAttention, HeadLayout, MatMul, MatMulIntegerToFloat, Op, ValueId,
};
use crate::tensor::DType;

pub(super) fn import(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    Some(match cx.op_type() {
        "Attention" => attention(cx, false),
        "QAttention" => attention(cx, true),
        "MultiHeadAttention" => multi_head(cx),
        "GroupQueryAttention" => grouped(cx),
        _ => return None,
    })
}

fn binary(cx: &mut NodeContext<'_, '_>, op: Binary, a: ValueId, b: ValueId) -> Result<ValueId, String> {
    cx.emit(Op::Binary(op), &[Some(a), Some(b)])
}

/// What a mask says: lengths of rows, or numbers to add to the scores.
#[derive(Default)]
struct Mask {
    bias: Option<ValueId>,
    lengths: Option<ValueId>,
}

/// Reads `com.microsoft` masks: key lengths of \[batch\], or 0 for masked of [batch, keys] or [batch, queries, keys].
fn read_mask(cx: &mut NodeContext<'_, '_>, mask: Option<ValueId>, batch: &Dim, filter: f32) -> Result<Mask, String> {
    let Some(mask) = mask else { return Ok(Mask::default()) };
    let fact = cx.fact(mask)?.clone();
    match fact.rank() {
        1 => {
            if fact.shape[0] != *batch && fact.shape[0].as_const().is_some() && batch.as_const().is_some() {
                return Err(format!("a mask of shape {:?} is not supported", fact.shape));
            }
            let lengths = match fact.dtype {
                DType::I32 => mask,
                _ => cx.emit(Op::Cast { to: DType::I32 }, &[Some(mask)])?,
            };
            Ok(Mask { bias: None, lengths: Some(lengths) })
        }
        2 | 3 => {
            let axes = if fact.rank() == 2 { vec![1, 2] } else { vec![1] };
            let kept = cx.emit(Op::Cast { to: DType::Bool }, &[Some(mask)])?;
            let (zero, filter) = (cx.scalar(0f32), cx.scalar(filter));
            let bias = cx.emit(Op::Where, &[Some(kept), Some(zero), Some(filter)])?;
            let bias = cx.emit(Op::Unsqueeze { axes: Some(axes) }, &[Some(bias)])?;
            Ok(Mask { bias: Some(bias), lengths: None })
        }
        _ => Err(format!("a mask of shape {:?} is not supported", fact.shape)),
    }
}

fn add_bias(cx: &mut NodeContext<'_, '_>, mask: Mask, bias: Option<ValueId>) -> Result<Mask, String> {
    let bias = match (mask.bias, bias) {
        (Some(a), Some(b)) => Some(binary(cx, Binary::Add, a, b)?),
        (a, b) => a.or(b),
    };
    Ok(Mask { bias, ..mask })
}

fn common(cx: &NodeContext<'_, '_>) -> Result<(Attention, f32), String> {
    let heads = cx.attributes.size("num_heads")?;
    // Zero stands for "not set".
    let scale = cx.attributes.float("scale")?.filter(|s| *s != 0.0);
    let causal = cx.attributes.flag("unidirectional", false)?;
    let filter = cx.attributes.float_or("mask_filter_value", -10000.0)?;
    let op = Attention {
        heads,
        kv_heads: heads,
        scale,
        causal,
        q_layout: HeadLayout::Merged,
        k_layout: HeadLayout::Merged,
        v_layout: HeadLayout::Merged,
        merged_output: true,
        zero_masked_rows: false,
    };
    Ok((op, filter))
}

/// `Attention` and `QAttention`: the projection of x to queries, keys and values is inside.
fn attention(cx: &mut NodeContext<'_, '_>, quantized: bool) -> Outputs {
    let (op, filter) = common(cx)?;
    cx.attributes.only("do_rotary", 0)?;
    cx.attributes.only("rotary_embedding_dim", 0)?;
    cx.attributes.only("past_present_share_buffer", 0)?;
    let sizes = cx.attributes.ints("qkv_hidden_sizes")?.map(<[i64]>::to_vec);
    let (x, weights, bias) = (cx.need(0)?, cx.need(1)?, cx.input(2)?);
    let batch = cx.fact(x)?.shape.first().cloned().ok_or("its input is a scalar")?;
    let (projected, mask, past, extra) = if quantized {
        let inputs = [Some(x), Some(weights), Some(cx.need(3)?), Some(cx.need(4)?), cx.input(6)?, cx.input(7)?, bias];
        let y = cx.emit(Op::MatMulIntegerToFloat(MatMulIntegerToFloat::default()), &inputs)?;
        (y, cx.input(5)?, cx.input(8)?, None)
    } else {
        let mut inputs = vec![Some(x), Some(weights)];
        inputs.extend(bias.map(Some));
        let y = cx.emit(Op::MatMul(MatMul::default()), &inputs)?;
        (y, cx.input(3)?, cx.input(4)?, cx.input(5)?)
    };
    if !quantized {
        cx.refuse_input(6, "past_sequence_length")?;
    }
    let qkv = cx.emit_many(Op::Split { axis: 2, sizes }, &[Some(projected)], 3)?;
    let mask = read_mask(cx, mask, &batch, filter)?;
    let mask = add_bias(cx, mask, extra)?;
    let (past_k, past_v) = match past {
        None => (None, None),
        Some(past) => {
            let part = |cx: &mut NodeContext<'_, '_>, i: i64| {
                let at = cx.scalar(i);
                cx.emit(Op::Gather { axis: 0 }, &[Some(past), Some(at)])
            };
            (Some(part(cx, 0)?), Some(part(cx, 1)?))
        }
    };
    let inputs = [Some(qkv[0]), Some(qkv[1]), Some(qkv[2]), mask.bias, mask.lengths, past_k, past_v];
    if !cx.wants_output(1) {
        return Ok(vec![Some(cx.emit(Op::Attention(op), &inputs)?)]);
    }
    let out = cx.emit_many(Op::Attention(op), &inputs, 3)?;
    let unsqueeze = |cx: &mut NodeContext<'_, '_>, v| cx.emit(Op::Unsqueeze { axes: Some(vec![0]) }, &[Some(v)]);
    let (k, v) = (unsqueeze(cx, out[1])?, unsqueeze(cx, out[2])?);
    let present = cx.emit(Op::Concat { axis: 0 }, &[Some(k), Some(v)])?;
    Ok(vec![Some(out[0]), Some(present)])
}

fn multi_head(cx: &mut NodeContext<'_, '_>) -> Outputs {
    let (mut op, filter) = common(cx)?;
    let inputs: Vec<_> = (0..8).map(|i| cx.input(i)).collect::<Result<_, _>>()?;
    cx.refuse_input(8, "past_sequence_length")?;
    cx.refuse_input(9, "cache_indirection")?;
    let [q, k, v, bias, padding, attention_bias, past_k, past_v] = inputs[..] else {
        return Err("its inputs cannot be read".into());
    };
    let (Some(mut q), Some(mut k), Some(mut v)) = (q, k, v) else {
        return Err("packed queries, keys and values are not supported".into());
    };
    let q_fact = cx.fact(q)?.clone();
    if q_fact.rank() != 3 {
        return Err(format!("queries of shape {:?} are not supported", q_fact.shape));
    }
    // Keys and values of four dimensions are a finished cache of cross-attention; only the queries get their bias then.
    let cached = cx.rank(k)? == 4;
    if let Some(bias) = bias {
        let width = |cx: &NodeContext<'_, '_>, x| {
            let last = cx.fact(x)?.shape.last().and_then(Dim::as_const);
            last.ok_or_else(|| "the width of its inputs is not known".to_owned())
        };
        let (hidden, rest) = (width(cx, q)?, width(cx, bias)?);
        let v_width = if cached { (rest - hidden) / 2 } else { width(cx, v)? };
        let sizes = Some(vec![hidden, rest - hidden - v_width, v_width]);
        let parts = cx.emit_many(Op::Split { axis: 0, sizes }, &[Some(bias)], 3)?;
        q = binary(cx, Binary::Add, q, parts[0])?;
        if !cached {
            k = binary(cx, Binary::Add, k, parts[1])?;
            v = binary(cx, Binary::Add, v, parts[2])?;
        }
    }
    if cached {
        (op.k_layout, op.v_layout) = (HeadLayout::Split, HeadLayout::Split);
    }
    let mask = read_mask(cx, padding, &q_fact.shape[0], filter)?;
    let mask = add_bias(cx, mask, attention_bias)?;
    let inputs = [Some(q), Some(k), Some(v), mask.bias, mask.lengths, past_k, past_v];
    let count = cx.output_count();
    Ok(cx.emit_many(Op::Attention(op), &inputs, count)?.into_iter().map(Some).collect())
}

fn grouped(cx: &mut NodeContext<'_, '_>) -> Outputs {
    let window = match cx.attributes.int_or("local_window_size", -1)? {
        n if n < 0 => None,
        n => Some(n as usize),
    };
    let op = GroupQueryAttention {
        heads: cx.attributes.size("num_heads")?,
        kv_heads: cx.attributes.size("kv_num_heads")?,
        scale: cx.attributes.float("scale")?.filter(|s| *s != 0.0),
        softcap: cx.attributes.float_or("softcap", 0.0)?,
        window,
        rotary: cx.attributes.flag("do_rotary", false)?,
        rotary_interleaved: cx.attributes.flag("rotary_interleaved", false)?,
    };
    cx.attributes.only("smooth_softmax", 0)?;
    cx.attributes.only("kv_cache_bit_width", 0)?;
    for name in ["k_quant_type", "v_quant_type"] {
        if !matches!(cx.attributes.text_or(name, "NONE")?, "NONE" | "") {
            return Err(format!("attribute {name} is not supported"));
        }
    }
    for i in 9..cx.input_count() {
        cx.refuse_input(i, "position ids, a bias or a sink")?;
    }
    let inputs: Vec<_> = (0..9).map(|i| cx.input(i)).collect::<Result<_, _>>()?;
    let count = cx.output_count();
    Ok(cx.emit_many(Op::GroupQueryAttention(op), &inputs, count)?.into_iter().map(Some).collect())
}
