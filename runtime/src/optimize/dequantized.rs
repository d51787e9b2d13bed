//! Products whose weights alone are 8-bit keep them so: `x @ dequantize(w)` reads a quarter of the bytes when the kernel
//! dequantizes as it reads. Exporters write this for an output layer that shares its weights with the embedding.

use super::pattern::{output, source};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Graph, MatMulNBits, Node, NodeId, Op, ValueId};
use crate::tensor::{DType, Tensor};

pub(super) struct KeepWeightsQuantized;

impl Rewrite for KeepWeightsQuantized {
    fn name(&self) -> &'static str {
        "keep-weights-quantized"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut count = 0;
        for id in ids {
            if let Some(m) = find(graph, id) {
                fuse(graph, id, m);
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Fewer weights are not worth a kernel of their own.
const LEAST: usize = 1 << 12;

struct Match {
    x: ValueId,
    /// u8 [N, K]
    weights: Tensor,
    scale: f32,
    zero: u8,
    result: ValueId,
}

fn find(graph: &Graph, id: NodeId) -> Option<Match> {
    let node = graph.node(id)?;
    let (Op::MatMul(m), [Some(x), Some(b)]) = (&node.op, node.inputs.as_slice()) else { return None };
    if m.trans_a || m.alpha != 1.0 || m.activation.is_some() || graph.fact(*x)?.rank() < 2 {
        return None;
    }
    if graph.fact(*x)?.dtype != DType::F32 {
        return None;
    }
    // Transposes before and after dequantizing, in any number.
    let mut by_columns = m.trans_b;
    let mut value = *b;
    let mut dequantize: Option<&Node> = None;
    while graph.constant(value).is_none() {
        let (_, node) = graph.producer(value)?;
        match &node.op {
            Op::Transpose { perm } if perm.as_ref().is_none_or(|p| p[..] == [1, 0]) => {
                by_columns = !by_columns;
            }
            Op::DequantizeLinear { block: 0, .. } if dequantize.is_none() => dequantize = Some(node),
            _ => return None,
        }
        value = source(node)?;
    }
    let dequantize = dequantize?;
    let data = graph.constant(value)?;
    let &[rows, columns] = data.shape() else { return None };
    if rows * columns < LEAST {
        return None;
    }
    let input = |i: usize| dequantize.inputs.get(i).copied().flatten();
    let scale = graph.constant(input(1)?)?;
    let scale = *scale.to_f32_vec().filter(|s| s.len() == 1)?.first()?;
    // i8 as u8, 128 higher.
    let (shift, flip) = match data.dtype() {
        DType::U8 => (0, 0),
        DType::I8 => (128, 0x80),
        _ => return None,
    };
    let zero = match input(2) {
        None => 0,
        Some(zero) => *graph.constant(zero)?.to_i64_vec().filter(|z| z.len() == 1)?.first()?,
    };
    let zero = u8::try_from(zero + shift).ok()?;
    let weights = match (by_columns, flip) {
        (true, 0) => data.clone(),
        (true, _) => {
            let bytes: Vec<u8> = data.bytes().iter().map(|b| b ^ flip).collect();
            Tensor::from_bytes(DType::U8, &[rows, columns], &bytes).ok()?
        }
        (false, _) => {
            let bytes = data.bytes();
            let turned: Vec<u8> = (0..rows * columns).map(|i| bytes[i % rows * columns + i / rows] ^ flip).collect();
            Tensor::from_bytes(DType::U8, &[columns, rows], &turned).ok()?
        }
    };
    block(weights.shape()[1])?;
    Some(Match { x: *x, weights, scale, zero, result: output(node)? })
}

/// The largest block that divides K.
fn block(k: usize) -> Option<usize> {
    [64, 32, 16].into_iter().find(|block| k > 0 && k.is_multiple_of(*block))
}

fn fuse(graph: &mut Graph, id: NodeId, m: Match) {
    let &[n, k] = m.weights.shape() else { return };
    let Some(block) = block(k) else { return };
    let blocks = k / block;
    let name = graph.node(id).map_or_else(String::new, |n| n.name.to_string());
    let (Ok(weights), Ok(scales), Ok(zeros)) = (
        m.weights.reshaped(&[n, blocks, block]),
        Tensor::from_slice(&[n, blocks], &vec![m.scale; n * blocks]),
        Tensor::from_slice(&[n, blocks], &vec![m.zero; n * blocks]),
    ) else {
        return;
    };
    let weights = graph.add_constant(format!("{name}/weights"), weights);
    let scales = graph.add_constant(format!("{name}/scales"), scales);
    let zeros = graph.add_constant(format!("{name}/zeros"), zeros);
    let op = Op::MatMulNBits(MatMulNBits { bits: 8, block, k, n, activation: None });
    super::epilogue::replace_output(graph, id, op, vec![Some(m.x), Some(weights), Some(scales), Some(zeros)], m.result);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Dim, Fact, MatMul, infer_graph};
    use crate::optimize::optimize;
    use crate::{Session, SessionOptions};

    /// x [b, s, 64] @ dequantize(w), w stored [96, 64] or [64, 96], transposed before or after dequantizing.
    fn exported(signed: bool, stored_by_columns: bool, transposed_first: bool) -> Graph {
        let (k, n) = (64, 96);
        let mut g = Graph::new();
        let x = g.add_input("x", Fact::new(DType::F32, vec![Dim::symbol("b"), Dim::symbol("s"), Dim::from(k)]));
        let bytes: Vec<u8> = (0..k * n).map(|i| (i * 37 % 251) as u8).collect();
        let dtype = if signed { DType::I8 } else { DType::U8 };
        let shape = if stored_by_columns { [n, k] } else { [k, n] };
        let mut w = g.add_constant("w", Tensor::from_bytes(dtype, &shape, &bytes).unwrap());
        let scale = g.add_constant("scale", Tensor::scalar(0.02f32));
        let zero = Tensor::from_bytes(dtype, &[], &[if signed { 250 } else { 120 }]).unwrap();
        let zero = g.add_constant("zero", zero);
        let transpose = Op::Transpose { perm: Some(vec![1, 0]) };
        if stored_by_columns && transposed_first {
            w = g.apply("turn", transpose.clone(), &[Some(w)]);
        }
        w = g.apply("float", Op::DequantizeLinear { axis: 1, block: 0 }, &[Some(w), Some(scale), Some(zero)]);
        if stored_by_columns && !transposed_first {
            w = g.apply("turn", transpose, &[Some(w)]);
        }
        let y = g.apply("y", Op::MatMul(MatMul::default()), &[Some(x), Some(w)]);
        g.add_output("y", y);
        infer_graph(&mut g).unwrap();
        g
    }

    #[test]
    fn weights_stay_bytes_and_give_the_same_product() {
        for signed in [false, true] {
            for (by_columns, first) in [(true, true), (true, false), (false, false)] {
                let before = exported(signed, by_columns, first);
                let mut after = before.clone();
                optimize(&mut after).unwrap();
                let names: Vec<_> = after.nodes().map(|(_, n)| n.op.name()).collect();
                assert_eq!(names, ["MatMulNBits"], "{signed} {by_columns} {first}");
                let run = |g: Graph, rows: usize| {
                    let x: Vec<f32> = (0..rows * 64).map(|i| (i as f32 * 0.7).sin()).collect();
                    let x = Tensor::from_slice(&[1, rows, 64], &x).unwrap();
                    Session::new(g, SessionOptions::default()).run(&[("x", x)]).unwrap()[0].1.to_f32_vec().unwrap()
                };
                for rows in [1, 9] {
                    let (a, b) = (run(before.clone(), rows), run(after.clone(), rows));
                    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4), "{signed} {by_columns} {rows}");
                }
            }
        }
    }
}
