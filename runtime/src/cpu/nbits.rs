//! Weights of 4 or 8 bits in blocks that share a scale.

use std::ops::Range;

use half::f16;

use super::Cpu;
use super::epilogue::Epilogue;
use super::matmul::driver::{self, Columns};
use super::matmul::pack::Matrix;
use super::matmul::{Context, Finish};
use super::operands::Operands;
use super::parallel;
use crate::error::KernelError;
use crate::graph::{GatherBlockQuantized, MatMulNBits};
use crate::tensor::{DType, TensorView, TensorViewMut, element_count};

/// Up to so many rows each weight is decoded in registers; more rows share weights decoded into panels.
pub(super) const THIN: usize = 4;

/// A list of f32 or f16.
#[derive(Clone, Copy)]
enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl<'a> Floats<'a> {
    fn of(operands: Operands<'_>, view: &TensorView<'a>) -> Result<Self, KernelError> {
        match view.dtype {
            DType::F32 => Ok(Floats::F32(view.as_slice()?)),
            DType::F16 => Ok(Floats::F16(view.as_slice()?)),
            _ => Err(operands.unsupported(view)),
        }
    }

    fn len(self) -> usize {
        match self {
            Floats::F32(x) => x.len(),
            Floats::F16(x) => x.len(),
        }
    }

    #[inline(always)]
    fn at(self, i: usize) -> f32 {
        match self {
            Floats::F32(x) => x[i],
            Floats::F16(x) => x[i].to_f32(),
        }
    }
}

/// Scales and zero points: rows of `blocks`.
#[derive(Clone, Copy)]
struct Scales<'a> {
    bits: u32,
    blocks: usize,
    scales: Floats<'a>,
    zeros: Zeros<'a>,
}

#[derive(Clone, Copy)]
enum Zeros<'a> {
    /// 2^(bits - 1).
    Middle,
    /// Rows of packed numbers, each row in whole bytes.
    Packed(&'a [u8]),
    Float(Floats<'a>),
}

impl<'a> Scales<'a> {
    /// Reads the scales and zero points of `rows` rows of `blocks` blocks.
    fn new(
        operands: Operands<'_>,
        bits: u32,
        rows: usize,
        blocks: usize,
        scales: TensorView<'a>,
        zeros: Option<TensorView<'a>>,
    ) -> Result<Self, KernelError> {
        let scales = Floats::of(operands, &scales)?;
        let count = element_count(&[rows, blocks])?;
        if scales.len() != count {
            return Err(operands.invalid(format!("{} scales, expected {count}", scales.len())));
        }
        let zeros = match zeros {
            None => Zeros::Middle,
            Some(view) if view.dtype == DType::U8 => {
                let expected = rows * (blocks * bits as usize).div_ceil(8);
                if view.bytes.len() != expected {
                    let got = view.bytes.len();
                    return Err(operands.invalid(format!("{got} bytes of zero points, expected {expected}")));
                }
                Zeros::Packed(view.bytes)
            }
            Some(view) => {
                let zeros = Floats::of(operands, &view)?;
                if zeros.len() != count {
                    return Err(operands.invalid(format!("{} zero points, expected {count}", zeros.len())));
                }
                Zeros::Float(zeros)
            }
        };
        Ok(Scales { bits, blocks, scales, zeros })
    }

    /// Scale and zero point of block `block` of row `row`.
    #[inline(always)]
    fn at(&self, row: usize, block: usize) -> (f32, f32) {
        let i = row * self.blocks + block;
        let zero = match self.zeros {
            Zeros::Middle => (1u32 << (self.bits - 1)) as f32,
            Zeros::Float(zeros) => zeros.at(i),
            Zeros::Packed(bytes) if self.bits == 8 => bytes[i] as f32,
            Zeros::Packed(bytes) => {
                let byte = bytes[row * self.blocks.div_ceil(2) + block / 2];
                (if block.is_multiple_of(2) { byte & 15 } else { byte >> 4 }) as f32
            }
        };
        (self.scales.at(i), zero)
    }
}

/// Quantized weights: `n` rows of K numbers, each the weights of one column of the product.
struct Weights<'a> {
    data: &'a [u8],
    scales: Scales<'a>,
    block: usize,
    n: usize,
}

