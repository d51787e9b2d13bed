//! Rotary embedding as exporters write it, `x * cos + rotate_half(x) * sin`, becomes one operator.
//!
//! Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021), in the form of two halves. The
//! exporter doubles the angles to the width of a head; one half of them is the operator's table, and its rows are
//! addressed by counting them, since the exporter has computed them for the positions of this call.

use std::collections::HashMap;

use super::attention::merged;
use super::pattern::{operands, output, scalar, shape, size_from_end, source};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Binary, Dim, Graph, NodeId, Op, RotaryEmbedding, Unary, ValueId};
use crate::tensor::Tensor;

pub(super) struct FuseRotary;

impl Rewrite for FuseRotary {
    fn name(&self) -> &'static str {
        "fuse-rotary"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut tables = Tables::default();
        let mut count = 0;
        for id in ids {
            if let Some(m) = find(graph, id) {
                fuse(graph, &mut tables, id, m);
                count += 1;
            }
        }
        Ok(count)
    }
}

struct Match {
    /// [batch, heads, sequence, size]
    x: ValueId,
    /// [batch or 1, sequence, size], both halves equal.
    cos: ValueId,
    sin: ValueId,
    result: ValueId,
}

fn find(graph: &Graph, id: NodeId) -> Option<Match> {
    let node = graph.node(id)?;
    let (a, b) = operands(node, Binary::Add)?;
    let (x, cos, sin) = halves_turned(graph, a, b).or_else(|| halves_turned(graph, b, a))?;
    Some(Match { x, cos: angles(graph, cos, x)?, sin: angles(graph, sin, x)?, result: output(node)? })
}

/// `straight = x * cos` and `turned = rotate_half(x) * sin`: x, cos and sin.
fn halves_turned(graph: &Graph, straight: ValueId, turned: ValueId) -> Option<(ValueId, ValueId, ValueId)> {
    let (_, straight) = graph.producer(straight)?;
    let (_, turned) = graph.producer(turned)?;
    let (a, b) = operands(straight, Binary::Mul)?;
    let (c, d) = operands(turned, Binary::Mul)?;
    for (rotated, sin) in [(c, d), (d, c)] {
        let Some(x) = rotate_half(graph, rotated) else { continue };
        if a == x {
            return Some((x, b, sin));
        }
        if b == x {
            return Some((x, a, sin));
        }
    }
    None
}

/// `concat(-x[.., half..], x[.., ..half])`: x.
fn rotate_half(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let (_, node) = graph.producer(value)?;
    let (Op::Concat { axis: -1 | 3 }, [Some(high), Some(low)]) = (&node.op, node.inputs.as_slice()) else {
        return None;
    };
    let (_, negated) = graph.producer(*high)?;
    if !matches!(negated.op, Op::Unary(Unary::Neg)) {
        return None;
    }
    let (x, high_start, high_end) = last_dim_slice(graph, source(negated)?)?;
    let (y, low_start, low_end) = last_dim_slice(graph, *low)?;
    let [_, _, _, size] = shape(graph, x)? else { return None };
    let size = size.as_const()?;
    let halves = size % 2 == 0 && (low_start, low_end) == (0, size / 2) && (high_start, high_end) == (size / 2, size);
    (x == y && halves).then_some(x)
}

/// A slice of the last dimension only: what is sliced, first element, behind the last.
fn last_dim_slice(graph: &Graph, value: ValueId) -> Option<(ValueId, i64, i64)> {
    let (_, node) = graph.producer(value)?;
    if !matches!(node.op, Op::Slice) {
        return None;
    }
    let x = source(node)?;
    let rank = graph.fact(x)?.rank() as i64;
    let size = size_from_end(graph, x, 1)? as i64;
    let number = |i: usize| match graph.fact(node.inputs.get(i).copied().flatten()?)?.value.as_deref()? {
        [one] => one.as_const(),
        _ => None,
    };
    let (start, end, axis) = (number(1)?, number(2)?, number(3)?);
    let step = if node.inputs.get(4).copied().flatten().is_some() { number(4)? } else { 1 };
    let fix = |i: i64| if i < 0 { i + size } else { i.min(size) };
    (step == 1 && (axis == -1 || axis == rank - 1)).then(|| (x, fix(start), fix(end)))
}

