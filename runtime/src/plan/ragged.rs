//! Sequences of different lengths as the rows of one run.
//!
//! Each sequence keeps caches of its own, and attention computes row by row over them (`execute/rows.rs`). All other operators see
//! one batch, so that each weight is read once for all rows. The run is planned as one of rows that are padded on the left
//! up to the longest past: what has a column for each key (masks) holds for a row in its last columns.
//!
//! What follows from the length of the past alone but has no such columns (a position that a graph counts by the size of its
//! cache) would be that of the padded row. Planning for two lengths finds such values; in a run each row is given its own.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Concrete, Plan, Planner, Ports, reads_elements};
use crate::cpu::Cpu;
use crate::error::{KernelError, RunError};
use crate::graph::{Graph, NodeId, Op, ValueId};
use crate::tensor::{AlignedBytes, BufferPool, Tensor, element_count};

/// How the sequences of a graph share a run.
#[derive(Debug)]
pub(crate) struct Ragged {
    /// The sizes that count the rows of the batch and those of a past.
    batch: Arc<str>,
    past: Arc<str>,
    /// Values that follow from the length of the past alone and have no columns: [1, ..] for one sequence.
    positions: Vec<ValueId>,
    /// The nodes that make them, in order.
    nodes: Vec<NodeId>,
    /// The attentions that read caches as they are, by input and cache.
    pub(super) fixed: HashMap<NodeId, Vec<(usize, usize)>>,
}

/// Lengths of a past that values are compared for.
const LENGTHS: [i64; 2] = [2, 3];
/// Rows of the run that is planned to see what becomes of a batch.
const ROWS: i64 = 3;

impl Ragged {
    /// Finds out how sequences can share a run of `graph`: `None` if they cannot. `plan` plans for so many rows behind a past of
    /// so many positions, with the values that it is handed as they are given.
    pub(crate) fn find(
        graph: &Graph,
        ports: &Ports,
        plan: impl Fn([(&Arc<str>, i64); 2], &[(ValueId, Concrete)]) -> Option<Plan>,
    ) -> Option<Ragged> {
        let (batch, past) = sizes(graph, ports)?;
        let fixed = fixed(graph, ports)?;
        let of = |rows: i64, length: i64, given: &[(ValueId, Concrete)]| plan([(&batch, rows), (&past, length)], given);
        let [short, long] = [of(1, LENGTHS[0], &[])?, of(1, LENGTHS[1], &[])?];
        let positions = positions(graph, ports, &short, &long)?;
        let given: Vec<_> = positions
            .iter()
            .map(|id| {
                let known = &long.known[id];
                let mut shape = known.shape().to_vec();
                shape[0] = ROWS as usize;
                (*id, (known.dtype(), shape))
            })
            .collect();
        let many = of(ROWS, LENGTHS[1], &given)?;
        if !batches(&long, &many) {
            return None;
        }
        let nodes = ancestors(graph, &positions);
        Some(Ragged { batch, past, positions, nodes, fixed })
    }

    /// The values that a run is given beside its inputs.
    pub(crate) fn positions(&self) -> &[ValueId] {
        &self.positions
    }

    /// The names of two sizes: the rows of the batch, and the positions of a past.
    pub(crate) fn sizes(&self) -> [&Arc<str>; 2] {
        [&self.batch, &self.past]
    }

    /// What [`Ragged::positions`] are for one sequence; `inputs` are the inputs' types and shapes for it alone.
    pub(crate) fn of_row(
        &self,
        graph: &Graph,
        inputs: &HashMap<ValueId, Concrete>,
        cpu: &Cpu,
        pool: &BufferPool,
    ) -> Result<Vec<Tensor>, RunError> {
        let mut planner = Planner::new(graph, inputs, cpu, pool);
        for node in self.nodes.iter().filter_map(|id| graph.node(*id)) {
            planner.visit(node)?;
        }
        self.positions.iter().map(|id| planner.materialise(*id)).collect()
    }
}