impl Weights<'_> {
    /// The bytes of block `block` of row `row`.
    #[inline(always)]
    fn bytes(&self, row: usize, block: usize) -> &[u8] {
        let len = self.block * self.scales.bits as usize / 8;
        &self.data[(row * self.scales.blocks + block) * len..][..len]
    }

    /// Decodes the elements `k` of row `row`; those behind the last block are 0.
    fn decode(&self, row: usize, k: Range<usize>, out: &mut [f32]) {
        let mut at = k.start;
        while at < k.end {
            let block = at / self.block;
            let end = ((block + 1) * self.block).min(k.end);
            let (scale, zero) = self.scales.at(row, block);
            let out = &mut out[at - k.start..end - k.start];
            decode(self.scales.bits, self.bytes(row, block), at % self.block, scale, zero, out);
            at = end;
        }
    }
}

/// Decodes the numbers of `bytes` from element `first` on: `(q - zero) * scale`.
fn decode(bits: u32, bytes: &[u8], first: usize, scale: f32, zero: f32, out: &mut [f32]) {
    if bits == 8 {
        out.iter_mut().zip(&bytes[first..]).for_each(|(out, &q)| *out = (q as f32 - zero) * scale);
    } else if first.is_multiple_of(2) {
        let (pairs, rest) = out.as_chunks_mut::<2>();
        for (out, &byte) in pairs.iter_mut().zip(&bytes[first / 2..]) {
            *out = [((byte & 15) as f32 - zero) * scale, ((byte >> 4) as f32 - zero) * scale];
        }
        if let [last] = rest {
            *last = ((bytes[first / 2 + pairs.len()] & 15) as f32 - zero) * scale;
        }
    } else {
        for (i, out) in (first..).zip(out) {
            let q = bytes[i / 2] >> (4 * (i % 2)) & 15;
            *out = (q as f32 - zero) * scale;
        }
    }
}

impl Columns<f32> for Weights<'_> {
    fn needs_room(&self) -> bool {
        true
    }

    fn block<'s>(
        &'s self,
        nr: usize,
        k: Range<usize>,
        panels: Range<usize>,
        room: &'s mut [f32],
    ) -> (&'s [f32], usize) {
        let stride = k.len() * nr;
        let mut row = [0f32; driver::MAX_STRETCH];
        let row = &mut row[..k.len()];
        for (panel, out) in panels.zip(room.chunks_exact_mut(stride)) {
            let width = nr.min(self.n - panel * nr);
            if width < nr {
                out.fill(0.0);
            }
            for c in 0..width {
                self.decode(panel * nr + c, k.clone(), row);
                out[c..].iter_mut().step_by(nr).zip(row.iter()).for_each(|(out, &x)| *out = x);
            }
        }
        (room, stride)
    }
}

