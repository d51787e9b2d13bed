//! Operators that move, select or make elements.

use super::{NodeContext, Outputs, one};
use crate::graph::{Op, PadMode, ValueId};
use crate::onnx::tensor::read_tensor;
use crate::tensor::Tensor;

pub(super) fn import(cx: &mut NodeContext<'_, '_>) -> Option<Outputs> {
    let value = match cx.op_type() {
        "Constant" => constant(cx),
        "Identity" => pass(cx, |_| Ok(Op::Identity)),
        "Dropout" => return Some(dropout(cx)),
        "Reshape" => pass(cx, |cx| Ok(Op::Reshape { allow_zero: cx.attributes.flag("allowzero", false)? })),
        "Squeeze" => pass(cx, |cx| Ok(Op::Squeeze { axes: cx.attributes.ints("axes")?.map(<[i64]>::to_vec) })),
        "Unsqueeze" => pass(cx, |cx| Ok(Op::Unsqueeze { axes: cx.attributes.ints("axes")?.map(<[i64]>::to_vec) })),
        "Flatten" => pass(cx, |cx| Ok(Op::Flatten { axis: cx.attributes.int_or("axis", 1)? })),
        "Transpose" => pass(cx, |cx| Ok(Op::Transpose { perm: cx.attributes.sizes("perm")? })),
        "Concat" => {
            pass(cx, |cx| Ok(Op::Concat { axis: cx.attributes.int("axis")?.ok_or("attribute axis is missing")? }))
        }
        "Split" => return Some(split(cx)),
        "Slice" => pass(cx, |_| Ok(Op::Slice)),
        "Gather" => pass(cx, |cx| Ok(Op::Gather { axis: cx.attributes.int_or("axis", 0)? })),
        "GatherND" => pass(cx, |cx| Ok(Op::GatherNd { batch_dims: cx.attributes.size_or("batch_dims", 0)? })),
        "GatherElements" => pass(cx, |cx| Ok(Op::GatherElements { axis: cx.attributes.int_or("axis", 0)? })),
        "Expand" => pass(cx, |_| Ok(Op::Expand)),
        "Tile" => pass(cx, |_| Ok(Op::Tile)),
        "Pad" => pass(cx, |cx| {
            let mode = match cx.attributes.text_or("mode", "constant")? {
                "constant" => PadMode::Constant,
                "reflect" => PadMode::Reflect,
                "edge" => PadMode::Edge,
                other => return Err(format!("attribute mode = {other:?} is not supported")),
            };
            Ok(Op::Pad { mode })
        }),
        "ConstantOfShape" => pass(cx, |cx| {
            let value = match cx.attributes.tensor("value")? {
                Some(t) => read_tensor(t, cx.importer.data, &cx.path).map_err(|e| e.to_string())?,
                None => Tensor::vector(&[0f32]),
            };
            Ok(Op::ConstantOfShape { value })
        }),
        "Range" => pass(cx, |_| Ok(Op::Range)),
        "Shape" => {
            pass(cx, |cx| Ok(Op::Shape { start: cx.attributes.int_or("start", 0)?, end: cx.attributes.int("end")? }))
        }
        "Size" => pass(cx, |_| Ok(Op::Size)),
        "NonZero" => pass(cx, |_| Ok(Op::NonZero)),
        "Trilu" => pass(cx, |cx| Ok(Op::Trilu { upper: cx.attributes.flag("upper", true)? })),
        _ => return None,
    };
    one(value)
}

/// An operator that takes ONNX's inputs as they are.
fn pass<'i, 'a>(
    cx: &mut NodeContext<'i, 'a>,
    op: impl FnOnce(&NodeContext<'i, 'a>) -> Result<Op, String>,
) -> Result<ValueId, String> {
    let (op, inputs) = (op(cx)?, cx.inputs()?);
    cx.emit(op, &inputs)
}

fn constant(cx: &mut NodeContext<'_, '_>) -> Result<ValueId, String> {
    let a = &cx.attributes;
    let tensor = if let Some(t) = a.tensor("value")? {
        read_tensor(t, cx.importer.data, &cx.path).map_err(|e| e.to_string())?
    } else if let Some(x) = a.float("value_float")? {
        Tensor::scalar(x)
    } else if let Some(x) = a.int("value_int")? {
        Tensor::scalar(x)
    } else if let Some(x) = a.floats("value_floats")? {
        Tensor::vector(x)
    } else if let Some(x) = a.ints("value_ints")? {
        Tensor::vector(x)
    } else {
        return Err("only tensors and numbers are supported as constants".into());
    };
    Ok(cx.constant(tensor))
}

/// Dropout does nothing when a model is run; its mask output is all true.
fn dropout(cx: &mut NodeContext<'_, '_>) -> Outputs {
    cx.attributes.ignore(&["seed", "ratio"]);
    if cx.wants_output(1) {
        return Err("the mask of a Dropout is not supported".into());
    }
    let x = cx.need(0)?;
    Ok(vec![Some(cx.emit(Op::Identity, &[Some(x)])?)])
}

fn split(cx: &mut NodeContext<'_, '_>) -> Outputs {
    cx.attributes.ignore(&["num_outputs"]);
    let axis = cx.attributes.int_or("axis", 0)?;
    let sizes = cx.attributes.ints("split")?.map(<[i64]>::to_vec);
    let inputs = cx.inputs()?;
    let count = cx.output_count();
    Ok(cx.emit_many(Op::Split { axis, sizes }, &inputs, count)?.into_iter().map(Some).collect())
}
