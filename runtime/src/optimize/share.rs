//! Graphs of one model hold many of the same weights, each read from its file: keep them once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::graph::{Graph, ValueId};
use crate::tensor::{DType, Tensor};

/// Smaller constants are not worth the comparison.
const SMALL: usize = 4096;

/// Replaces the constants of `graph` that hold the same bytes as one of `with` by that one's memory. Returns the bytes saved.
pub fn share_constants(graph: &mut Graph, with: &Graph) -> usize {
    let mut known: HashMap<(DType, u64), Vec<&Tensor>> = HashMap::new();
    for tensor in with.value_ids().filter_map(|id| with.constant(id)).filter(|t| t.bytes().len() >= SMALL) {
        known.entry(key(tensor)).or_default().push(tensor);
    }
    let mut saved = 0;
    let ids: Vec<ValueId> = graph.value_ids().collect();
    for id in ids {
        let Some(tensor) = graph.constant(id).filter(|t| t.bytes().len() >= SMALL) else { continue };
        let same = known.get(&key(tensor)).into_iter().flatten().find(|t| t.bytes() == tensor.bytes());
        if let Some(Ok(shared)) = same.map(|t| t.reshaped(tensor.shape())) {
            saved += shared.bytes().len();
            graph.value_mut(id).constant = Some(shared);
        }
    }
    saved
}

fn key(tensor: &Tensor) -> (DType, u64) {
    let mut hasher = DefaultHasher::new();
    tensor.bytes().hash(&mut hasher);
    (tensor.dtype(), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_kept_once_under_each_shape() {
        let of = |shape: &[usize], last: f32| {
            let mut g = Graph::new();
            let mut values = vec![1.5f32; shape.iter().product()];
            *values.last_mut().unwrap() = last;
            let w = g.add_constant("w", Tensor::from_slice(shape, &values).unwrap());
            (g, w)
        };
        let (one, w) = of(&[2048], 1.0);
        let (mut other, v) = of(&[32, 64], 1.0);
        assert_eq!(share_constants(&mut other, &one), 8192);
        assert_eq!(other.constant(v).unwrap().shape(), [32, 64]);
        assert_eq!(other.constant(v).unwrap().constant_id(), one.constant(w).unwrap().constant_id());
        let (mut different, _) = of(&[32, 64], 2.0);
        assert_eq!(share_constants(&mut different, &one), 0);
    }
}