/// Runs [`crate::graph::Op::MatMulNBits`].
pub(crate) fn run(
    cpu: &Cpu,
    op: &MatMulNBits,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const NAME: &str = "MatMulNBits";
    let operands = Operands::new(NAME, inputs);
    Epilogue::check(NAME, op.activation)?;
    check_bits(NAME, op.bits, op.block)?;
    let (n, k) = (op.n, op.k);
    let a = operands.required(0, "a")?;
    if a.shape.last() != Some(&k) {
        return Err(operands.invalid(format!("a of shape {:?} for K = {k}", a.shape)));
    }
    let m = element_count(&a.shape[..a.shape.len() - 1])?;
    let a = a.as_slice::<f32>()?;
    let blocks = k.div_ceil(op.block);
    let b = operands.required(1, "b")?;
    let expected = element_count(&[n, blocks, op.block])? * op.bits as usize / 8;
    if b.dtype != DType::U8 {
        return Err(operands.unsupported(&b));
    }
    if b.bytes.len() != expected {
        return Err(operands.invalid(format!("{} bytes of weights, expected {expected}", b.bytes.len())));
    }
    let scales = operands.required(2, "scales")?;
    let scales = Scales::new(operands, op.bits, n, blocks, scales, operands.optional(3))?;
    let weights = Weights { data: b.bytes, scales, block: op.block, n };
    let len = element_count(&[m, n])?;
    let epilogue = Epilogue {
        activation: op.activation,
        column_bias: operands.elements(4, "bias", n)?,
        row_bias: None,
        residual: operands.elements(5, "residual", len)?,
        relu: false,
    };
    let out = operands.output::<f32>(outputs, 0, len)?;
    if len == 0 {
        return Ok(());
    }
    let cx = cpu.context();
    if m <= THIN {
        thin(cx, a, m, k, &weights, epilogue, out);
    } else {
        let finish = Finish { alpha: 1.0, epilogue, at: 0 };
        finish.multiply(cx, cx.kernels.f32, Matrix::new(a, m, k, (k, 1)), (m, n, k), &weights, out);
    }
    Ok(())
}

fn check_bits(op: &'static str, bits: u32, block: usize) -> Result<(), KernelError> {
    if (bits == 4 || bits == 8) && block >= 16 && block.is_power_of_two() {
        return Ok(());
    }
    let reason = format!("{bits} bits in blocks of {block}");
    Err(KernelError::Unsupported { backend: "cpu", op, reason })
}

/// A product with few rows: each weight is read once and multiplied where it was decoded.
///
/// The rows of `a` are laid out as the nibbles are: for 4 bits the even elements of a block, then the odd ones. With the
/// sum of each block of `a`, the zero point costs one multiplication a block:
/// `sum((q - z) s a) = s (sum(q a) - z sum(a))`.
fn thin(cx: Context<'_>, a: &[f32], m: usize, k: usize, w: &Weights<'_>, epilogue: Epilogue<'_>, out: &mut [f32]) {
    let (blocks, padded) = (w.scales.blocks, w.scales.blocks * w.block);
    let mut room = cx.scratch.take(m * (padded + blocks) * size_of::<f32>());
    let room: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
    let (arranged, sums) = room.split_at_mut(m * padded);
    for r in 0..m {
        for block in 0..blocks {
            let from = &a[r * k..][..k][block * w.block..((block + 1) * w.block).min(k)];
            let to = &mut arranged[r * padded + block * w.block..][..w.block];
            to.fill(0.0);
            sums[r * blocks + block] = from.iter().sum();
            if w.scales.bits == 8 {
                to[..from.len()].copy_from_slice(from);
            } else {
                for (i, &x) in from.iter().enumerate() {
                    to[i / 2 + i % 2 * (w.block / 2)] = x;
                }
            }
        }
    }
    let (arranged, sums) = (&*arranged, &*sums);
    let chunk = 64.min(w.n);
    let shared = parallel::SharedMut::new(out);
    parallel::for_each(cx.threads, w.n.div_ceil(chunk), |task| {
        let columns = task * chunk..((task + 1) * chunk).min(w.n);
        let mut results = [[0f32; 64]; THIN];
        for column in columns.clone() {
            let dots = dot(m, arranged, padded, column, w);
            for r in 0..m {
                let mut correction = 0.0;
                for block in 0..blocks {
                    let (scale, zero) = w.scales.at(column, block);
                    correction += scale * zero * sums[r * blocks + block];
                }
                results[r][column - columns.start] = dots[r] - correction;
            }
        }
        for (r, results) in results.iter_mut().enumerate().take(m) {
            let at = r * w.n + columns.start;
            // SAFETY: tasks write disjoint columns.
            let out = unsafe { shared.slice(at, columns.len()) };
            epilogue.finish(r, columns.start, at, &mut results[..columns.len()], out);
        }
    });
}

