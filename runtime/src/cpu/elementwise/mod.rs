//! Functions of each element: [`Unary`], [`Binary`](crate::graph::Binary), Where, Cast.

pub(crate) mod binary;
pub(crate) mod cast;
pub(crate) mod select;

use crate::cpu::args::{input, output};
use crate::cpu::{Cpu, math, parallel};
use crate::error::KernelError;
use crate::graph::{Op, Unary};
use crate::tensor::{Bool, DType, Element, TensorView, TensorViewMut};

/// Elements that one task takes: enough to be worth a task, few enough to stay in the second-level cache.
pub(crate) const CHUNK: usize = 16 * 1024;

/// `y = u(x)`, any shape. f32 for all functions; i64, i32, u8 and i8 for Abs, Neg, Sign, Relu and Clip, where ONNX has them.
pub(crate) fn run(
    cpu: &Cpu,
    u: Unary,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let op = Op::Unary(u).name();
    let x = input(op, inputs, 0)?;
    match (u, x.dtype) {
        (Unary::Not, DType::Bool) => {
            let y = output(op, outputs, 0, DType::Bool, x.shape)?.as_mut_slice::<Bool>()?;
            let x = x.as_slice::<Bool>()?;
            y.iter_mut().zip(x).for_each(|(y, x)| *y = Bool((x.0 == 0) as u8));
            Ok(())
        }
        (Unary::IsNan, DType::F32) => {
            let y = output(op, outputs, 0, DType::Bool, x.shape)?.as_mut_slice::<Bool>()?;
            y.iter_mut().zip(x.as_slice::<f32>()?).for_each(|(y, x)| *y = x.is_nan().into());
            Ok(())
        }
        (Unary::IsNan, DType::F16) => {
            let y = output(op, outputs, 0, DType::Bool, x.shape)?.as_mut_slice::<Bool>()?;
            y.iter_mut().zip(x.as_slice::<half::f16>()?).for_each(|(y, x)| *y = x.is_nan().into());
            Ok(())
        }
        (Unary::Not, other) => Err(KernelError::unsupported_type("cpu", op, other)),
        (_, DType::F32) => {
            let y = output(op, outputs, 0, DType::F32, x.shape)?.as_mut_slice::<f32>()?;
            let x = x.as_slice::<f32>()?;
            parallel::for_each_chunk(cpu.threads(), y, CHUNK, |i, y| {
                y.copy_from_slice(&x[i * CHUNK..][..y.len()]);
                math::apply_unary(u, y);
            });
            Ok(())
        }
        (_, DType::I64) => integers::<i64>(op, u, x, outputs),
        (_, DType::I32) => integers::<i32>(op, u, x, outputs),
        (_, DType::I8) => integers::<i8>(op, u, x, outputs),
        (_, DType::U8) => integers::<u8>(op, u, x, outputs),
        (_, other) => Err(KernelError::unsupported_type("cpu", op, other)),
    }
}

fn integers<T: Integer>(
    op: &'static str,
    u: Unary,
    x: TensorView<'_>,
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let y = output(op, outputs, 0, T::DTYPE, x.shape)?.as_mut_slice::<T>()?;
    let pairs = y.iter_mut().zip(x.as_slice::<T>()?);
    match u {
        Unary::Abs => pairs.for_each(|(y, &x)| *y = if x < T::ZERO { T::ZERO.subtract(x) } else { x }),
        Unary::Neg => pairs.for_each(|(y, &x)| *y = T::ZERO.subtract(x)),
        Unary::Sign => pairs.for_each(|(y, &x)| {
            *y = if x > T::ZERO {
                T::ONE
            } else if x < T::ZERO {
                T::ZERO.subtract(T::ONE)
            } else {
                T::ZERO
            }
        }),
        Unary::Relu => pairs.for_each(|(y, &x)| *y = if x < T::ZERO { T::ZERO } else { x }),
        Unary::Clip { min, max } => {
            // `as` saturates, so infinite bounds become the type's own.
            let (low, high) = (T::from_f64(min as f64), T::from_f64(max as f64));
            pairs.for_each(|(y, &x)| {
                let x = if x < low { low } else { x };
                *y = if x > high { high } else { x };
            });
        }
        _ => return Err(KernelError::unsupported_type("cpu", op, T::DTYPE)),
    }
    Ok(())
}

