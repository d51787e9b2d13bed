//! Attention of sequences with caches of their own, row by row.
//!
//! Each row is the call that it would be alone: its part of the queries and of what is new, its own caches, and of a mask the
//! last columns, as many as it has keys.

use super::{Caches, Held, Ports, Run, Sequences, grow};
use crate::error::{KernelError, RunError};
use crate::graph::{Node, Op};
use crate::plan::{Step, kernel_error};
use crate::tensor::{AlignedBytes, DType, Tensor, TensorView, TensorViewMut, element_count};

/// Counts the row that a run has added to each sequence.
pub(super) fn keep(ports: &Ports, rows: &mut [&mut Caches]) {
    for caches in rows {
        for slot in ports.growing.values().flatten() {
            caches.slots[*slot].rows += 1;
        }
    }
}

/// What a row takes of an input.
enum Part<'t> {
    /// The whole.
    Whole(TensorView<'t>),
    /// Its own part of a batch; the shape is that of a part.
    Own(TensorView<'t>, Vec<usize>),
}

impl<'t> Part<'t> {
    fn new(op: &Op, index: usize, view: TensorView<'t>, batch: usize) -> Part<'t> {
        let own = match (op, index) {
            (_, 0..=2) | (Op::GroupQueryAttention(_), 5) => true,
            // A mask may be one for all.
            (Op::Attention(_), 3) => view.shape.len() == 4 && view.shape[0] == batch,
            (Op::Attention(_), 4) => true,
            _ => false,
        };
        if !own {
            return Part::Whole(view);
        }
        let mut shape = view.shape.to_vec();
        shape[0] = 1;
        Part::Own(view, shape)
    }

    fn row(&self, row: usize) -> TensorView<'_> {
        match self {
            Part::Whole(view) => *view,
            Part::Own(view, shape) => {
                let len = shape.iter().product::<usize>() * view.dtype.size();
                TensorView { dtype: view.dtype, shape, bytes: &view.bytes[row * len..][..len], constant: None }
            }
        }
    }
}

/// The last `keys` columns of a mask of more.
fn last_columns(mask: TensorView<'_>, keys: usize) -> Result<Tensor, KernelError> {
    let mut shape = mask.shape.to_vec();
    let Some(columns) = shape.last_mut() else { return Err(KernelError::Invalid("a mask without columns".into())) };
    let size = mask.dtype.size();
    let (all, kept) = (*columns * size, keys * size);
    *columns = keys;
    let mut bytes = AlignedBytes::zeroed(element_count(&shape)? * size);
    if kept > 0 {
        let rows = bytes.as_mut_slice().chunks_exact_mut(kept).zip(mask.bytes.chunks_exact(all));
        rows.for_each(|(to, from)| to.copy_from_slice(&from[all - kept..]));
    }
    Ok(Tensor::from_buffer(mask.dtype, &shape, bytes)?)
}

impl Run<'_, '_> {
    /// Whether a step reads caches of which each row has its own.
    pub(super) fn reads_rows(&self, step: &Step) -> bool {
        match &self.caches {
            Some((ports, Sequences::Rows(ragged, _))) => {
                ports.growing.contains_key(&step.node) || ragged.fixed.contains_key(&step.node)
            }
            _ => false,
        }
    }

    /// An attention over caches of which each row has its own.
    pub(super) async fn attend_by_row(&mut self, node: &Node, step: &Step) -> Result<(), RunError> {
        let fail = |e| kernel_error(node, e);
        let absent = || fail(KernelError::Invalid("is no attention over rows".into()));
        let (slots, fixed) = match &self.caches {
            Some((ports, Sequences::Rows(ragged, _))) => {
                (ports.growing.get(&step.node).copied(), ragged.fixed.get(&step.node).map_or(&[][..], |f| f))
            }
            _ => return Err(absent()),
        };
        // All but the caches.
        let mut inputs = node.inputs.clone();
        if slots.is_some() {
            match node.op {
                Op::GroupQueryAttention(_) => inputs[3..5].fill(None),
                _ => inputs.truncate(5),
            }
        }
        for (index, _) in fixed {
            inputs[*index] = None;
        }
        let tensors = self.inputs_on_host(node, &inputs).await?;
        let (Some(outputs), Some((_, Sequences::Rows(_, rows)))) = (&step.outputs, &mut self.caches) else {
            return Err(absent());
        };
        let batch = rows.len();
        let parts: Vec<Option<Part<'_>>> = super::views(self.r.graph, &tensors)
            .into_iter()
            .enumerate()
            .map(|(index, view)| view.map(|v| Part::new(&node.op, index, v, batch)))
            .collect();
        let y_shape = &outputs[0].1;
        let mut row_shape = y_shape.clone();
        row_shape[0] = 1;
        let result = async {
            let len = element_count(&row_shape)? * size_of::<f32>();
            let mut buffer = self.r.pool.take(batch * len);
            for (row, (caches, bytes)) in rows.iter_mut().zip(buffer.as_mut_slice().chunks_exact_mut(len)).enumerate() {
                let mut views: Vec<Option<TensorView<'_>>> =
                    parts.iter().map(|part| part.as_ref().map(|p| p.row(row))).collect();
                let mut y = TensorViewMut { dtype: DType::F32, shape: &row_shape, bytes };
                let Some([k, v]) = slots else {
                    let held: Vec<_> = fixed.iter().map(|(_, slot)| caches.slots[*slot].host().cloned()).collect();
                    for ((index, _), tensor) in fixed.iter().zip(&held) {
                        views[*index] = tensor.as_ref().map(Tensor::view);
                    }
                    self.r.cpu.run(&node.op, &views, &mut [y])?;
                    continue;
                };
                let [_, (_, k_shape), (_, v_shape), ..] = outputs.as_slice() else {
                    return Err(KernelError::Invalid("its caches are not planned".into()));
                };
                let keys = caches.slots[k].rows + 1;
                let own = |shape: &[usize]| [1, shape[1], keys, shape[3]];
                let mask = match (&node.op, views.get(3)) {
                    (Op::Attention(_), Some(Some(mask))) if mask.shape.last().is_some_and(|&n| n > keys && n != 1) => {
                        Some(last_columns(*mask, keys)?)
                    }
                    _ => None,
                };
                if let Some(mask) = &mask {
                    views[3] = Some(mask.view());
                }
                let total = Tensor::scalar(keys as i32);
                if let Op::GroupQueryAttention(_) = node.op {
                    views[6] = Some(total.view());
                }
                let shapes = [&own(k_shape)[..], &own(v_shape)[..]];
                grow(self.r, &node.op, &views, caches, ([k, v], shapes), &mut y).await?;
            }
            Ok(Tensor::from_buffer(DType::F32, y_shape, buffer)?)
        }
        .await;
        let y = result.map_err(fail)?;
        if let Some(Some(output)) = node.outputs.first() {
            self.values[output.0 as usize] = Held::host(y);
        }
        Ok(())
    }
}
