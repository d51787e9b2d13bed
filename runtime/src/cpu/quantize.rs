//! Floats to 8-bit integers and back.

use super::operands::Operands;
use super::parallel::{self, SharedMut};
use super::{Cpu, math};
use crate::error::KernelError;
use crate::tensor::{DType, Element, TensorView, TensorViewMut};

/// Elements that a task takes; below two of them threads are not worth waking.
const CHUNK: usize = 1 << 14;
/// The same where each thread takes its share.
const LEAST: usize = 1 << 13;

/// Runs [`crate::graph::Op::DynamicQuantizeLinear`].
///
/// As ONNX Runtime: the range includes 0, `scale = (max - min) / 255` in f32, 1 if the range is empty; NaN does not count
/// for the range and becomes the least number.
pub(crate) fn run_dynamic(
    cpu: &Cpu,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let operands = Operands::new("DynamicQuantizeLinear", inputs);
    let x = operands.required(0, "x")?.as_slice::<f32>()?;
    let (min, max) = range(cpu.threads(), x);
    let scale = if max == min { 1.0 } else { (max - min) / 255.0 };
    // A range too small or too large for f32 gives NaN here, which the clamp of ONNX Runtime sends to 255.
    let zero = 0.0 - min / scale;
    let zero = if zero < 255.0 { zero.max(0.0).round_ties_even() as u8 } else { 255 };
    operands.output::<f32>(outputs, 1, 1)?[0] = scale;
    operands.output::<u8>(outputs, 2, 1)?[0] = zero;
    let y = operands.output::<u8>(outputs, 0, x.len())?;
    let chunk = parallel::even_chunks(cpu.threads(), x.len(), LEAST);
    parallel::for_each_chunk(cpu.threads(), y, chunk, |i, y| {
        let x = &x[i * chunk..][..y.len()];
        quantize(x, scale, zero as i32, false, y);
    });
    Ok(())
}

/// The least and the greatest of 0 and all numbers of `x`.
fn range(threads: usize, x: &[f32]) -> (f32, f32) {
    let chunk = parallel::even_chunks(threads, x.len(), LEAST);
    let mut parts = vec![(0f32, 0f32); x.len().div_ceil(chunk)];
    let shared = SharedMut::new(&mut parts);
    parallel::for_each(threads, x.len().div_ceil(chunk), |i| {
        let x = &x[i * chunk..(i * chunk + chunk).min(x.len())];
        let (low, high) = math::dispatch(Range(x));
        // SAFETY: task i writes element i only.
        let part = unsafe { shared.slice(i, 1) };
        part[0] = (low, high);
    });
    parts.iter().fold((0.0, 0.0), |(low, high), part| (low.min(part.0), high.max(part.1)))
}

/// The least and the greatest of 0 and the numbers given.
struct Range<'a>(&'a [f32]);

impl math::Kernel for Range<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<const FMA: bool>(self) -> (f32, f32) {
        // Lanes that compilers keep in vector registers; comparisons are false for NaN, which leaves it out.
        let (mut low, mut high) = ([0f32; 32], [0f32; 32]);
        let (groups, rest) = self.0.as_chunks::<32>();
        for group in groups {
            for ((&x, low), high) in group.iter().zip(&mut low).zip(&mut high) {
                *low = if x < *low { x } else { *low };
                *high = if x > *high { x } else { *high };
            }
        }
        let low = low.iter().chain(rest).fold(0f32, |m, &x| if x < m { x } else { m });
        let high = high.iter().chain(rest).fold(0f32, |m, &x| if x > m { x } else { m });
        (low, high)
    }
}

/// `y = saturate(round_half_even(x / scale) + zero)` as bytes of u8, or of i8 if `signed`; NaN becomes the least number.
fn quantize(x: &[f32], scale: f32, zero: i32, signed: bool, y: &mut [u8]) {
    let (low, high) = if signed { (-128, 127) } else { (0, 255) };
    math::dispatch(Quantize { x, scale, zero, low: (low - zero) as f32, high: (high - zero) as f32, y });
}

struct Quantize<'a> {
    x: &'a [f32],
    scale: f32,
    zero: i32,
    low: f32,
    high: f32,
    y: &'a mut [u8],
}

impl math::Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Quantize { x, scale, zero, low, high, y } = self;
        for (y, x) in y.iter_mut().zip(x) {
            *y = (nearest(x / scale, low, high) + zero) as u8;
        }
    }
}