/// `sum(scale * q * a)` for each of `m` rows of the arranged `a`, `stride` apart.
fn dot(m: usize, a: &[f32], stride: usize, column: usize, w: &Weights<'_>) -> [f32; THIN] {
    assert!(m <= THIN && a.len() >= m * stride && stride == w.scales.blocks * w.block);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: AVX2 and FMA were just detected.
        return unsafe { dot_avx2(m, a, stride, column, w) };
    }
    dot_any(m, a, stride, column, w)
}

/// The same, compiled for AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_avx2(m: usize, a: &[f32], stride: usize, column: usize, w: &Weights<'_>) -> [f32; THIN] {
    dot_any(m, a, stride, column, w)
}

#[inline(always)]
fn dot_any(m: usize, a: &[f32], stride: usize, column: usize, w: &Weights<'_>) -> [f32; THIN] {
    let mut total = [[0f32; 8]; THIN];
    for block in 0..w.scales.blocks {
        let bytes = w.bytes(column, block);
        let scale = w.scales.at(column, block).0;
        for r in 0..m {
            let a = &a[r * stride + block * w.block..][..w.block];
            let mut part = [0f32; 8];
            if w.scales.bits == 8 {
                add_products(&mut part, bytes, a, |q| q);
            } else {
                let (even, odd) = a.split_at(w.block / 2);
                add_products(&mut part, bytes, even, |q| q & 15);
                add_products(&mut part, bytes, odd, |q| q >> 4);
            }
            for (total, part) in total[r].iter_mut().zip(part) {
                *total += scale * part;
            }
        }
    }
    total.map(|lanes| lanes.iter().sum())
}

/// Adds `q(byte) * a` to eight lanes in turn; both lengths are the same multiple of 8.
#[inline(always)]
fn add_products(lanes: &mut [f32; 8], bytes: &[u8], a: &[f32], q: impl Fn(u8) -> u8) {
    for (bytes, a) in bytes.as_chunks::<8>().0.iter().zip(a.as_chunks::<8>().0) {
        for i in 0..8 {
            lanes[i] += q(bytes[i]) as f32 * a[i];
        }
    }
}

