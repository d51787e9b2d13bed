//! Functions of two elements, with NumPy's broadcasting.

use half::f16;

use super::{CHUNK, Integer};
use crate::cpu::args::{input, output};
use crate::cpu::broadcast::Broadcast;
use crate::cpu::{Cpu, parallel};
use crate::error::KernelError;
use crate::graph::{Binary, Op};
use crate::tensor::{Bool, DType, Element, TensorError, TensorView, TensorViewMut};

/// `y = a ? b`, the shapes broadcast. Both operands have one type, except the exponent of [`Binary::Pow`].
///
/// f32, i64, i32, u8 and i8 for arithmetic and comparisons; bool for Equal, And, Or, Xor; f16 for Equal.
pub(crate) fn run(
    cpu: &Cpu,
    binary: Binary,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let op = Op::Binary(binary).name();
    let (a, b) = (input(op, inputs, 0)?, input(op, inputs, 1)?);
    if binary == Binary::Pow {
        return power(cpu, op, a, b, outputs);
    }
    if a.dtype != b.dtype {
        return Err(TensorError::DType { expected: a.dtype, got: b.dtype }.into());
    }
    let call = Call { cpu, op, binary };
    match a.dtype {
        DType::F32 => call.floats(a, b, outputs),
        DType::I64 => call.integers::<i64>(a, b, outputs),
        DType::I32 => call.integers::<i32>(a, b, outputs),
        DType::U8 => call.integers::<u8>(a, b, outputs),
        DType::I8 => call.integers::<i8>(a, b, outputs),
        DType::Bool => match binary {
            Binary::Equal => call.map(a, b, outputs, |a: Bool, b: Bool| Bool::from((a.0 != 0) == (b.0 != 0))),
            Binary::And => call.map(a, b, outputs, |a: Bool, b: Bool| Bool::from(a.0 != 0 && b.0 != 0)),
            Binary::Or => call.map(a, b, outputs, |a: Bool, b: Bool| Bool::from(a.0 != 0 || b.0 != 0)),
            Binary::Xor => call.map(a, b, outputs, |a: Bool, b: Bool| Bool::from((a.0 != 0) != (b.0 != 0))),
            _ => Err(KernelError::unsupported_type("cpu", op, DType::Bool)),
        },
        DType::F16 => match binary {
            Binary::Equal => call.map(a, b, outputs, |a: f16, b: f16| Bool::from(a == b)),
            _ => Err(KernelError::unsupported_type("cpu", op, DType::F16)),
        },
    }
}

struct Call<'a> {
    cpu: &'a Cpu,
    op: &'static str,
    binary: Binary,
}