/// The angles behind what is multiplied with `x` [B, H, S, D]: [B or 1, S, D], both halves equal.
fn angles(graph: &Graph, value: ValueId, x: ValueId) -> Option<ValueId> {
    let [batch, _, sequence, size] = shape(graph, x)? else { return None };
    let [b, one, s, d] = shape(graph, value)? else { return None };
    if (one, s, d) != (&Dim::Const(1), sequence, size) || !(b == batch || *b == Dim::Const(1)) {
        return None;
    }
    let (_, node) = graph.producer(value)?;
    if !matches!(node.op, Op::Unsqueeze { .. } | Op::Reshape { .. }) {
        return None;
    }
    let root = source(node)?;
    let plain = matches!(shape(graph, root)?, [rb, rs, rd] if (rb, rs, rd) == (b, s, d));
    (plain && doubled(graph, root)).then_some(root)
}

/// Whether the last dimension holds the same numbers twice.
fn doubled(graph: &Graph, value: ValueId) -> bool {
    let last = |v| shape(graph, v).and_then(<[Dim]>::last);
    if let Some(tensor) = graph.constant(value) {
        return constant_doubled(tensor);
    }
    let Some((_, node)) = graph.producer(value) else { return false };
    let through = |input: ValueId| last(input) == last(value) && doubled(graph, input);
    match (&node.op, node.inputs.as_slice()) {
        (Op::Concat { axis }, [Some(a), Some(b)]) => {
            let rank = graph.fact(value).map_or(0, |f| f.rank() as i64);
            a == b && (*axis == -1 || *axis == rank - 1)
        }
        (Op::Unary(_) | Op::Cast { .. } | Op::Identity, [Some(a)]) => through(*a),
        (Op::Unsqueeze { .. }, [Some(a), ..]) => through(*a),
        (Op::Binary(Binary::Mul), [Some(a), Some(b)]) => {
            (scalar(graph, *b).is_some() && through(*a)) || (scalar(graph, *a).is_some() && through(*b))
        }
        // Rows of a table.
        (Op::Gather { axis: 0 }, [Some(table), _]) => graph.constant(*table).is_some_and(constant_doubled),
        _ => false,
    }
}

fn constant_doubled(tensor: &Tensor) -> bool {
    let Some(&size) = tensor.shape().last() else { return false };
    let Some(values) = tensor.to_f32_vec() else { return false };
    size > 0 && size % 2 == 0 && values.chunks_exact(size).all(|row| row[..size / 2] == row[size / 2..])
}

/// Tables that were made already: all layers share them.
#[derive(Default)]
struct Tables {
    by_angles: HashMap<ValueId, ValueId>,
    ids: HashMap<(Dim, Dim), ValueId>,
}

impl Tables {
    /// One half of the angles [B, S, D], as a table [B * S, D / 2].
    fn table(&mut self, graph: &mut Graph, angles: ValueId, half: usize) -> ValueId {
        *self.by_angles.entry(angles).or_insert_with(|| {
            let name = graph.value(angles).name.to_string();
            let list = |graph: &mut Graph, what: &str, v: i64| {
                Some(graph.add_constant(format!("{name}/{what}"), Tensor::vector(&[v])))
            };
            let (start, end) = (list(graph, "start", 0), list(graph, "end", half as i64));
            let axis = list(graph, "axis", -1);
            let part = graph.apply(&format!("{name}/half"), Op::Slice, &[Some(angles), start, end, axis]);
            let rows = graph.add_constant(format!("{name}/rows"), Tensor::vector(&[-1, half as i64]));
            graph.apply(&format!("{name}/table"), Op::Reshape { allow_zero: false }, &[Some(part), Some(rows)])
        })
    }