/// Runs [`crate::graph::Op::GatherBlockQuantized`].
pub(crate) fn run_gather(
    cpu: &Cpu,
    op: &GatherBlockQuantized,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const NAME: &str = "GatherBlockQuantized";
    let operands = Operands::new(NAME, inputs);
    check_bits(NAME, op.bits, op.block)?;
    let data = operands.required(0, "data")?;
    if data.dtype != DType::U8 {
        return Err(operands.unsupported(&data));
    }
    let mut shape = data.shape.to_vec();
    let rank = shape.len();
    if op.gather_axis >= rank || op.quantize_axis >= rank {
        return Err(operands.invalid(format!("an axis lies outside of data of shape {shape:?}")));
    }
    if op.bits == 4 {
        shape[rank - 1] = shape[rank - 1].saturating_mul(2);
    }
    element_count(&shape)?;
    let indices = operands.required(1, "indices")?;
    let indices: Vec<i64> = match indices.dtype {
        DType::I64 => indices.as_slice::<i64>()?.to_vec(),
        DType::I32 => indices.as_slice::<i32>()?.iter().map(|&i| i as i64).collect(),
        _ => return Err(operands.unsupported(&indices)),
    };
    let size = shape[op.gather_axis];
    for &i in &indices {
        if i < -(size as i64) || i >= size as i64 {
            return Err(KernelError::OutOfRange(format!("{NAME}: index {i} of {size} rows")));
        }
    }
    // Scales have data's shape with the quantized dimension in blocks; rows of them are packed along the last one.
    let mut scale_shape = shape.clone();
    scale_shape[op.quantize_axis] = shape[op.quantize_axis].div_ceil(op.block);
    let last = scale_shape[rank - 1];
    let rows = element_count(&scale_shape[..rank - 1])?;
    let scales = Scales::new(operands, op.bits, rows, last, operands.required(2, "scales")?, operands.optional(3))?;
    let outer = element_count(&shape[..op.gather_axis])?;
    let inner = element_count(&shape[op.gather_axis + 1..])?;
    let len = element_count(&[outer, indices.len(), inner])?;
    let out = operands.output::<f32>(outputs, 0, len)?;
    if len == 0 {
        return Ok(());
    }
    let (along, within) = (shape[op.quantize_axis], element_count(&shape[op.quantize_axis + 1..])?);
    let blocks = scale_shape[op.quantize_axis];
    parallel::for_each_chunk(cpu.threads(), out, inner, |i, out| {
        let index = indices[i % indices.len()];
        let index = if index < 0 { index + size as i64 } else { index } as usize;
        let first = (i / indices.len() * size + index) * inner;
        let mut at = first;
        while at < first + inner {
            // Elements that follow each other share a scale only if blocks run along the last dimension.
            let q = at / within % along;
            let run = if within == 1 { (op.block - q % op.block).min(along - q).min(first + inner - at) } else { 1 };
            let flat = (at / within / along * blocks + q / op.block) * within + at % within;
            let (scale, zero) = scales.at(flat / last, flat % last);
            decode(op.bits, data.bytes, at, scale, zero, &mut out[at - first..][..run]);
            at += run;
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Unary;
    use crate::tensor::Tensor;

    fn bytes(n: usize, seed: usize) -> Vec<u8> {
        (0..n).map(|i| (((i as u32 + seed as u32).wrapping_mul(2654435761)) >> 7) as u8).collect()
    }

    fn floats(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed) as f32 * 0.61).sin()).collect()
    }

    fn view<'a>(out: &'a mut [f32], shape: &'a [usize]) -> TensorViewMut<'a> {
        TensorViewMut { dtype: DType::F32, shape, bytes: bytemuck::cast_slice_mut(out) }
    }

    #[test]
    fn products_with_every_kind_of_zero() {
        for threads in [1, 2] {
            let cpu = Cpu::new(threads);
            for (m, n, k, block) in [(1, 5, 32, 32), (3, 70, 80, 32), (4, 3, 16, 16), (9, 33, 600, 128), (0, 4, 16, 16)]
            {
                for bits in [4u32, 8] {
                    let blocks = k / block + usize::from(k % block > 0);
                    let data = bytes(n * blocks * block * bits as usize / 8, 1);
                    let scales = floats(n * blocks, 2);
                    let row_bytes = (blocks * bits as usize).div_ceil(8);
                    let (packed, float) = (bytes(n * row_bytes, 3), floats(n * blocks, 4));
                    let a = floats(m * k, 5);
                    let (bias, residual) = (floats(n, 6), floats(m * n, 7));
                    for zeros in 0..3 {
                        let nibble = |bytes: &[u8], i: usize| match bits {
                            8 => bytes[i] as f32,
                            _ => (bytes[i / 2] >> (4 * (i % 2)) & 15) as f32,
                        };
                        let zero = |row: usize, b: usize| match zeros {
                            0 => (1 << (bits - 1)) as f32,
                            1 => nibble(&packed[row * row_bytes..], b),
                            _ => float[row * blocks + b],
                        };
                        let mut want = vec![0f32; m * n];
                        for i in 0..m * n {
                            let (r, c) = (i / n, i % n);
                            let weight = |p: usize| {
                                let b = p / block;
                                let q = nibble(&data, c * blocks * block + p);
                                (q - zero(c, b)) as f64 * scales[c * blocks + b] as f64
                            };
                            let sum: f64 = (0..k).map(|p| weight(p) * a[r * k + p] as f64).sum();
                            want[i] = (sum as f32 + bias[c]).max(0.0) + residual[i];
                        }
                        let tensors = [
                            Tensor::from_slice(&[m, k], &a).unwrap(),
                            Tensor::from_slice(&[n, blocks, block * bits as usize / 8], &data).unwrap(),
                            Tensor::vector(&scales),
                            if zeros == 2 { Tensor::vector(&float) } else { Tensor::vector(&packed) },
                            Tensor::vector(&bias),
                            Tensor::from_slice(&[m, n], &residual).unwrap(),
                        ];
                        let mut inputs: Vec<_> = tensors.iter().map(|t| Some(t.view())).collect();
                        if zeros == 0 {
                            inputs[3] = None;
                        }
                        let op = MatMulNBits { bits, block, k, n, activation: Some(Unary::Relu) };
                        let mut out = vec![0f32; m * n];
                        run(&cpu, &op, &inputs, &mut [view(&mut out, &[m, n])]).unwrap();
                        for (got, want) in out.iter().zip(&want) {
                            let close = (got - want).abs() <= 1e-4 * (1.0 + want.abs()) * bits as f32;
                            assert!(close, "{m} {n} {k} {bits} {zeros}: {got} {want}");
                        }
                        inputs[2] = None;
                        assert!(run(&cpu, &op, &inputs, &mut [view(&mut out, &[m, n])]).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn gathers_rows_and_columns() {
        let cpu = Cpu::new(2);
        let (rows, width) = (6, 48);
        for bits in [4u32, 8] {
            let stored = width * bits as usize / 8;
            let data = Tensor::from_slice(&[rows, stored], &bytes(rows * stored, 1)).unwrap();
            let number = |i: usize| match bits {
                8 => data.bytes()[i] as f32,
                _ => (data.bytes()[i / 2] >> (4 * (i % 2)) & 15) as f32,
            };
            for (gather_axis, quantize_axis) in [(0, 1), (1, 1), (0, 0), (1, 0)] {
                let block = 16;
                let (sr, sc) = if quantize_axis == 1 { (rows, 3) } else { (1, width) };
                let scales = Tensor::from_slice(&[sr, sc], &floats(sr * sc, 2)).unwrap();
                let zero_bytes = (sc * bits as usize).div_ceil(8);
                let zeros = Tensor::from_slice(&[sr, zero_bytes], &bytes(sr * zero_bytes, 3)).unwrap();
                let size = [rows, width][gather_axis];
                let indices = Tensor::from_slice(&[2, 2], &[0i64, -1, 3, size as i64 - 2]).unwrap();
                let op = GatherBlockQuantized { bits, block, gather_axis, quantize_axis };
                let len = 4 * rows * width / size;
                let mut out = vec![0f32; len];
                let inputs = [Some(data.view()), Some(indices.view()), Some(scales.view()), Some(zeros.view())];
                run_gather(&cpu, &op, &inputs, &mut [view(&mut out, &[len])]).unwrap();
                for (i, &got) in out.iter().enumerate() {
                    let picked = [0, size - 1, 3, size - 2];
                    let (r, c) = if gather_axis == 0 { (picked[i / width], i % width) } else { (i / 4, picked[i % 4]) };
                    let (s, t) = if quantize_axis == 1 { (r, c / block) } else { (r / block, c) };
                    let z = match bits {
                        8 => zeros.bytes()[s * sc + t] as f32,
                        _ => (zeros.bytes()[s * zero_bytes + t / 2] >> (4 * (t % 2)) & 15) as f32,
                    };
                    let want = (number(r * width + c) - z) * scales.as_slice::<f32>().unwrap()[s * sc + t];
                    assert_eq!(got, want);
                }
                let bad = Tensor::vector(&[size as i32]);
                let inputs = [Some(data.view()), Some(bad.view()), Some(scales.view())];
                let error = run_gather(&cpu, &op, &inputs, &mut [view(&mut out, &[len])]);
                assert!(matches!(error, Err(KernelError::OutOfRange(_))));
            }
        }
    }
}
