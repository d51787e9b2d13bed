//! Exact products of 8-bit integers, as i32 or scaled to f32.
//!
//! Sums wrap as 32-bit integers do; that needs K above 33,000 with the largest numbers throughout.

pub(crate) mod losses;
pub(crate) mod pack;
pub(crate) mod quads;
#[cfg(test)]
mod random;
pub(crate) mod sums;
mod thin;
mod wide;

use pack::{Bytes, Zeros};
use sums::{Factor, Sums};

use super::Cpu;
use super::epilogue::Epilogue;
use super::matmul::dims::Dims;
use super::matmul::kernel::{ByteKernel, Kernel};
use super::operands::Operands;
use super::packed::Form;
use crate::error::KernelError;
use crate::graph::MatMulIntegerToFloat;
use crate::tensor::{ConstantId, Element, TensorView, TensorViewMut};

/// Runs [`crate::graph::Op::MatMulInteger`].
pub(crate) fn run(
    cpu: &Cpu,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let operands = Operands::new("MatMulInteger", inputs);
    let product = Product::new("MatMulInteger", operands, 2, 3)?;
    product.run::<i32>(cpu, operands, outputs, |part, out| out.copy_from_slice(part.sums.exact()))
}

/// Runs [`crate::graph::Op::MatMulIntegerToFloat`].
pub(crate) fn run_to_float(
    cpu: &Cpu,
    op: &MatMulIntegerToFloat,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const NAME: &str = "MatMulIntegerToFloat";
    let operands = Operands::new(NAME, inputs);
    Epilogue::check(NAME, op.activation)?;
    let product = Product::new(NAME, operands, 4, 5)?;
    let n = product.dims.n;
    let epilogue = Epilogue {
        activation: op.activation,
        column_bias: operands.elements(6, "bias", n)?,
        row_bias: None,
        residual: operands.elements(7, "residual", product.dims.outputs()?)?,
        relu: false,
    };
    let scales = Scales::new(operands, (2, "a_scale"), (3, "b_scale"), n)?;
    product.run::<f32>(cpu, operands, outputs, |Part { at, row, column, sums }, out| {
        epilogue.finish(row, column, at, scales.columns(column, sums), out);
    })
}

/// Packs the weight matrix `b`, `k` x `n`; see [`Cpu::ahead`].
pub(crate) fn pack_ahead(cpu: &Cpu, b: TensorView<'_>, k: usize, n: usize) -> bool {
    let (Some(id), Ok(bytes)) = (b.constant, Bytes::of("MatMulInteger", &b)) else { return false };
    match Way::of(cpu, Some(id), 1, (k, n), bytes) {
        Way::Quads(kernel) => drop(quads::packed_columns(cpu, kernel.tile.nr, Some(id), 1, (k, n), |_| bytes)),
        Way::Pairs(kernel, weights) => drop(quads::listed_columns(cpu, kernel.tile.nr, weights, (k, n), bytes)),
        Way::Wide(kernel) => drop(wide::packed_columns(cpu, kernel.nr, Some(id), 1, (k, n), |_| bytes)),
    }
    true
}

