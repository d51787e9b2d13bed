//! The sizes of a product under NumPy's rules, and the uniform that all products of floats share.

use bytemuck::{Pod, Zeroable};

use crate::gpu::ops::shared::{broadcast_strides, collapse};
use crate::gpu::ops::unary::activation_code;
use crate::graph::Unary;

/// One product of matrices, or several over up to four batch dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    /// Rows of the output.
    pub(crate) m: usize,
    /// Columns of the output.
    pub(crate) n: usize,
    /// The inner dimension.
    pub(crate) k: usize,
    /// Batch dimensions, outermost first, filled with ones at the front.
    pub(crate) batch: [usize; 4],
    /// How many of a's matrices each batch dimension moves on.
    pub(crate) a_batch: [usize; 4],
    /// The same for b.
    pub(crate) b_batch: [usize; 4],
}

impl Extents {
    /// The sizes for operands of these shapes; `None` if they do not fit, or with too many batch dimensions.
    pub(crate) fn new(a: &[usize], b: &[usize], trans_a: bool, trans_b: bool) -> Option<Extents> {
        let (a_lead, m, k) = match *a {
            [] => return None,
            [k] => (&a[..0], 1, k),
            [.., r, c] => (&a[..a.len() - 2], if trans_a { c } else { r }, if trans_a { r } else { c }),
        };
        let (b_lead, k_b, n) = match *b {
            [] => return None,
            [k] => (&b[..0], k, 1),
            [.., r, c] => (&b[..b.len() - 2], if trans_b { c } else { r }, if trans_b { r } else { c }),
        };
        if k != k_b {
            return None;
        }
        let rank = a_lead.len().max(b_lead.len());
        let dim = |lead: &[usize], d: usize| (d + lead.len()).checked_sub(rank).map_or(1, |i| lead[i]);
        let lead: Vec<usize> = (0..rank)
            .map(|d| match (dim(a_lead, d), dim(b_lead, d)) {
                (1, n) => n,
                (n, _) => n,
            })
            .collect();
        let (sa, sb) = (broadcast_strides(a_lead, &lead)?, broadcast_strides(b_lead, &lead)?);
        let (dims, moves) = collapse(&lead, &[sa, sb]);
        // Weights shared by all batches: the batches are only more rows.
        if let ([batches], [one_a, one_b]) = (&dims[..], &moves[..])
            && (!trans_a || a.len() == 1)
            && one_b[0] == 0
            && (one_a[0] == 1 || *batches == 1)
        {
            let m = m.checked_mul(*batches)?;
            return Some(Extents { m, n, k, batch: [1; 4], a_batch: [0; 4], b_batch: [0; 4] });
        }
        let pad = |values: &[usize], fill: usize| -> Option<[usize; 4]> {
            let mut out = [fill; 4];
            out[4usize.checked_sub(values.len())?..].copy_from_slice(values);
            Some(out)
        };
        Some(Extents { m, n, k, batch: pad(&dims, 1)?, a_batch: pad(&moves[0], 0)?, b_batch: pad(&moves[1], 0)? })
    }

    /// How many products there are.
    pub(crate) fn batches(&self) -> usize {
        self.batch.iter().product()
    }
}

/// Four numbers, each times `factor`, as the uniform holds them.
pub(crate) fn scaled(values: [usize; 4], factor: usize) -> [u32; 4] {
    values.map(|v| (v * factor) as u32)
}

/// `Params` of `params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) m: u32,
    pub(crate) n: u32,
    pub(crate) k: u32,
    pub(crate) flags: u32,
    pub(crate) a_row: u32,
    pub(crate) a_col: u32,
    pub(crate) b_row: u32,
    pub(crate) b_col: u32,
    pub(crate) batch: [u32; 4],
    pub(crate) a_batch: [u32; 4],
    pub(crate) b_batch: [u32; 4],
    pub(crate) alpha: f32,
    pub(crate) activation: u32,
    pub(crate) activation_params: [f32; 2],
    pub(crate) first_batch: u32,
    pub(crate) groups: u32,
    pub(crate) block: u32,
    pub(crate) bits: u32,
    pub(crate) input: [u32; 2],
    pub(crate) kernel: [u32; 2],
    pub(crate) stride: [u32; 2],
    pub(crate) dilation: [u32; 2],
    pub(crate) pad: [u32; 2],
    pub(crate) out_width: u32,
    pub(crate) unused: u32,
}

/// Bits of `Params::flags`.
pub(crate) mod flags {
    /// A bias is bound.
    pub(crate) const BIAS: u32 = 1;
    /// It has an element a row.
    pub(crate) const BIAS_ROW: u32 = 2;
    /// A residual is bound.
    pub(crate) const RESIDUAL: u32 = 4;
    /// A Relu follows the residual.
    pub(crate) const RELU: u32 = 16;
    /// Neighbours in k are neighbours in b's memory.
    pub(crate) const K_CONTIGUOUS: u32 = 8;
    /// Zero points of quantized weights are packed as the weights are.
    pub(crate) const ZEROS_PACKED: u32 = 32;
    /// They are numbers of the scales' type.
    pub(crate) const ZEROS_FLOAT: u32 = 64;
}

impl Params {
    /// One product of dense matrices.
    pub(crate) fn dense(m: usize, n: usize, k: usize, activation: Option<Unary>) -> Params {
        let (activation, activation_params) = activation_code(activation);
        Params {
            m: m as u32,
            n: n as u32,
            k: k as u32,
            flags: 0,
            a_row: k as u32,
            a_col: 1,
            b_row: n as u32,
            b_col: 1,
            batch: [1; 4],
            a_batch: [0; 4],
            b_batch: [0; 4],
            alpha: 1.0,
            activation,
            activation_params,
            first_batch: 0,
            groups: 1,
            block: 1,
            bits: 8,
            input: [1; 2],
            kernel: [1; 2],
            stride: [1; 2],
            dilation: [1; 2],
            pad: [0; 2],
            out_width: 1,
            unused: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_broadcast_and_fold() {
        let e = |a: &[usize], b: &[usize]| Extents::new(a, b, false, false);
        let fold = e(&[2, 3, 50, 8], &[8, 5]).unwrap();
        assert_eq!((fold.m, fold.n, fold.k, fold.batches()), (300, 5, 8, 1));
        let both = e(&[2, 3, 4, 8], &[2, 3, 8, 5]).unwrap();
        assert_eq!((both.m, both.batch, both.a_batch), (4, [1, 1, 1, 6], [0, 0, 0, 1]));
        let mixed = e(&[2, 1, 4, 8], &[3, 8, 5]).unwrap();
        assert_eq!((mixed.batch, mixed.a_batch, mixed.b_batch), ([1, 1, 2, 3], [0, 0, 1, 0], [0, 0, 0, 1]));
        // A row of one matrix that meets many: the rows cannot join.
        let many = e(&[4, 8], &[7, 8, 5]).unwrap();
        assert_eq!((many.m, many.batch, many.a_batch), (4, [1, 1, 1, 7], [0; 4]));
        let vectors = e(&[8], &[8]).unwrap();
        assert_eq!((vectors.m, vectors.n, vectors.k), (1, 1, 8));
        assert_eq!(e(&[4, 8], &[7, 5]), None);
        assert_eq!(e(&[2, 4, 8], &[3, 8, 5]), None);
        let transposed = Extents::new(&[5, 8, 4], &[6, 8], true, true).unwrap();
        assert_eq!((transposed.m, transposed.n, transposed.k, transposed.batches()), (4, 6, 8, 5));
    }
}
