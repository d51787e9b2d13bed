//! Shapes of operators that move, select, reduce or make elements.

use super::value::check_axes;
use super::{Inferred, Inputs, broadcast, resolve_axis};
use crate::graph::{Dim, Fact, Op};
use crate::tensor::DType;

pub(super) fn infer(op: &Op, inputs: &Inputs) -> Inferred {
    let one = |dtype, shape| Ok(vec![Fact::new(dtype, shape)]);
    match op {
        Op::Reduce { axes, keep_dims, noop_with_empty_axes, .. } => {
            let x = inputs.need(0)?;
            let axes = match (axes, inputs.get(1)) {
                (Some(axes), _) => Some(axes.clone()),
                (None, Some(_)) => match inputs.ints(1) {
                    Some(axes) => Some(axes),
                    None => return Err("the reduced axes are only known at run time".into()),
                },
                (None, None) => None,
            };
            let axes = match axes {
                Some(a) if !a.is_empty() => check_axes(&a, x.rank())?,
                _ if *noop_with_empty_axes => vec![],
                _ => (0..x.rank()).collect(),
            };
            one(x.dtype, reduced(x, &axes, *keep_dims))
        }
        Op::ArgMax { axis, keep_dims, .. } => {
            let x = inputs.need(0)?;
            one(DType::I64, reduced(x, &[resolve_axis(*axis, x.rank())?], *keep_dims))
        }
        Op::Reshape { allow_zero } => reshape(inputs, *allow_zero),
        Op::Squeeze { axes } => {
            let x = inputs.need(0)?;
            let axes = match (axes, inputs.get(1)) {
                (Some(axes), _) => check_axes(axes, x.rank())?,
                (None, Some(_)) => check_axes(&inputs.ints(1).ok_or("the axes are only known at run time")?, x.rank())?,
                (None, None) => (0..x.rank()).filter(|&i| x.shape[i] == Dim::Const(1)).collect(),
            };
            if let Some(&axis) = axes.iter().find(|&&a| x.shape[a].as_const().is_some_and(|n| n != 1)) {
                return Err(format!("dimension {axis} of {:?} is not 1 and cannot be dropped", x.shape));
            }
            one(x.dtype, reduced(x, &axes, false))
        }
        Op::Unsqueeze { axes } => {
            let x = inputs.need(0)?;
            let axes = match axes {
                Some(axes) => axes.clone(),
                None => inputs.ints(1).ok_or("the axes are only known at run time")?,
            };
            let axes = check_axes(&axes, x.rank() + axes.len())?;
            let mut shape = x.shape.clone();
            for axis in axes {
                shape.insert(axis, Dim::Const(1));
            }
            one(x.dtype, shape)
        }
        Op::Flatten { axis } => {
            let x = inputs.need(0)?;
            let axis = if *axis == x.rank() as i64 { x.rank() } else { resolve_axis(*axis, x.rank().max(1))? };
            let product = |dims: &[Dim]| dims.iter().fold(Dim::Const(1), |a, d| a.mul(d));
            one(x.dtype, vec![product(&x.shape[..axis]), product(&x.shape[axis..])])
        }
        Op::Transpose { perm } => {
            let x = inputs.need(0)?;
            let perm = match perm {
                Some(perm) => perm.clone(),
                None => (0..x.rank()).rev().collect(),
            };
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if sorted.into_iter().ne(0..x.rank()) {
                return Err(format!("{perm:?} is not a permutation of {} dimensions", x.rank()));
            }
            one(x.dtype, perm.iter().map(|&p| x.shape[p].clone()).collect())
        }
        Op::Concat { axis } => {
            let first = inputs.need(0)?;
            let axis = resolve_axis(*axis, first.rank())?;
            let mut shape = first.shape.clone();
            for i in 1..inputs.len() {
                let x = inputs.need(i)?;
                if x.rank() != first.rank() || x.dtype != first.dtype {
                    return Err(format!("cannot join {x} with {first}"));
                }
                #[allow(clippy::needless_range_loop, reason = "two shapes advance together")]
                for d in 0..shape.len() {
                    if d == axis {
                        shape[d] = shape[d].add(&x.shape[d]);
                    } else if let (Some(a), Some(b)) = (shape[d].as_const(), x.shape[d].as_const()) {
                        if a != b {
                            return Err(format!("cannot join {x} with {first} along dimension {axis}"));
                        }
                    } else if x.shape[d].as_const().is_some() {
                        shape[d] = x.shape[d].clone();
                    }
                }
            }
            one(first.dtype, shape)
        }
        Op::Slice => slice(inputs),
        Op::Gather { axis } => {
            let (x, at) = (inputs.need(0)?, inputs.need(1)?);
            let axis = resolve_axis(*axis, x.rank())?;
            let shape = [&x.shape[..axis], &at.shape, &x.shape[axis + 1..]].concat();
            one(x.dtype, shape)
        }
        Op::GatherBlockQuantized(gather) => {
            let (x, at, scales) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
            if gather.gather_axis >= x.rank() || gather.quantize_axis >= x.rank() {
                return Err(format!("its axes are outside {x}"));
            }
            let mut table = x.shape.clone();
            let packed = 8 / gather.bits.clamp(1, 8) as i64;
            if let Some(last) = table.last_mut() {
                *last = last.mul(&Dim::Const(packed));
            }
            let shape = [&table[..gather.gather_axis], &at.shape, &table[gather.gather_axis + 1..]].concat();
            one(scales.dtype, shape)
        }
        Op::GatherNd { batch_dims } => {
            let (x, at) = (inputs.need(0)?, inputs.need(1)?);
            let depth = at.shape.last().and_then(Dim::as_const).ok_or("the length of an index tuple is not known")?;
            let skip = batch_dims + depth as usize;
            if skip > x.rank() || at.rank() == 0 {
                return Err(format!("tuples of {depth} indices do not fit {x}"));
            }
            one(x.dtype, [&at.shape[..at.rank() - 1], &x.shape[skip..]].concat())
        }
        Op::GatherElements { axis } => {
            let (x, at) = (inputs.need(0)?, inputs.need(1)?);
            resolve_axis(*axis, x.rank())?;
            if at.rank() != x.rank() {
                return Err(format!("indices {at} do not have the rank of {x}"));
            }
            one(x.dtype, at.shape.clone())
        }
        Op::Expand => {
            let x = inputs.need(0)?;
            let target = shape_input(inputs, 1)?;
            one(x.dtype, broadcast(&[&x.shape, &target])?)
        }
        Op::Tile => {
            let x = inputs.need(0)?;
            let repeats = shape_input(inputs, 1)?;
            if repeats.len() != x.rank() {
                return Err(format!("{} repeats for {x}", repeats.len()));
            }
            one(x.dtype, x.shape.iter().zip(&repeats).map(|(d, r)| d.mul(r)).collect())
        }
        Op::Pad { .. } => {
            let x = inputs.need(0)?;
            let Some(pads) = inputs.value(1) else {
                return one(x.dtype, (0..x.rank()).map(|i| inputs.unknown(i)).collect());
            };
            let axes = match inputs.get(3) {
                Some(_) => check_axes(&inputs.ints(3).ok_or("the padded axes are only known at run time")?, x.rank())?,
                None => (0..x.rank()).collect(),
            };
            if pads.len() != 2 * axes.len() {
                return Err(format!("{} paddings for {} dimensions", pads.len(), axes.len()));
            }
            let mut shape = x.shape.clone();
            for (i, &axis) in axes.iter().enumerate() {
                shape[axis] = shape[axis].add(&pads[i]).add(&pads[i + axes.len()]);
            }
            one(x.dtype, shape)
        }
        Op::ConstantOfShape { value } => one(value.dtype(), shape_input(inputs, 0)?),
        Op::Range => {
            let start = inputs.need(0)?;
            let ends = (inputs.value(0), inputs.value(1), inputs.value(2));
            let len = match ends {
                (Some([a]), Some([b]), Some([d])) => match d.as_const() {
                    Some(1) => b.sub(a).at_least(&Dim::Const(0)),
                    Some(d) if d != 0 => match (a.as_const(), b.as_const()) {
                        (Some(a), Some(b)) => Dim::Const(((b - a) as f64 / d as f64).ceil().max(0.0) as i64),
                        _ => inputs.unknown(0),
                    },
                    Some(_) => return Err("the step of a range is 0".into()),
                    None => inputs.unknown(0),
                },
                _ => inputs.unknown(0),
            };
            one(start.dtype, vec![len])
        }
        Op::Shape { start, end } => {
            let rank = inputs.need(0)?.rank();
            let (start, end) = super::value::clamp_range(*start, end.unwrap_or(i64::MAX), rank);
            one(DType::I64, vec![Dim::Const((end - start) as i64)])
        }
        Op::Size => one(DType::I64, vec![]),
        Op::NonZero => {
            let x = inputs.need(0)?;
            one(DType::I64, vec![Dim::Const(x.rank() as i64), inputs.unknown(1)])
        }
        _ => Err("has no shape inference".into()),
    }
}

