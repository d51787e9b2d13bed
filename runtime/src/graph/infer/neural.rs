//! Shapes of products, convolutions, norms and attention.

use super::{Inferred, Inputs, broadcast, resolve_axis};
use crate::graph::{Dim, Fact, HeadLayout, Op, SAMPLE_PARAMS, Window};
use crate::tensor::DType;

pub(super) fn infer(op: &Op, inputs: &Inputs) -> Inferred {
    let one = |dtype, shape| Ok(vec![Fact::new(dtype, shape)]);
    match op {
        Op::MatMul(m) => {
            let (a, b) = (inputs.need(0)?, inputs.need(1)?);
            if !a.dtype.is_float() || !b.dtype.is_float() {
                return Err(format!("operands are {a} and {b}"));
            }
            one(a.dtype, product(a, b, m.trans_a, m.trans_b)?)
        }
        Op::MatMulInteger => {
            let (a, b) = (inputs.need(0)?, inputs.need(1)?);
            quantized(a, b)?;
            one(DType::I32, product(a, b, false, false)?)
        }
        Op::MatMulIntegerToFloat(_) => {
            let (a, b) = (inputs.need(0)?, inputs.need(1)?);
            quantized(a, b)?;
            one(DType::F32, product(a, b, false, false)?)
        }
        Op::MatMulNBits(m) => {
            let a = inputs.need(0)?;
            let (k, rest) = a.shape.split_last().ok_or("the left operand is a scalar")?;
            if k.as_const().is_some_and(|k| k != m.k as i64) {
                return Err(format!("{a} does not have {} columns", m.k));
            }
            one(a.dtype, [rest, &[m.n.into()]].concat())
        }
        Op::Conv(c) => one(inputs.need(0)?.dtype, conv(inputs, c.groups, &c.window)?),
        Op::ConvInteger(c) => {
            quantized(inputs.need(0)?, inputs.need(1)?)?;
            one(DType::I32, conv(inputs, c.groups, &c.window)?)
        }
        Op::ConvIntegerToFloat(c) => {
            quantized(inputs.need(0)?, inputs.need(1)?)?;
            one(DType::F32, conv(inputs, c.groups, &c.window)?)
        }
        Op::Pool(p) => {
            let x = inputs.need(0)?;
            if x.rank() != p.kernel.len() + 2 {
                return Err(format!("a window over {} dimensions for {x}", p.kernel.len()));
            }
            let mut shape = x.shape[..2].to_vec();
            for (i, &kernel) in p.kernel.iter().enumerate() {
                shape.push(windowed(&x.shape[i + 2], &p.window, i, kernel, p.ceil, inputs)?);
            }
            one(x.dtype, shape)
        }
        Op::Norm(n) => {
            let x = inputs.need(0)?;
            let axis = resolve_axis(n.axis, x.rank())?;
            let normalised = &x.shape[axis..];
            for i in 1..3 {
                if let Some(p) = inputs.get(i) {
                    let total = |s: &[Dim]| s.iter().try_fold(1, |n, d| Some(n * d.as_const()?));
                    if let (Some(a), Some(b)) = (total(&p.shape), total(normalised))
                        && a != b
                    {
                        return Err(format!("parameters {p} for a norm over {normalised:?}"));
                    }
                }
            }
            let kept: Vec<Dim> =
                x.shape.iter().enumerate().map(|(i, d)| if i < axis { d.clone() } else { Dim::Const(1) }).collect();
            let stat = Fact::new(DType::F32, kept);
            Ok(vec![Fact::new(x.dtype, x.shape.clone()), stat.clone(), stat])
        }
        Op::RotaryEmbedding(_) => one(inputs.need(0)?.dtype, inputs.need(0)?.shape.clone()),
        Op::Attention(a) => {
            let (q, k, v) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
            let (batch, queries, _) = rows(q, a.q_layout, a.heads)?;
            let (_, mut keys, key_size) = rows(k, a.k_layout, a.kv_heads)?;
            let (_, values, value_size) = rows(v, a.v_layout, a.kv_heads)?;
            if let (Some(a), Some(b)) = (keys.as_const(), values.as_const())
                && a != b
            {
                return Err(format!("{a} keys for {b} values"));
            }
            if let Some(past) = inputs.get(5) {
                keys = keys.add(past.shape.get(2).ok_or_else(|| format!("the cache is {past}"))?);
            }
            let heads = Dim::from(a.heads);
            let y = if a.merged_output {
                vec![batch.clone(), queries, heads.mul(&value_size)]
            } else {
                vec![batch.clone(), heads, queries, value_size.clone()]
            };
            let cache = |size: Dim| Fact::new(q.dtype, vec![batch.clone(), a.kv_heads.into(), keys.clone(), size]);
            Ok(vec![Fact::new(q.dtype, y), cache(key_size), cache(value_size)])
        }
        Op::GroupQueryAttention(a) => {
            let q = inputs.need(0)?;
            let [batch, sequence, width] = q.shape.as_slice() else { return Err(format!("queries are {q}")) };
            let heads = if inputs.get(1).is_some() { a.heads } else { a.heads + 2 * a.kv_heads };
            let size =
                width.exact_div(&heads.into()).ok_or_else(|| format!("{q} does not split into {heads} heads"))?;
            let past = inputs.get(3).and_then(|p| p.shape.get(2)).cloned().unwrap_or(Dim::Const(0));
            let total = match inputs.value(6) {
                Some([total]) => total.clone(),
                _ => inputs.unknown(0),
            };
            let cache = Fact::new(q.dtype, vec![batch.clone(), a.kv_heads.into(), total.at_least(&past), size.clone()]);
            let y = vec![batch.clone(), sequence.clone(), size.mul(&a.heads.into())];
            Ok(vec![Fact::new(q.dtype, y), cache.clone(), cache])
        }
        Op::Sample => {
            let (logits, params) = (inputs.need(0)?, inputs.need(2)?);
            let [batch, _] = logits.shape.as_slice() else { return Err(format!("the logits are {logits}")) };
            if logits.dtype != DType::F32 || params.dtype != DType::F32 {
                return Err(format!("the logits are {logits} and the parameters {params}, not f32"));
            }
            // Sizes that are not known yet are checked when they are.
            let differ = |a: &Dim, b: &Dim| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b);
            let rows_fit = |d: &Dim| !differ(d, batch) || d.as_const() == Some(1);
            if !matches!(params.shape.as_slice(), [b, n] if rows_fit(b) && !differ(n, &SAMPLE_PARAMS.into())) {
                return Err(format!("parameters {params} for logits {logits}"));
            }
            for ids in [inputs.get(1), inputs.get(3)].into_iter().flatten() {
                let whole = matches!(ids.dtype, DType::I64 | DType::I32);
                if !whole || !matches!(ids.shape.as_slice(), [b, _] if !differ(b, batch)) {
                    return Err(format!("earlier tokens {ids} for logits {logits}"));
                }
            }
            Ok(vec![Fact::new(DType::I64, vec![batch.clone()]), Fact::new(DType::F32, vec![batch.clone()])])
        }
        _ => Err("has no shape inference".into()),
    }
}

