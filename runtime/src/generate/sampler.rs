//! Puts the choice of a token behind a decoder's logits.

use crate::graph::{Dim, Fact, Graph, Op, SAMPLE_PARAMS, ValueId, infer_graph};
use crate::tensor::{DType, Tensor};

/// Name of the input f32 \[batch or 1, [`SAMPLE_PARAMS`]\] that [`super::Sampling::params`] makes.
pub const PARAMS: &str = "sample.params";
/// Name of the input i64 \[batch, n\]: tokens that were there before, filled with -1. A fixed `n` keeps the plan.
pub const HISTORY: &str = "sample.history";
/// Name of the output i64 \[batch\].
pub const TOKEN: &str = "sample.token";
/// Name of the output f32 \[batch\]: the token's log-probability, NaN if the logits are broken.
pub const LOG_PROBABILITY: &str = "sample.log_probability";

/// Appends [`Op::Sample`] to a graph: a new input [`PARAMS`], with `history` also [`HISTORY`], and new outputs [`TOKEN`]
/// and [`LOG_PROBABILITY`].
///
/// `logits` are f32 \[batch, vocab\] or \[batch, sequence, vocab\], of which the last position counts. Call it on a graph
/// that the optimiser has seen (it widens half precision).
///
/// # Errors
/// What the logits are instead, in words.
pub fn append_sampler(graph: &mut Graph, logits: ValueId, history: bool) -> Result<(), String> {
    let fact = graph.fact(logits).cloned().ok_or("nothing is known of the logits")?;
    let (batch, last) = match fact.shape.as_slice() {
        [batch, _] => (batch.clone(), logits),
        [batch, _, _] => {
            let number = |graph: &mut Graph, name, n| graph.add_constant(name, Tensor::vector(&[n]));
            let start = number(graph, "sample.start", -1i64);
            let end = number(graph, "sample.end", i64::MAX);
            let axis = number(graph, "sample.axis", 1);
            let ins = [Some(logits), Some(start), Some(end), Some(axis)];
            let row = graph.apply("sample.last", Op::Slice, &ins);
            (batch.clone(), graph.apply("sample.squeeze", Op::Squeeze { axes: Some(vec![1]) }, &[Some(row)]))
        }
        _ => return Err(format!("the logits are {fact}, not [batch, vocab] or [batch, sequence, vocab]")),
    };
    let params = graph.add_input(PARAMS, Fact::new(DType::F32, vec![batch.clone(), SAMPLE_PARAMS.into()]));
    let history = history.then(|| {
        let shape = vec![batch, Dim::symbol(HISTORY)];
        graph.add_input(HISTORY, Fact::new(DType::I64, shape))
    });
    let token = graph.add_value(TOKEN, None);
    let score = graph.add_value(LOG_PROBABILITY, None);
    graph.add_node("sample", Op::Sample, vec![Some(last), history, Some(params)], vec![Some(token), Some(score)]);
    graph.add_output(TOKEN, token);
    graph.add_output(LOG_PROBABILITY, score);
    infer_graph(graph).map_err(|(_, error)| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Sampling;
    use crate::graph::Unary;
    use crate::session::{Session, SessionOptions};

    /// A decoder whose logits are what it is given, negated.
    fn graph(shape: Vec<Dim>, dtype: DType) -> (Graph, ValueId) {
        let mut graph = Graph::new();
        let x = graph.add_input("x", Fact::new(dtype, shape));
        let logits = graph.apply("logits", Op::Unary(Unary::Neg), &[Some(x)]);
        infer_graph(&mut graph).unwrap();
        (graph, logits)
    }

    fn check(options: SessionOptions) {
        let symbols = vec![Dim::symbol("batch"), Dim::symbol("sequence"), Dim::Const(5000)];
        let (mut graph, logits) = graph(symbols, DType::F32);
        append_sampler(&mut graph, logits, true).unwrap();
        let session = Session::new(graph, options);
        let facts: Vec<_> = session.outputs().iter().map(|o| (o.dtype, o.shape.len())).collect();
        assert_eq!(facts, [(DType::I64, 1), (DType::F32, 1)]);
        // Two rows of two positions; the last ones have their largest logits at 7 and 4000.
        let mut x = vec![0f32; 4 * 5000];
        (x[5], x[5000 + 7], x[5000 + 8], x[15_000 + 4000]) = (-9.0, -3.0, -2.0, -1.0);
        let x = Tensor::from_slice(&[2, 2, 5000], &x).unwrap();
        let run = |sampling: Sampling, seen: [i64; 2]| {
            let history = Tensor::from_slice(&[2, 1], &seen).unwrap();
            let inputs = [("x", x.clone()), (PARAMS, sampling.params(0, 2).unwrap()), (HISTORY, history)];
            session.run(&inputs).unwrap()[0].1.to_i64_vec().unwrap()
        };
        assert_eq!(run(Sampling::default(), [7, -1]), [7, 4000]);
        assert_eq!(run(Sampling { repetition_penalty: 2.0, ..Sampling::default() }, [7, -1]), [8, 4000]);
        let cold = Sampling { temperature: 0.01, top_k: 5, ..Sampling::default() };
        assert_eq!(run(cold, [-1, -1]), [7, 4000]);
    }

    #[test]
    fn the_last_position_is_sampled_on_the_cpu() {
        check(SessionOptions { threads: 1, ..Default::default() });
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn the_last_position_is_sampled_on_the_gpu() {
        let Some(gpu) = crate::gpu::testing::gpu() else { return };
        check(SessionOptions { threads: 1, gpu: Some(gpu), ..Default::default() });
    }

    #[test]
    fn other_logits_are_refused() {
        for (shape, dtype) in [(vec![5], DType::F32), (vec![1, 2, 3, 4], DType::F32), (vec![2, 5], DType::F16)] {
            let (mut graph, logits) = graph(shape.iter().map(|&d: &i64| Dim::Const(d)).collect(), dtype);
            let error = append_sampler(&mut graph, logits, false).unwrap_err();
            assert!(error.contains("logits"), "{error}");
        }
    }
}
