//! Heads that are repeated for grouped attention, and the cache that new keys and values are joined with, become parts
//! of the attention itself: it reads each key once for all heads of its group, and appends to the cache in place.

use super::attention::rows;
use super::pattern::{output, shape, source};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Attention, Binary, Dim, Graph, HeadLayout, NodeId, Op, ValueId};
use crate::tensor::Tensor;

pub(super) struct FuseCache;

impl Rewrite for FuseCache {
    fn name(&self) -> &'static str {
        "fuse-cache"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut count = 0;
        for id in ids {
            count += usize::from(share_heads(graph, id)) + usize::from(join_past(graph, id));
        }
        Ok(count)
    }
}

fn attention(graph: &Graph, id: NodeId) -> Option<(Attention, Vec<Option<ValueId>>)> {
    let node = graph.node(id)?;
    match node.op {
        Op::Attention(op) => Some((op, node.inputs.clone())),
        _ => None,
    }
}

/// `reshape(expand(unsqueeze(x, 2), [B, G, n, S, D]), [B, heads, S, D])`: x and G.
fn repeated(graph: &Graph, value: ValueId, heads: usize) -> Option<(ValueId, usize)> {
    let (_, reshape) = graph.producer(value)?;
    let expanded = source(reshape)?;
    let (_, expand) = graph.producer(expanded)?;
    let unsqueezed = source(expand)?;
    let (_, unsqueeze) = graph.producer(unsqueezed)?;
    let forms = matches!(reshape.op, Op::Reshape { .. })
        && matches!(expand.op, Op::Expand)
        && matches!(unsqueeze.op, Op::Unsqueeze { .. } | Op::Reshape { .. });
    let x = source(unsqueeze)?;
    let ([b, g, s, d], [ub, ug, one, us, ud]) = (shape(graph, x)?, shape(graph, unsqueezed)?) else { return None };
    let ([eb, eg, n, es, ed], [yb, h, ys, yd]) = (shape(graph, expanded)?, shape(graph, value)?) else { return None };
    let (group, times) = (usize::try_from(g.as_const()?).ok()?, usize::try_from(n.as_const()?).ok()?);
    let fits = (ub, ug, one, us, ud) == (b, g, &Dim::Const(1), s, d)
        && (eb, eg, es, ed) == (b, g, s, d)
        && (yb, ys, yd) == (b, s, d)
        && *h == Dim::from(heads)
        && group * times == heads;
    (forms && fits).then_some((x, group))
}

/// Keys and values repeated for each head of a group are read in place.
fn share_heads(graph: &mut Graph, id: NodeId) -> bool {
    let Some((op, mut inputs)) = attention(graph, id) else { return false };
    let (Some(k), Some(v)) = (inputs[1], inputs[2]) else { return false };
    let plain = op.kv_heads == op.heads && op.k_layout == HeadLayout::Split && op.v_layout == HeadLayout::Split;
    let no_cache = inputs.iter().skip(5).all(Option::is_none);
    let (Some((k, k_heads)), Some((v, v_heads))) = (repeated(graph, k, op.heads), repeated(graph, v, op.heads)) else {
        return false;
    };
    if !plain || !no_cache || k_heads != v_heads {
        return false;
    }
    let (k, k_layout) = rows(graph, k, k_heads);
    let (v, v_layout) = rows(graph, v, k_heads);
    (inputs[1], inputs[2]) = (Some(k), Some(v));
    let Some(node) = graph.node_mut(id) else { return false };
    node.op = Op::Attention(Attention { kv_heads: k_heads, k_layout, v_layout, ..op });
    node.inputs = inputs;
    true
}

/// `concat(past, new)` along the sequence of [B, heads, S, D]: the node, past and new.
fn joined(graph: &Graph, value: ValueId) -> Option<(NodeId, ValueId, ValueId)> {
    let (id, node) = graph.producer(value)?;
    match (&node.op, node.inputs.as_slice()) {
        (Op::Concat { axis: 2 | -2 }, [Some(past), Some(new)]) if shape(graph, value)?.len() == 4 => {
            Some((id, *past, *new))
        }
        _ => None,
    }
}

