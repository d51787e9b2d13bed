//! Activations and norms, recognised by what they compute.
//!
//! Exporters write GELU, SiLU, LayerNorm and RMSNorm as chains of elementwise operators in many orders. Instead of one
//! pattern an exporter and version, the subgraph between a value `x` and a product is evaluated in f64 on a few rows and
//! compared with the functions that have a kernel. Subgraphs hold arithmetic, scalars and means over the last dimension
//! only, so agreement on rows of several magnitudes to 1e-6 means that the formulas are the same.

use std::collections::HashMap;

use super::pattern::{output, scalar};
use super::{Context, OptimizeError, Rewrite};
use crate::graph::{Binary, Graph, NodeId, Norm, Op, Reduce, Unary, ValueId};

pub(super) struct Recognise;

/// Longer chains are no activation and no norm.
const MAX_NODES: usize = 16;
/// Elements of a row that candidates are evaluated on.
const ROW: usize = 7;

impl Rewrite for Recognise {
    fn name(&self) -> &'static str {
        "recognise-functions"
    }

    fn apply(&self, graph: &mut Graph, _: &Context) -> Result<usize, OptimizeError> {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let mut count = 0;
        for id in ids {
            let Some((op, x)) = recognise(graph, id) else { continue };
            if let Some(node) = graph.node_mut(id) {
                node.op = op;
                node.inputs = vec![Some(x)];
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The function of one value that the product or quotient `id` computes.
fn recognise(graph: &Graph, id: NodeId) -> Option<(Op, ValueId)> {
    let node = graph.node(id)?;
    if !matches!(node.op, Op::Binary(Binary::Mul | Binary::Div)) {
        return None;
    }
    let out = output(node)?;
    if !graph.fact(out)?.dtype.is_float() {
        return None;
    }
    for x in candidates(graph, out) {
        // The result has x's shape only if nothing in between reduces or broadcasts for good.
        if graph.fact(x)?.shape != graph.fact(out)?.shape {
            continue;
        }
        let Some(mut function) = Function::between(graph, x, out) else { continue };
        if let Some(op) = function.name() {
            return Some((op, x));
        }
    }
    None
}

/// Values behind `out` that may be its only variable, the farthest first.
fn candidates(graph: &Graph, out: ValueId) -> Vec<ValueId> {
    let mut seen = vec![out];
    let mut at = 0;
    while at < seen.len() && seen.len() <= 2 * MAX_NODES {
        if let Some((_, node)) = graph.producer(seen[at])
            && steps(graph, node).is_some()
        {
            for input in node.inputs.iter().flatten() {
                if graph.constant(*input).is_none() && !seen.contains(input) {
                    seen.push(*input);
                }
            }
        }
        at += 1;
    }
    // A LayerNorm is also an RMSNorm of the centred row: the larger match is wanted, so the farthest comes first.
    seen.remove(0);
    seen.reverse();
    seen
}

/// What a node does to rows, if it is one of the operators that activations and norms are written with.
#[derive(Clone, Copy)]
enum Steps {
    Unary(Unary),
    Binary(Binary),
    MeanOfRow,
}

fn steps(graph: &Graph, node: &crate::graph::Node) -> Option<Steps> {
    match &node.op {
        Op::Unary(u) if !matches!(u, Unary::Not | Unary::IsNan) => Some(Steps::Unary(*u)),
        Op::Binary(b @ (Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Pow)) => {
            Some(Steps::Binary(*b))
        }
        Op::Reduce { kind: Reduce::Mean, axes, keep_dims: true, .. } => {
            let input = node.inputs.first().copied().flatten()?;
            let rank = graph.fact(input)?.rank() as i64;
            let axes = match axes {
                Some(axes) => axes.clone(),
                None => graph.constant(node.inputs.get(1).copied().flatten()?)?.to_i64_vec()?,
            };
            (axes == [-1] || axes == [rank - 1]).then_some(Steps::MeanOfRow)
        }
        _ => None,
    }
}

/// A subgraph with one variable.
struct Function<'g> {
    graph: &'g Graph,
    x: ValueId,
    out: ValueId,
    /// Inner values in the order of evaluation.
    order: Vec<(ValueId, Steps)>,
    scalars: Vec<f32>,
    has_mean: bool,
}

impl<'g> Function<'g> {
    /// The subgraph from `x` to `out`, if nothing else but scalars flows into it.
    fn between(graph: &'g Graph, x: ValueId, out: ValueId) -> Option<Self> {
        let mut f = Function { graph, x, out, order: Vec::new(), scalars: Vec::new(), has_mean: false };
        f.visit(out)?;
        (f.order.len() >= 2).then_some(f)
    }

    fn visit(&mut self, value: ValueId) -> Option<()> {
        if value == self.x || self.order.iter().any(|(v, _)| *v == value) {
            return Some(());
        }
        if let Some(number) = scalar(self.graph, value) {
            self.scalars.push(number);
            return Some(());
        }
        let (_, node) = self.graph.producer(value)?;
        let step = steps(self.graph, node)?;
        let inputs = if matches!(step, Steps::MeanOfRow) { 1 } else { node.inputs.len() };
        for input in node.inputs[..inputs].iter() {
            self.visit((*input)?)?;
        }
        self.has_mean |= matches!(step, Steps::MeanOfRow);
        self.order.push((value, step));
        (self.order.len() <= MAX_NODES).then_some(())
    }

    /// The function's value on one row.
    fn eval(&self, row: &[f64]) -> Option<Vec<f64>> {
        let mut values: HashMap<ValueId, Vec<f64>> = HashMap::from([(self.x, row.to_vec())]);
        for (value, step) in &self.order {
            let (_, node) = self.graph.producer(*value)?;
            let input = |i: usize| -> Option<Vec<f64>> {
                let id = node.inputs.get(i).copied().flatten()?;
                match values.get(&id) {
                    Some(v) => Some(v.clone()),
                    None => Some(vec![f64::from(scalar(self.graph, id)?)]),
                }
            };
            let result = match step {
                Steps::Unary(u) => input(0)?.into_iter().map(|x| unary(*u, x)).collect(),
                Steps::MeanOfRow => {
                    let row = input(0)?;
                    vec![row.iter().sum::<f64>() / row.len() as f64]
                }
                Steps::Binary(op) => {
                    let (a, b) = (input(0)?, input(1)?);
                    let at = |v: &[f64], i: usize| if v.len() == 1 { v[0] } else { v[i] };
                    (0..a.len().max(b.len())).map(|i| binary(*op, at(&a, i), at(&b, i))).collect()
                }
            };
            values.insert(*value, result);
        }
        values.remove(&self.out)
    }

    /// The operator that computes the same, if there is one.
    fn name(&mut self) -> Option<Op> {
        if self.has_mean {
            return self.norm();
        }
        let mut choices = vec![Unary::Gelu, Unary::GeluTanh, Unary::QuickGelu { alpha: 1.0 }, Unary::HardSwish];
        choices.extend(self.scalars.iter().map(|&alpha| Unary::QuickGelu { alpha }));
        let points: Vec<f64> = (-80..=80).map(|i| f64::from(i) * 0.1 + 0.003).collect();
        let got: Vec<f64> = points.iter().map(|&x| self.eval(&[x]).map(|v| v[0])).collect::<Option<_>>()?;
        choices.into_iter().find(|u| points.iter().zip(&got).all(|(&x, &y)| close(y, unary(*u, x)))).map(Op::Unary)
    }

    fn norm(&self) -> Option<Op> {
        // Rows of several magnitudes, the smallest near the epsilons in use, so that a wrong epsilon shows.
        let rows: Vec<Vec<f64>> = [3.0, 1.0, 0.05, 0.003]
            .iter()
            .enumerate()
            .map(|(r, scale)| (0..ROW).map(|i| scale * (((i * 37 + r * 11 + 5) % 17) as f64 / 17.0 - 0.3)).collect())
            .collect();
        let got: Vec<Vec<f64>> = rows.iter().map(|r| self.eval(r)).collect::<Option<_>>()?;
        for &epsilon in self.scalars.iter().filter(|e| **e > 0.0 && **e < 0.1) {
            for rms in [false, true] {
                let same = rows.iter().zip(&got).all(|(row, got)| {
                    got.len() == row.len()
                        && got.iter().zip(normed(row, f64::from(epsilon), rms)).all(|(a, b)| close(*a, b))
                });
                if same {
                    return Some(Op::Norm(Norm { axis: -1, epsilon, rms }));
                }
            }
        }
        None
    }
}

fn normed(row: &[f64], epsilon: f64, rms: bool) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = if rms { 0.0 } else { row.iter().sum::<f64>() / n };
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    row.iter().map(|x| (x - mean) / (variance + epsilon).sqrt()).collect()
}

/// Agreement up to the rounding of constants to f32.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * (1.0 + b.abs())
}

