//! Integers that describe shapes, followed through the arithmetic that exporters write for them.

use super::{Inputs, resolve_axis};
use crate::graph::{Binary, Dim, Fact, Op, Reduce, Unary};
use crate::tensor::DType;

/// Longer lists are data, not shapes.
const LIMIT: usize = 64;

/// The elements of the one output of `op`, if they follow from known elements.
pub(super) fn propagate(op: &Op, inputs: &Inputs, out: &Fact) -> Option<Vec<Dim>> {
    if out.rank() > 1 || !matches!(out.dtype, DType::I64 | DType::I32 | DType::Bool) {
        return None;
    }
    let len = match out.shape.first() {
        None => 1,
        Some(d) => usize::try_from(d.as_const()?).ok()?,
    };
    if len > LIMIT {
        return None;
    }
    let value = match op {
        Op::Shape { start, end } => {
            let shape = &inputs.get(0)?.shape;
            let (start, end) = clamp_range(*start, end.unwrap_or(i64::MAX), shape.len());
            shape.get(start..end)?.to_vec()
        }
        Op::Size => vec![inputs.get(0)?.shape.iter().fold(Dim::Const(1), |a, d| a.mul(d))],
        Op::Identity
        | Op::Reshape { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. }
        | Op::Expand => {
            let x = inputs.value(0)?;
            if x.len() == len {
                x.to_vec()
            } else {
                vec![x.first()?.clone(); if x.len() == 1 { len } else { return None }]
            }
        }
        Op::Cast { .. } => {
            if inputs.get(0)?.dtype == DType::Bool && out.dtype == DType::Bool {
                return inputs.value(0).map(<[Dim]>::to_vec);
            }
            match out.dtype {
                DType::Bool => inputs
                    .value(0)?
                    .iter()
                    .map(|d| d.as_const().map(|n| Dim::Const((n != 0) as i64)))
                    .collect::<Option<_>>()?,
                _ => inputs.value(0)?.to_vec(),
            }
        }
        Op::Concat { .. } => {
            let mut all = Vec::new();
            for i in 0..inputs.len() {
                all.extend_from_slice(inputs.value(i)?);
            }
            all
        }
        Op::Gather { axis: 0 | -1 } => {
            let (x, at) = (inputs.value(0)?, inputs.ints(1)?);
            if inputs.get(0)?.rank() != 1 {
                return None;
            }
            at.iter()
                .map(|&i| x.get(if i < 0 { i + x.len() as i64 } else { i } as usize).cloned())
                .collect::<Option<_>>()?
        }
        Op::Slice => {
            let x = inputs.value(0)?;
            let (start, end) = (inputs.ints(1)?, inputs.ints(2)?);
            let step = if inputs.get(4).is_some() { *inputs.ints(4)?.first()? } else { 1 };
            slice(x, *start.first()?, *end.first()?, step)
        }
        Op::Where => {
            let (c, a, b) = (inputs.value(0)?, inputs.value(1)?, inputs.value(2)?);
            (0..len)
                .map(|i| match at(c, i)?.as_const()? {
                    0 => at(b, i).cloned(),
                    _ => at(a, i).cloned(),
                })
                .collect::<Option<_>>()?
        }
        Op::Unary(Unary::Neg) => inputs.value(0)?.iter().map(|d| d.mul(&Dim::Const(-1))).collect(),
        Op::Unary(Unary::Not) => {
            let flip = |d: &Dim| d.as_const().map(|n| Dim::Const((n == 0) as i64));
            inputs.value(0)?.iter().map(flip).collect::<Option<_>>()?
        }
        Op::Binary(binary) => {
            let (a, b) = (inputs.value(0)?, inputs.value(1)?);
            (0..len).map(|i| apply(*binary, at(a, i)?, at(b, i)?)).collect::<Option<_>>()?
        }
        Op::ConstantOfShape { value } => vec![Dim::Const(*value.to_i64_vec()?.first()?); len],
        Op::Range => {
            let (start, delta) = (inputs.value(0)?.first()?, inputs.value(2)?.first()?);
            (0..len as i64).map(|i| start.add(&delta.mul(&Dim::Const(i)))).collect()
        }
        Op::Reduce { kind: Reduce::Prod, .. } if len == 1 => {
            vec![inputs.value(0)?.iter().fold(Dim::Const(1), |a, d| a.mul(d))]
        }
        Op::Reduce { kind: Reduce::Sum, .. } if len == 1 => {
            vec![inputs.value(0)?.iter().fold(Dim::Const(0), |a, d| a.add(d))]
        }
        _ => return None,
    };
    (value.len() == len).then_some(value)
}