/// `x` between `low` and `high` (whole numbers below 2^22), rounded half to even.
#[inline(always)]
fn nearest(x: f32, low: f32, high: f32) -> i32 {
    // Adding 1.5 * 2^23 leaves no bits for a fraction: the sum is rounded as IEEE 754 does, to even, and its low bits
    // are the integer. It vectorises everywhere, which rounding instructions do not.
    const MAGIC: f32 = 12_582_912.0;
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// Which scale belongs to which element.
struct Scales {
    scale: Vec<f32>,
    zero: Vec<i32>,
    /// Elements, seen as [outer, axis, inner].
    outer: usize,
    axis: usize,
    inner: usize,
    /// Elements along the axis that share a scale.
    block: usize,
    /// Scales along the axis; 0 if one scale serves all.
    along: usize,
    /// Whether scales also differ between the other dimensions' elements.
    blocked: bool,
}

impl Scales {
    /// Reads inputs 1 and 2 for an `x` of `shape`; a zero point must be of type `zero_type`.
    fn new(
        operands: Operands<'_>,
        shape: &[usize],
        axis: i64,
        block: usize,
        zero_type: DType,
    ) -> Result<Self, KernelError> {
        let view = operands.required(1, "scale")?;
        let scale = match view.dtype {
            DType::F32 => view.as_slice::<f32>()?.to_vec(),
            DType::F16 => view.as_slice::<half::f16>()?.iter().map(|x| x.to_f32()).collect(),
            _ => return Err(operands.unsupported(&view)),
        };
        let zero = match operands.optional(2) {
            None => vec![0; scale.len()],
            Some(zero) if zero.dtype != zero_type => {
                return Err(operands.invalid(format!("the zero point is {}, expected {zero_type}", zero.dtype)));
            }
            Some(zero) => match zero.dtype {
                DType::U8 => zero.bytes.iter().map(|&z| z as i32).collect(),
                DType::I8 => zero.bytes.iter().map(|&z| z as i8 as i32).collect(),
                DType::I32 => zero.as_slice::<i32>()?.to_vec(),
                _ => return Err(operands.unsupported(&zero)),
            },
        };
        if zero.len() != scale.len() {
            return Err(operands.invalid(format!("{} zero points for {} scales", zero.len(), scale.len())));
        }
        let rank = shape.len() as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        let per_tensor = scale.len() == 1 && block == 0;
        if per_tensor {
            let all = shape.iter().product();
            let one = Scales { scale, zero, outer: 1, axis: 1, inner: all, block: 1, along: 0, blocked: false };
            return Ok(one);
        }
        if axis < 0 || axis >= rank {
            return Err(operands.invalid(format!("axis {axis} of a tensor with {rank} dimensions")));
        }
        let i = axis as usize;
        let (outer, inner) = (shape[..i].iter().product::<usize>(), shape[i + 1..].iter().product::<usize>());
        let along = if block == 0 { shape[i] } else { shape[i].div_ceil(block) };
        let expected = if block == 0 { along } else { outer * along * inner };
        if scale.len() != expected {
            return Err(operands.invalid(format!("{} scales, expected {expected}", scale.len())));
        }
        let (blocked, block) = (block > 0, block.max(1));
        Ok(Scales { scale, zero, outer, axis: shape[i], inner, block, along, blocked })
    }

    /// Calls `f(at, len, scale, zero)` for each stretch of elements with one scale, over threads.
    fn for_each(&self, threads: usize, f: impl Fn(usize, usize, f32, i32) + Sync) {
        let one = |at: usize, len: usize, i: usize| f(at, len, self.scale[i], self.zero[i]);
        if self.along == 0 {
            let tasks = self.inner.div_ceil(CHUNK);
            parallel::for_each(threads, tasks, |t| one(t * CHUNK, CHUNK.min(self.inner - t * CHUNK), 0));
            return;
        }
        let rows = self.outer * self.axis;
        let many = CHUNK.checked_div(self.inner).unwrap_or(1).max(1);
        parallel::for_each(threads, rows.div_ceil(many), |t| {
            for row in t * many..((t + 1) * many).min(rows) {
                let (o, a) = (row / self.axis, row % self.axis);
                let at = row * self.inner;
                if self.blocked {
                    let first = (o * self.along + a / self.block) * self.inner;
                    (0..self.inner).for_each(|i| one(at + i, 1, first + i));
                } else {
                    one(at, self.inner, a);
                }
            }
        });
    }
}

/// Runs [`crate::graph::Op::QuantizeLinear`].
pub(crate) fn run_quantize(
    cpu: &Cpu,
    axis: i64,
    to: DType,
    block: usize,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let operands = Operands::new("QuantizeLinear", inputs);
    let view = operands.required(0, "x")?;
    let x = view.as_slice::<f32>()?;
    let scales = Scales::new(operands, view.shape, axis, block, to)?;
    let signed = match to {
        DType::U8 => false,
        DType::I8 => true,
        other => return Err(KernelError::unsupported_type("cpu", "QuantizeLinear", other)),
    };
    let y: &mut [u8] = if signed {
        bytemuck::cast_slice_mut(operands.output::<i8>(outputs, 0, x.len())?)
    } else {
        operands.output::<u8>(outputs, 0, x.len())?
    };
    let y = SharedMut::new(y);
    scales.for_each(cpu.threads(), |at, len, scale, zero| {
        // SAFETY: the stretches do not overlap.
        quantize(&x[at..][..len], scale, zero, signed, unsafe { y.slice(at, len) });
    });
    Ok(())
}

/// Runs [`crate::graph::Op::DequantizeLinear`].
pub(crate) fn run_dequantize(
    cpu: &Cpu,
    axis: i64,
    block: usize,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let operands = Operands::new("DequantizeLinear", inputs);
    let view = operands.required(0, "x")?;
    match view.dtype {
        DType::U8 => dequantize::<u8>(cpu, axis, block, operands, view, outputs, |x| x as i32),
        DType::I8 => dequantize::<i8>(cpu, axis, block, operands, view, outputs, |x| x as i32),
        DType::I32 => dequantize::<i32>(cpu, axis, block, operands, view, outputs, |x| x),
        _ => Err(operands.unsupported(&view)),
    }
}

fn dequantize<T: Element>(
    cpu: &Cpu,
    axis: i64,
    block: usize,
    operands: Operands<'_>,
    view: TensorView<'_>,
    outputs: &mut [TensorViewMut<'_>],
    widen: impl Fn(T) -> i32 + Sync,
) -> Result<(), KernelError> {
    let scales = Scales::new(operands, view.shape, axis, block, view.dtype)?;
    let x = view.as_slice::<T>()?;
    let y = SharedMut::new(operands.output::<f32>(outputs, 0, x.len())?);
    scales.for_each(cpu.threads(), |at, len, scale, zero| {
        // SAFETY: the stretches do not overlap.
        let y = unsafe { y.slice(at, len) };
        for (y, &x) in y.iter_mut().zip(&x[at..][..len]) {
            *y = widen(x).wrapping_sub(zero) as f32 * scale;
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    fn view<T: Element>(out: &mut [T]) -> TensorViewMut<'_> {
        TensorViewMut { dtype: T::DTYPE, shape: &[], bytes: bytemuck::cast_slice_mut(out) }
    }

    fn dynamic(x: &[f32]) -> (Vec<u8>, f32, u8) {
        let (mut y, mut scale, mut zero) = (vec![7u8; x.len()], [0f32], [9u8]);
        let x = Tensor::vector(x);
        let mut outputs = [view(&mut y), view(&mut scale), view(&mut zero)];
        run_dynamic(&Cpu::new(2), &[Some(x.view())], &mut outputs).unwrap();
        (y, scale[0], zero[0])
    }

    /// The expected values are ONNX Runtime 1.32's.
    #[test]
    fn dynamic_equals_onnx_runtime() {
        assert_eq!(dynamic(&[0.0, 0.0, 0.0]), (vec![0, 0, 0], 1.0, 0));
        assert_eq!(dynamic(&[]), (vec![], 1.0, 0));
        assert_eq!(dynamic(&[1.0, 2.0, 3.0]), (vec![85, 170, 255], 3.0 / 255.0, 0));
        assert_eq!(dynamic(&[-1.0, -2.0, -3.0]), (vec![170, 85, 0], 3.0 / 255.0, 255));
        assert_eq!(dynamic(&[-0.5, 254.5, 0.5, 1.5, 2.5]), (vec![0, 254, 0, 2, 2], 1.0, 0));
        assert_eq!(dynamic(&[f32::NAN, 1.0, 2.0]), (vec![0, 127, 255], 2.0 / 255.0, 0));
        assert_eq!(dynamic(&[f32::INFINITY, 1.0]), (vec![0, 0], f32::INFINITY, 0));
        assert_eq!(dynamic(&[f32::NEG_INFINITY, 1.0, f32::INFINITY]), (vec![0, 255, 0], f32::INFINITY, 255));
        assert_eq!(dynamic(&[1e-45]), (vec![255], 0.0, 255));
        assert_eq!(dynamic(&[3e38, -3e38]), (vec![0, 0], f32::INFINITY, 0));
    }

    #[test]
    fn the_range_covers_every_chunk() {
        let mut x = vec![0.5f32; 100_001];
        x[70_000] = -3.0;
        x[100_000] = 9.0;
        assert_eq!(range(3, &x), (-3.0, 9.0));
        let (y, scale, zero) = dynamic(&x);
        assert_eq!((scale, zero, y[70_000], y[100_000]), (12.0 / 255.0, 64, 0, 255));
    }

    #[test]
    fn quantizes_per_tensor_axis_and_block() {
        let cpu = Cpu::new(2);
        let quantize = |x: &Tensor, s: &Tensor, z: Option<&Tensor>, axis, to, block| {
            let mut y = vec![0u8; x.len()];
            let out = TensorViewMut { dtype: to, shape: &[], bytes: &mut y };
            let inputs = [Some(x.view()), Some(s.view()), z.map(|z| z.view())];
            run_quantize(&cpu, axis, to, block, &inputs, &mut [out]).map(|()| y)
        };
        let x = Tensor::vector(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.5, 1.5, -1e10, 1e10, 127.5]);
        let z = Tensor::scalar(3i8);
        let y = quantize(&x, &Tensor::scalar(1f32), Some(&z), 1, DType::I8, 0).unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, i8>(&y), [-128, 127, -128, 3, 5, -128, 127, 127]);
        let x = Tensor::from_slice(&[2, 2, 2], &[1f32, 2., 3., 4., 5., 6., 7., 8.]).unwrap();
        let s = Tensor::vector(&[1f32, 2.]);
        assert_eq!(quantize(&x, &s, None, 1, DType::U8, 0).unwrap(), [1, 2, 2, 2, 5, 6, 4, 4]);
        assert_eq!(quantize(&x, &s, None, -1, DType::U8, 0).unwrap(), [1, 1, 3, 2, 5, 3, 7, 4]);
        let s = Tensor::from_slice(&[2, 1, 2], &[1f32, 2., 4., 0.5]).unwrap();
        assert_eq!(quantize(&x, &s, None, 1, DType::U8, 2).unwrap(), [1, 1, 3, 2, 1, 12, 2, 16]);
        assert!(quantize(&x, &s, None, 1, DType::U8, 0).is_err());
        assert!(quantize(&x, &Tensor::vector(&[1f32; 3]), None, 1, DType::U8, 0).is_err());
        assert!(quantize(&x, &Tensor::vector(&[1f32; 2]), None, 5, DType::U8, 0).is_err());
        assert!(quantize(&x, &Tensor::scalar(1f32), Some(&z), 1, DType::U8, 0).is_err());
        assert!(quantize(&x, &Tensor::scalar(1f32), None, 1, DType::I32, 0).is_err());
    }

    #[test]
    fn dequantizes_each_type() {
        let cpu = Cpu::new(1);
        let dequantize = |x: &Tensor, s: &Tensor, z: Option<&Tensor>, axis, block| {
            let mut y = vec![0f32; x.len()];
            let inputs = [Some(x.view()), Some(s.view()), z.map(|z| z.view())];
            run_dequantize(&cpu, axis, block, &inputs, &mut [view(&mut y)]).map(|()| y)
        };
        let s = Tensor::scalar(0.5f32);
        let y = dequantize(&Tensor::vector(&[0u8, 255]), &s, Some(&Tensor::scalar(128u8)), 1, 0).unwrap();
        assert_eq!(y, [-64.0, 63.5]);
        let y = dequantize(&Tensor::vector(&[-128i8, 127]), &s, None, 1, 0).unwrap();
        assert_eq!(y, [-64.0, 63.5]);
        let y = dequantize(&Tensor::vector(&[1 << 20, -3i32]), &s, None, 1, 0).unwrap();
        assert_eq!(y, [524288.0, -1.5]);
        let x = Tensor::from_slice(&[2, 5], &[1i8, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
        let s = Tensor::from_slice(&[2, 3], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let z = Tensor::from_slice(&[2, 3], &[1i8, 0, 0, 0, 0, 0]).unwrap();
        let y = dequantize(&x, &s, Some(&z), 1, 2).unwrap();
        assert_eq!(y, [0., 1., 6., 8., 15., 24., 28., 40., 45., 60.]);
        assert!(dequantize(&Tensor::vector(&[1f32]), &s, None, 0, 0).is_err());
        assert!(dequantize(&x, &s, Some(&Tensor::scalar(0i8)), 1, 2).is_err());
    }
}
