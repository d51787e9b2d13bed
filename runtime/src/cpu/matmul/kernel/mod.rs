//! Micro-kernels: a tile of a few rows by a few vectors of columns, held in registers over a stretch of K.
//!
//! One layout serves f32 and integers. K runs in steps of [`Number::STEP`] elements (1 for f32; 2 for integers, whose
//! vector instructions add two or four products at once). A panel of `a` is `[k / STEP][mr][STEP]`, a panel of `b` is
//! `[k / STEP][nr][STEP]`.
//!
//! Integers come in two forms. In 16 bits they are 8-bit numbers less their zero point: the difference of two 8-bit
//! numbers and the sum of two products of such differences are exact. In 8 bits they are the numbers themselves, for
//! machines that add four products of bytes in one instruction; what the zero points contribute is taken off afterwards.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
mod choice;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
mod portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
mod wasm_dot;

use std::ops::AddAssign;

pub use choice::CpuKernels;
pub(crate) use choice::Kernels;

/// A number that micro-kernels multiply.
pub(crate) trait Number: bytemuck::Pod + Default + Send + Sync {
    /// What products add up in.
    type Acc: bytemuck::Pod + Default + AddAssign + Send + Sync;
    /// Elements of K that lie side by side in a panel.
    const STEP: usize;
}

impl Number for f32 {
    type Acc = f32;
    const STEP: usize = 1;
}

impl Number for i16 {
    type Acc = i32;
    const STEP: usize = 2;
}

/// A byte of either sign: [`ByteKernel`] tells which.
impl Number for u8 {
    type Acc = i32;
    const STEP: usize = 4;
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
        // SAFETY: the asserts are the kernel's contract on sizes; `Kernels` gave it after detecting the
        // instructions it uses.
        unsafe { (self.run)(rows, k / T::STEP, a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), c_stride, add) }
    }
}

/// A micro-kernel on bytes.
pub(crate) struct ByteKernel {
    /// The tile.
    pub(crate) tile: Kernel<u8>,
    /// Whether the bytes of `a` are i8; else they are u8.
    pub(crate) a_signed: bool,
    /// The same of `b`.
    pub(crate) b_signed: bool,
}

/// Micro-kernels by an instruction that adds two products of u8 and i8 with saturation to 16 bits. Weights are the i8,
/// because what they are is known beforehand.
pub(crate) struct PairKernels {
    /// For weights in `b`.
    pub(crate) columns: ByteKernel,
    /// For weights in `a`.
    pub(crate) rows: ByteKernel,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Number>(kernel: &Kernel<T>, value: impl Fn(usize) -> T, naive: impl Fn(T, T) -> T::Acc)
    where
        T::Acc: PartialEq + std::fmt::Debug,
    {
        for rows in 1..=kernel.mr {
            for k in [0, 4, 8, 28] {
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
        for kernels in Kernels::available() {
            // Small whole numbers: exact in f32 whatever the order.
            check(kernels.f32, |i| (i * 37 % 23) as f32 - 11.0, |x, y| x * y);
            check(kernels.wide, |i| (i * 211 % 511) as i16 - 255, |x, y| x as i32 * y as i32);
            check(kernels.wide, |_| -255, |x, y| x as i32 * y as i32);
            let read = |x: u8, signed: bool| if signed { x as i8 as i32 } else { x as i32 };
            if let Some(ByteKernel { tile, a_signed, b_signed }) = kernels.bytes {
                for value in [|i: usize| (i * 89) as u8, |_| 0x80, |_| 0xff, |_| 0x7f] {
                    check(tile, value, |x, y| read(x, *a_signed) * read(y, *b_signed));
                }
            }
            let pairs = kernels.pairs.map(|pairs| [&pairs.columns, &pairs.rows]);
            for ByteKernel { tile, a_signed, b_signed } in pairs.into_iter().flatten() {
                // Numbers of seven bits: no pair saturates, whichever side is signed.
                for value in [|i: usize| (i * 89 % 128) as u8, |_| 0x7f, |_| 0] {
                    check(tile, value, |x, y| read(x, *a_signed) * read(y, *b_signed));
                }
            }
        }
    }
}