/// How this machine multiplies by a matrix.
enum Way {
    /// Four products at once, exactly.
    Quads(&'static ByteKernel),
    /// Pairs of products, of which few can saturate: with a constant, and how many (unless it is packed already).
    Pairs(&'static ByteKernel, (ConstantId, usize)),
    /// Pairs of products of 16-bit numbers.
    Wide(&'static Kernel<i16>),
}

impl Way {
    /// For `matrices` matrices of `k` x `n`; `bytes` may be gone if they are a constant's that was packed.
    fn of(cpu: &Cpu, constant: Option<ConstantId>, matrices: usize, (k, n): (usize, usize), bytes: Bytes<'_>) -> Way {
        let kernels = cpu.kernels();
        if let Some(kernel) = kernels.bytes {
            return Way::Quads(kernel);
        }
        // The form that the constant was packed into tells what was found then: nobody counts once more.
        let has = |id, form| cpu.packed.has(id, form);
        let risks = |id| match matrices {
            1 if has(id, Form::Quads { matrices, k, n }) => Some(0),
            1 if !has(id, Form::ByteColumns { matrices, k, n }) => losses::count(bytes, k, n),
            _ => None,
        };
        let pairs = || Some(Way::Pairs(&kernels.pairs?.columns, (constant?, risks(constant?)?)));
        pairs().unwrap_or(Way::Wide(kernels.wide))
    }
}

/// The scales of the two sides of a product of integers.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    one: f32,
    /// One, or one each.
    many: &'a [f32],
}

impl<'a> Scales<'a> {
    /// The scale in input `one` and the scales in input `many`, 1 or `count` of them.
    pub(crate) fn new(
        operands: Operands<'a>,
        one: (usize, &str),
        many: (usize, &str),
        count: usize,
    ) -> Result<Self, KernelError> {
        operands.required(one.0, one.1)?;
        let view = operands.required(many.0, many.1)?;
        let first = operands.elements::<f32>(one.0, one.1, 1)?.map_or(1.0, |s| s[0]);
        let expected = if view.len() == 1 { 1 } else { count };
        let many = operands.elements::<f32>(many.0, many.1, expected)?.unwrap_or_default();
        Ok(Scales { one: first, many })
    }

    /// The sums of columns from `column` on as floats, scaled: as ONNX Runtime has it, by the product of both scales
    /// in f32.
    pub(crate) fn columns<'s>(&self, column: usize, sums: Sums<'s>) -> &'s mut [f32] {
        let len = sums.data.len();
        match self.many {
            [many] => sums.scaled(Factor::One(self.one * many)),
            many => sums.scaled(Factor::Each(self.one, &many[column..][..len])),
        }
    }

    /// The sums of row `row` as floats, scaled.
    pub(crate) fn row<'s>(&self, row: usize, sums: Sums<'s>) -> &'s mut [f32] {
        sums.scaled(Factor::One(self.one * if self.many.len() == 1 { self.many[0] } else { self.many[row] }))
    }
}

/// A batched product of integers and its zero points.
struct Product<'a> {
    dims: Dims,
    a: Bytes<'a>,
    b: Bytes<'a>,
    b_view: TensorView<'a>,
    a_zeros: Zeros,
    b_zeros: Zeros,
}

impl<'a> Product<'a> {
    /// The product of inputs 0 and 1 with the zero points in the inputs given.
    fn new(op: &'static str, operands: Operands<'a>, a_zero: usize, b_zero: usize) -> Result<Self, KernelError> {
        let (a, b) = (operands.required(0, "a")?, operands.required(1, "b")?);
        let dims = Dims::of(a.shape, b.shape, false, false)?;
        // The rows of one matrix before a batch was folded into them.
        let rows = if a.shape.len() > 1 { a.shape[a.shape.len() - 2] } else { 1 };
        let all_rows = a.shape[..a.shape.len() - 1].iter().product::<usize>();
        let a_zeros = Zeros::of(op, operands.optional(a_zero), a.dtype, rows, all_rows / rows.max(1))?;
        let b_zeros = Zeros::of(op, operands.optional(b_zero), b.dtype, dims.n, dims.b_matrices)?;
        Ok(Product { dims, a: Bytes::of(op, &a)?, b: Bytes::of(op, &b)?, b_view: b, a_zeros, b_zeros })
    }

