//! Tiles in plain Rust, which compilers turn into vector code, for machines without the extensions that the other files
//! use.

use super::{ByteKernel, Kernel, by_rows};

/// With two vectors a row, what 16 vector registers of 128 bits hold.
const MR: usize = 4;
const NR: usize = 8;

/// Any machine.
pub(super) static F32: Kernel<f32> = Kernel { name: "f32 portable", mr: MR, nr: NR, run: f32_tile };
/// Any machine.
pub(super) static I16: Kernel<i16> = Kernel { name: "i16 portable", mr: MR, nr: NR, run: i16_tile };

/// Any machine.
pub(super) static BYTES: ByteKernel = ByteKernel {
    tile: Kernel { name: "u8 i8 portable", mr: MR, nr: NR, run: byte_tile },
    a_signed: false,
    b_signed: true,
};

macro_rules! tile {
    ($tile:ident, $rows_fn:ident, $t:ty, $acc:ty, $step:literal, $product:ident, $sum:expr) => {
        /// # Safety
        /// The contract of [`Kernel`]'s `run`.
        unsafe fn $tile(
            rows: usize,
            steps: usize,
            a: *const $t,
            b: *const $t,
            c: *mut $acc,
            c_stride: usize,
            add: bool,
        ) {
            // SAFETY: the contract gives these lengths; no other reference to c exists while the kernel runs.
            let (a, b, c) = unsafe {
                (
                    std::slice::from_raw_parts(a, steps * MR * $step),
                    std::slice::from_raw_parts(b, steps * NR * $step),
                    std::slice::from_raw_parts_mut(c, (rows - 1) * c_stride + NR),
                )
            };
            by_rows!(rows, $rows_fn, (a, b, c, c_stride, add), 1 2 3 4);
        }

        #[inline]
        fn $rows_fn<const R: usize>(a: &[$t], b: &[$t], c: &mut [$acc], c_stride: usize, add: bool) {
            let mut acc = [[<$acc>::default(); NR]; R];
            for (a, b) in a.as_chunks::<{ MR * $step }>().0.iter().zip(b.as_chunks::<{ NR * $step }>().0) {
                for r in 0..R {
                    for j in 0..NR {
                        acc[r][j] = $product(acc[r][j], &a[r * $step..], &b[j * $step..]);
                    }
                }
            }
            let sum = $sum;
            for (c, acc) in c.chunks_mut(c_stride).zip(&acc) {
                for (c, &acc) in c.iter_mut().zip(acc) {
                    *c = if add { sum(*c, acc) } else { acc };
                }
            }
        }
    };
}

/// One step of a sum: one product of f32.
#[inline(always)]
fn f32_product(z: f32, x: &[f32], y: &[f32]) -> f32 {
    z + x[0] * y[0]
}

/// One step of a sum: two products of integers.
#[inline(always)]
fn i16_product(z: i32, x: &[i16], y: &[i16]) -> i32 {
    z.wrapping_add(x[0] as i32 * y[0] as i32).wrapping_add(x[1] as i32 * y[1] as i32)
}

/// One step of a sum: four products of bytes.
#[inline(always)]
fn byte_product(z: i32, x: &[u8], y: &[u8]) -> i32 {
    (0..4).fold(z, |z, i| z.wrapping_add(x[i] as i32 * y[i] as i8 as i32))
}

tile!(f32_tile, f32_rows, f32, f32, 1, f32_product, |x: f32, y: f32| x + y);
tile!(i16_tile, i16_rows, i16, i32, 2, i16_product, |x: i32, y: i32| x.wrapping_add(y));
tile!(byte_tile, byte_rows, u8, i32, 4, byte_product, |x: i32, y: i32| x.wrapping_add(y));
