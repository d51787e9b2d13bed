//! `softmax(scale * q k^T + mask) v` in the forms that exporters write becomes one attention that never materialises
//! transposed heads.

use super::pattern::{Uses, output, scalar, shape, size_from_end, source};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Attention, Binary, Dim, Graph, HeadLayout, MatMul, Node, NodeId, Op, Unary, ValueId};
use crate::tensor::Tensor;

pub(super) struct FuseAttention;

impl Rewrite for FuseAttention {
    fn name(&self) -> &'static str {
        "fuse-attention"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut count = 0;
        let mut uses = Uses::of(graph);
        for id in ids {
            if fuse(graph, &uses, id) {
                count += 1;
                uses = Uses::of(graph);
            }
        }
        Ok(count)
    }
}

fn plain_product(node: &Node) -> Option<(MatMul, ValueId, ValueId)> {
    match (&node.op, node.inputs.as_slice()) {
        (Op::MatMul(m), [Some(a), Some(b)]) if m.activation.is_none() && !m.trans_a => Some((*m, *a, *b)),
        _ => None,
    }
}

/// `value` without multiplications and divisions by a scalar, and the product of these.
fn unscaled(graph: &Graph, mut value: ValueId) -> (ValueId, f32) {
    let mut factor = 1.0;
    while let Some((_, node)) = graph.producer(value) {
        let (Some(Some(a)), Some(Some(b))) = (node.inputs.first(), node.inputs.get(1)) else { break };
        let (next, by) = match node.op {
            Op::Binary(Binary::Mul) => match (scalar(graph, *a), scalar(graph, *b)) {
                (None, Some(s)) => (*a, s),
                (Some(s), None) => (*b, s),
                _ => break,
            },
            Op::Binary(Binary::Div) => match scalar(graph, *b) {
                Some(s) => (*a, 1.0 / s),
                None => break,
            },
            _ => break,
        };
        if shape(graph, next) != shape(graph, value) {
            break;
        }
        (value, factor) = (next, factor * by);
    }
    (value, factor)
}

fn perm_of(graph: &Graph, value: ValueId) -> Option<(&[usize], ValueId)> {
    let (_, node) = graph.producer(value)?;
    match &node.op {
        Op::Transpose { perm: Some(perm) } => Some((perm, source(node)?)),
        _ => None,
    }
}

/// The merged rows behind [batch, sequence, heads, size].
pub(super) fn merged(graph: &Graph, value: ValueId, heads: usize) -> Option<ValueId> {
    let (_, node) = graph.producer(value)?;
    let x = source(node)?;
    let (before, after) = (shape(graph, x)?, shape(graph, value)?);
    let splits = matches!(node.op, Op::Reshape { .. })
        && before.len() == 3
        && after.len() == 4
        && before[..2] == after[..2]
        && after[2] == Dim::from(heads);
    splits.then_some(x)
}

/// Queries or values: [batch, heads, sequence, size], read in the layout they come from.
pub(super) fn rows(graph: &Graph, value: ValueId, heads: usize) -> (ValueId, HeadLayout) {
    if let Some(([0, 2, 1, 3], split)) = perm_of(graph, value)
        && let Some(x) = merged(graph, split, heads)
    {
        return (x, HeadLayout::Merged);
    }
    (value, HeadLayout::Split)
}

/// Keys as they stand in the product: [batch, heads, size, sequence].
fn columns(graph: &Graph, value: ValueId, heads: usize) -> (ValueId, HeadLayout) {
    match perm_of(graph, value) {
        Some(([0, 2, 3, 1], split)) => {
            if let Some(x) = merged(graph, split, heads) {
                return (x, HeadLayout::Merged);
            }
        }
        Some(([0, 1, 3, 2], rows_value)) => {
            return rows(graph, rows_value, heads);
        }
        _ => {}
    }
    (value, HeadLayout::SplitTransposed)
}

struct Match {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    bias: Option<ValueId>,
    /// `where(keep, scores, fill)`: what is kept, and what the others get.
    keep: Option<(ValueId, ValueId)>,
    op: Attention,
    /// The node whose output the attention replaces.
    last: NodeId,
    result: ValueId,
}