fn quantized(a: &Fact, b: &Fact) -> Result<(), String> {
    if a.dtype.is_int8() && b.dtype.is_int8() { Ok(()) } else { Err(format!("operands are {a} and {b}, not 8-bit")) }
}

/// The shape of `a @ b` by the rules of `numpy.matmul`.
fn product(a: &Fact, b: &Fact, trans_a: bool, trans_b: bool) -> Result<Vec<Dim>, String> {
    if a.rank() == 0 || b.rank() == 0 {
        return Err(format!("cannot multiply {a} with {b}: an operand is a scalar"));
    }
    let (mut left, mut right) = (a.shape.clone(), b.shape.clone());
    let (row, column) = (left.len() == 1, right.len() == 1);
    if row {
        left.insert(0, Dim::Const(1));
    }
    if column {
        right.push(Dim::Const(1));
    }
    let (l, r) = (left.len(), right.len());
    if trans_a && !row {
        left.swap(l - 1, l - 2);
    }
    if trans_b && !column {
        right.swap(r - 1, r - 2);
    }
    if let (Some(x), Some(y)) = (left[l - 1].as_const(), right[r - 2].as_const())
        && x != y
    {
        return Err(format!("cannot multiply {a} with {b}: inner sizes {x} and {y} differ"));
    }
    let mut shape = broadcast(&[&left[..l - 2], &right[..r - 2]])?;
    if !row {
        shape.push(left[l - 2].clone());
    }
    if !column {
        shape.push(right[r - 1].clone());
    }
    Ok(shape)
}