/// What all rows were given, [rows, ..], from what each was, [1, ..].
pub(crate) fn stack(rows: &[Tensor]) -> Result<Tensor, KernelError> {
    let Some(first) = rows.first() else { return Err(KernelError::Invalid("no rows to stack".into())) };
    let mut shape = first.shape().to_vec();
    if rows.iter().any(|r| r.shape() != first.shape() || r.dtype() != first.dtype()) || shape.first() != Some(&1) {
        return Err(KernelError::Invalid(format!("rows of other shapes than {shape:?}")));
    }
    shape[0] = rows.len();
    let mut bytes = AlignedBytes::zeroed(element_count(&shape)? * first.dtype().size());
    let len = first.bytes().len();
    if len > 0 {
        bytes.as_mut_slice().chunks_exact_mut(len).zip(rows).for_each(|(to, row)| to.copy_from_slice(row.bytes()));
    }
    Ok(Tensor::from_buffer(first.dtype(), &shape, bytes)?)
}

/// The sizes of the batch and of the past, by the caches that grow: [batch, heads, past, size]. `None` where some cache grows
/// by copies, where caches are of different lengths, or where sizes are fixed.
fn sizes(graph: &Graph, ports: &Ports) -> Option<(Arc<str>, Arc<str>)> {
    let mut found = None;
    for (slot, (past, present)) in ports.past.iter().zip(&ports.present).enumerate() {
        if !ports.grows(slot) {
            if present.is_some() {
                return None;
            }
            continue;
        }
        let shape = &graph.fact((*past)?)?.shape;
        let [batch, _, rows, _] = shape.as_slice() else { return None };
        let sizes = (batch.as_symbol()?.clone(), rows.as_symbol()?.clone());
        if *found.get_or_insert(sizes.clone()) != sizes {
            return None;
        }
    }
    // An attention that counts keys from the front cannot leave the front of a row out.
    let counts = |id: &NodeId| {
        graph
            .node(*id)
            .is_some_and(|n| matches!(n.op, Op::Attention(_)) && n.inputs.get(4).is_some_and(Option::is_some))
    };
    found.filter(|_| !ports.growing.keys().any(counts))
}

/// Who reads the caches that stay as they are. `None` where that is anything but an attention.
fn fixed(graph: &Graph, ports: &Ports) -> Option<HashMap<NodeId, Vec<(usize, usize)>>> {
    let mut found: HashMap<NodeId, Vec<(usize, usize)>> = HashMap::new();
    for (slot, past) in ports.past.iter().enumerate() {
        let Some(past) = past.filter(|_| !ports.grows(slot)) else { continue };
        for (id, node) in graph.nodes() {
            for index in (0..node.inputs.len()).filter(|&i| node.inputs[i] == Some(past)) {
                match node.op {
                    Op::Shape { .. } | Op::Size => (),
                    Op::Attention(_) if index == 1 || index == 2 => found.entry(id).or_default().push((index, slot)),
                    _ => return None,
                }
            }
        }
    }
    // Half of a pair would leave the other to be read as part of a batch; a growing one reads its new rows so.
    let whole = found.iter().all(|(id, read)| read.len() == 2 && !ports.growing.contains_key(id));
    whole.then_some(found)
}

/// Values that plans for two lengths know differently, columns apart. `None` where one of them cannot be given row by row.
fn positions(graph: &Graph, ports: &Ports, short: &Plan, long: &Plan) -> Option<Vec<ValueId>> {
    let same_steps = short.steps.len() == long.steps.len();
    if !same_steps || short.steps.iter().zip(&long.steps).any(|(a, b)| a.node != b.node) {
        return None;
    }
    let mut found = Vec::new();
    for step in &short.steps {
        let node = graph.node(step.node)?;
        for (index, input) in node.inputs.iter().enumerate() {
            let Some(id) = *input else { continue };
            let (a, b) = match (short.known.get(&id), long.known.get(&id)) {
                (None, None) => continue,
                (a, b) => (a?, b?),
            };
            let equal = a.shape() == b.shape() && a.bytes() == b.bytes();
            if equal || reads_elements(&node.op, index) || found.contains(&id) {
                continue;
            }
            let mask = index == 3 && matches!(node.op, Op::Attention(_)) && ports.growing.contains_key(&step.node);
            match (a.shape(), b.shape()) {
                (short, long) if short != long && mask => {
                    if !ends_with(b, a) {
                        return None;
                    }
                }
                (short, long) if short != long => (),
                ([1, _, ..], _) => found.push(id),
                _ => return None,
            }
        }
    }
    Some(found)
}