fn binary(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        _ => f64::NAN,
    }
}

fn unary(op: Unary, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match op {
        Unary::Abs => x.abs(),
        Unary::Neg => -x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Erf => erf(x),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => sigmoid(x),
        Unary::Relu => x.max(0.0),
        Unary::Clip { min, max } => x.max(min.into()).min(max.into()),
        Unary::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Unary::QuickGelu { alpha } => x * sigmoid(f64::from(alpha) * x),
        _ => f64::NAN,
    }
}

/// The error function: Taylor series near zero, continued fraction of erfc (Abramowitz and Stegun 7.1.14) elsewhere; better
/// than 1e-12.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..80 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..=80).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Fact, infer_graph};
    use crate::optimize::Context;
    use crate::tensor::{BufferPool, DType, Tensor};

    fn context() -> Context {
        Context { cpu: crate::cpu::Cpu::new(1), pool: BufferPool::default() }
    }

    struct Build(Graph);

    impl Build {
        fn new() -> (Self, ValueId) {
            let mut g = Graph::new();
            let x = g.add_input("x", Fact::concrete(DType::F32, &[3, 8]));
            (Build(g), x)
        }
        fn c(&mut self, x: f32) -> ValueId {
            self.0.add_constant("c", Tensor::scalar(x))
        }
        fn b(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId {
            self.0.apply("b", Op::Binary(op), &[Some(a), Some(b)])
        }
        fn u(&mut self, op: Unary, a: ValueId) -> ValueId {
            self.0.apply("u", Op::Unary(op), &[Some(a)])
        }
        fn mean(&mut self, a: ValueId) -> ValueId {
            let op =
                Op::Reduce { kind: Reduce::Mean, axes: Some(vec![-1]), keep_dims: true, noop_with_empty_axes: false };
            self.0.apply("mean", op, &[Some(a)])
        }
        fn rewritten(mut self, out: ValueId) -> Op {
            self.0.add_output("y", out);
            infer_graph(&mut self.0).unwrap();
            Recognise.apply(&mut self.0, &context()).unwrap();
            self.0.prune();
            assert_eq!(self.0.node_count(), 1);
            self.0.nodes().next().unwrap().1.op.clone()
        }
    }

    #[test]
    fn error_function_is_exact_enough() {
        assert!((erf(0.5) - 0.5204998778130465).abs() < 1e-12);
        assert!((erf(2.4) - 0.9993114861033549).abs() < 1e-12);
        assert!((erf(-3.0) + 0.9999779095030014).abs() < 1e-12);
    }

    #[test]
    fn gelu_in_two_orders() {
        for first in [true, false] {
            let (mut g, x) = Build::new();
            let root = g.c(std::f32::consts::SQRT_2);
            let scaled = g.b(Binary::Div, x, root);
            let e = g.u(Unary::Erf, scaled);
            let (one, half) = (g.c(1.0), g.c(0.5));
            let sum = g.b(Binary::Add, e, one);
            let out = if first {
                let x = g.b(Binary::Mul, x, half);
                g.b(Binary::Mul, x, sum)
            } else {
                let y = g.b(Binary::Mul, sum, x);
                g.b(Binary::Mul, half, y)
            };
            assert!(matches!(g.rewritten(out), Op::Unary(Unary::Gelu)));
        }
    }

    #[test]
    fn quick_gelu_finds_its_factor() {
        let (mut g, x) = Build::new();
        let c = g.c(1.702);
        let scaled = g.b(Binary::Mul, x, c);
        let s = g.u(Unary::Sigmoid, scaled);
        let out = g.b(Binary::Mul, x, s);
        assert!(matches!(g.rewritten(out), Op::Unary(Unary::QuickGelu { alpha }) if alpha == 1.702));
    }

    #[test]
    fn norms_with_their_epsilon() {
        for rms in [false, true] {
            let (mut g, x) = Build::new();
            let d = if rms {
                x
            } else {
                let m = g.mean(x);
                g.b(Binary::Sub, x, m)
            };
            let two = g.c(2.0);
            let square = g.b(Binary::Pow, d, two);
            let v = g.mean(square);
            let eps = g.c(1e-6);
            let v = g.b(Binary::Add, v, eps);
            let s = g.u(Unary::Sqrt, v);
            let out = g.b(Binary::Div, d, s);
            let op = g.rewritten(out);
            assert!(matches!(op, Op::Norm(n) if n.rms == rms && n.epsilon == 1e-6), "{op:?}");
        }
    }

    #[test]
    fn another_function_stays() {
        let (mut g, x) = Build::new();
        let c = g.c(1.5);
        let t = g.u(Unary::Tanh, x);
        let y = g.b(Binary::Mul, t, x);
        let out = g.b(Binary::Mul, y, c);
        g.0.add_output("y", out);
        infer_graph(&mut g.0).unwrap();
        assert_eq!(Recognise.apply(&mut g.0, &context()).unwrap(), 0);
    }
}