    /// The row of the table for each position: its own number, or the same rows for each row of the batch.
    fn positions(&mut self, graph: &mut Graph, batch: &Dim, sequence: &Dim, table: ValueId) -> ValueId {
        *self.ids.entry((batch.clone(), sequence.clone())).or_insert_with(|| {
            let name = format!("{}/count", graph.value(table).name);
            if *batch == Dim::Const(1) {
                return graph.add_constant(name, Tensor::vector(&[0i64]));
            }
            let rows = graph.apply(&format!("{name}/rows"), Op::Shape { start: 0, end: Some(1) }, &[Some(table)]);
            let rows = graph.apply(&format!("{name}/limit"), Op::Squeeze { axes: Some(vec![0]) }, &[Some(rows)]);
            let start = graph.add_constant(format!("{name}/start"), Tensor::scalar(0i64));
            let step = graph.add_constant(format!("{name}/step"), Tensor::scalar(1i64));
            graph.apply(&name, Op::Range, &[Some(start), Some(rows), Some(step)])
        })
    }
}

fn fuse(graph: &mut Graph, tables: &mut Tables, id: NodeId, m: Match) {
    let (Some([_, heads, _, size]), Some([batch, sequence, _])) = (shape(graph, m.x), shape(graph, m.cos)) else {
        return;
    };
    let (Some(size), heads) = (size.as_const(), heads.as_const()) else { return };
    let (half, batch, sequence) = (size as usize / 2, batch.clone(), sequence.clone());
    let cos = tables.table(graph, m.cos, half);
    let sin = tables.table(graph, m.sin, half);
    let ids = tables.positions(graph, &batch, &sequence, cos);
    let inputs = |x| vec![Some(x), Some(ids), Some(cos), Some(sin)];
    let whole = RotaryEmbedding { heads: 0, rotary_dim: 0, interleaved: false };
    let name = graph.node(id).map_or_else(String::new, |n| n.name.to_string());
    // Heads that were just split are turned before that, so that what reads them can read them unsplit.
    if let Some((x, heads, target)) = heads.and_then(|h| split_heads(graph, m.x, h as usize)) {
        let op = Op::RotaryEmbedding(RotaryEmbedding { heads, ..whole });
        let turned = graph.apply(&format!("{name}/turned"), op, &inputs(x));
        let split =
            graph.apply(&format!("{name}/split"), Op::Reshape { allow_zero: false }, &[Some(turned), Some(target)]);
        let perm = Op::Transpose { perm: Some(vec![0, 2, 1, 3]) };
        super::epilogue::replace_output(graph, id, perm, vec![Some(split)], m.result);
    } else {
        super::epilogue::replace_output(graph, id, Op::RotaryEmbedding(whole), inputs(m.x), m.result);
    }
}