/// Integers whose arithmetic wraps, as ONNX leaves overflow to the machine.
pub(crate) trait Integer: Element {
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// The least value.
    const LEAST: Self;
    /// The greatest value.
    const GREATEST: Self;
    /// a + b
    fn add(self, other: Self) -> Self;
    /// a - b
    fn subtract(self, other: Self) -> Self;
    /// a * b
    fn multiply(self, other: Self) -> Self;
    /// a / b towards zero; b is not 0.
    fn divide(self, other: Self) -> Self;
    /// a - b * (a / b); b is not 0.
    fn remainder(self, other: Self) -> Self;
    /// Nearest below in magnitude, saturating.
    fn from_f64(value: f64) -> Self;
    /// Widened.
    fn to_i64(self) -> i64;
    /// Truncated to the low bits.
    fn from_i64(value: i64) -> Self;
}

macro_rules! integer {
    ($($t:ty),*) => { $(
        impl Integer for $t {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LEAST: Self = <$t>::MIN;
            const GREATEST: Self = <$t>::MAX;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn subtract(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn multiply(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn divide(self, other: Self) -> Self {
                self.wrapping_div(other)
            }
            #[inline(always)]
            fn remainder(self, other: Self) -> Self {
                self.wrapping_rem(other)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as i64
            }
            #[inline(always)]
            fn from_i64(value: i64) -> Self {
                value as $t
            }
        }
    )* };
}
integer!(i64, i32, i8, u8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, run as run_kernel, values};
    use crate::tensor::Tensor;

    fn unary(u: Unary, x: &Tensor, dtype: DType) -> Result<Tensor, KernelError> {
        let cpu = Cpu::new(2);
        let shape = x.shape().to_vec();
        Ok(run_kernel(&[Some(x)], &[(dtype, &shape)], |i, o| run(&cpu, u, i, o))?.remove(0))
    }

    #[test]
    fn floats_of_any_size() {
        for n in [0, 1, 17, CHUNK, 3 * CHUNK + 5] {
            let x = Rng(1).tensor(&[n]);
            let y = unary(Unary::Sigmoid, &x, DType::F32).unwrap();
            for (y, x) in values::<f32>(&y).iter().zip(values::<f32>(&x)) {
                assert!((y - 1.0 / (1.0 + (-x).exp())).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn integers_and_bools() {
        let x = Tensor::vector(&[-3i64, 0, 7, i64::MIN]);
        assert_eq!(values::<i64>(&unary(Unary::Abs, &x, DType::I64).unwrap()), [3, 0, 7, i64::MIN]);
        assert_eq!(values::<i64>(&unary(Unary::Sign, &x, DType::I64).unwrap()), [-1, 0, 1, -1]);
        let x = Tensor::vector(&[-3i32, 0, 7]);
        assert_eq!(values::<i32>(&unary(Unary::Neg, &x, DType::I32).unwrap()), [3, 0, -7]);
        let clip = Unary::Clip { min: -1.0, max: f32::INFINITY };
        assert_eq!(values::<i32>(&unary(clip, &x, DType::I32).unwrap()), [-1, 0, 7]);
        let b = Tensor::vector(&[Bool(1), Bool(0)]);
        assert_eq!(values::<Bool>(&unary(Unary::Not, &b, DType::Bool).unwrap()), [Bool(0), Bool(1)]);
        let f = Tensor::vector(&[1.0, f32::NAN, f32::INFINITY]);
        assert_eq!(values::<Bool>(&unary(Unary::IsNan, &f, DType::Bool).unwrap()), [Bool(0), Bool(1), Bool(0)]);
    }

    #[test]
    fn bad_types_are_errors() {
        let x = Tensor::vector(&[1i64]);
        assert!(matches!(unary(Unary::Exp, &x, DType::I64), Err(KernelError::Unsupported { .. })));
        assert!(unary(Unary::Neg, &x, DType::I32).is_err());
        assert!(unary(Unary::Not, &x, DType::Bool).is_err());
        assert!(run(&Cpu::new(1), Unary::Exp, &[], &mut []).is_err());
    }
}
