//! Convolutions, pooling, batch norm.

use super::{NodeContext, Outputs, one};
use crate::graph::{Binary, Conv, ConvInteger, Op, Padding, Pool, Reduce, Unary, ValueId, Window};

pub(super) fn import(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    let value = match cx.op_type() {
        "Conv" => conv(cx, None),
        "ConvInteger" => conv_integer(cx),
        "MaxPool" => pool(cx, true),
        "AveragePool" => pool(cx, false),
        "GlobalAveragePool" => global_average(cx),
        "BatchNormalization" => batch_norm(cx),
        _ => return None,
    };
    one(value)
}

/// Strides, dilations and padding over `spatial` dimensions.
pub(super) fn window(cx: &NodeContext<'_, '_>, spatial: usize) -> Result<Window, String> {
    let list = |name: &str, default: usize, len: usize| {
        let values = cx.attributes.sizes(name)?.unwrap_or_else(|| vec![default; len]);
        if values.len() == len {
            Ok(values)
        } else {
            Err(format!("attribute {name} is {values:?}, {len} were expected"))
        }
    };
    let strides = list("strides", 1, spatial)?;
    let dilations = list("dilations", 1, spatial)?;
    let explicit = list("pads", 0, 2 * spatial)?;
    let pads = match cx.attributes.text_or("auto_pad", "NOTSET")? {
        "NOTSET" | "" => Padding::Explicit(explicit),
        "VALID" => Padding::Explicit(vec![0; 2 * spatial]),
        "SAME_UPPER" => Padding::SameUpper,
        "SAME_LOWER" => Padding::SameLower,
        other => return Err(format!("attribute auto_pad = {other:?} is not supported")),
    };
    Ok(Window { strides, dilations, pads })
}

/// Groups and window of a convolution, whose kernel size is that of its weights.
pub(super) fn conv_attributes(cx: &NodeContext<'_, '_>, weights: ValueId) -> Result<(usize, Window), String> {
    cx.attributes.ignore(&["kernel_shape"]);
    let spatial = cx.rank(weights)?.checked_sub(2).ok_or("its weights have fewer than two dimensions")?;
    Ok((cx.attributes.size_or("group", 1)?, window(cx, spatial)?))
}

/// `activation` comes after the bias.
pub(super) fn conv(cx: &mut NodeContext<'_, '_>, activation: Option<Unary>) -> Result<ValueId, String> {
    let (x, w) = (cx.need(0)?, cx.need(1)?);
    let (groups, window) = conv_attributes(cx, w)?;
    let mut inputs = vec![Some(x), Some(w)];
    inputs.extend(cx.input(2)?.map(Some));
    cx.emit(Op::Conv(Conv { groups, window, activation, relu: false }), &inputs)
}

fn conv_integer(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let w = cx.need(1)?;
    let (groups, window) = conv_attributes(cx, w)?;
    let inputs = cx.inputs()?;
    cx.emit(Op::ConvInteger(ConvInteger { groups, window }), &inputs)
}

fn pool(cx: &mut NodeContext<'_, '_>, max: bool) -> Result<ValueId, String> {
    let kernel = cx.attributes.sizes("kernel_shape")?.ok_or("attribute kernel_shape is missing")?;
    cx.attributes.only("storage_order", 0)?;
    let ceil = cx.attributes.flag("ceil_mode", false)?;
    let count_include_pad = cx.attributes.flag("count_include_pad", false)?;
    let window = window(cx, kernel.len())?;
    let x = cx.need(0)?;
    cx.emit(Op::Pool(Pool { max, kernel, window, ceil, count_include_pad }), &[Some(x)])
}

fn global_average(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let x = cx.need(0)?;
    let axes = Some((2..cx.rank(x)? as i64).collect());
    cx.emit(Op::Reduce { kind: Reduce::Mean, axes, keep_dims: true, noop_with_empty_axes: false }, &[Some(x)])
}

/// `(x - mean) / sqrt(var + epsilon) * scale + bias` as one factor and one offset a channel, which fold into the
/// convolution before it.
fn batch_norm(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let epsilon = cx.attributes.float_or("epsilon", 1e-5)?;
    cx.attributes.ignore(&["momentum", "spatial"]);
    cx.attributes.only("training_mode", 0)?;
    let (x, scale, bias) = (cx.need(0)?, cx.need(1)?, cx.need(2)?);
    let (mean, var) = (cx.need(3)?, cx.need(4)?);
    let rank = cx.rank(x)?;
    let binary = |cx: &mut NodeContext<'_, '_>, op, a, b| cx.emit(Op::Binary(op), &[Some(a), Some(b)]);
    let epsilon = cx.float_like(epsilon, var)?;
    let var = binary(cx, Binary::Add, var, epsilon)?;
    let deviation = cx.emit(Op::Unary(Unary::Sqrt), &[Some(var)])?;
    let factor = binary(cx, Binary::Div, scale, deviation)?;
    let shift = binary(cx, Binary::Mul, mean, factor)?;
    let offset = binary(cx, Binary::Sub, bias, shift)?;
    let axes = Some((1..rank as i64 - 1).collect::<Vec<_>>());
    let factor = cx.emit(Op::Unsqueeze { axes: axes.clone() }, &[Some(factor)])?;
    let offset = cx.emit(Op::Unsqueeze { axes }, &[Some(offset)])?;
    let scaled = binary(cx, Binary::Mul, x, factor)?;
    binary(cx, Binary::Add, scaled, offset)
}
