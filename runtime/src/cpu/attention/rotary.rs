//! Rotary position embedding.

use crate::cpu::args::{input, integers, invalid, output};
use crate::cpu::{Cpu, parallel};
use crate::error::KernelError;
use crate::graph::RotaryEmbedding;
use crate::tensor::{DType, TensorView, TensorViewMut};

/// The tables of cosines and sines, [positions, pairs].
#[derive(Clone, Copy)]
pub(crate) struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    positions: usize,
    /// Pairs of elements that are turned.
    pub(crate) pairs: usize,
    /// Pairs are neighbours, else halves.
    interleaved: bool,
}

impl<'a> Angles<'a> {
    pub(crate) fn new(
        op: &'static str,
        cos: TensorView<'a>,
        sin: TensorView<'a>,
        interleaved: bool,
    ) -> Result<Self, KernelError> {
        match (cos.shape, sin.shape) {
            (&[positions, pairs], other) if other == cos.shape => {
                Ok(Angles { cos: cos.as_slice()?, sin: sin.as_slice()?, positions, pairs, interleaved })
            }
            (a, b) => Err(invalid(op, format_args!("tables of cosines {a:?} and sines {b:?}"))),
        }
    }

    /// Checks that the tables reach `position`.
    pub(crate) fn check(&self, op: &'static str, position: i64) -> Result<usize, KernelError> {
        usize::try_from(position).ok().filter(|&p| p < self.positions).ok_or_else(|| {
            let n = self.positions;
            KernelError::OutOfRange(format!("{op}: position {position} is outside tables of {n} positions"))
        })
    }

    /// `y` is `x` turned by the angles of `position`; elements behind the pairs are copied.
    pub(crate) fn turn(&self, position: usize, x: &[f32], y: &mut [f32]) {
        let n = self.pairs;
        let (cos, sin) = (&self.cos[position * n..][..n], &self.sin[position * n..][..n]);
        let (turned, rest) = y.split_at_mut(2 * n);
        rest.copy_from_slice(&x[2 * n..]);
        if self.interleaved {
            for (((y, x), &c), &s) in turned.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(cos).zip(sin) {
                (y[0], y[1]) = (x[0] * c - x[1] * s, x[1] * c + x[0] * s);
            }
        } else {
            let (low, high) = turned.split_at_mut(n);
            let angles = cos.iter().zip(sin);
            for ((((y, z), &a), &b), (&c, &s)) in low.iter_mut().zip(high).zip(&x[..n]).zip(&x[n..2 * n]).zip(angles) {
                (*y, *z) = (a * c - b * s, b * c + a * s);
            }
        }
    }
}