impl Call<'_> {
    fn floats(
        &self,
        a: TensorView<'_>,
        b: TensorView<'_>,
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        match self.binary {
            Binary::Add => self.map(a, b, outputs, |a: f32, b: f32| a + b),
            Binary::Sub => self.map(a, b, outputs, |a: f32, b: f32| a - b),
            Binary::Mul => self.map(a, b, outputs, |a: f32, b: f32| a * b),
            Binary::Div => self.map(a, b, outputs, |a: f32, b: f32| a / b),
            // NaN of either operand stays, as in NumPy.
            Binary::Min => self.map(a, b, outputs, |a: f32, b: f32| if a < b || a.is_nan() { a } else { b }),
            Binary::Max => self.map(a, b, outputs, |a: f32, b: f32| if a > b || a.is_nan() { a } else { b }),
            Binary::Mod => self.map::<f32, f32>(a, b, outputs, floor_remainder as fn(_, _) -> _),
            Binary::Fmod => self.map::<f32, f32>(a, b, outputs, (|a, b| a % b) as fn(_, _) -> _),
            Binary::Pow => self.map::<f32, f32>(a, b, outputs, f32::powf as fn(_, _) -> _),
            _ => self.compare::<f32>(a, b, outputs),
        }
    }

    /// One loop for all comparisons of a type, which calls a pointer: these loops are many, and masks small.
    fn compare<T: Element>(
        &self,
        a: TensorView<'_>,
        b: TensorView<'_>,
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let function: fn(T, T) -> Bool = match self.binary {
            Binary::Equal => |a, b| Bool::from(a == b),
            Binary::Less => |a, b| Bool::from(a < b),
            Binary::LessOrEqual => |a, b| Bool::from(a <= b),
            Binary::Greater => |a, b| Bool::from(a > b),
            Binary::GreaterOrEqual => |a, b| Bool::from(a >= b),
            _ => return Err(KernelError::unsupported_type("cpu", self.op, T::DTYPE)),
        };
        self.map(a, b, outputs, function)
    }

    /// As [`Call::compare`]: whole numbers are sizes and positions, a few at a time.
    fn integers<T: Integer>(
        &self,
        a: TensorView<'_>,
        b: TensorView<'_>,
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let divides = matches!(self.binary, Binary::Div | Binary::Mod | Binary::Fmod);
        if divides && !a.is_empty() && b.as_slice::<T>()?.contains(&T::ZERO) {
            return Err(KernelError::OutOfRange(format!("{}: division of a whole number by zero", self.op)));
        }
        let logical: fn(T, T) -> Bool = match self.binary {
            Binary::And => |a, b| Bool::from(a != T::ZERO && b != T::ZERO),
            Binary::Or => |a, b| Bool::from(a != T::ZERO || b != T::ZERO),
            Binary::Xor => |a, b| Bool::from((a != T::ZERO) != (b != T::ZERO)),
            _ => return self.arithmetic::<T>(a, b, outputs),
        };
        self.map(a, b, outputs, logical)
    }

    fn arithmetic<T: Integer>(
        &self,
        a: TensorView<'_>,
        b: TensorView<'_>,
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let function: fn(T, T) -> T = match self.binary {
            Binary::Add => T::add,
            Binary::Sub => T::subtract,
            Binary::Mul => T::multiply,
            Binary::Div => T::divide,
            Binary::Mod => |a, b| {
                let r = a.remainder(b);
                if r != T::ZERO && (r < T::ZERO) != (b < T::ZERO) { r.add(b) } else { r }
            },
            Binary::Fmod => T::remainder,
            Binary::Min => |a, b| if a < b { a } else { b },
            Binary::Max => |a, b| if a > b { a } else { b },
            Binary::Pow => integer_power::<T>,
            _ => return self.compare::<T>(a, b, outputs),
        };
        self.map(a, b, outputs, function)
    }

    /// Every element by `f`: one vectorisable loop for each way the innermost loop can step.
    fn map<T: Element, R: Element>(
        &self,
        a: TensorView<'_>,
        b: TensorView<'_>,
        outputs: &mut [TensorViewMut<'_>],
        f: impl Fn(T, T) -> R + Sync,
    ) -> Result<(), KernelError> {
        let shape = outputs.first().map_or(&[][..], |y| y.shape);
        let plan = Broadcast::new(self.op, shape, [a.shape, b.shape])?;
        let y = output(self.op, outputs, 0, R::DTYPE, shape)?.as_mut_slice::<R>()?;
        let (a, b) = (a.as_slice::<T>()?, b.as_slice::<T>()?);
        parallel::for_each_chunk(self.cpu.threads(), y, CHUNK, |i, y| {
            let first = i * CHUNK;
            plan.runs(first, first + y.len(), |at, n, [ia, ib]| {
                let y = &mut y[at - first..][..n];
                match plan.inner_steps() {
                    [1, 1] => y.iter_mut().zip(&a[ia..][..n]).zip(&b[ib..][..n]).for_each(|((y, &a), &b)| *y = f(a, b)),
                    [1, _] => {
                        let b = b[ib];
                        y.iter_mut().zip(&a[ia..][..n]).for_each(|(y, &a)| *y = f(a, b));
                    }
                    [_, 1] => {
                        let a = a[ia];
                        y.iter_mut().zip(&b[ib..][..n]).for_each(|(y, &b)| *y = f(a, b));
                    }
                    _ => y.fill(f(a[ia], b[ib])),
                }
            });
        });
        Ok(())
    }

    /// `a` by a function that holds the other operand.
    fn map_one<T: Element>(
        &self,
        a: TensorView<'_>,
        outputs: &mut [TensorViewMut<'_>],
        f: impl Fn(T) -> T + Sync,
    ) -> Result<(), KernelError> {
        let y = output(self.op, outputs, 0, T::DTYPE, a.shape)?.as_mut_slice::<T>()?;
        let a = a.as_slice::<T>()?;
        parallel::for_each_chunk(self.cpu.threads(), y, CHUNK, |i, y| {
            y.iter_mut().zip(&a[i * CHUNK..]).for_each(|(y, &a)| *y = f(a));
        });
        Ok(())
    }
}

/// What is left of `a`, with the sign of `b`.
fn floor_remainder(a: f32, b: f32) -> f32 {
    let r = a % b;
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

/// a ^ b in the type of a. Almost always the exponent is one constant, so the usual ones have loops without `powf`;
/// these are exact where a product or a square root is.
fn power(
    cpu: &Cpu,
    op: &'static str,
    a: TensorView<'_>,
    b: TensorView<'_>,
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let call = Call { cpu, op, binary: Binary::Pow };
    let exponents = b.len();
    if a.dtype == DType::F32 {
        let exponent = if exponents == 1 && b.shape.len() <= a.shape.len() { Some(exponent(op, b, 0)?) } else { None };
        match exponent {
            Some(2.0) => return call.map_one(a, outputs, |x: f32| x * x),
            Some(3.0) => return call.map_one(a, outputs, |x: f32| x * x * x),
            Some(0.5) => return call.map_one(a, outputs, |x: f32| x.sqrt()),
            Some(1.0) => return call.map_one(a, outputs, |x: f32| x),
            Some(-1.0) => return call.map_one(a, outputs, |x: f32| 1.0 / x),
            Some(e) => return call.map_one(a, outputs, move |x: f32| x.powf(e as f32)),
            None => {}
        }
    }
    if a.dtype == b.dtype {
        return match a.dtype {
            DType::F32 => call.floats(a, b, outputs),
            DType::I64 => call.integers::<i64>(a, b, outputs),
            DType::I32 => call.integers::<i32>(a, b, outputs),
            DType::U8 => call.integers::<u8>(a, b, outputs),
            DType::I8 => call.integers::<i8>(a, b, outputs),
            other => Err(KernelError::unsupported_type("cpu", op, other)),
        };
    }
    // Mixed types are rare and small: the base goes through f64 with an index list.
    let shape = outputs.first().map_or(&[][..], |y| y.shape);
    let plan = Broadcast::new(op, shape, [a.shape, b.shape])?;
    macro_rules! base {
        ($t:ty, $power:expr) => {{
            let y = output(op, outputs, 0, <$t>::DTYPE, shape)?.as_mut_slice::<$t>()?;
            let a = a.as_slice::<$t>()?;
            let mut failed = None;
            plan.runs(0, y.len(), |at, n, [ia, ib]| {
                let [sa, sb] = plan.inner_steps();
                for i in 0..n {
                    match exponent(op, b, ib + i * sb) {
                        Ok(e) => y[at + i] = $power(a[ia + i * sa], e),
                        Err(error) => failed = Some(error),
                    }
                }
            });
            failed.map_or(Ok(()), Err)
        }};
    }
    match a.dtype {
        DType::F32 => base!(f32, |x: f32, e: f64| x.powf(e as f32)),
        DType::I64 => base!(i64, |x: i64, e: f64| (x as f64).powf(e) as i64),
        DType::I32 => base!(i32, |x: i32, e: f64| (x as f64).powf(e) as i32),
        other => Err(KernelError::unsupported_type("cpu", op, other)),
    }
}

/// Element `i` of an exponent of any type.
fn exponent(op: &'static str, b: TensorView<'_>, i: usize) -> Result<f64, KernelError> {
    Ok(match b.dtype {
        DType::F32 => b.as_slice::<f32>()?[i] as f64,
        DType::F16 => b.as_slice::<f16>()?[i].to_f64(),
        DType::I64 => b.as_slice::<i64>()?[i] as f64,
        DType::I32 => b.as_slice::<i32>()?[i] as f64,
        DType::U8 => b.as_slice::<u8>()?[i] as f64,
        DType::I8 => b.as_slice::<i8>()?[i] as f64,
        DType::Bool => return Err(KernelError::unsupported_type("cpu", op, DType::Bool)),
    })
}

/// By squaring, wrapping; a negative exponent gives 0 unless the base is 1 or -1.
fn integer_power<T: Integer>(base: T, exponent: T) -> T {
    let (mut left, mut square, mut result) = (exponent.to_i64(), base, T::ONE);
    if left < 0 {
        let minus_one = T::ZERO.subtract(T::ONE);
        return match () {
            _ if base == T::ONE || (base == minus_one && left % 2 == 0) => T::ONE,
            _ if base == minus_one => minus_one,
            _ => T::ZERO,
        };
    }
    while left > 0 {
        if left & 1 == 1 {
            result = result.multiply(square);
        }
        square = square.multiply(square);
        left >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, run as run_kernel, values};
    use crate::cpu::args::{product, strides};
    use crate::tensor::Tensor;

    fn binary(op: Binary, a: &Tensor, b: &Tensor, dtype: DType, shape: &[usize]) -> Result<Tensor, KernelError> {
        let cpu = Cpu::new(2);
        Ok(run_kernel(&[Some(a), Some(b)], &[(dtype, shape)], |i, o| run(&cpu, op, i, o))?.remove(0))
    }

    /// The element of `t` that element `at` of a tensor of `shape` reads.
    fn at(t: &Tensor, shape: &[usize], at: usize) -> f32 {
        let (outer, own) = (strides(shape), strides(t.shape()));
        let lead = shape.len() - t.shape().len();
        let i: usize = (0..own.len())
            .filter(|&d| t.shape()[d] != 1)
            .map(|d| at / outer[lead + d] % shape[lead + d] * own[d])
            .sum();
        t.as_slice::<f32>().unwrap()[i]
    }

    #[test]
    fn broadcasting_equals_a_naive_loop() {
        let cases: [(&[usize], &[usize], &[usize]); 9] = [
            (&[2, 3, 5], &[2, 3, 5], &[2, 3, 5]),
            (&[2, 3, 5], &[], &[2, 3, 5]),
            (&[1], &[7, 1], &[7, 1]),
            (&[33, 700], &[700], &[33, 700]),
            (&[4, 3, 1], &[3, 9], &[4, 3, 9]),
            (&[3, 1, 5, 1], &[2, 1, 7], &[3, 2, 5, 7]),
            (&[2, 64, 3, 3], &[64, 1, 1], &[2, 64, 3, 3]),
            (&[0, 3], &[1, 3], &[0, 3]),
            (&[100, 1, 300], &[1, 2, 300], &[100, 2, 300]),
        ];
        let mut rng = Rng(3);
        for (sa, sb, shape) in cases {
            let (a, b) = (rng.tensor(sa), rng.tensor(sb));
            for (x, y, swap) in [(&a, &b, false), (&b, &a, true)] {
                let got = values::<f32>(&binary(Binary::Sub, x, y, DType::F32, shape).unwrap());
                let sign = if swap { -1.0 } else { 1.0 };
                for (i, got) in got.iter().enumerate() {
                    assert_eq!(*got, sign * (at(&a, shape, i) - at(&b, shape, i)), "{sa:?} {sb:?} {i}");
                }
                assert_eq!(got.len(), product(shape));
                let less = values::<Bool>(&binary(Binary::Less, x, y, DType::Bool, shape).unwrap());
                for (i, less) in less.iter().enumerate() {
                    let (p, q) = (at(x, shape, i), at(y, shape, i));
                    assert_eq!(*less, Bool::from(p < q));
                }
            }
        }
    }

    #[test]
    fn whole_numbers() {
        let a = Tensor::vector(&[7i64, -7, 7, -7, i64::MIN]);
        let b = Tensor::vector(&[3i64, 3, -3, -3, -1]);
        let of = |op| values::<i64>(&binary(op, &a, &b, DType::I64, &[5]).unwrap());
        assert_eq!(of(Binary::Div), [2, -2, -2, 2, i64::MIN]);
        assert_eq!(of(Binary::Mod), [1, 2, -2, -1, 0]);
        assert_eq!(of(Binary::Fmod), [1, -1, 1, -1, 0]);
        let zero = Tensor::vector(&[0i64]);
        assert!(matches!(binary(Binary::Div, &a, &zero, DType::I64, &[5]), Err(KernelError::OutOfRange(_))));
        let e = Tensor::vector(&[2i64, 3, 0, -1, 1]);
        assert_eq!(values::<i64>(&binary(Binary::Pow, &a, &e, DType::I64, &[5]).unwrap()), [49, -343, 1, 0, i64::MIN]);
    }

    /// What bytes give is what their own wrapping arithmetic gives, for every pair.
    #[test]
    fn bytes_wrap_as_bytes_do() {
        let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
        let divisors: Vec<i8> = all.iter().copied().filter(|b| *b != 0).collect();
        let of = |op, b: &[i8], dtype| {
            let (a, b) = (Tensor::from_slice(&[256, 1], &all).unwrap(), Tensor::vector(b));
            binary(op, &a, &b, dtype, &[256, b.len()]).unwrap()
        };
        type OfBytes = fn(i8, i8) -> i8;
        let each = |b: &[i8], f: OfBytes| {
            all.iter().flat_map(|&a| b.iter().map(move |&b| f(a, b)).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        let arithmetic: [(Binary, OfBytes); 5] = [
            (Binary::Add, i8::wrapping_add),
            (Binary::Sub, i8::wrapping_sub),
            (Binary::Mul, i8::wrapping_mul),
            (Binary::Min, i8::min),
            (Binary::Max, i8::max),
        ];
        for (op, f) in arithmetic {
            assert_eq!(values::<i8>(&of(op, &all, DType::I8)), each(&all, f), "{op:?}");
        }
        assert_eq!(values::<i8>(&of(Binary::Div, &divisors, DType::I8)), each(&divisors, i8::wrapping_div));
        assert_eq!(values::<i8>(&of(Binary::Fmod, &divisors, DType::I8)), each(&divisors, i8::wrapping_rem));
        let powers: Vec<i8> = (0..=i8::MAX).collect();
        let power = |a: i8, e: i8| a.wrapping_pow(e as u32);
        assert_eq!(values::<i8>(&of(Binary::Pow, &powers, DType::I8)), each(&powers, power));
        let less = values::<Bool>(&of(Binary::Less, &all, DType::Bool)).iter().map(|v| v.0 as i8).collect::<Vec<_>>();
        assert_eq!(less, each(&all, |a, b| i8::from(a < b)));

        let (a, b) = (Tensor::vector(&[3u8, 200, 7]), Tensor::vector(&[5u8, 100, 4]));
        let of = |op| values::<u8>(&binary(op, &a, &b, DType::U8, &[3]).unwrap());
        assert_eq!(of(Binary::Sub), [254, 100, 3]);
        assert_eq!(of(Binary::Add), [8, 44, 11]);
        assert_eq!(of(Binary::Mod), [3, 0, 3]);
        assert!(binary(Binary::Div, &a, &Tensor::scalar(0u8), DType::U8, &[3]).is_err());
    }

    #[test]
    fn floats_keep_nan_and_signs() {
        let a = Tensor::vector(&[f32::NAN, 1.0, -7.5, 7.5]);
        let b = Tensor::vector(&[1.0, f32::NAN, 2.0, -2.0]);
        let of = |op| values::<f32>(&binary(op, &a, &b, DType::F32, &[4]).unwrap());
        assert!(of(Binary::Max)[..2].iter().all(|v| v.is_nan()));
        assert!(of(Binary::Min)[..2].iter().all(|v| v.is_nan()));
        assert_eq!(of(Binary::Mod)[2..], [0.5, -0.5]);
        assert_eq!(of(Binary::Fmod)[2..], [-1.5, 1.5]);
    }

    #[test]
    fn powers() {
        let a = Rng(5).tensor(&[3, 5]);
        let x = values::<f32>(&a);
        let of = |e: &Tensor| values::<f32>(&binary(Binary::Pow, &a, e, DType::F32, &[3, 5]).unwrap());
        assert_eq!(of(&Tensor::scalar(2f32)), x.iter().map(|v| v * v).collect::<Vec<_>>());
        assert_eq!(of(&Tensor::scalar(3i64)), x.iter().map(|v| v * v * v).collect::<Vec<_>>());
        let root = of(&Tensor::scalar(0.5f32));
        assert!(root.iter().zip(&x).all(|(r, v)| *r == v.sqrt() || r.is_nan() && *v < 0.0));
        let each = of(&Tensor::vector(&[0f32, 1., 2., 3., 4.]));
        assert!(each.iter().enumerate().all(|(i, r)| (r - x[i].powi(i as i32 % 5)).abs() < 1e-6));
        let each = of(&Tensor::vector(&[0i64, 1, 2, 3, 4]));
        assert!(each.iter().enumerate().all(|(i, r)| (r - x[i].powi(i as i32 % 5)).abs() < 1e-6));
        let y = binary(Binary::Pow, &Tensor::vector(&[4i64]), &Tensor::scalar(0.5f32), DType::I64, &[1]).unwrap();
        assert_eq!(values::<i64>(&y), [2]);
    }

    #[test]
    fn bools_and_bad_input() {
        let (a, b) = (Tensor::vector(&[Bool(0), Bool(1)]), Tensor::vector(&[Bool(1), Bool(1)]));
        let of = |op| values::<Bool>(&binary(op, &a, &b, DType::Bool, &[2]).unwrap());
        assert_eq!(of(Binary::Xor), [Bool(1), Bool(0)]);
        assert_eq!(of(Binary::And), [Bool(0), Bool(1)]);
        assert_eq!(of(Binary::Equal), [Bool(0), Bool(1)]);
        assert!(binary(Binary::Add, &a, &b, DType::Bool, &[2]).is_err());
        let f = Tensor::vector(&[1f32]);
        assert!(binary(Binary::Add, &a, &f, DType::F32, &[2]).is_err());
        let g = Tensor::vector(&[1f32, 2.0]);
        assert!(binary(Binary::Add, &f, &g, DType::F32, &[3]).is_err());
    }
}
