//! The shapes of a batched product, as `numpy.matmul` has them.

use crate::error::KernelError;
use crate::tensor::element_count;

/// A batch of products of `m` x `k` by `k` x `n`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dims {
    /// Rows of each product.
    pub(crate) m: usize,
    /// Columns of each product.
    pub(crate) n: usize,
    /// The dimension summed over.
    pub(crate) k: usize,
    /// For each product the index of its matrix in a and in b.
    pub(crate) batches: Vec<(usize, usize)>,
    /// Matrices in b.
    pub(crate) b_matrices: usize,
}

impl Dims {
    /// The dimensions of `op(a) @ op(b)`. A batch of rows that meets a single matrix b becomes one tall product.
    ///
    /// A one-dimensional operand is a row (a) or a column (b) and is never transposed.
    pub(crate) fn of(a: &[usize], b: &[usize], trans_a: bool, trans_b: bool) -> Result<Dims, KernelError> {
        let fail = |why: &str| KernelError::Invalid(format!("cannot multiply {a:?} by {b:?}: {why}"));
        let (a_batch, m, a_k, trans_a) = match *a {
            [] => return Err(fail("the first operand is a scalar")),
            [k] => (&a[..0], 1, k, false),
            [.., r, c] => (&a[..a.len() - 2], if trans_a { c } else { r }, if trans_a { r } else { c }, trans_a),
        };
        let (b_batch, k, n) = match *b {
            [] => return Err(fail("the second operand is a scalar")),
            [k] => (&b[..0], k, 1),
            [.., r, c] => (&b[..b.len() - 2], if trans_b { c } else { r }, if trans_b { r } else { c }),
        };
        if a_k != k {
            return Err(fail("the inner dimensions differ"));
        }
        let b_matrices = element_count(b_batch)?;
        if b_batch.iter().all(|&d| d == 1) && !trans_a {
            // Leading ones of b only add dimensions of size 1 to the output, which has as many elements.
            let m = element_count(a_batch)?.checked_mul(m).ok_or_else(|| fail("too many rows"))?;
            return Ok(Dims { m, n, k, batches: vec![(0, 0)], b_matrices });
        }
        let rank = a_batch.len().max(b_batch.len());
        let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
        let mut shape = Vec::with_capacity(rank);
        for i in 0..rank {
            shape.push(match (at(a_batch, i), at(b_batch, i)) {
                (x, y) if x == y => x,
                (1, y) => y,
                (x, 1) => x,
                _ => return Err(fail("the batch dimensions do not broadcast")),
            });
        }
        let count = element_count(&shape)?;
        let index = |dims: &[usize], mut flat: usize| {
            let (mut index, mut stride) = (0, 1);
            for i in (0..rank).rev() {
                let d = at(dims, i);
                if d != 1 {
                    index += flat % shape[i] * stride;
                    stride *= d;
                }
                flat /= shape[i];
            }
            index
        };
        let batches = (0..count).map(|i| (index(a_batch, i), index(b_batch, i))).collect();
        Ok(Dims { m, n, k, batches, b_matrices })
    }

    /// The elements of the output.
    pub(crate) fn outputs(&self) -> Result<usize, KernelError> {
        Ok(element_count(&[self.batches.len(), self.m, self.n])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_numpy() {
        let of = |a: &[usize], b: &[usize]| Dims::of(a, b, false, false);
        let d = of(&[2, 5, 3], &[3, 4]).unwrap();
        assert_eq!((d.m, d.n, d.k, d.batches.len()), (10, 4, 3, 1));
        let d = of(&[3], &[7, 3, 4]).unwrap();
        assert_eq!((d.m, d.batches.len(), d.batches[6]), (1, 7, (0, 6)));
        let d = of(&[2, 1, 5, 3], &[6, 3, 4]).unwrap();
        assert_eq!((d.batches.len(), d.batches[7], d.outputs().unwrap()), (12, (1, 1), 240));
        let d = of(&[3], &[3]).unwrap();
        assert_eq!((d.m, d.n, d.outputs().unwrap()), (1, 1, 1));
        assert!(of(&[0, 4, 3], &[2, 3, 4]).is_err());
        assert_eq!(of(&[0, 4, 3], &[1, 3, 4]).unwrap().outputs().unwrap(), 0);
        assert!(of(&[2, 3], &[4, 5]).is_err() && of(&[], &[3]).is_err() && of(&[3], &[]).is_err());
        let d = Dims::of(&[2, 3, 5], &[4, 3], true, true).unwrap();
        assert_eq!((d.m, d.n, d.k, d.batches.as_slice()), (5, 4, 3, [(0, 0), (1, 0)].as_slice()));
    }
}