/// The parts of a split into `parts` outputs.
pub(super) fn split(x: &Fact, axis: i64, sizes: Option<&[i64]>, parts: usize) -> Inferred {
    let axis = resolve_axis(axis, x.rank())?;
    let part = |size: Dim| {
        let mut shape = x.shape.clone();
        shape[axis] = size;
        Fact::new(x.dtype, shape)
    };
    if let Some(sizes) = sizes {
        if sizes.len() != parts {
            return Err(format!("{} sizes for {parts} outputs", sizes.len()));
        }
        if let Some(n) = x.shape[axis].as_const()
            && sizes.iter().sum::<i64>() != n
        {
            return Err(format!("sizes {sizes:?} do not add up to dimension {axis} of {x}"));
        }
        return Ok(sizes.iter().map(|&s| part(Dim::Const(s))).collect());
    }
    let n = x.shape[axis].clone();
    if let Some(n) = n.as_const() {
        // The last part is the smaller one when the division leaves something over.
        let each = (n as usize).div_ceil(parts.max(1));
        return Ok((0..parts).map(|i| part(Dim::from(each.min((n as usize).saturating_sub(i * each))))).collect());
    }
    let each = n.exact_div(&Dim::from(parts)).unwrap_or_else(|| n.floor_div(&Dim::from(parts)));
    Ok((0..parts).map(|_| part(each.clone())).collect())
}

