//! Matrix products in f32.

pub(crate) mod dims;
pub(crate) mod driver;
pub(crate) mod kernel;
pub(crate) mod pack;
mod thin;

use dims::Dims;
use driver::Columns;
pub(crate) use driver::{Context, PackedColumns};
use half::f16;
use kernel::Kernel;
use pack::{Matrix, Widen};

use super::Cpu;
use super::epilogue::Epilogue;
use super::operands::Operands;
use super::packed::{self, Form};
use super::parallel::{self, SharedMut};
use crate::error::KernelError;
use crate::graph::MatMul;
use crate::tensor::{ConstantId, DType, Element, TensorView, TensorViewMut};

/// Runs [`crate::graph::Op::MatMul`].
pub(crate) fn run(
    cpu: &Cpu,
    op: &MatMul,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let operands = Operands::new("MatMul", inputs);
    let b = operands.required(1, "b")?;
    match b.dtype {
        DType::F32 => typed::<f32>(cpu, op, operands, b, outputs),
        DType::F16 => typed::<f16>(cpu, op, operands, b, outputs),
        _ => Err(operands.unsupported(&b)),
    }
}

fn typed<S: Element + Widen>(
    cpu: &Cpu,
    op: &MatMul,
    operands: Operands<'_>,
    b: TensorView<'_>,
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let a = operands.required(0, "a")?;
    Epilogue::check("MatMul", op.activation)?;
    let dims = Dims::of(a.shape, b.shape, op.trans_a, op.trans_b)?;
    let (m, n, k, len) = (dims.m, dims.n, dims.k, dims.outputs()?);
    let epilogue = Epilogue {
        activation: op.activation,
        column_bias: operands.elements(2, "bias", n)?,
        row_bias: None,
        residual: operands.elements(3, "residual", len)?,
        relu: false,
    };
    let (a_data, b_data) = (a.as_slice::<f32>()?, b.as_slice::<S>()?);
    let out = operands.output::<f32>(outputs, 0, len)?;
    if len == 0 {
        return Ok(());
    }
    let kernel = cpu.kernels().f32;
    let a_strides = if op.trans_a && a.shape.len() > 1 { (1, m) } else { (k, 1) };
    let transposed = op.trans_b && b.shape.len() > 1;
    let b_strides = if transposed { (1, k) } else { (n, 1) };
    let b_matrix = |i: usize| Matrix::new(&b_data[i * k * n..][..k * n], k, n, b_strides);
    let panels = b.constant.map(|id| packed_columns(cpu, id, dims.b_matrices, (k, n), transposed, b_matrix));
    let product = |cx: Context<'_>, batch: usize, out: &mut [f32]| {
        let (ai, bi) = dims.batches[batch];
        let a = Matrix::new(&a_data[ai * m * k..][..m * k], m, k, a_strides);
        let finish = Finish { alpha: op.alpha, epilogue, at: batch * m * n };
        match &panels {
            Some(panels) => {
                let panels = panels.get(cx, bi);
                let b = PackedColumns { data: panels.as_slice(), k };
                finish.multiply(cx, kernel, a, (m, n, k), &b, out);
            }
            None => finish.multiply_once(cx, kernel, a, b_matrix(bi), out),
        }
    };
    over_batches(cpu, dims.batches.len(), m * n, out, product);
    Ok(())
}

/// The panels of a constant of `matrices` matrices of `k` x `n`, of which `matrix` gives each.
fn packed_columns<'a, S: Widen + 'a>(
    cpu: &Cpu,
    id: ConstantId,
    matrices: usize,
    (k, n): (usize, usize),
    transposed: bool,
    matrix: impl Fn(usize) -> Matrix<'a, S>,
) -> packed::Operands<impl Fn(usize, usize, &mut [u8])> {
    let nr = cpu.kernels().f32.nr;
    let (constant, len) = ((id, Form::Columns { matrices, k, n, transposed }), n.next_multiple_of(nr) * k);
    packed::Operands::new(cpu, Some(constant), matrices, len * size_of::<f32>(), move |threads, i, out| {
        matrix(i).pack_columns(threads, nr, bytemuck::cast_slice_mut(out));
    })
}

/// Rows up to which a product with a constant makes each as it would alone, bit for bit.
pub(crate) fn rows_alike(cpu: &Cpu) -> usize {
    driver::few_rows(cpu.kernels().f32.mr)
}

/// Packs the weight matrix `b` of `op`; see [`Cpu::ahead`].
pub(crate) fn pack_ahead(cpu: &Cpu, op: &MatMul, b: TensorView<'_>) -> bool {
    match b.dtype {
        DType::F32 => pack_matrix::<f32>(cpu, op, b),
        DType::F16 => pack_matrix::<f16>(cpu, op, b),
        _ => false,
    }
}

fn pack_matrix<S: Element + Widen>(cpu: &Cpu, op: &MatMul, b: TensorView<'_>) -> bool {
    let (Some(id), &[rows, columns], Ok(data)) = (b.constant, b.shape, b.as_slice::<S>()) else { return false };
    let (k, n, strides) = if op.trans_b { (columns, rows, (1, columns)) } else { (rows, columns, (columns, 1)) };
    // An identity that comes without elements was packed before.
    packed_columns(cpu, id, 1, (k, n), op.trans_b, |_| Matrix::new(data, k, n, strides));
    true
}