/// Keys and values joined with a cache outside of the attention are joined inside; what was joined is its second and
/// third output.
fn join_past(graph: &mut Graph, id: NodeId) -> bool {
    let Some((op, mut inputs)) = attention(graph, id) else { return false };
    let (Some(k), Some(v)) = (inputs[1], inputs[2]) else { return false };
    let split = op.k_layout == HeadLayout::Split && op.v_layout == HeadLayout::Split;
    let (Some((k_join, past_k, new_k)), Some((v_join, past_v, new_v))) = (joined(graph, k), joined(graph, v)) else {
        return false;
    };
    let no_cache = inputs.iter().skip(5).all(Option::is_none);
    if !split || !no_cache || k_join == v_join {
        return false;
    }
    sizes_from_parts(graph, k, [past_k, new_k]);
    sizes_from_parts(graph, v, [past_v, new_v]);
    let (new_k, k_layout) = rows(graph, new_k, op.kv_heads);
    let (new_v, v_layout) = rows(graph, new_v, op.kv_heads);
    (inputs[1], inputs[2]) = (Some(new_k), Some(new_v));
    inputs.resize(5, None);
    inputs.extend([Some(past_k), Some(past_v)]);
    // What this attention reads must not depend on what it is now to make: a mask computed from the length of the joined
    // keys would.
    if depends(graph, &inputs, &[k_join, v_join]) {
        return false;
    }
    let Some(y) = graph.node(id).and_then(output) else { return false };
    graph.remove_node(k_join);
    graph.remove_node(v_join);
    let Some(node) = graph.node_mut(id) else { return false };
    node.op = Op::Attention(Attention { k_layout, v_layout, ..op });
    node.inputs = inputs;
    node.outputs = vec![Some(y), Some(k), Some(v)];
    graph.value_mut(k).producer = Some(id);
    graph.value_mut(v).producer = Some(id);
    true
}

/// Shapes that are read of the joined rows are computed from those of the past and the new ones, so that a mask that needs
/// them does not wait for the attention.
fn sizes_from_parts(graph: &mut Graph, joined: ValueId, [past, new]: [ValueId; 2]) {
    let readers: Vec<NodeId> = graph
        .nodes()
        .filter(|(_, n)| matches!(n.op, Op::Shape { .. }) && source(n) == Some(joined))
        .map(|(id, _)| id)
        .collect();
    for id in readers {
        let Some(Op::Shape { start, end }) = graph.node(id).map(|n| n.op.clone()) else { continue };
        let name = graph.node(id).map_or_else(String::new, |n| n.name.to_string());
        let shape = |graph: &mut Graph, what: &str, of| {
            graph.apply(&format!("{name}/{what}"), Op::Shape { start: 0, end: None }, &[Some(of)])
        };
        let (before, more) = (shape(graph, "past", past), shape(graph, "new", new));
        let only = graph.add_constant(format!("{name}/only"), Tensor::vector(&[0i64, 0, 1, 0]));
        let more = graph.apply(&format!("{name}/more"), Op::Binary(Binary::Mul), &[Some(more), Some(only)]);
        let whole = graph.apply(&format!("{name}/whole"), Op::Binary(Binary::Add), &[Some(before), Some(more)]);
        let bound = |graph: &mut Graph, what: &str, v: i64| {
            Some(graph.add_constant(format!("{name}/{what}"), Tensor::vector(&[v])))
        };
        let (start, end) = (bound(graph, "start", start), bound(graph, "end", end.unwrap_or(i64::MAX)));
        if let Some(node) = graph.node_mut(id) {
            node.op = Op::Slice;
            node.inputs = vec![Some(whole), start, end];
        }
    }
}

