//! Exact convolutions of 8-bit integers.

use super::geometry::{Geometry, filters_per_group};
use super::patches::{self, Patches};
use super::planes::Planes;
use super::{run_depthwise, widened};
use crate::cpu::epilogue::Epilogue;
use crate::cpu::integer::Scales;
use crate::cpu::integer::losses::{self, Risks};
use crate::cpu::integer::pack::{self, Bytes, Zeros, widen};
use crate::cpu::integer::quads::{self, ColumnZeros, Filters, moved};
use crate::cpu::integer::sums::{Correction, Sums};
use crate::cpu::matmul::driver::{self, RowPanels};
use crate::cpu::matmul::kernel::{ByteKernel, Kernel};
use crate::cpu::matmul::{Context, over_batches};
use crate::cpu::operands::Operands;
use crate::cpu::packed::{self, Form};
use crate::cpu::parallel::SharedMut;
use crate::cpu::{Cpu, math};
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
        relu: op.relu,
    };
    let scales = Scales::new(operands, (2, "x_scale"), (3, "w_scale"), filters)?;
    convolution.run::<f32>(cpu, operands, outputs, |filter, at, sums, out| {
        epilogue.finish(filter, 0, at, scales.row(filter, sums), out);
    })
}

/// Packs the filters `w` of a convolution of integers in `groups`, if how depends on nothing else; see [`Cpu::ahead`].
pub(crate) fn pack_ahead(cpu: &Cpu, groups: usize, w: TensorView<'_>) -> bool {
    let (Some(id), [m, rest @ ..], 1) = (w.constant, w.shape, groups) else { return false };
    let (Ok(bytes), Ok(k)) = (Bytes::of("ConvInteger", &w), element_count(rest)) else { return false };
    let Some((kernel, risks)) = byte_kernel(cpu, || pairs(cpu, id, bytes, (*m, k))) else { return false };
    let filters = Filters { bytes, zeros: &Zeros::none() };
    drop(packed_filters(cpu, kernel, risks, &filters, Some(id), (1, *m, k)));
    true
}

/// Writes the largest number that each row of patches of the channels `x`, padded with `pad`, may have as u8: a byte with the
/// bits of `mask` turned over.
fn largest_numbers(x: &[u8], g: &Geometry, pad: u8, mask: u8, largest: &mut [u8]) {
    largest.fill(0);
    let channels = x.chunks_exact(g.input_len().max(1)).map(|x| math::dispatch(LargestOf { x, mask }));
    for (rows, most) in largest.chunks_mut(g.taps()).zip(channels) {
        rows.fill(most.max(pad ^ mask));
    }
}

struct LargestOf<'a> {
    x: &'a [u8],
    mask: u8,
}

impl math::Kernel for LargestOf<'_> {
    type Output = u8;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> u8 {
        self.x.iter().fold(0, |most, x| most.max(x ^ self.mask))
    }
}

