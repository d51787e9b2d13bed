//! Half precision is a storage format: arithmetic is in f32, large weights stay f16 and kernels widen what they read.
//!
//! A graph that was exported in half precision computes in f32 here, which is closer to the original model than rounding
//! each value to 11 bits would be. Inputs and outputs of the model keep their declared types.

use half::f16;

use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Fact, Graph, Op};
use crate::tensor::{DType, Tensor};

pub(super) struct WidenHalf;

/// Whether a kernel of `op` reads input `i` as f16 weights.
fn reads_half(op: &Op, i: usize) -> bool {
    matches!((op, i), (Op::MatMul(_), 1) | (Op::Conv(_), 1) | (Op::Gather { .. }, 0))
}

impl Rewrite for WidenHalf {
    fn name(&self) -> &'static str {
        "widen-half"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let is_half = |f: Option<&Fact>| f.is_some_and(|f| f.dtype == DType::F16);
        let half_inputs: Vec<_> = graph.inputs.iter().copied().filter(|&i| is_half(graph.fact(i))).collect();
        let half_constants: Vec<_> =
            graph.value_ids().filter(|&id| graph.constant(id).is_some() && is_half(graph.fact(id))).collect();
        let half_outputs: Vec<usize> =
            (0..graph.outputs.len()).filter(|&i| is_half(graph.fact(graph.outputs[i]))).collect();
        let mut count = 0;
        for id in graph.nodes().map(|(id, _)| id).collect::<Vec<_>>() {
            let Some(node) = graph.node_mut(id) else { continue };
            match &mut node.op {
                Op::Cast { to } if *to == DType::F16 => {
                    *to = DType::F32;
                    count += 1;
                }
                Op::ConstantOfShape { value } if value.dtype() == DType::F16 => {
                    *value = widened(value);
                    count += 1;
                }
                _ => {}
            }
        }
        for id in half_constants {
            let readers: Vec<_> = graph
                .nodes()
                .flat_map(|(n, node)| node.inputs.iter().enumerate().map(move |(i, input)| (n, i, *input, &node.op)))
                .filter(|(_, _, input, _)| *input == Some(id))
                .map(|(n, i, _, op)| (n, i, reads_half(op, i)))
                .collect();
            let Some(tensor) = graph.constant(id).cloned() else { continue };
            if readers.iter().all(|r| !r.2) {
                let value = graph.value_mut(id);
                let wide = widened(&tensor);
                value.fact = Some(Fact::of_tensor(&wide));
                value.constant = Some(wide);
                count += 1;
            } else if readers.iter().any(|r| !r.2) {
                let name = format!("{}.f32", graph.value(id).name);
                let wide = graph.add_constant(name, widened(&tensor));
                for (node, i, keeps) in &readers {
                    if let (false, Some(node)) = (keeps, graph.node_mut(*node)) {
                        node.inputs[*i] = Some(wide);
                    }
                }
                count += 1;
            }
        }
        // Rows picked from a table of f16 are widened at once.
        let gathers: Vec<_> = graph
            .nodes()
            .filter(|(_, n)| matches!(n.op, Op::Gather { .. }))
            .filter(|(_, n)| n.inputs[0].is_some_and(|i| graph.constant(i).is_some() && is_half(graph.fact(i))))
            .map(|(id, n)| (id, n.name.clone(), n.outputs[0]))
            .collect();
        for (id, name, output) in gathers {
            let Some(output) = output else { continue };
            let picked = graph.add_value(format!("{name}:f16"), None);
            if let Some(node) = graph.node_mut(id) {
                node.outputs[0] = Some(picked);
            }
            graph.value_mut(picked).producer = Some(id);
            graph.add_node(
                format!("{name}/widen"),
                Op::Cast { to: DType::F32 },
                vec![Some(picked)],
                vec![Some(output)],
            );
            count += 1;
        }
        for id in half_inputs {
            let name = graph.value(id).name.clone();
            let wide = graph.add_value(format!("{name}:f32"), None);
            graph.replace_uses(id, wide);
            graph.add_node(format!("{name}/widen"), Op::Cast { to: DType::F32 }, vec![Some(id)], vec![Some(wide)]);
            count += 1;
        }
        for i in half_outputs {
            let name = graph.output_names[i].clone();
            let source = graph.outputs[i];
            let output = graph.apply(&format!("{name}/narrow"), Op::Cast { to: DType::F16 }, &[Some(source)]);
            graph.outputs[i] = output;
            count += 1;
        }
        Ok(count)
    }
}

fn widened(tensor: &Tensor) -> Tensor {
    match tensor.as_slice::<f16>() {
        Ok(half) => {
            let wide: Vec<f32> = half.iter().map(|x| x.to_f32()).collect();
            Tensor::from_slice(tensor.shape(), &wide).expect("the shape is that of the original")
        }
        Err(_) => tensor.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Binary, Dim, MatMul};
    use crate::optimize::{Context, settle};
    use crate::tensor::BufferPool;

    #[test]
    fn arithmetic_is_widened_and_weights_stay_half() {
        let mut g = Graph::new();
        let x = g.add_input("x", Fact::new(DType::F32, vec![Dim::symbol("n"), Dim::Const(2)]));
        let w = g.add_constant("w", Tensor::from_slice(&[2, 2], &[f16::ONE; 4]).unwrap());
        let b = g.add_constant("b", Tensor::from_slice(&[2], &[f16::ONE; 2]).unwrap());
        let half = g.apply("in", Op::Cast { to: DType::F16 }, &[Some(x)]);
        let y = g.apply("mm", Op::MatMul(MatMul::default()), &[Some(half), Some(w)]);
        let z = g.apply("add", Op::Binary(Binary::Add), &[Some(y), Some(b)]);
        g.add_output("z", z);
        crate::graph::infer_graph(&mut g).unwrap();
        let context = Context { cpu: crate::cpu::Cpu::new(1), pool: BufferPool::default() };
        WidenHalf.apply(&mut g, &context).unwrap();
        settle(&mut g, "widen-half").unwrap();
        assert_eq!(g.constant(w).unwrap().dtype(), DType::F16);
        assert_eq!(g.constant(b).unwrap().dtype(), DType::F32);
        assert_eq!(g.fact(y).unwrap().dtype, DType::F32);
        // The model still gives what it declared.
        assert_eq!(g.fact(g.outputs[0]).unwrap().dtype, DType::F16);
    }
}