/// Calls `product(context, i, outputs of i)` for each of `count` products with `len` outputs: side by side if there are
/// enough of them for all threads, else one after another with all threads on each.
pub(crate) fn over_batches<T: Send>(
    cpu: &Cpu,
    count: usize,
    len: usize,
    out: &mut [T],
    product: impl Fn(Context<'_>, usize, &mut [T]) + Sync,
) {
    let cx = cpu.context();
    if count >= 2 * cpu.threads() && cpu.threads() > 1 {
        parallel::for_each_chunk(cpu.threads(), &mut out[..count * len], len, |i, out| product(cx.single(), i, out));
    } else {
        out.chunks_mut(len.max(1)).take(count).enumerate().for_each(|(i, out)| product(cx, i, out));
    }
}

/// How the sums of one product of a batch reach the output.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    /// Factor on the sums.
    pub(crate) alpha: f32,
    /// What follows.
    pub(crate) epilogue: Epilogue<'a>,
    /// Where this product's outputs begin in the whole output, for the residual.
    pub(crate) at: usize,
}

impl Finish<'_> {
    /// `out = finish(a b)` for one product; `out` is `m` x `n`.
    pub(crate) fn multiply<S: Widen>(
        &self,
        cx: Context<'_>,
        kernel: &Kernel<f32>,
        a: Matrix<'_, S>,
        (m, n, k): (usize, usize, usize),
        b: &(impl Columns<f32> + ?Sized),
        out: &mut [f32],
    ) {
        let mut room = cx.scratch.take(a.packed_rows_len(kernel.mr) * size_of::<f32>());
        let panels: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        a.pack_rows(cx.threads, kernel.mr, panels);
        self.multiply_packed(cx, kernel, panels, (m, n, k), b, out);
    }

    /// The same for a `b` that no other product shares.
    fn multiply_once<S: Widen>(
        &self,
        cx: Context<'_>,
        kernel: &Kernel<f32>,
        a: Matrix<'_, f32>,
        b: Matrix<'_, S>,
        out: &mut [f32],
    ) {
        let (m, n, k) = (a.rows, b.columns, a.columns);
        if !thin::serves(m, &b) {
            return self.multiply(cx, kernel, a, (m, n, k), &b, out);
        }
        let out = SharedMut::new(out);
        thin::multiply(cx, a, b, |row, column, sums| self.store(n, row, column, sums, &out));
    }

    /// Writes the sums of `row` from `column` on to `out`, which has rows of `n`; nothing else may use that part.
    fn store(&self, n: usize, row: usize, column: usize, sums: &mut [f32], out: &SharedMut<'_, f32>) {
        if self.alpha != 1.0 {
            sums.iter_mut().for_each(|x| *x *= self.alpha);
        }
        let at = row * n + column;
        // SAFETY: the products store each part of the m x n outputs once.
        let out = unsafe { out.slice(at, sums.len()) };
        self.epilogue.finish(row, column, self.at + at, sums, out);
    }

    /// The same with `a` packed already.
    pub(crate) fn multiply_packed(
        &self,
        cx: Context<'_>,
        kernel: &Kernel<f32>,
        a: &[f32],
        (m, n, k): (usize, usize, usize),
        b: &(impl Columns<f32> + ?Sized),
        out: &mut [f32],
    ) {
        let out = SharedMut::new(out);
        driver::multiply(cx, kernel, (m, n, k), a, b, |row, column, sums| self.store(n, row, column, sums, &out));
    }
}

/// `c = alpha a b`, or `c += alpha a b` if `accumulate`, on strided slices: for kernels of other families.
///
/// `a` is `m` x `k` with element (i, p) at `a[i * a_strides.0 + p * a_strides.1]`, `b` is `k` x `n` likewise, row i of `c` is
/// `c[i * c_row_stride..][..n]`; nothing else of `c` is touched. Panics if a slice is too short or rows of `c` overlap.
/// A caller that runs over a batch splits that over threads and passes [`Context::single`].
pub(crate) fn gemm(
    cx: Context<'_>,
    (m, n, k): (usize, usize, usize),
    alpha: f32,
    a: &[f32],
    a_strides: (usize, usize),
    b: &[f32],
    b_strides: (usize, usize),
    c: &mut [f32],
    c_row_stride: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_row_stride >= n || m == 1, "rows of c overlap");
    assert!(c.len() >= (m - 1) * c_row_stride + n, "c is too short");
    let (a, b) = (Matrix::new(a, m, k, a_strides), Matrix::new(b, k, n, b_strides));
    let c = SharedMut::new(c);
    let store = |row: usize, column: usize, sums: &mut [f32]| {
        // SAFETY: the products store each part of the m x n outputs once, and rows do not overlap.
        let out = unsafe { c.slice(row * c_row_stride + column, sums.len()) };
        for (out, &sum) in out.iter_mut().zip(sums.iter()) {
            let old = if accumulate { *out } else { 0.0 };
            *out = alpha * sum + old;
        }
    };
    if thin::serves(m, &b) {
        return thin::multiply(cx, a, b, store);
    }
    let kernel = cx.kernels.f32;
    let mut room = cx.scratch.take(a.packed_rows_len(kernel.mr) * size_of::<f32>());
    let panels: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
    a.pack_rows(cx.threads, kernel.mr, panels);
    driver::multiply(cx, kernel, (m, n, k), panels, &b, store);
}

#[cfg(test)]
mod tests;