fn reduced(x: &Fact, axes: &[usize], keep: bool) -> Vec<Dim> {
    let dims = x.shape.iter().enumerate();
    if keep {
        dims.map(|(i, d)| if axes.contains(&i) { Dim::Const(1) } else { d.clone() }).collect()
    } else {
        dims.filter(|(i, _)| !axes.contains(i)).map(|(_, d)| d.clone()).collect()
    }
}

/// A shape that input `i` lists, or as many unknown sizes as it has elements.
fn shape_input(inputs: &Inputs, i: usize) -> Result<Vec<Dim>, String> {
    if let Some(value) = inputs.value(i) {
        return Ok(value.to_vec());
    }
    let fact = inputs.need(i)?;
    let len = fact.shape.first().and_then(Dim::as_const).ok_or("the rank of the result is only known at run time")?;
    Ok((0..len as usize).map(|d| inputs.unknown(d)).collect())
}

fn reshape(inputs: &Inputs, allow_zero: bool) -> Inferred {
    let x = inputs.need(0)?;
    let Some(target) = inputs.value(1) else {
        return Ok(vec![Fact::new(x.dtype, shape_input(inputs, 1)?)]);
    };
    let mut shape = Vec::with_capacity(target.len());
    let mut hole = None;
    for (i, d) in target.iter().enumerate() {
        match d.as_const() {
            Some(0) if !allow_zero => shape
                .push(x.shape.get(i).cloned().ok_or_else(|| format!("size {i} is copied from {x}, which has none"))?),
            Some(-1) => {
                if hole.replace(i).is_some() {
                    return Err(format!("shape {target:?} leaves two sizes open"));
                }
                shape.push(Dim::Const(1));
            }
            Some(n) if n < 0 => return Err(format!("shape {target:?} has a negative size")),
            _ => shape.push(d.clone()),
        }
    }
    let product = |dims: &[Dim]| dims.iter().fold(Dim::Const(1), |a, d| a.mul(d));
    let (have, want) = (product(&x.shape), product(&shape));
    if let Some(hole) = hole {
        shape[hole] = match (have.as_const(), want.as_const()) {
            (Some(h), Some(w)) => {
                if w == 0 || h % w != 0 {
                    return Err(format!("{x} does not divide into {target:?}"));
                }
                Dim::Const(h / w)
            }
            _ => have.exact_div(&want).unwrap_or_else(|| have.floor_div(&want)),
        };
    } else if let (Some(h), Some(w)) = (have.as_const(), want.as_const())
        && h != w
    {
        return Err(format!("{x} does not fill {target:?}"));
    }
    Ok(vec![Fact::new(x.dtype, shape)])
}