fn find(graph: &Graph, uses: &Uses, id: NodeId) -> Option<Match> {
    let softmax = graph.node(id)?;
    let Op::Softmax { axis, mut zero_masked_rows } = softmax.op else { return None };
    let scores = source(softmax)?;
    let rank = graph.fact(scores)?.rank();
    if rank != 4 || (axis != -1 && axis != 3) {
        return None;
    }
    // Forward: an optional guard against rows of NaN, then the product with the values.
    let mut weights = output(softmax)?;
    if let Some(guarded) = guard(graph, weights) {
        zero_masked_rows = true;
        weights = guarded;
    }
    let (last, product) = uses.sole_reader(graph, weights)?;
    let (m, left, v) = plain_product(product)?;
    if left != weights || m.trans_b || m.alpha != 1.0 {
        return None;
    }
    // Backward: the mask, the scale, the product of queries and keys.
    let (mut scores, mut scale) = unscaled(graph, scores);
    let (mut bias, mut keep) = (None, None);
    let is_scores = |v: ValueId, whole: ValueId| {
        let (inner, _) = unscaled(graph, v);
        graph.producer(inner).is_some_and(|(_, n)| plain_product(n).is_some() || matches!(n.op, Op::Where))
            && shape(graph, v) == shape(graph, whole)
    };
    if scale == 1.0
        && let Some((_, add)) = graph.producer(scores)
        && let (Op::Binary(Binary::Add), Some(Some(a)), Some(Some(b))) =
            (&add.op, add.inputs.first(), add.inputs.get(1))
    {
        let (inner, mask) = if is_scores(*a, scores) {
            (*a, *b)
        } else if is_scores(*b, scores) {
            (*b, *a)
        } else {
            return None;
        };
        let (inner, factor) = unscaled(graph, inner);
        (scores, scale, bias) = (inner, factor, Some(mask));
    }
    if scale == 1.0
        && let Some((_, select)) = graph.producer(scores)
        && let (Op::Where, [Some(kept), Some(inner), Some(fill)]) = (&select.op, select.inputs.as_slice())
    {
        // A fill that no score can lift: adding it gives what replacing by it gives.
        if !is_scores(*inner, scores) || scalar(graph, *fill).is_none_or(|f| f > -1e30) {
            return None;
        }
        let (inner, factor) = unscaled(graph, *inner);
        (scores, scale, keep) = (inner, factor, Some((*kept, *fill)));
    }
    let (_, product) = graph.producer(scores)?;
    let (m, q, k) = plain_product(product)?;
    let (q, q_scale) = unscaled(graph, q);
    let (k, k_scale) = unscaled(graph, k);
    let q_shape = shape(graph, q)?;
    if q_shape.len() != 4 || shape(graph, v)?.len() != 4 || shape(graph, k)?.len() != 4 {
        return None;
    }
    let heads = usize::try_from(q_shape[1].as_const()?).ok()?;
    // Keys or values shared by all heads would need grouping, which this form does not say.
    for other in [k, v] {
        if shape(graph, other)?[1] != Dim::from(heads) || shape(graph, other)?[0] != q_shape[0] {
            return None;
        }
    }
    size_from_end(graph, q, 1)?;
    size_from_end(graph, v, 1)?;
    let (q, q_layout) = rows(graph, q, heads);
    let (k, k_layout) = if m.trans_b { rows(graph, k, heads) } else { columns(graph, k, heads) };
    let (v, v_layout) = rows(graph, v, heads);
    let op = Attention {
        heads,
        kv_heads: heads,
        scale: Some(m.alpha * scale * q_scale * k_scale),
        causal: false,
        q_layout,
        k_layout,
        v_layout,
        merged_output: false,
        zero_masked_rows,
    };
    Some(Match { q, k, v, bias, keep, op, last, result: output(graph.node(last)?)? })
}

/// `Where(IsNaN(p), 0, p)`
fn guard(graph: &Graph, weights: ValueId) -> Option<ValueId> {
    let guarded = |node: &Node| -> Option<ValueId> {
        let (Op::Where, [Some(test), Some(zero), Some(p)]) = (&node.op, node.inputs.as_slice()) else { return None };
        let (_, is_nan) = graph.producer(*test)?;
        let tests = matches!(is_nan.op, Op::Unary(Unary::IsNan)) && source(is_nan)? == weights;
        let zero = graph.constant(*zero)?.to_f32_vec()?.iter().all(|x| *x == 0.0);
        (tests && zero && *p == weights).then(|| output(node)).flatten()
    };
    graph.nodes().find_map(|(_, node)| guarded(node))
}

fn fuse(graph: &mut Graph, uses: &Uses, id: NodeId) -> bool {
    let Some(mut m) = find(graph, uses, id) else { return false };
    // A transpose and reshape that join the heads again.
    if let Some((transpose_id, transpose)) = uses.sole_reader(graph, m.result)
        && let (Op::Transpose { perm: Some(perm) }, Some(t)) = (&transpose.op, output(transpose))
        && perm[..] == [0, 2, 1, 3]
        && let Some((reshape_id, reshape)) = uses.sole_reader(graph, t)
    {
        let joined = output(reshape).and_then(|o| shape(graph, o));
        let from = shape(graph, t);
        let joins = match (joined, from) {
            (Some([b, s, w]), Some([b0, s0, h, d])) => b == b0 && s == s0 && *w == h.mul(d),
            _ => false,
        };
        if matches!(reshape.op, Op::Reshape { .. }) && joins {
            m.op.merged_output = true;
            m.result = output(reshape).expect("it has a shape");
            let last = m.last;
            graph.remove_node(transpose_id);
            graph.remove_node(last);
            m.last = reshape_id;
        }
    }
    if let Some((kept, fill)) = m.keep {
        let name = graph.node(m.last).map_or_else(String::new, |n| n.name.to_string());
        let zero = graph.add_constant(format!("{name}/zero"), Tensor::scalar(0f32));
        let mask = graph.apply(&format!("{name}/mask"), Op::Where, &[Some(kept), Some(zero), Some(fill)]);
        m.bias = Some(match m.bias {
            None => mask,
            Some(bias) => graph.apply(&format!("{name}/masks"), Op::Binary(Binary::Add), &[Some(mask), Some(bias)]),
        });
    }
    let inputs = vec![Some(m.q), Some(m.k), Some(m.v), m.bias];
    super::epilogue::replace_output(graph, m.last, Op::Attention(m.op), inputs, m.result);
    true
}
