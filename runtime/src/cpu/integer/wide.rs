//! Products of bytes widened to 16 bits and freed of their zero points, for machines that add up pairs only.

use super::pack::{self, ByteColumns, Bytes};
use super::sums::{Correction, Sums};
use super::{Part, Product, thin};
use crate::cpu::Cpu;
use crate::cpu::matmul::dims::Dims;
use crate::cpu::matmul::kernel::Kernel;
use crate::cpu::matmul::{Context, driver, over_batches};
use crate::cpu::packed::{Form, Operands};
use crate::cpu::parallel::SharedMut;
use crate::tensor::{ConstantId, Element};

/// The panels of `matrices` matrices of `k` x `n`, of which `matrix` gives each, in bytes.
pub(super) fn packed_columns<'a>(
    cpu: &Cpu,
    nr: usize,
    constant: Option<ConstantId>,
    matrices: usize,
    (k, n): (usize, usize),
    matrix: impl Fn(usize) -> Bytes<'a>,
) -> Operands<impl Fn(usize, usize, &mut [u8])> {
    let constant = constant.map(|id| (id, Form::ByteColumns { matrices, k, n }));
    Operands::new(cpu, constant, matrices, pack::columns_len(k, n, nr), move |threads, i, out| {
        pack::pack_columns(threads, matrix(i).data, k, n, nr, out);
    })
}

impl Product<'_> {
    /// Multiplies with `kernel`; see [`Product::run`].
    pub(super) fn run_wide<O: Element>(
        &self,
        cpu: &Cpu,
        kernel: &Kernel<i16>,
        out: &mut [O],
        finish: impl Fn(Part<'_>, &mut [O]) + Sync,
    ) {
        let Dims { m, n, k, ref batches, b_matrices } = self.dims;
        let b_matrix = |i: usize| self.b.part(i * k * n, k * n);
        let b = packed_columns(cpu, kernel.nr, self.b_view.constant, b_matrices, (k, n), b_matrix);
        let product = |cx: Context<'_>, batch: usize, out: &mut [O]| {
            let (ai, bi) = batches[batch];
            let zero = |row: usize| self.a_zeros.at(ai * m + row);
            let packed = b.get(cx, bi);
            let bytes = Bytes { data: packed.as_slice(), signed: self.b.signed };
            if b.are_constant() && thin::serves(m, k, kernel.nr) {
                let panels = thin::Panels { bytes, k, n, nr: kernel.nr, step: 2 };
                let b_zero = |column: usize| self.b_zeros.at(bi * n + column).into();
                let out = SharedMut::new(out);
                thin::multiply(cx, self.a.part(ai * m * k, m * k), zero, &panels, b_zero, |row, column, sums| {
                    let at = row * n + column;
                    // SAFETY: each part of the m x n outputs is stored once.
                    let out = unsafe { out.slice(at, sums.len()) };
                    let sums = Sums { data: sums, correction: Correction::None };
                    finish(Part { at: batch * m * n + at, row, column, sums }, out);
                });
                return;
            }
            let mut room = cx.scratch.take(pack::rows_len(m, k, kernel.mr) * size_of::<i16>());
            let rows: &mut [i16] = bytemuck::cast_slice_mut(room.as_mut_slice());
            pack::pack_rows(cx.threads, self.a.part(ai * m * k, m * k), m, k, kernel.mr, zero, rows);
            let columns = ByteColumns::new(bytes, k, n, kernel.nr, &self.b_zeros, bi);
            let out = SharedMut::new(out);
            driver::multiply(cx, kernel, (m, n, k), rows, &columns, |row, column, sums| {
                let at = row * n + column;
                // SAFETY: the driver stores each part of the m x n outputs once.
                let out = unsafe { out.slice(at, sums.len()) };
                let sums = Sums { data: sums, correction: Correction::None };
                finish(Part { at: batch * m * n + at, row, column, sums }, out);
            });
        };
        over_batches(cpu, batches.len(), m * n, out, product);
    }
}
