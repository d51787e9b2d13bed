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