/// Whether the rows of `long` end as those of `short`.
fn ends_with(long: &Tensor, short: &Tensor) -> bool {
    let ([.., m], [.., n]) = (long.shape(), short.shape()) else { return false };
    let (m, n) = (m * long.dtype().size(), n * short.dtype().size());
    let rows = |t: &Tensor, len: usize| t.bytes().len().checked_div(len);
    long.dtype() == short.dtype()
        && rows(long, m) == rows(short, n)
        && n > 0
        && long.bytes().chunks_exact(m).zip(short.bytes().chunks_exact(n)).all(|(l, s)| l.ends_with(s))
}

/// Whether each step of `many` makes as much for each of its rows as `one` does for the only one, or the same for all.
fn batches(one: &Plan, many: &Plan) -> bool {
    let alone: HashMap<NodeId, &Vec<Concrete>> =
        one.steps.iter().filter_map(|s| Some((s.node, s.outputs.as_ref()?))).collect();
    many.steps.iter().all(|step| {
        let (Some(outputs), Some(alone)) = (&step.outputs, alone.get(&step.node)) else {
            // Known for one row, or not known before running for any number.
            return step.outputs.is_some() || !alone.contains_key(&step.node);
        };
        let elements = |(_, shape): &Concrete| shape.iter().product::<usize>();
        outputs.iter().zip(alone.iter()).all(|(many, one)| {
            let (many, one) = (elements(many), elements(one));
            many == one || many == ROWS as usize * one
        })
    })
}

