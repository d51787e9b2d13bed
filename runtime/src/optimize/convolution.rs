//! A factor and an offset a channel behind a convolution (an inference-time batch norm) move into its weights and bias.

use half::f16;

use super::pattern::{Uses, along, other, output};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Binary, Graph, NodeId, Op};
use crate::tensor::{DType, Tensor};

pub(super) struct FoldConvAffine;

impl Rewrite for FoldConvAffine {
    fn name(&self) -> &'static str {
        "fold-conv-affine"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut uses = Uses::of(graph);
        let mut count = 0;
        for id in ids {
            if fold_factor(graph, &uses, id) {
                count += 1;
                uses = Uses::of(graph);
            }
        }
        Ok(count)
    }
}

/// `conv(x, w, b) * f` is `conv(x, w * f, b * f)`. The offset that follows is an ordinary bias, which the epilogue takes, or
/// is added to the bias here if there is one.
fn fold_factor(graph: &mut Graph, uses: &Uses, id: NodeId) -> bool {
    let folded = (|| {
        let node = graph.node(id)?;
        let Op::Conv(conv) = &node.op else { return None };
        if conv.activation.is_some() || node.inputs.get(3).copied().flatten().is_some() {
            return None;
        }
        let out = output(node)?;
        let (reader_id, reader) = uses.sole_reader(graph, out)?;
        let weights_id = node.inputs.get(1).copied()??;
        let weights = graph.constant(weights_id)?;
        let channels = *weights.shape().first()?;
        let rank = graph.fact(out)?.rank();
        let constant = along(graph, other(reader, out)?, rank - 1, channels)?.to_f32_vec()?;
        let bias = match node.inputs.get(2).copied().flatten() {
            Some(b) => Some(graph.constant(b)?.to_f32_vec()?),
            None => None,
        };
        let (weights, bias) = match reader.op {
            Op::Binary(Binary::Mul) => {
                let scaled = bias.map(|b| b.iter().zip(&constant).map(|(b, f)| b * f).collect::<Vec<_>>());
                (Some(scale_rows(weights, &constant)?), scaled)
            }
            Op::Binary(Binary::Add) => {
                let sum = bias?.iter().zip(&constant).map(|(b, o)| b + o).collect();
                (None, Some(sum))
            }
            _ => return None,
        };
        Some((weights, bias, weights_id, reader_id, output(reader)?))
    })();
    let Some((weights, bias, weights_id, reader, result)) = folded else { return false };
    let name = graph.value(weights_id).name.clone();
    let Some(node) = graph.node(id) else { return false };
    let (op, mut inputs) = (node.op.clone(), node.inputs.clone());
    if let Some(weights) = weights {
        inputs[1] = Some(graph.add_constant(format!("{name}:scaled"), weights));
    }
    if let Some(bias) = bias {
        inputs.resize(2, None);
        inputs.push(Some(graph.add_constant(format!("{name}:bias"), Tensor::vector(&bias))));
    }
    graph.remove_node(reader);
    super::epilogue::replace_output(graph, id, op, inputs, result);
    true
}

fn scale_rows(weights: &Tensor, factors: &[f32]) -> Option<Tensor> {
    let row = weights.len() / factors.len().max(1);
    let scaled = weights.to_f32_vec()?.iter().enumerate().map(|(i, w)| w * factors[i / row]).collect::<Vec<f32>>();
    match weights.dtype() {
        DType::F16 => {
            let half: Vec<f16> = scaled.iter().map(|&w| f16::from_f32(w)).collect();
            Tensor::from_slice(weights.shape(), &half).ok()
        }
        _ => Tensor::from_slice(weights.shape(), &scaled).ok(),
    }
}