/// `transpose(reshape(x, target))` of [B, S, heads * D] to [B, heads, S, D]: x, heads and target.
fn split_heads(graph: &Graph, value: ValueId, heads: usize) -> Option<(ValueId, usize, ValueId)> {
    let (_, transpose) = graph.producer(value)?;
    let Op::Transpose { perm: Some(perm) } = &transpose.op else { return None };
    let split = source(transpose)?;
    let x = (perm[..] == [0, 2, 1, 3]).then(|| merged(graph, split, heads)).flatten()?;
    let (_, reshape) = graph.producer(split)?;
    let target = reshape.inputs.get(1).copied().flatten().filter(|t| graph.constant(*t).is_some())?;
    Some((x, heads, target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, infer_graph};
    use crate::optimize::optimize;
    use crate::tensor::DType;
    use crate::{Session, SessionOptions};

    const SIZE: usize = 8;

    /// `x * cos + rotate_half(x) * sin` of heads split from [b, s, 2 * 8], the angles [b, s, 4] doubled; `halves` are where the
    /// two slices begin and end.
    fn exported(halves: [[i64; 2]; 2]) -> Graph {
        let mut g = Graph::new();
        let (b, s) = (Dim::symbol("b"), Dim::symbol("s"));
        let x = g.add_input("x", Fact::new(DType::F32, vec![b.clone(), s.clone(), Dim::from(2 * SIZE)]));
        let angles = g.add_input("angles", Fact::new(DType::F32, vec![b, s, Dim::from(SIZE / 2)]));
        let target = g.add_constant("target", Tensor::vector(&[0i64, 0, 2, SIZE as i64]));
        let split = g.apply("split", Op::Reshape { allow_zero: false }, &[Some(x), Some(target)]);
        let heads = g.apply("heads", Op::Transpose { perm: Some(vec![0, 2, 1, 3]) }, &[Some(split)]);
        let whole = g.apply("whole", Op::Concat { axis: -1 }, &[Some(angles), Some(angles)]);
        let table = |g: &mut Graph, name: &str, op| {
            let v = g.apply(name, Op::Unary(op), &[Some(whole)]);
            g.apply(&format!("{name}/rows"), Op::Unsqueeze { axes: Some(vec![1]) }, &[Some(v)])
        };
        let (cos, sin) = (table(&mut g, "cos", Unary::Cos), table(&mut g, "sin", Unary::Sin));
        let axis = g.add_constant("axis", Tensor::vector(&[3i64]));
        let part = |g: &mut Graph, name: &str, [start, end]: [i64; 2]| {
            let start = g.add_constant(format!("{name}/start"), Tensor::vector(&[start]));
            let end = g.add_constant(format!("{name}/end"), Tensor::vector(&[end]));
            g.apply(name, Op::Slice, &[Some(heads), Some(start), Some(end), Some(axis)])
        };
        let (high, low) = (part(&mut g, "high", halves[0]), part(&mut g, "low", halves[1]));
        let negated = g.apply("negated", Op::Unary(Unary::Neg), &[Some(high)]);
        let rotated = g.apply("rotated", Op::Concat { axis: -1 }, &[Some(negated), Some(low)]);
        let a = g.apply("a", Op::Binary(Binary::Mul), &[Some(heads), Some(cos)]);
        let b = g.apply("b", Op::Binary(Binary::Mul), &[Some(rotated), Some(sin)]);
        let y = g.apply("y", Op::Binary(Binary::Add), &[Some(a), Some(b)]);
        g.add_output("y", y);
        infer_graph(&mut g).unwrap();
        g
    }

    fn run(g: Graph, batch: usize) -> Vec<f32> {
        let floats = |shape: &[usize]| {
            let n: usize = shape.iter().product();
            Tensor::from_slice(shape, &(0..n).map(|i| (i as f32 * 0.37).sin() * 3.0).collect::<Vec<_>>()).unwrap()
        };
        let inputs = [("x", floats(&[batch, 5, 2 * SIZE])), ("angles", floats(&[batch, 5, SIZE / 2]))];
        Session::new(g, SessionOptions::default()).run(&inputs).unwrap()[0].1.to_f32_vec().unwrap()
    }

    #[test]
    fn the_exporter_s_form_becomes_one_operator() {
        for end in [SIZE as i64, i64::MAX] {
            let before = exported([[4, end], [0, 4]]);
            let mut after = before.clone();
            optimize(&mut after).unwrap();
            let names: Vec<_> = after.nodes().map(|(_, n)| n.op.name()).collect();
            assert_eq!(names.iter().filter(|n| **n == "RotaryEmbedding").count(), 1, "{names:?}");
            assert!(!names.contains(&"Neg"), "{names:?}");
            for batch in [1, 3] {
                assert_eq!(run(before.clone(), batch), run(after.clone(), batch));
            }
        }
    }

    #[test]
    fn other_slices_are_left_alone() {
        // The halves in the wrong order, and parts that are not halves.
        for halves in [[[0, 4], [4, 8]], [[2, 8], [0, 2]]] {
            let mut g = exported(halves);
            optimize(&mut g).unwrap();
            assert!(g.nodes().all(|(_, n)| !matches!(n.op, Op::RotaryEmbedding(_))));
        }
    }
}
