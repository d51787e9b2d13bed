//! Exact convolutions of 8-bit integers.

use super::geometry::{Geometry, filters_per_group};
use super::patches::{self, Patches};
use super::planes::Planes;
use super::{run_depthwise, widened};
use crate::cpu::Cpu;
use crate::cpu::epilogue::Epilogue;
use crate::cpu::integer::Scales;
use crate::cpu::integer::pack::{self, Bytes, Zeros, widen};
use crate::cpu::integer::quads::{self, ColumnZeros, Filters, moved};
use crate::cpu::integer::sums::{Correction, Sums};
use crate::cpu::matmul::kernel::{ByteKernel, Kernel};
use crate::cpu::matmul::{Context, driver, over_batches};
use crate::cpu::operands::Operands;
use crate::cpu::packed::{self, Form};
use crate::cpu::parallel::SharedMut;
use crate::error::KernelError;
use crate::graph::{ConvInteger, ConvIntegerToFloat, Window};
use crate::tensor::{ConstantId, Element, TensorView, TensorViewMut, element_count};

/// Windows up to this size sum exactly in f32: each product is below 2^16, their sum not above 2^24.
const EXACT_TAPS: usize = 256;

/// Runs [`crate::graph::Op::ConvInteger`].
pub(crate) fn run(
    cpu: &Cpu,
    op: &ConvInteger,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let operands = Operands::new("ConvInteger", inputs);
    let convolution = Convolution::new("ConvInteger", operands, op.groups, &op.window, 2, 3)?;
    convolution.run::<i32>(cpu, operands, outputs, |_, _, sums, out| out.copy_from_slice(sums.exact()))
}

/// Runs [`crate::graph::Op::ConvIntegerToFloat`].
pub(crate) fn run_to_float(
    cpu: &Cpu,
    op: &ConvIntegerToFloat,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const NAME: &str = "ConvIntegerToFloat";
    let operands = Operands::new(NAME, inputs);
    Epilogue::check(NAME, op.activation)?;
    let convolution = Convolution::new(NAME, operands, op.groups, &op.window, 4, 5)?;
    let filters = convolution.filters;
    let epilogue = Epilogue {
        activation: op.activation,
        column_bias: None,
        row_bias: operands.elements(6, "bias", filters)?,
        residual: operands.elements(7, "residual", convolution.outputs()?)?,
    };
    let scales = Scales::new(operands, (2, "x_scale"), (3, "w_scale"), filters)?;
    convolution.run::<f32>(cpu, operands, outputs, |filter, at, sums, out| {
        epilogue.finish(filter, 0, at, scales.row(filter, sums), out);
    })
}

/// A convolution of integers and its zero points.
struct Convolution<'a> {
    geometry: Geometry,
    groups: usize,
    filters: usize,
    /// Channels that a filter sees.
    channels: usize,
    x: Bytes<'a>,
    x_zero: i16,
    w: Bytes<'a>,
    w_zeros: Zeros,
    /// The identity of the packed filters: of w and of its zero points.
    constant: Option<(ConstantId, Option<ConstantId>)>,
}

impl<'a> Convolution<'a> {
    /// The convolution of input 0 with input 1, the zero points in the inputs given.
    fn new(
        op: &'static str,
        operands: Operands<'a>,
        groups: usize,
        window: &Window,
        x_zero: usize,
        w_zero: usize,
    ) -> Result<Self, KernelError> {
        let (x, w) = (operands.required(0, "x")?, operands.required(1, "w")?);
        filters_per_group(op, x.shape, w.shape, groups)?;
        let geometry = Geometry::of(op, x.shape, &w.shape[2..], window, false)?;
        let (filters, channels) = (w.shape[0], w.shape[1]);
        let constant = match operands.optional(w_zero) {
            None => w.constant.map(|id| (id, None)),
            Some(zero) => w.constant.zip(zero.constant).map(|(id, zero)| (id, Some(zero))),
        };
        Ok(Convolution {
            geometry,
            groups,
            filters,
            channels,
            x: Bytes::of(op, &x)?,
            x_zero: Zeros::of(op, operands.optional(x_zero), x.dtype, 1, 1)?.at(0),
            w: Bytes::of(op, &w)?,
            w_zeros: Zeros::of(op, operands.optional(w_zero), w.dtype, filters, 1)?,
            constant,
        })
    }

    /// Elements of the output.
    fn outputs(&self) -> Result<usize, KernelError> {
        Ok(element_count(&[self.geometry.batch, self.filters, self.geometry.output_len()])?)
    }

