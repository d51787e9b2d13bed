//! Where.

use super::CHUNK;
use crate::cpu::args::{by_size, input, output};
use crate::cpu::broadcast::Broadcast;
use crate::cpu::{Cpu, parallel};
use crate::error::KernelError;
use crate::tensor::{DType, TensorError, TensorView, TensorViewMut};

/// `y = condition ? a : b`, the three shapes broadcast; any type, moved by its size.
pub(crate) fn run(
    cpu: &Cpu,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Where";
    let condition = input(OP, inputs, 0)?;
    let (a, b) = (input(OP, inputs, 1)?, input(OP, inputs, 2)?);
    if condition.dtype != DType::Bool {
        return Err(TensorError::DType { expected: DType::Bool, got: condition.dtype }.into());
    }
    if a.dtype != b.dtype {
        return Err(TensorError::DType { expected: a.dtype, got: b.dtype }.into());
    }
    let shape = outputs.first().map_or(&[][..], |y| y.shape);
    let plan = Broadcast::new(OP, shape, [condition.shape, a.shape, b.shape])?;
    let [sc, sa, sb] = plan.inner_steps();
    let y = output(OP, outputs, 0, a.dtype, shape)?;
    by_size!(a.dtype.size(), T => {
        let y: &mut [T] = bytemuck::cast_slice_mut(y.bytes);
        let (a, b): (&[T], &[T]) = (bytemuck::cast_slice(a.bytes), bytemuck::cast_slice(b.bytes));
        parallel::for_each_chunk(cpu.threads(), y, CHUNK, |i, y| {
            let first = i * CHUNK;
            plan.runs(first, first + y.len(), |at, n, [ic, ia, ib]| {
                let y = &mut y[at - first..][..n];
                match [sc, sa, sb] {
                    // One condition for the whole run: a copy.
                    [0, step, _] if condition.bytes[ic] != 0 => copy(y, &a[ia..], step),
                    [0, _, step] => copy(y, &b[ib..], step),
                    [_, 1, 0] => {
                        let b = b[ib];
                        for ((y, &c), &a) in y.iter_mut().zip(&condition.bytes[ic..]).zip(&a[ia..]) {
                            *y = if c != 0 { a } else { b };
                        }
                    }
                    _ => {
                        for (i, (y, &c)) in y.iter_mut().zip(&condition.bytes[ic..]).enumerate() {
                            *y = if c != 0 { a[ia + i * sa] } else { b[ib + i * sb] };
                        }
                    }
                }
            });
        });
    });
    Ok(())
}

fn copy<T: Copy>(y: &mut [T], x: &[T], step: usize) {
    if step == 1 { y.copy_from_slice(&x[..y.len()]) } else { y.fill(x[0]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, run as run_kernel, values};
    use crate::tensor::{Bool, Tensor};

    #[test]
    fn three_shapes_broadcast() {
        let cpu = Cpu::new(2);
        let mut rng = Rng(9);
        for (sc, sa, sb) in [
            ([3, 4, 5], [3, 4, 5], [3, 4, 5]),
            ([1, 4, 5], [3, 1, 5], [3, 4, 1]),
            ([3, 1, 1], [1, 1, 5], [1, 4, 1]),
            ([3, 4, 5], [3, 4, 5], [1, 1, 1]),
            ([1, 1, 1], [3, 4, 5], [1, 1, 1]),
        ] {
            let n: usize = sc.iter().product();
            let flags: Vec<Bool> = (0..n).map(|_| Bool(rng.below(2) as u8)).collect();
            let c = Tensor::from_slice(&sc, &flags).unwrap();
            let (a, b) = (rng.tensor(&sa), rng.tensor(&sb));
            let y = run_kernel(&[Some(&c), Some(&a), Some(&b)], &[(DType::F32, &[3, 4, 5])], |i, o| run(&cpu, i, o));
            let y = values::<f32>(&y.unwrap()[0]);
            let index = |s: [usize; 3], i: [usize; 3]| {
                let i: Vec<usize> = (0..3).map(|d| if s[d] == 1 { 0 } else { i[d] }).collect();
                (i[0] * s[1] + i[1]) * s[2] + i[2]
            };
            for (at, got) in y.iter().enumerate() {
                let i = [at / 20, at / 5 % 4, at % 5];
                let (x, z) = (values::<f32>(&a)[index(sa, i)], values::<f32>(&b)[index(sb, i)]);
                assert_eq!(*got, if flags[index(sc, i)].0 != 0 { x } else { z });
            }
        }
    }

    #[test]
    fn types_must_agree() {
        let cpu = Cpu::new(1);
        let c = Tensor::scalar(Bool(1));
        let (a, b) = (Tensor::scalar(1i64), Tensor::scalar(1f32));
        assert!(run_kernel(&[Some(&c), Some(&a), Some(&b)], &[(DType::I64, &[])], |i, o| run(&cpu, i, o)).is_err());
        assert!(run_kernel(&[Some(&a), Some(&a), Some(&a)], &[(DType::I64, &[])], |i, o| run(&cpu, i, o)).is_err());
        let y = run_kernel(&[Some(&c), Some(&a), Some(&a)], &[(DType::I64, &[])], |i, o| run(&cpu, i, o)).unwrap();
        assert_eq!(values::<i64>(&y[0]), [1]);
    }
}