    /// Multiplies; `finish(part, out)` writes the part of the outputs that begins with element `part.at`.
    fn run<O: Element>(
        &self,
        cpu: &Cpu,
        operands: Operands<'_>,
        outputs: &mut [TensorViewMut<'_>],
        finish: impl Fn(Part<'_>, &mut [O]) + Sync,
    ) -> Result<(), KernelError> {
        let len = self.dims.outputs()?;
        let out = operands.output::<O>(outputs, 0, len)?;
        if len == 0 {
            return Ok(());
        }
        let (constant, matrices) = (self.b_view.constant, self.dims.b_matrices);
        match Way::of(cpu, constant, matrices, (self.dims.k, self.dims.n), self.b) {
            Way::Quads(kernel) => self.run_quads(cpu, kernel, out, finish),
            Way::Pairs(kernel, weights) => self.run_pairs(cpu, kernel, weights, out, finish),
            Way::Wide(kernel) => self.run_wide(cpu, kernel, out, finish),
        }
        Ok(())
    }
}

/// A stretch of one row of a product.
struct Part<'a> {
    /// Its first element, counted over the outputs of all products of a batch.
    at: usize,
    row: usize,
    column: usize,
    sums: Sums<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Unary;
    use crate::tensor::{DType, Tensor};

    /// Bytes with many extremes.
    fn bytes(n: usize, seed: u32, signed: bool) -> Tensor {
        let mut state = seed.wrapping_mul(2654435761) | 1;
        let data: Vec<u8> = (0..n)
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                match state >> 29 {
                    0 => 0,
                    1 => 255,
                    2 => 127,
                    3 => 128,
                    _ => (state >> 16) as u8,
                }
            })
            .collect();
        Tensor::from_bytes(if signed { DType::I8 } else { DType::U8 }, &[n], &data).unwrap()
    }

    pub(super) fn naive(a: &Tensor, b: &Tensor, az: &[i64], bz: &[i64]) -> Vec<i32> {
        let dims = Dims::of(a.shape(), b.shape(), false, false).unwrap();
        let (x, y) = (a.to_i64_vec().unwrap(), b.to_i64_vec().unwrap());
        let (m, n, k) = (dims.m, dims.n, dims.k);
        let mut out = Vec::new();
        for &(ai, bi) in &dims.batches {
            for i in 0..m {
                for j in 0..n {
                    let (zi, zj) = (az[(ai * m + i) % az.len()], bz[(bi * n + j) % bz.len()]);
                    let term = |p| (x[(ai * m + i) * k + p] - zi) * (y[(bi * k + p) * n + j] - zj);
                    out.push((0..k).map(term).sum::<i64>() as i32);
                }
            }
        }
        out
    }

    pub(super) fn view<'a, T: Element>(out: &'a mut [T], shape: &'a [usize]) -> TensorViewMut<'a> {
        TensorViewMut { dtype: T::DTYPE, shape, bytes: bytemuck::cast_slice_mut(out) }
    }

    #[test]
    fn every_pair_of_types_is_exact() {
        let shapes: &[(&[usize], &[usize])] = &[
            (&[1, 1], &[1, 1]),
            (&[7, 33], &[33, 21]),
            (&[50, 1030], &[1030, 37]),
            (&[2, 5, 9], &[9, 4]),
            (&[3, 5, 8], &[3, 8, 17]),
            (&[9], &[9, 4]),
            (&[2, 9], &[9]),
            (&[0, 9], &[9, 4]),
            (&[3, 0], &[0, 4]),
        ];
        let mut id = 0;
        for cpu in Cpu::of_every_kind() {
            for &(a_shape, b_shape) in shapes {
                for signs in 0..4 {
                    let (a_signed, b_signed) = (signs & 1 == 1, signs & 2 == 2);
                    let dims = Dims::of(a_shape, b_shape, false, false).unwrap();
                    let rows = if a_shape.len() > 1 { a_shape[a_shape.len() - 2] } else { 1 };
                    let a = bytes(a_shape.iter().product(), 1 + signs, a_signed).reshaped(a_shape).unwrap();
                    let b = bytes(b_shape.iter().product(), 9 + signs, b_signed).reshaped(b_shape).unwrap();
                    for (az, bz) in [(0, 0), (1, 1), (rows, dims.n), (1, dims.n * dims.b_matrices)] {
                        let (az, bz) = (bytes(az, 5, a_signed), bytes(bz, 6, b_signed));
                        let ints = |t: &Tensor| if t.is_empty() { vec![0] } else { t.to_i64_vec().unwrap() };
                        let want = naive(&a, &b, &ints(&az), &ints(&bz));
                        let zero = |t: &Tensor| !t.is_empty();
                        for constant in [None, Some(ConstantId(id))] {
                            let mut b_view = b.view();
                            b_view.constant = constant;
                            let inputs = [
                                Some(a.view()),
                                Some(b_view),
                                zero(&az).then_some(az.view()),
                                zero(&bz).then_some(bz.view()),
                            ];
                            let mut out = vec![-1i32; want.len()];
                            run(&cpu, &inputs, &mut [view(&mut out, &[want.len()])]).unwrap();
                            assert_eq!(out, want, "{a_shape:?} {b_shape:?} {signs} {constant:?}");
                        }
                        id += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn extremes_and_wrapping() {
        Cpu::of_every_kind().for_each(|cpu| check_extremes(&cpu));
    }

    fn check_extremes(cpu: &Cpu) {
        // 255 * 255 * 40000 does not fit an i32; the sum wraps as two's complement does.
        let k = 40_000;
        let a = Tensor::from_slice(&[1, k], &vec![255u8; k]).unwrap();
        let b = Tensor::from_slice(&[k, 1], &vec![255u8; k]).unwrap();
        let mut out = [0i32];
        run(cpu, &[Some(a.view()), Some(b.view())], &mut [view(&mut out, &[1])]).unwrap();
        assert_eq!(out[0], (255i64 * 255 * k as i64) as i32);
        // The largest differences that zero points can make.
        let low = Tensor::from_slice(&[2, 6], &[-128i8; 12]).unwrap();
        let high = Tensor::from_slice(&[6, 3], &[127i8; 18]).unwrap();
        let (az, bz) = (Tensor::scalar(127i8), Tensor::vector(&[-128i8, 127, 0]));
        let mut out = [0i32; 6];
        let inputs = [Some(low.view()), Some(high.view()), Some(az.view()), Some(bz.view())];
        run(cpu, &inputs, &mut [view(&mut out, &[6])]).unwrap();
        assert_eq!(out[..3], [-255 * 255 * 6, 0, -255 * 127 * 6]);
    }

    #[test]
    fn scaled_with_epilogue() {
        Cpu::of_every_kind().for_each(|cpu| check_scaled(&cpu));
    }

    fn check_scaled(cpu: &Cpu) {
        let (m, n, k) = (5, 18, 40);
        let a = bytes(m * k, 1, false).reshaped(&[m, k]).unwrap();
        let b = bytes(k * n, 2, true).reshaped(&[k, n]).unwrap();
        let (az, bz) = (bytes(1, 3, false), bytes(n, 4, true));
        let sums = naive(&a, &b, &az.to_i64_vec().unwrap(), &bz.to_i64_vec().unwrap());
        let floats = |n: usize| -> Vec<f32> { (0..n).map(|i| (i as f32 * 0.37).sin()).collect() };
        let (bias, residual) = (floats(n), floats(m * n));
        for per_column in [false, true] {
            let scales: Vec<f32> = (0..if per_column { n } else { 1 }).map(|i| 0.01 + i as f32 * 0.003).collect();
            let (sa, sb) = (Tensor::scalar(0.02f32), Tensor::vector(&scales));
            let (tb, tr) = (Tensor::vector(&bias), Tensor::vector(&residual));
            let all = [&a, &b, &sa, &sb, &az, &bz, &tb, &tr].map(|t| Some(t.view()));
            let mut out = vec![0f32; m * n];
            let op = MatMulIntegerToFloat { activation: Some(Unary::Relu) };
            run_to_float(cpu, &op, &all, &mut [view(&mut out, &[m * n])]).unwrap();
            for (i, &y) in out.iter().enumerate() {
                let scale = 0.02f32 * scales[if per_column { i % n } else { 0 }];
                let want = (sums[i] as f32 * scale + bias[i % n]).max(0.0) + residual[i];
                assert!(y == want, "{y} {want}");
            }
        }
    }

    #[test]
    fn bad_operands_are_errors() {
        let cpu = Cpu::new(1);
        let (a, b) = (bytes(6, 1, false).reshaped(&[2, 3]).unwrap(), bytes(12, 1, true).reshaped(&[3, 4]).unwrap());
        let mut out = [0i32; 8];
        let mut call = |inputs: &[Option<TensorView<'_>>]| run(&cpu, inputs, &mut [view(&mut out, &[8])]);
        assert!(call(&[Some(a.view()), Some(b.view())]).is_ok());
        assert!(call(&[Some(a.view()), Some(b.view()), Some(Tensor::scalar(1i8).view())]).is_err());
        assert!(call(&[Some(a.view()), Some(b.view()), None, Some(Tensor::vector(&[1i8, 2, 3]).view())]).is_err());
        assert!(call(&[Some(a.view()), Some(Tensor::vector(&[1f32; 3]).view())]).is_err());
        assert!(call(&[Some(a.view())]).is_err());
    }
}