fn at(values: &[Dim], i: usize) -> Option<&Dim> {
    if values.len() == 1 { values.first() } else { values.get(i) }
}

fn apply(op: Binary, a: &Dim, b: &Dim) -> Option<Dim> {
    let truth = |t: bool| Some(Dim::Const(t as i64));
    let known = || Some((a.as_const()?, b.as_const()?));
    match op {
        Binary::Add => Some(a.add(b)),
        Binary::Sub => Some(a.sub(b)),
        Binary::Mul => Some(a.mul(b)),
        // Sizes are not negative, so rounding down and towards zero agree; refuse negative numbers.
        Binary::Div => match known() {
            Some((x, y)) => (y != 0).then(|| Dim::Const(x.wrapping_div(y))),
            None => b.as_const().is_none_or(|n| n > 0).then(|| a.floor_div(b)),
        },
        Binary::Mod => known().filter(|k| k.1 != 0).map(|(x, y)| Dim::Const(x - y * x.div_euclid(y))),
        Binary::Fmod => known().filter(|k| k.1 != 0).map(|(x, y)| Dim::Const(x.wrapping_rem(y))),
        Binary::Min => Some(a.at_most(b)),
        Binary::Max => Some(a.at_least(b)),
        Binary::Equal => match known() {
            Some((x, y)) => truth(x == y),
            None if a == b => truth(true),
            // A size is never -1, which is how exporters mark "keep this dimension".
            None if a.as_const().is_some_and(|n| n < 0) || b.as_const().is_some_and(|n| n < 0) => truth(false),
            None => None,
        },
        Binary::Less => known().and_then(|(x, y)| truth(x < y)),
        Binary::LessOrEqual => known().and_then(|(x, y)| truth(x <= y)),
        Binary::Greater => known().and_then(|(x, y)| truth(x > y)),
        Binary::GreaterOrEqual => known().and_then(|(x, y)| truth(x >= y)),
        Binary::And => known().and_then(|(x, y)| truth(x != 0 && y != 0)),
        Binary::Or => known().and_then(|(x, y)| truth(x != 0 || y != 0)),
        Binary::Xor => known().and_then(|(x, y)| truth((x != 0) != (y != 0))),
        Binary::Pow => None,
    }
}

/// ONNX's clamping of a range with step 1: negative counts from the end, then both ends are limited to the size.
pub(super) fn clamp_range(start: i64, end: i64, size: usize) -> (usize, usize) {
    let fix = |i: i64| if i < 0 { i.saturating_add(size as i64).max(0) } else { i.min(size as i64) } as usize;
    let (start, end) = (fix(start), fix(end));
    (start, end.max(start))
}

fn slice(x: &[Dim], start: i64, end: i64, step: i64) -> Vec<Dim> {
    let n = x.len() as i64;
    let fix = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let mut out = Vec::new();
    if step > 0 {
        let (mut i, end) = (fix(start).clamp(0, n), fix(end).clamp(0, n));
        while i < end {
            out.push(x[i as usize].clone());
            i = i.saturating_add(step);
        }
    } else if step < 0 {
        let (mut i, end) = (fix(start).clamp(-1, n - 1), fix(end).clamp(-1, n - 1));
        while i > end {
            out.push(x[i as usize].clone());
            i = i.saturating_add(step);
        }
    }
    out
}

/// Squeezing and unsqueezing by axes that are out of range is an error of the caller; this keeps the check in one place.
pub(super) fn check_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, String> {
    let mut out = axes.iter().map(|&a| resolve_axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    out.sort_unstable();
    if out.windows(2).any(|w| w[0] == w[1]) {
        return Err(format!("axes {axes:?} name a dimension twice"));
    }
    Ok(out)
}