/// See [`RotaryEmbedding`].
pub(crate) fn run(
    cpu: &Cpu,
    rotary: &RotaryEmbedding,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "RotaryEmbedding";
    let x = input(OP, inputs, 0)?;
    let ids = input(OP, inputs, 1)?;
    let angles = Angles::new(OP, input(OP, inputs, 2)?, input(OP, inputs, 3)?, rotary.interleaved)?;
    let turned = 2 * angles.pairs;
    if rotary.rotary_dim != 0 && rotary.rotary_dim != turned {
        return Err(invalid(OP, format_args!("{} turned elements, tables for {turned}", rotary.rotary_dim)));
    }
    // How many heads there are and how rows of x map to positions: [B, S, heads * D] or [B, heads, S, D].
    let (batch, sequence, heads, size, split) = match *x.shape {
        [b, s, hidden] => {
            let size = match rotary.heads {
                0 => turned,
                heads => hidden / heads,
            };
            (b, s, hidden.checked_div(size).unwrap_or(0), size, false)
        }
        [b, h, s, d] => (b, s, h, d, true),
        _ => return Err(invalid(OP, format_args!("x of shape {:?}", x.shape))),
    };
    if batch * sequence * heads * size != x.len() || turned > size {
        return Err(invalid(OP, format_args!("{turned} turned elements in heads of {size}, x {:?}", x.shape)));
    }
    let ids_shape = ids.shape;
    let ids = integers(OP, ids)?;
    let positions: Vec<usize> = match ids.len() {
        1 if ids_shape.len() < 2 || batch * sequence != 1 => {
            (0..batch * sequence).map(|i| angles.check(OP, ids[0].saturating_add((i % sequence) as i64))).collect()
        }
        n if n == batch * sequence => ids.iter().map(|&p| angles.check(OP, p)).collect(),
        _ => Err(invalid(OP, format_args!("positions of shape {ids_shape:?} for {batch} x {sequence}"))),
    }?;
    let y = output(OP, outputs, 0, DType::F32, x.shape)?.as_mut_slice::<f32>()?;
    let x = x.as_slice::<f32>()?;
    if size == 0 {
        return Ok(());
    }
    let rows = (16 * 1024usize).div_ceil(size);
    parallel::for_each_chunk(cpu.threads(), y, rows * size, |task, y| {
        for (r, y) in y.chunks_exact_mut(size).enumerate() {
            let row = task * rows + r;
            let at = if split { row / (heads * sequence) * sequence + row % sequence } else { row / heads };
            angles.turn(positions[at], &x[row * size..][..size], y);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{Rng, assert_close, run as run_kernel, values};
    use crate::tensor::Tensor;

    #[test]
    fn layouts_pairs_offsets_and_partial_heads() {
        let cpu = Cpu::new(2);
        let mut rng = Rng(21);
        let (b, s, h, d, max) = (2, 3, 4, 10, 16);
        for interleaved in [false, true] {
            for pairs in [5usize, 3] {
                let (cos, sin) = (rng.tensor(&[max, pairs]), rng.tensor(&[max, pairs]));
                let (c, n) = (values::<f32>(&cos), values::<f32>(&sin));
                let merged = rng.tensor(&[b, s, h * d]);
                let v = values::<f32>(&merged);
                let ids = Tensor::from_slice(&[b, s], &[0i64, 1, 2, 7, 9, 15]).unwrap();
                let offset = Tensor::vector(&[4i64]);
                for by_offset in [false, true] {
                    let mut want = v.clone();
                    for (row, x) in want.chunks_mut(d).enumerate() {
                        let at = row / h;
                        let p = if by_offset { 4 + at % s } else { [0, 1, 2, 7, 9, 15][at] };
                        let old = x.to_vec();
                        for i in 0..pairs {
                            let (low, high) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
                            let (c, n) = (c[p * pairs + i], n[p * pairs + i]);
                            x[low] = old[low] * c - old[high] * n;
                            x[high] = old[high] * c + old[low] * n;
                        }
                    }
                    let op = RotaryEmbedding { heads: h, rotary_dim: if pairs == 5 { 0 } else { 6 }, interleaved };
                    let list = if by_offset { &offset } else { &ids };
                    let of = |x: &Tensor| {
                        let shape = x.shape().to_vec();
                        let inputs = [Some(x), Some(list), Some(&cos), Some(&sin)];
                        values::<f32>(
                            &run_kernel(&inputs, &[(DType::F32, &shape)], |i, o| run(&cpu, &op, i, o)).unwrap()[0],
                        )
                    };
                    assert_close(&of(&merged), &want, 1e-6);
                    let swap = |v: &[f32]| -> Vec<f32> {
                        let at = |i: usize| (i / (h * s * d), i / (s * d) % h, i / d % s, i % d);
                        (0..v.len()).map(|i| at(i)).map(|(b, h_, s_, e)| v[((b * s + s_) * h + h_) * d + e]).collect()
                    };
                    let split = Tensor::from_slice(&[b, h, s, d], &swap(&v)).unwrap();
                    assert_close(&of(&split), &swap(&want), 1e-6);
                }
            }
        }
    }

    #[test]
    fn bad_input_is_an_error() {
        let cpu = Cpu::new(1);
        let op = RotaryEmbedding { heads: 1, rotary_dim: 0, interleaved: false };
        let table = Tensor::from_slice(&[4, 2], &[1f32; 8]).unwrap();
        let of = |x: &[usize], ids: Tensor| {
            let t = Tensor::from_slice(x, &vec![0f32; x.iter().product()]).unwrap();
            let inputs = [Some(&t), Some(&ids), Some(&table), Some(&table)];
            run_kernel(&inputs, &[(DType::F32, x)], |i, o| run(&cpu, &op, i, o)).map(|_| ())
        };
        assert!(of(&[1, 2, 4], Tensor::vector(&[2i64])).is_ok());
        assert!(matches!(of(&[1, 2, 4], Tensor::vector(&[3i64])), Err(KernelError::OutOfRange(_))));
        assert!(matches!(of(&[1, 2, 4], Tensor::vector(&[-1i64])), Err(KernelError::OutOfRange(_))));
        assert!(of(&[1, 2, 3], Tensor::vector(&[0i64])).is_err());
        assert!(of(&[1, 2, 4], Tensor::vector(&[0i64, 1, 2])).is_err());
        assert!(of(&[2, 4], Tensor::vector(&[0i64])).is_err());
        assert!(of(&[0, 2, 4], Tensor::vector(&[0i64])).is_ok());
    }
}