    /// Convolves; `finish(filter, at, sums, out)` writes the part of the outputs that begins with element `at`.
    fn run<O: Element>(
        &self,
        cpu: &Cpu,
        operands: Operands<'_>,
        outputs: &mut [TensorViewMut<'_>],
        finish: impl Fn(usize, usize, Sums<'_>, &mut [O]) + Sync,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        let (k, m) = (self.channels * g.taps(), self.filters / self.groups);
        let len = self.outputs()?;
        let out = operands.output::<O>(outputs, 0, len)?;
        if len == 0 {
            return Ok(());
        }
        let image = self.channels * g.input_len();
        if self.channels == 1 && self.groups > 1 && g.taps() <= EXACT_TAPS {
            let number = |i: usize| f32::from(self.w.at(i) - self.w_zeros.at(i / k));
            let w = widened(cpu, self.constant, self.filters * k, number);
            let (flip, zero) = (self.x.flip(), self.x_zero);
            let load = |d: &super::Depthwise<'_>, channel: usize, room: &mut [f32]| {
                d.load(&self.x.data[channel * image..][..image], |x| (widen(x, flip) - zero) as f32, room);
            };
            run_depthwise(cpu, g, m, self.filters, w.as_slice(), load, out, |filter, at, sums, out| {
                let sums: &mut [i32] = bytemuck::cast_slice_mut(sums);
                sums.iter_mut().for_each(|x| *x = f32::from_bits(*x as u32) as i32);
                finish(filter, at, Sums { data: sums, correction: Correction::None }, out);
            });
            return Ok(());
        }
        match cpu.kernels().bytes {
            Some(kernel) => self.run_quads(cpu, kernel, out, finish),
            None => self.run_wide(cpu, cpu.kernels().wide, out, finish),
        }
        Ok(())
    }

    /// Convolves with products of bytes.
    fn run_quads<O: Element>(
        &self,
        cpu: &Cpu,
        kernel: &ByteKernel,
        out: &mut [O],
        finish: impl Fn(usize, usize, Sums<'_>, &mut [O]) + Sync,
    ) {
        let g = &self.geometry;
        let (k, n, m) = (self.channels * g.taps(), g.output_len(), self.filters / self.groups);
        let mr = kernel.tile.mr;
        let filters = Filters { bytes: self.w, zeros: &self.w_zeros };
        let group_len = Filters::len(m, k, mr);
        let constant = self.constant.map(|(id, _)| (id, Form::QuadRows { groups: self.groups, m, k }));
        let filters_packed = packed::Operands::new(cpu, constant, self.groups, group_len, |threads, group, out| {
            filters.pack(threads, kernel, group, (m, k), out);
        });
        let has_zeros = (0..self.filters).any(|filter| filters.zero(kernel, filter) != 0);
        let image = self.channels * g.input_len();
        let planes = Planes::new(g);
        over_batches(cpu, g.batch * self.groups, m * n, out, |cx: Context<'_>, i, out: &mut [O]| {
            let group = i % self.groups;
            let packed = filters_packed.get(cx, group);
            let (rows, sums) = packed.as_slice::<u8>().split_at(quads::rows_len(m, k, mr));
            let sums: &[i32] = bytemuck::cast_slice(sums);
            let x = &self.x.data[i * image..][..image];
            let pad = self.x_zero as u8;
            let loaded = patches::load(cx.threads, cx.scratch, &planes, x, pad);
            let patches = Patches::<u8>::new(&planes, &loaded, pad, self.x.flip());
            // Sums over the window are only asked for if a filter has a zero point.
            let mut room = cx.scratch.take(if has_zeros { n * size_of::<i32>() } else { 0 });
            let columns: &mut [i32] = bytemuck::cast_slice_mut(room.as_mut_slice());
            if has_zeros {
                patches.sum_columns(cx.scratch, columns);
            }
            let columns = &*columns;
            let zeros = ColumnZeros::One(moved(self.x_zero, self.x.signed, true));
            let out = SharedMut::new(out);
            driver::multiply(cx, &kernel.tile, (m, n, k), rows, &patches, |row, column, part| {
                let filter = group * m + row;
                let zero = filters.zero(kernel, filter);
                let rest = sums[row].wrapping_sub((k as i32).wrapping_mul(zero));
                let correction = zeros.correction(column..column + part.len(), zero, rest, columns);
                let at = row * n + column;
                // SAFETY: the driver stores each part of the m x n outputs once.
                let out = unsafe { out.slice(at, part.len()) };
                finish(filter, i * m * n + at, Sums { data: part, correction }, out);
            });
        });
    }

    /// Convolves with products of bytes widened to 16 bits.
    fn run_wide<O: Element>(
        &self,
        cpu: &Cpu,
        kernel: &Kernel<i16>,
        out: &mut [O],
        finish: impl Fn(usize, usize, Sums<'_>, &mut [O]) + Sync,
    ) {
        let g = &self.geometry;
        let (k, n, m) = (self.channels * g.taps(), g.output_len(), self.filters / self.groups);
        let image = self.channels * g.input_len();
        let rows_len = pack::rows_len(m, k, kernel.mr);
        let constant = self.constant.map(|(id, zero)| (id, Form::WideRows { groups: self.groups, m, k, zero }));
        let filters_packed =
            packed::Operands::new(cpu, constant, self.groups, rows_len * size_of::<i16>(), |threads, group, out| {
                let zero = |row: usize| self.w_zeros.at(group * m + row);
                let (w, out) = (self.w.part(group * m * k, m * k), bytemuck::cast_slice_mut(out));
                pack::pack_rows(threads, w, m, k, kernel.mr, zero, out);
            });
        let planes = Planes::new(g);
        over_batches(cpu, g.batch * self.groups, m * n, out, |cx: Context<'_>, i, out: &mut [O]| {
            let group = i % self.groups;
            let packed = filters_packed.get(cx, group);
            let x = &self.x.data[i * image..][..image];
            let pad = self.x_zero as u8;
            let loaded = patches::load(cx.threads, cx.scratch, &planes, x, pad);
            let patches = Patches::<u8>::new(&planes, &loaded, pad, self.x.flip());
            let out = SharedMut::new(out);
            driver::multiply(cx, kernel, (m, n, k), packed.as_slice(), &patches, |row, column, sums| {
                let at = row * n + column;
                // SAFETY: the driver stores each part of the m x n outputs once.
                let out = unsafe { out.slice(at, sums.len()) };
                let sums = Sums { data: sums, correction: Correction::None };
                finish(group * m + row, i * m * n + at, sums, out);
            });
        });
    }
}