fn conv(inputs: &Inputs, groups: usize, window: &Window) -> Result<Vec<Dim>, String> {
    let (x, w) = (inputs.need(0)?, inputs.need(1)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(format!("cannot convolve {x} with {w}"));
    }
    let spatial = x.rank() - 2;
    if window.strides.len() != spatial || window.dilations.len() != spatial || window.strides.contains(&0) {
        return Err(format!("strides and dilations do not fit {x}"));
    }
    if let (Some(c), Some(g)) = (x.shape[1].as_const(), w.shape[1].as_const())
        && c != g * groups as i64
    {
        return Err(format!("{x} has not the {} channels that {w} in {groups} groups needs", g * groups as i64));
    }
    let mut shape = vec![x.shape[0].clone(), w.shape[0].clone()];
    for i in 0..spatial {
        let kernel = w.shape[i + 2].as_const().ok_or("the size of the kernel is not known")? as usize;
        shape.push(windowed(&x.shape[i + 2], window, i, kernel, false, inputs)?);
    }
    Ok(shape)
}

fn windowed(size: &Dim, window: &Window, i: usize, kernel: usize, ceil: bool, inputs: &Inputs) -> Result<Dim, String> {
    if let Some(n) = size.as_const() {
        return window
            .output_of(i, n as usize, kernel, ceil)
            .map(Dim::from)
            .ok_or_else(|| format!("a kernel of {kernel} does not fit a size of {n}"));
    }
    let stride = Dim::from(window.strides[i]);
    match &window.pads {
        crate::graph::Padding::Explicit(p) if !ceil => {
            let span = (kernel as i64 - 1) * window.dilations[i] as i64 + 1;
            let room = size.add(&Dim::Const((p[i] + p[i + p.len() / 2]) as i64 - span));
            Ok(room.floor_div(&stride).add(&Dim::Const(1)))
        }
        crate::graph::Padding::Explicit(_) => Ok(inputs.unknown(i)),
        _ => Ok(size.add(&Dim::Const(window.strides[i] as i64 - 1)).floor_div(&stride)),
    }
}

/// Batch, sequence and head size of queries, keys or values.
fn rows(x: &Fact, layout: HeadLayout, heads: usize) -> Result<(Dim, Dim, Dim), String> {
    let bad = || format!("{x} does not hold {heads} heads as {layout:?}");
    match (layout, x.shape.as_slice()) {
        (HeadLayout::Merged, [b, s, w]) => Ok((b.clone(), s.clone(), w.exact_div(&heads.into()).ok_or_else(bad)?)),
        (HeadLayout::Split, [b, h, s, d]) | (HeadLayout::SplitTransposed, [b, h, d, s]) => {
            if h.as_const().is_some_and(|h| h != heads as i64) {
                Err(bad())
            } else {
                Ok((b.clone(), s.clone(), d.clone()))
            }
        }
        _ => Err(bad()),
    }
}