fn slice(inputs: &Inputs) -> Inferred {
    let x = inputs.need(0)?;
    let (start, end) = (inputs.value(1), inputs.value(2));
    let count = inputs.need(1)?.shape.first().and_then(Dim::as_const).unwrap_or(1) as usize;
    let axes = match inputs.get(3) {
        Some(_) => match inputs.ints(3) {
            Some(axes) => axes.iter().map(|&a| resolve_axis(a, x.rank())).collect::<Result<Vec<_>, _>>()?,
            None => return Ok(vec![Fact::new(x.dtype, (0..x.rank()).map(|i| inputs.unknown(i)).collect())]),
        },
        None => (0..count).collect(),
    };
    let steps = if inputs.get(4).is_some() { inputs.ints(4) } else { Some(vec![1; axes.len()]) };
    let mut shape = x.shape.clone();
    for (i, &axis) in axes.iter().enumerate() {
        if axis >= x.rank() {
            return Err(format!("axis {axis} is outside {x}"));
        }
        let size = &x.shape[axis];
        let known = (|| Some((start?.get(i)?, end?.get(i)?, *steps.as_ref()?.get(i)?)))();
        shape[axis] = match known {
            Some((_, _, 0)) => return Err("the step of a slice is 0".into()),
            Some((s, e, step)) => sliced(size, s, e, step).unwrap_or_else(|| inputs.unknown(axis)),
            None => inputs.unknown(axis),
        };
    }
    Ok(vec![Fact::new(x.dtype, shape)])
}

/// The size of a slice, if it can be told.
fn sliced(size: &Dim, start: &Dim, end: &Dim, step: i64) -> Option<Dim> {
    if let (Some(n), Some(s), Some(e)) = (size.as_const(), start.as_const(), end.as_const()) {
        let fix = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        let span = if step > 0 {
            fix(e).clamp(0, n) - fix(s).clamp(0, n)
        } else {
            fix(s).clamp(-1, n - 1) - fix(e).clamp(-1, n - 1)
        };
        let step = step.unsigned_abs() as i64;
        return Some(Dim::Const(if span <= 0 { 0 } else { (span + step - 1) / step }));
    }
    if step != 1 {
        return None;
    }
    // Symbolic ends: a negative number counts from the end; the others are taken to lie inside, and the planner,
    // which has numbers, clamps.
    let from_end = |d: &Dim| match d.as_const() {
        Some(n) if n < 0 => size.add(d).at_least(&Dim::Const(0)),
        _ => d.clone(),
    };
    let (start, end) = (from_end(start), from_end(end));
    // A window of a constant table, such as the part of a causal mask that belongs to the tokens so far, is as long as
    // it says: a model whose window leaves its table cannot run at all.
    let window = size.as_const().is_some() && end.as_const().is_none();
    let end = if window { end } else { end.at_most(size) };
    Some(if start == Dim::Const(0) { end } else { end.sub(&start) })
}