/// Whether any of `values` is computed from what one of `nodes` makes.
fn depends(graph: &Graph, values: &[Option<ValueId>], nodes: &[NodeId]) -> bool {
    let mut seen = vec![false; graph.value_count()];
    let mut todo: Vec<ValueId> = values.iter().copied().flatten().collect();
    while let Some(value) = todo.pop() {
        if std::mem::replace(&mut seen[value.0 as usize], true) {
            continue;
        }
        let Some((id, node)) = graph.producer(value) else { continue };
        if nodes.contains(&id) {
            return true;
        }
        todo.extend(node.inputs.iter().flatten());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, MatMul, infer_graph};
    use crate::optimize::optimize;
    use crate::tensor::DType;
    use crate::{Session, SessionOptions};

    /// Attention of 4 query heads over 2 heads of keys that are joined with a past and repeated, as exporters write it. The
    /// mask is a window of a table, placed by the joined keys' own length.
    fn exported() -> Graph {
        let mut g = Graph::new();
        let (b, s, p) = (Dim::symbol("b"), Dim::symbol("s"), Dim::symbol("p"));
        let heads =
            |n: usize, rows: &Dim| Fact::new(DType::F32, vec![b.clone(), n.into(), rows.clone(), 3usize.into()]);
        let q = g.add_input("q", heads(4, &s));
        let (k, v) = (g.add_input("k", heads(2, &s)), g.add_input("v", heads(2, &s)));
        let (pk, pv) = (g.add_input("pk", heads(2, &p)), g.add_input("pv", heads(2, &p)));
        let k = g.apply("join_k", Op::Concat { axis: 2 }, &[Some(pk), Some(k)]);
        let v = g.apply("join_v", Op::Concat { axis: -2 }, &[Some(pv), Some(v)]);
        let repeat = |g: &mut Graph, name: &str, x: ValueId| {
            let five = g.apply(&format!("{name}/unsqueeze"), Op::Unsqueeze { axes: Some(vec![2]) }, &[Some(x)]);
            let ones = g.add_constant(format!("{name}/times"), Tensor::vector(&[1i64, 1, 2, 1, 1]));
            let many = g.apply(&format!("{name}/expand"), Op::Expand, &[Some(five), Some(ones)]);
            let target = g.add_constant(format!("{name}/target"), Tensor::vector(&[0i64, 4, -1, 3]));
            g.apply(&format!("{name}/reshape"), Op::Reshape { allow_zero: false }, &[Some(many), Some(target)])
        };
        let (rk, rv) = (repeat(&mut g, "rk", k), repeat(&mut g, "rv", v));
        let length = |g: &mut Graph, name: &str, of| g.apply(name, Op::Shape { start: 2, end: Some(3) }, &[Some(of)]);
        let (total, fresh) = (length(&mut g, "total", k), length(&mut g, "fresh", q));
        let first = g.apply("first", Op::Binary(Binary::Sub), &[Some(total), Some(fresh)]);
        let table: Vec<f32> = (0..256).map(|i| if i % 16 <= i / 16 { 0.0 } else { f32::MIN }).collect();
        let table = g.add_constant("table", Tensor::from_slice(&[1, 1, 16, 16], &table).unwrap());
        let at = |g: &mut Graph, v: i64| Some(g.add_constant(format!("at{v}"), Tensor::vector(&[v])));
        let (rows, columns, zero) = (at(&mut g, 2), at(&mut g, 3), at(&mut g, 0));
        let mask = g.apply("mask/rows", Op::Slice, &[Some(table), Some(first), Some(total), rows]);
        let mask = g.apply("mask", Op::Slice, &[Some(mask), zero, Some(total), columns]);
        let kt = g.apply("kt", Op::Transpose { perm: Some(vec![0, 1, 3, 2]) }, &[Some(rk)]);
        let scores = g.apply("scores", Op::MatMul(MatMul::default()), &[Some(q), Some(kt)]);
        let masked = g.apply("masked", Op::Binary(Binary::Add), &[Some(scores), Some(mask)]);
        let weights = g.apply("weights", Op::Softmax { axis: -1, zero_masked_rows: false }, &[Some(masked)]);
        let y = g.apply("y", Op::MatMul(MatMul::default()), &[Some(weights), Some(rv)]);
        for (name, value) in [("y", y), ("present.k", k), ("present.v", v)] {
            g.add_output(name, value);
        }
        infer_graph(&mut g).unwrap();
        g
    }

    #[test]
    fn joining_and_repeating_become_parts_of_the_attention() {
        let before = exported();
        let mut after = before.clone();
        optimize(&mut after).unwrap();
        let attention = after.nodes().find_map(|(_, n)| match n.op {
            Op::Attention(a) => Some((a, n.inputs.clone(), n.outputs.clone())),
            _ => None,
        });
        let (op, inputs, outputs) = attention.expect("an attention");
        assert_eq!((op.heads, op.kv_heads), (4, 2));
        assert_eq!(inputs[5..], [Some(after.inputs[3]), Some(after.inputs[4])]);
        assert_eq!(outputs[1..], [Some(after.outputs[1]), Some(after.outputs[2])]);
        assert!(after.nodes().all(|(_, n)| !matches!(n.op, Op::Expand)));
        let run = |g: Graph, past: usize, fresh: usize| {
            let of = |heads: usize, rows: usize, seed: usize| {
                let n = 2 * heads * rows * 3;
                let values: Vec<f32> = (0..n).map(|i| ((i * 7 + seed) as f32 * 0.61).sin()).collect();
                Tensor::from_slice(&[2, heads, rows, 3], &values).unwrap()
            };
            let inputs = [
                ("q", of(4, fresh, 1)),
                ("k", of(2, fresh, 2)),
                ("v", of(2, fresh, 3)),
                ("pk", of(2, past, 4)),
                ("pv", of(2, past, 5)),
            ];
            let outputs = Session::new(g, SessionOptions::default()).run(&inputs).unwrap();
            outputs.into_iter().map(|(_, t)| t.to_f32_vec().unwrap()).collect::<Vec<_>>()
        };
        for (past, fresh) in [(0, 4), (5, 1), (6, 3)] {
            let (a, b) = (run(before.clone(), past, fresh), run(after.clone(), past, fresh));
            assert_eq!(a[1..], b[1..], "what is kept is the same");
            assert!(a[0].iter().zip(&b[0]).all(|(x, y)| (x - y).abs() < 1e-5), "{past} {fresh}");
        }
    }
}