/// The nodes that lead to `values`, in order.
fn ancestors(graph: &Graph, values: &[ValueId]) -> Vec<NodeId> {
    let mut todo = values.to_vec();
    let mut found: Vec<NodeId> = Vec::new();
    while let Some(value) = todo.pop() {
        if let Some((id, node)) = graph.producer(value)
            && !found.contains(&id)
        {
            found.push(id);
            todo.extend(node.inputs.iter().flatten());
        }
    }
    graph.nodes().map(|(id, _)| id).filter(|id| found.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Attention, Binary, Dim, Fact, HeadLayout, infer_graph};
    use crate::plan::{Caches, Held};
    use crate::tensor::DType;
    use crate::{Session, SessionOptions};

    const HEADS: usize = 2;
    const SIZE: usize = 4;
    const WIDTH: usize = HEADS * SIZE;

    /// Attention over a cache; to its input the length of the past is added, in a tensor of this shape.
    fn decoder(length: Option<&[i64]>) -> Graph {
        let mut g = Graph::new();
        let (b, s, p) = (Dim::symbol("b"), Dim::symbol("s"), Dim::symbol("p"));
        let x = g.add_input("x", Fact::new(DType::F32, vec![b.clone(), s, WIDTH.into()]));
        let cache = Fact::new(DType::F32, vec![b, HEADS.into(), p, SIZE.into()]);
        let (pk, pv) = (g.add_input("pk", cache.clone()), g.add_input("pv", cache));
        let x = match length {
            None => x,
            Some(shape) => {
                let size = g.apply("size", Op::Shape { start: 2, end: Some(3) }, &[Some(pk)]);
                let size = g.apply("float", Op::Cast { to: DType::F32 }, &[Some(size)]);
                let shape = g.add_constant("shape", Tensor::vector(shape));
                let size = g.apply("spread", Op::Expand, &[Some(size), Some(shape)]);
                g.apply("placed", Op::Binary(Binary::Add), &[Some(x), Some(size)])
            }
        };
        let (y, k, v) = (g.add_value("y", None), g.add_value("k", None), g.add_value("v", None));
        let op = Attention {
            heads: HEADS,
            kv_heads: HEADS,
            scale: None,
            causal: true,
            q_layout: HeadLayout::Merged,
            k_layout: HeadLayout::Merged,
            v_layout: HeadLayout::Merged,
            merged_output: true,
            zero_masked_rows: false,
        };
        let inputs = vec![Some(x), Some(x), Some(x), None, None, Some(pk), Some(pv)];
        g.add_node("attention", Op::Attention(op), inputs, vec![Some(y), Some(k), Some(v)]);
        for (name, value) in [("y", y), ("k", k), ("v", v)] {
            g.add_output(name, value);
        }
        infer_graph(&mut g).unwrap();
        g
    }

    fn rows(n: usize, seed: usize) -> Tensor {
        let values: Vec<f32> = (0..n * WIDTH).map(|i| ((i * 7 + seed * 13) as f32 * 0.61).sin()).collect();
        Tensor::from_slice(&[1, n, WIDTH], &values).unwrap()
    }

    #[test]
    fn rows_of_other_lengths_are_what_they_are_alone() {
        for length in [None, Some(&[1i64, 1, 1][..]), Some(&[1, 1, WIDTH as i64])] {
            let session = Session::new(decoder(length), SessionOptions { threads: 2, ..Default::default() });
            let ports = session.ports([("pk", "k"), ("pv", "v")].into_iter());
            let ragged = session.ragged(&ports).expect("rows share a run");
            assert_eq!(ragged.positions().len(), usize::from(length.is_some()));
            let input = |x: Tensor| vec![("x".to_owned(), Held::host(x))];
            let mut caches: Vec<Caches> = [5, 1, 3]
                .iter()
                .map(|&n| {
                    let mut caches = Caches { slots: vec![Default::default(); 2], ..Caches::default() };
                    pollster::block_on(session.run_with_caches(input(rows(n, n)), &[0], &ports, &mut caches)).unwrap();
                    caches
                })
                .collect();
            for step in 0..3 {
                let new: Vec<Tensor> = (0..3).map(|row| rows(1, 10 * step + row)).collect();
                let want: Vec<Vec<f32>> = new
                    .iter()
                    .zip(&caches)
                    .map(|(x, caches)| {
                        let mut own = caches.clone();
                        let run = session.run_with_caches(input(x.clone()), &[0], &ports, &mut own);
                        let done = pollster::block_on(async { session.finish(run.await.unwrap()).await.unwrap() });
                        done[0].to_f32_vec().unwrap()
                    })
                    .collect();
                let mut all: Vec<&mut Caches> = caches.iter_mut().collect();
                let run = session.run_ragged(input(stack(&new).unwrap()), &[0], (&ports, &ragged), &mut all);
                let got = pollster::block_on(run).unwrap()[0].to_f32_vec().unwrap();
                assert_eq!(got, want.concat(), "{length:?}, step {step}");
            }
            assert_eq!(caches.iter().map(|c| c.slots[1].rows).collect::<Vec<_>>(), [8, 4, 6]);
        }
    }

    #[test]
    fn lengths_that_no_row_can_be_given_are_not_shared() {
        // A number for all rows, and one that would stand in for positions instead of rows.
        for shape in [&[1i64][..], &[1, WIDTH as i64]] {
            let session = Session::new(decoder(Some(shape)), SessionOptions::default());
            let ports = session.ports([("pk", "k"), ("pv", "v")].into_iter());
            assert!(session.ragged(&ports).is_none(), "{shape:?}");
        }
        let session = Session::new(decoder(None), SessionOptions::default());
        let copied = session.ports([("pk", "k"), ("pv", "")].into_iter());
        assert!(session.ragged(&copied).is_none(), "a cache that does not grow in place");
    }

    #[test]
    fn only_rows_of_one_shape_are_stacked() {
        assert!(stack(&[]).is_err());
        assert!(stack(&[rows(1, 0), rows(2, 0)]).is_err());
        assert!(stack(&[Tensor::scalar(1f32)]).is_err());
        assert_eq!(stack(&[rows(1, 0), rows(1, 1)]).unwrap().shape(), [2, 1, WIDTH]);
    }
}