/// The kernel for bytes: the exact one of this machine, or the one that `pairs` finds, with its risky pairs.
fn byte_kernel(
    cpu: &Cpu,
    pairs: impl FnOnce() -> Option<(&'static ByteKernel, usize)>,
) -> Option<(&'static ByteKernel, Option<usize>)> {
    match cpu.kernels().bytes {
        Some(kernel) => Some((kernel, None)),
        None => pairs().map(|(kernel, risks)| (kernel, Some(risks))),
    }
}

/// The kernel that adds pairs with saturation, and how many of these are risky, if this machine multiplies the `m` filters
/// `bytes` of `k` weights, the constant `id`, with it. Once they are packed, nobody counts.
fn pairs(cpu: &Cpu, id: ConstantId, bytes: Bytes<'_>, (m, k): (usize, usize)) -> Option<(&'static ByteKernel, usize)> {
    let kernel = &cpu.kernels().pairs?.rows;
    let packed = cpu.packed.has(id, Form::QuadRows { groups: 1, m, k });
    let risks = if packed { 0 } else { losses::count_of_filters(bytes, m, k)? };
    Some((kernel, risks))
}

/// The filters of `groups` groups of `m` filters of `k` weights, packed for `kernel`; with a list of `risks` pairs if that
/// saturates.
fn packed_filters<'a>(
    cpu: &Cpu,
    kernel: &'a ByteKernel,
    risks: Option<usize>,
    filters: &'a Filters<'_>,
    constant: Option<ConstantId>,
    (groups, m, k): (usize, usize, usize),
) -> packed::Operands<impl Fn(usize, usize, &mut [u8]) + use<'a>> {
    let panels = RowPanels::new(m, kernel.tile.mr).count;
    let list = risks.map_or(0, |risks| losses::list_len(risks, panels));
    let constant = constant.map(|id| (id, Form::QuadRows { groups, m, k }));
    let len = Filters::len(m, k, kernel.tile.mr) + list;
    packed::Operands::new(cpu, constant, groups, len, move |threads, group, out| match risks {
        Some(_) => filters.pack_listed(threads, kernel, (m, k), out),
        None => filters.pack(threads, kernel, group, (m, k), out),
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
    /// The identity of w.
    w_constant: Option<ConstantId>,
    /// The identity of filters less their zero points: of w and of these.
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
            w_constant: w.constant,
            constant,
        })
    }

    /// See [`pairs`]. Filters that were widened had too many.
    fn pairs(&self, cpu: &Cpu) -> Option<(&'static ByteKernel, usize)> {
        let id = self.w_constant.filter(|_| self.groups == 1)?;
        let (m, k) = (self.filters, self.channels * self.geometry.taps());
        let widened = |(id, zero)| cpu.packed.has(id, Form::WideRows { groups: 1, m, k, zero });
        if self.constant.is_some_and(widened) { None } else { pairs(cpu, id, self.w, (m, k)) }
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
        match byte_kernel(cpu, || self.pairs(cpu)) {
            Some((kernel, risks)) => self.run_quads(cpu, kernel, risks, out, finish),
            None => self.run_wide(cpu, cpu.kernels().wide, out, finish),
        }
        Ok(())
    }

    /// Convolves with products of bytes.
    fn run_quads<O: Element>(
        &self,
        cpu: &Cpu,
        kernel: &ByteKernel,
        risks: Option<usize>,
        out: &mut [O],
        finish: impl Fn(usize, usize, Sums<'_>, &mut [O]) + Sync,
    ) {
        let g = &self.geometry;
        let (k, n, m) = (self.channels * g.taps(), g.output_len(), self.filters / self.groups);
        let mr = kernel.tile.mr;
        let filters = Filters { bytes: self.w, zeros: &self.w_zeros };
        let filters_packed = packed_filters(cpu, kernel, risks, &filters, self.w_constant, (self.groups, m, k));
        let has_zeros = (0..self.filters).any(|filter| filters.zero(kernel, filter) != 0);
        let image = self.channels * g.input_len();
        let planes = Planes::new(g);
        over_batches(cpu, g.batch * self.groups, m * n, out, |cx: Context<'_>, i, out: &mut [O]| {
            let group = i % self.groups;
            let packed = filters_packed.get(cx, group);
            let (packed, list) = packed.as_slice::<u8>().split_at(Filters::len(m, k, mr));
            let (rows, sums) = packed.split_at(quads::rows_len(m, k, mr));
            let sums: &[i32] = bytemuck::cast_slice(sums);
            let row_panels = RowPanels::new(m, mr);
            let risks = Risks::new(list, row_panels.count);
            let x = &self.x.data[i * image..][..image];
            let pad = self.x_zero as u8;
            let loaded = patches::load(cx.threads, cx.scratch, &planes, x, pad);
            let patches = Patches::<u8>::quads(&planes, &loaded, pad, self.x.flip(), kernel.b_signed);
            let mut losses_room = cx.scratch.take(risks.map_or(0, |risks| risks.room() + k.next_multiple_of(4)));
            let losses = risks.map(|risks| {
                let (room, largest) = losses_room.as_mut_slice().split_at_mut(risks.room());
                largest_numbers(x, g, pad, quads::mask(self.x.signed, kernel.b_signed), largest);
                risks.losses(rows, mr, largest, room)
            });
            // Sums over the window are only asked for if a filter has a zero point.
            let mut room = cx.scratch.take(if has_zeros { n * size_of::<i32>() } else { 0 });
            let columns: &mut [i32] = bytemuck::cast_slice_mut(room.as_mut_slice());
            if has_zeros {
                patches.sum_columns(cx.scratch, columns);
            }
            let columns = &*columns;
            let zeros = ColumnZeros::One(moved(self.x_zero, self.x.signed, kernel.b_signed));
            let out = SharedMut::new(out);
            driver::multiply(cx, &kernel.tile, (m, n, k), rows, &patches, |row, column, part| {
                if let Some(losses) = &losses {
                    let (panel, place) = row_panels.place(row);
                    let of_filter = losses.of_panel(panel).iter().filter(|loss| loss.column as usize == place);
                    patches.put_back(of_filter, column..column + part.len(), part);
                }
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
