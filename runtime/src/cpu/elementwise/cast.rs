//! Cast between all element types.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::CHUNK;
use crate::cpu::args::{input, output};
use crate::cpu::{Cpu, parallel};
use crate::error::KernelError;
use crate::tensor::{Bool, DType, Element, TensorView, TensorViewMut};

/// `y = x` in another type, any shape.
///
/// Float to integer truncates and saturates (ONNX leaves out of range open), integer to integer keeps the low bits,
/// anything to bool tests for non-zero, f32 to f16 rounds to nearest even.
pub(crate) fn run(
    cpu: &Cpu,
    to: DType,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Cast";
    let x = input(OP, inputs, 0)?;
    let y = output(OP, outputs, 0, to, x.shape)?;
    let threads = cpu.threads();
    match (x.dtype, to) {
        (from, to) if from == to => y.bytes.copy_from_slice(x.bytes),
        // These two have instructions on many machines.
        (DType::F16, DType::F32) => {
            let x = x.as_slice::<f16>()?;
            parallel::for_each_chunk(threads, y.as_mut_slice::<f32>()?, CHUNK, |i, y| {
                x[i * CHUNK..][..y.len()].convert_to_f32_slice(y);
            });
        }
        (DType::F32, DType::F16) => {
            let x = x.as_slice::<f32>()?;
            parallel::for_each_chunk(threads, y.as_mut_slice::<f16>()?, CHUNK, |i, y| {
                y.convert_from_f32_slice(&x[i * CHUNK..][..y.len()]);
            });
        }
        (DType::F32, _) => from_float(x.as_slice::<f32>()?.iter().copied(), y)?,
        (DType::F16, _) => from_float(x.as_slice::<f16>()?.iter().map(|v| v.to_f32()), y)?,
        (DType::I64, _) => from_integer(x.as_slice::<i64>()?.iter().copied(), y)?,
        (DType::I32, _) => from_integer(x.as_slice::<i32>()?.iter().map(|&v| v as i64), y)?,
        (DType::I8, _) => from_integer(x.as_slice::<i8>()?.iter().map(|&v| v as i64), y)?,
        (DType::U8, _) => from_integer(x.as_slice::<u8>()?.iter().map(|&v| v as i64), y)?,
        (DType::Bool, _) => from_integer(x.as_slice::<Bool>()?.iter().map(|&v| (v.0 != 0) as i64), y)?,
    }
    Ok(())
}

fn write<T: Element>(y: &mut TensorViewMut<'_>, values: impl Iterator<Item = T>) -> Result<(), KernelError> {
    y.as_mut_slice::<T>()?.iter_mut().zip(values).for_each(|(y, v)| *y = v);
    Ok(())
}

fn from_float(x: impl Iterator<Item = f32>, y: &mut TensorViewMut<'_>) -> Result<(), KernelError> {
    match y.dtype {
        DType::F32 => write(y, x),
        DType::F16 => write(y, x.map(f16::from_f32)),
        DType::I64 => write(y, x.map(|v| v as i64)),
        DType::I32 => write(y, x.map(|v| v as i32)),
        DType::U8 => write(y, x.map(|v| v as u8)),
        DType::I8 => write(y, x.map(|v| v as i8)),
        DType::Bool => write(y, x.map(|v| Bool::from(v != 0.0))),
    }
}

fn from_integer(x: impl Iterator<Item = i64>, y: &mut TensorViewMut<'_>) -> Result<(), KernelError> {
    match y.dtype {
        DType::F32 => write(y, x.map(|v| v as f32)),
        DType::F16 => write(y, x.map(|v| f16::from_f64(v as f64))),
        DType::I64 => write(y, x),
        DType::I32 => write(y, x.map(|v| v as i32)),
        DType::U8 => write(y, x.map(|v| v as u8)),
        DType::I8 => write(y, x.map(|v| v as i8)),
        DType::Bool => write(y, x.map(|v| Bool::from(v != 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{run as run_kernel, values};
    use crate::tensor::Tensor;

    fn cast(x: &Tensor, to: DType) -> Tensor {
        let shape = x.shape().to_vec();
        run_kernel(&[Some(x)], &[(to, &shape)], |i, o| run(&Cpu::new(1), to, i, o)).unwrap().remove(0)
    }

    #[test]
    fn small_numbers_survive_every_pair() {
        use DType::*;
        let all = [F32, F16, I64, I32, U8, I8];
        let start = Tensor::vector(&[0i64, 1, 2, 100, 127]);
        for from in all {
            let x = cast(&start, from);
            for to in all {
                assert_eq!(values::<i64>(&cast(&cast(&x, to), I64)), [0, 1, 2, 100, 127], "{from} to {to}");
            }
            assert_eq!(values::<u8>(&cast(&cast(&x, Bool), U8)), [0, 1, 1, 1, 1], "{from} to bool");
        }
    }

    #[test]
    fn rules() {
        let x = Tensor::vector(&[-1.9f32, 1.9, 300.0, f32::NAN, -0.0]);
        assert_eq!(values::<i32>(&cast(&x, DType::I32)), [-1, 1, 300, 0, 0]);
        assert_eq!(values::<u8>(&cast(&x, DType::U8)), [0, 1, 255, 0, 0]);
        assert_eq!(values::<Bool>(&cast(&x, DType::Bool)), [Bool(1), Bool(1), Bool(1), Bool(1), Bool(0)]);
        assert_eq!(values::<u8>(&cast(&Tensor::vector(&[257i64, -1]), DType::U8)), [1, 255]);
        let h = cast(&Tensor::vector(&[1.0f32, 65536.0, 2049.0, 1e-8]), DType::F16);
        assert_eq!(values::<f32>(&cast(&h, DType::F32)), [1.0, f32::INFINITY, 2048.0, 0.0]);
        assert_eq!(cast(&Tensor::from_slice::<f32>(&[0, 3], &[]).unwrap(), DType::F16).shape(), [0, 3]);
    }
}
