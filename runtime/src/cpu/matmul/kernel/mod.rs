//! Micro-kernels: a tile of a few rows by a few vectors of columns, held in registers over a stretch of K.
//!
//! One layout serves f32 and integers. K runs in steps of [`Number::STEP`] elements (1 for f32; 2 for integers, whose
//! vector instructions add two products at once). A panel of `a` is `[k / STEP][mr][STEP]`, a panel of `b` is
//! `[k / STEP][nr][STEP]`. Integers are 8-bit numbers less their zero point, in 16 bits: the difference of two 8-bit
//! numbers and the sum of two products of such differences are exact.

mod portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::AddAssign;

/// A number that micro-kernels multiply.
pub(crate) trait Number: bytemuck::Pod + Default + Send + Sync {
    /// What products add up in.
    type Acc: bytemuck::Pod + Default + AddAssign + Send + Sync;
    /// Elements of K that lie side by side in a panel.
    const STEP: usize;
    /// Elements of K after which a tile goes back to memory, so that a panel of b stays in the first-level cache.
    const K_BLOCK: usize;

    /// The best kernel for this machine.
    fn kernel() -> &'static Kernel<Self>;
}

impl Number for f32 {
    type Acc = f32;
    const STEP: usize = 1;
    const K_BLOCK: usize = 256;

    fn kernel() -> &'static Kernel<f32> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return &x86::F32;
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        return &wasm::F32;
        #[allow(unreachable_code)]
        &portable::F32
    }
}

impl Number for i16 {
    type Acc = i32;
    const STEP: usize = 2;
    const K_BLOCK: usize = 512;

    fn kernel() -> &'static Kernel<i16> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return &x86::I16;
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        return &wasm::I16;
        #[allow(unreachable_code)]
        &portable::I16
    }
}

/// `c = a b` or `c += a b` for `rows` rows; the arguments of [`Kernel::run`] as pointers, K in steps.
type Run<T> = unsafe fn(
    rows: usize,
    steps: usize,
    a: *const T,
    b: *const T,
    c: *mut <T as Number>::Acc,
    c_stride: usize,
    add: bool,
);

/// A micro-kernel and the size of its tile.
pub(crate) struct Kernel<T: Number> {
    /// For reports.
    #[allow(dead_code)]
    pub(crate) name: &'static str,
    /// Rows of a full tile.
    pub(crate) mr: usize,
    /// Columns of a tile.
    pub(crate) nr: usize,
    /// Requires: `1 <= rows <= mr`; `a` holds `steps * mr * STEP` elements, `b` `steps * nr * STEP`, `c` room for
    /// `rows` rows of `nr` elements, `c_stride` apart; the machine has the instructions that the kernel uses.
    run: Run<T>,
}

impl<T: Number> Kernel<T> {
    /// `c = a b`, or `c += a b` if `add`: `rows` rows of a panel of `a`, one panel of `b`, `k` elements of K (a multiple
    /// of the step).
    #[inline]
    pub(crate) fn run(&self, rows: usize, k: usize, a: &[T], b: &[T], c: &mut [T::Acc], c_stride: usize, add: bool) {
        assert!(rows >= 1 && rows <= self.mr && k.is_multiple_of(T::STEP));
        assert!(a.len() >= k * self.mr && b.len() >= k * self.nr);
        assert!(c_stride >= self.nr && c.len() >= (rows - 1) * c_stride + self.nr);
        // SAFETY: the asserts are the kernel's contract on sizes; `Number::kernel` gave it after detecting the
        // instructions it uses.
        unsafe { (self.run)(rows, k / T::STEP, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), c_stride, add) }
    }
}

/// Calls `$rows_fn::<R>` for the `R` that equals `$rows`, so that the tile's height is known when compiling.
macro_rules! by_rows {
    ($rows:expr, $f:ident, $args:tt, $($r:literal)*) => {
        match $rows {
            $($r => by_rows!(@call $f, $r, $args),)*
            _ => unreachable!("a tile has no such height"),
        }
    };
    (@call $f:ident, $r:literal, ($($arg:expr),*)) => { $f::<$r>($($arg),*) };
}
use by_rows;

/// All kernels of a type that this machine runs, for tests.
#[cfg(test)]
pub(crate) fn all_f32() -> Vec<&'static Kernel<f32>> {
    vec![&portable::F32, f32::kernel()]
}

/// The same for integers.
#[cfg(test)]
pub(crate) fn all_i16() -> Vec<&'static Kernel<i16>> {
    vec![&portable::I16, i16::kernel()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Number>(kernel: &Kernel<T>, value: impl Fn(usize) -> T, naive: impl Fn(T, T) -> T::Acc)
    where
        T::Acc: PartialEq + std::fmt::Debug,
    {
        for rows in 1..=kernel.mr {
            for k in [0, 2, 4, 14] {
                let a: Vec<T> = (0..k * kernel.mr).map(&value).collect();
                let b: Vec<T> = (0..k * kernel.nr).map(|i| value(i * 7 + 3)).collect();
                let stride = kernel.nr + 3;
                let mut c = vec![T::Acc::default(); kernel.mr * stride];
                kernel.run(rows, k, &a, &b, &mut c, stride, false);
                kernel.run(rows, k, &a, &b, &mut c, stride, true);
                for r in 0..kernel.mr {
                    for j in 0..stride {
                        let mut want = T::Acc::default();
                        if r < rows && j < kernel.nr {
                            for _ in 0..2 {
                                for p in 0..k {
                                    let (s, o) = (p / T::STEP, p % T::STEP);
                                    let x = a[(s * kernel.mr + r) * T::STEP + o];
                                    let y = b[(s * kernel.nr + j) * T::STEP + o];
                                    want += naive(x, y);
                                }
                            }
                        }
                        assert_eq!(c[r * stride + j], want, "{} rows {rows} k {k} at {r},{j}", kernel.name);
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_of_every_height() {
        // Small whole numbers: exact in f32 whatever the order.
        for kernel in all_f32() {
            check(kernel, |i| (i * 37 % 23) as f32 - 11.0, |x, y| x * y);
        }
        for kernel in all_i16() {
            check(kernel, |i| (i * 211 % 511) as i16 - 255, |x, y| x as i32 * y as i32);
            check(kernel, |_| -255, |x, y| x as i32 * y as i32);
        }
    }
}
