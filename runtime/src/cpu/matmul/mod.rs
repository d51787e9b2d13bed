//! Matrix products in f32.

pub(crate) mod driver;
pub(crate) mod kernel;
pub(crate) mod pack;

pub(crate) use driver::Context;
use kernel::Number;
use pack::Matrix;

use crate::cpu::parallel::SharedMut;

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
    let kernel = f32::kernel();
    let a = Matrix::new(a, m, k, a_strides);
    let mut a_panels = cx.scratch.take(a.packed_rows_len(kernel.mr) * size_of::<f32>());
    let a_panels: &mut [f32] = bytemuck::cast_slice_mut(a_panels.as_mut_slice());
    a.pack_rows(cx.threads, kernel.mr, a_panels);
    let b = Matrix::new(b, k, n, b_strides);
    let c = SharedMut::new(c);
    driver::multiply(cx, kernel, (m, n, k), a_panels, &b, |row, column, sums| {
        // SAFETY: the driver stores each part of the m x n outputs once, and rows do not overlap.
        let out = unsafe { c.slice(row * c_row_stride + column, sums.len()) };
        for (out, &sum) in out.iter_mut().zip(sums.iter()) {
            let old = if accumulate { *out } else { 0.0 };
            *out = alpha * sum + old;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::BufferPool;

    #[test]
    fn gemm_on_strided_slices() {
        let pool = BufferPool::default();
        let numbers = |n: usize, s: usize| -> Vec<f32> { (0..n).map(|i| ((i * s) % 17) as f32 - 8.0).collect() };
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (50, 50, 64), (7, 300, 600), (401, 33, 5), (3, 4, 0), (0, 3, 3)] {
            for threads in [1, 3] {
                for (at, bt) in [(false, false), (true, false), (false, true), (true, true)] {
                    let (a, b) = (numbers(m * k, 5), numbers(k * n, 7));
                    let a_strides = if at { (1, m) } else { (k, 1) };
                    let b_strides = if bt { (1, k) } else { (n, 1) };
                    let stride = n + 2;
                    let mut c = vec![1.0f32; m * stride];
                    let cx = Context { threads, scratch: &pool };
                    gemm(cx, (m, n, k), 0.5, &a, a_strides, &b, b_strides, &mut c, stride, false);
                    gemm(cx, (m, n, k), 0.5, &a, a_strides, &b, b_strides, &mut c, stride, true);
                    for i in 0..m {
                        for j in 0..n {
                            let at = |p| a[i * a_strides.0 + p * a_strides.1] * b[p * b_strides.0 + j * b_strides.1];
                            assert_eq!(c[i * stride + j], (0..k).map(at).sum::<f32>(), "{m} {n} {k} {i} {j}");
                        }
                        assert_eq!(c[i * stride + n..][..2], [1.0, 1.0]);
                    }
                }
            }
        }
    }
}
