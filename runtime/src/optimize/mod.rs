//! Graph to graph, one rewrite a file.
//!
//! A rewrite looks at structure and facts, never at a model's name. All of them keep the graph's meaning: what they fuse
//! is computed by a kernel that does the same arithmetic, at most in another order.

mod attention;
mod cache;
mod convolution;
mod dequantized;
mod epilogue;
mod fold;
mod integer;
mod pattern;
mod recognise;
mod rotary;
mod shapes;
mod share;
mod widen;

pub use share::share_constants;

use crate::cpu::Cpu;
use crate::graph::{Graph, InferError, NodeId, infer_graph};
use crate::tensor::BufferPool;

/// Why a graph could not be optimised.
#[derive(Debug, thiserror::Error)]
pub enum OptimizeError {
    /// Shapes inside the graph contradict each other.
    #[error("node {node}: {source}")]
    Shape {
        /// The node's path.
        node: String,
        /// What does not fit.
        source: InferError,
    },
    /// A rewrite made a graph that cannot run: a bug of Lenslet.
    #[error("the rewrite {rewrite} left a cycle; please report this model")]
    Cycle {
        /// The rewrite.
        rewrite: &'static str,
    },
}

impl OptimizeError {
    /// A stable name for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            OptimizeError::Shape { .. } => "bad_shape",
            OptimizeError::Cycle { .. } => "internal",
        }
    }
}

/// What constant folding needs.
pub(crate) struct Context {
    pub(crate) cpu: Cpu,
    pub(crate) pool: BufferPool,
}

/// A change of a graph that keeps its meaning.
trait Rewrite {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Changes the graph and returns how often it matched.
    fn apply(&self, graph: &mut Graph, context: &Context) -> Result<usize, OptimizeError>;
}

/// How often each rewrite matched.
pub type RewriteReport = Vec<(&'static str, usize)>;

/// Rewrites until nothing matches any more.
pub fn optimize(graph: &mut Graph) -> Result<RewriteReport, OptimizeError> {
    let context = Context { cpu: Cpu::new(1), pool: BufferPool::default() };
    let first = run(graph, &context, &[Box::new(widen::WidenHalf)], 1)?;
    let rewrites: Vec<Box<dyn Rewrite>> = vec![
        // Before constants are folded, while weights are still 8-bit.
        Box::new(integer::FuseIntegerProducts),
        Box::new(dequantized::KeepWeightsQuantized),
        Box::new(fold::FoldConstants),
        Box::new(recognise::Recognise),
        Box::new(epilogue::FuseNormAffine),
        Box::new(shapes::ReshapeByNumbers),
        Box::new(rotary::FuseRotary),
        Box::new(attention::FuseAttention),
        Box::new(cache::FuseCache),
        Box::new(convolution::FoldConvAffine),
        Box::new(epilogue::FuseEpilogue),
    ];
    let rest = run(graph, &context, &rewrites, MAX_ROUNDS)?;
    Ok(first.into_iter().chain(rest).collect())
}

/// Rewrites enable each other, but never this often in a row.
const MAX_ROUNDS: usize = 8;

fn run(
    graph: &mut Graph,
    context: &Context,
    rewrites: &[Box<dyn Rewrite>],
    rounds: usize,
) -> Result<RewriteReport, OptimizeError> {
    let mut report: RewriteReport = rewrites.iter().map(|r| (r.name(), 0)).collect();
    for _ in 0..rounds {
        let mut changed = 0;
        for (rewrite, entry) in rewrites.iter().zip(&mut report) {
            let count = rewrite.apply(graph, context)?;
            if count > 0 {
                settle(graph, rewrite.name())?;
            }
            entry.1 += count;
            changed += count;
        }
        if changed == 0 {
            break;
        }
    }
    graph.prune();
    Ok(report)
}

/// Restores order and facts behind a rewrite.
fn settle(graph: &mut Graph, rewrite: &'static str) -> Result<(), OptimizeError> {
    // Pruning walks backwards and needs the order.
    if !graph.sort() {
        return Err(OptimizeError::Cycle { rewrite });
    }
    graph.prune();
    infer_graph(graph).map_err(|(node, source)| shape_error(graph, node, source))
}

fn shape_error(graph: &Graph, node: NodeId, source: InferError) -> OptimizeError {
    OptimizeError::Shape { node: graph.node(node).map(|n| n.name.to_string()).unwrap_or_default(), source }
}
