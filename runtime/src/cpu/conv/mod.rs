//! Convolutions and pooling over one to three spatial dimensions.
//!
//! A convolution is a product of its filters with patches of the input (gathered block by block); if the window is one
//! element, the input is that matrix already. Filters that see one channel each have a kernel of their own, and windows of
//! 3 x 3 a way with fewer multiplications.

mod depthwise;
mod filters;
mod geometry;
mod integer;
mod patches;
mod planes;
mod pool;
mod positions;
#[cfg(test)]
mod random;
mod winograd;

use std::sync::Arc;

use depthwise::Depthwise;
use filters::Filters;
use geometry::{Geometry, filters_per_group};
use half::f16;
pub(crate) use integer::{pack_ahead as pack_ahead_integer, run as run_integer, run_to_float as run_integer_to_float};
use patches::Patches;
use planes::Planes;
pub(crate) use pool::run as run_pool;

use super::Cpu;
use super::epilogue::Epilogue;
use super::matmul::driver::RowPanels;
use super::matmul::pack::{Matrix, Widen};
use super::matmul::{Context, Finish, over_batches};
use super::operands::Operands;
use super::packed::{self, Form, Packed};
use super::parallel;
use crate::error::KernelError;
use crate::graph::Conv;
use crate::tensor::{AlignedBytes, ConstantId, DType, Element, TensorView, TensorViewMut, element_count};

/// Runs [`crate::graph::Op::Conv`].
pub(crate) fn run(
    cpu: &Cpu,
    op: &Conv,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let operands = Operands::new("Conv", inputs);
    let w = operands.required(1, "w")?;
    match w.dtype {
        DType::F32 => typed::<f32>(cpu, op, operands, w, outputs),
        DType::F16 => typed::<f16>(cpu, op, operands, w, outputs),
        _ => Err(operands.unsupported(&w)),
    }
}

fn typed<S: Element + Widen>(
    cpu: &Cpu,
    op: &Conv,
    operands: Operands<'_>,
    w: TensorView<'_>,
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    Epilogue::check("Conv", op.activation)?;
    let x = operands.required(0, "x")?;
    let m = filters_per_group("Conv", x.shape, w.shape, op.groups)?;
    let g = Geometry::of("Conv", x.shape, &w.shape[2..], &op.window, false)?;
    let (filters, channels) = (w.shape[0], w.shape[1]);
    let (k, n) = (channels * g.taps(), g.output_len());
    let len = element_count(&[g.batch, filters, n])?;
    let epilogue = Epilogue {
        activation: op.activation,
        column_bias: None,
        row_bias: operands.elements(2, "bias", filters)?,
        residual: operands.elements(3, "residual", len)?,
        relu: op.relu,
    };
    let (x, elements) = (x.as_slice::<f32>()?, w.as_slice::<S>()?);
    let out = operands.output::<f32>(outputs, 0, len)?;
    if len == 0 {
        return Ok(());
    }
    let image = channels * g.input_len();
    if channels == 1 && op.groups > 1 {
        let widened = widened(cpu, w.constant.map(|id| (id, None)), filters * k, |i| elements[i].widen());
        let load = |d: &Depthwise<'_>, channel: usize, room: &mut [f32]| {
            d.load(&x[channel * image..][..image], |x| x, room);
        };
        run_depthwise(cpu, &g, m, filters, widened.as_slice(), load, out, |filter, at, sums, out| {
            epilogue.finish(filter, 0, at, sums, out);
        });
        return Ok(());
    }
    let kernel = cpu.kernels().f32;
    if let Some(id) = w.constant.filter(|_| winograd::serves(op, w.shape)) {
        let packed = winograd_filters(cpu, id, elements, (m, channels));
        let filters = bytemuck::cast_slice(packed.as_slice());
        let tiles = winograd::tiles_of(&g);
        let (planes, output) = (Planes::new(&tiles), [g.output[1], g.output[2]]);
        over_batches(cpu, g.batch, m * n, out, |cx: Context<'_>, i, out: &mut [f32]| {
            let (planes, at) = (&planes, i * m * n);
            let of = winograd::Convolution { kernel, planes, output, filters, m, channels, epilogue, at };
            of.run(cx, &x[i * image..][..image], out);
        });
        return Ok(());
    }
    let filters_of = Filters::new(cpu, elements, w.constant, (m, k));
    let planes = Planes::new(&g);
    let of_group = |group: usize| Epilogue { row_bias: epilogue.row_bias.map(|b| &b[group * m..][..m]), ..epilogue };
    if let Some(id) = w.constant.filter(|_| positions::serves(m, n, kernel.nr)) {
        let len = m.next_multiple_of(kernel.nr) * k;
        let form = Form::Columns { matrices: op.groups, k, n: m, transposed: true };
        let packed =
            packed::Operands::new(cpu, Some((id, form)), op.groups, len * size_of::<f32>(), |threads, i, out| {
                filters_of.pack_columns(threads, i, kernel.nr, bytemuck::cast_slice_mut(out));
            });
        over_batches(cpu, g.batch * op.groups, m * n, out, |cx: Context<'_>, i, out: &mut [f32]| {
            let group = i % op.groups;
            let (x, panels) = (&x[i * image..][..image], packed.get(cx, group));
            positions::convolve(cx, kernel, &planes, x, panels.as_slice(), (m, n, k), of_group(group), i * m * n, out);
        });
        return Ok(());
    }
    let rows_len = RowPanels::new(m, kernel.mr).count * kernel.mr * k;
    let constant = w.constant.map(|id| (id, Form::Rows { groups: op.groups, m, k }));
    let packed = packed::Operands::new(cpu, constant, op.groups, rows_len * size_of::<f32>(), |threads, group, out| {
        filters_of.pack_rows(threads, group, kernel.mr, bytemuck::cast_slice_mut(out));
    });
    over_batches(cpu, g.batch * op.groups, m * n, out, |cx: Context<'_>, i, out: &mut [f32]| {
        let group = i % op.groups;
        let packed = packed.get(cx, group);
        let a = packed.as_slice();
        let finish = Finish { alpha: 1.0, epilogue: of_group(group), at: i * m * n };
        let x = &x[i * image..][..image];
        if g.is_pointwise() {
            finish.multiply_packed(cx, kernel, a, (m, n, k), &Matrix::new(x, k, n, (n, 1)), out);
        } else {
            let loaded = patches::load(cx.threads, cx.scratch, &planes, x, 0.0);
            finish.multiply_packed(cx, kernel, a, (m, n, k), &Patches::<f32>::new(&planes, &loaded), out);
        }
    });
    Ok(())
}

/// Packs the filters `w` of a convolution, if how does not depend on what it convolves; see [`Cpu::ahead`].
pub(crate) fn pack_ahead(cpu: &Cpu, op: &Conv, w: TensorView<'_>) -> bool {
    let (Some(id), true) = (w.constant, winograd::serves(op, w.shape)) else { return false };
    let sizes = (w.shape[0], w.shape[1]);
    match (w.as_slice::<f32>(), w.as_slice::<f16>()) {
        (Ok(elements), _) => drop(winograd_filters(cpu, id, elements, sizes)),
        (_, Ok(elements)) => drop(winograd_filters(cpu, id, elements, sizes)),
        _ => return false,
    }
    true
}

/// The constant `id`, filters of 3 x 3 `elements`, transformed.
fn winograd_filters<S: Widen>(
    cpu: &Cpu,
    id: ConstantId,
    elements: &[S],
    (m, channels): (usize, usize),
) -> Arc<AlignedBytes> {
    let mr = cpu.kernels().f32.mr;
    let bytes = winograd::filters_len(m, channels, mr) * size_of::<f32>();
    cpu.packed.get(id, Form::Winograd { m, channels }, bytes, |out| {
        winograd::pack_filters(cpu.threads(), elements, (m, channels), mr, bytemuck::cast_slice_mut(out));
    })
}

/// `count` elements of filters as f32: kept for a constant, whose zero points may be a constant too.
fn widened(
    cpu: &Cpu,
    constant: Option<(ConstantId, Option<ConstantId>)>,
    count: usize,
    element: impl Fn(usize) -> f32,
) -> Packed {
    let constant = constant.map(|(id, zero)| (id, Form::Floats { zero }));
    let fill = |_, _, bytes: &mut [u8]| {
        let out: &mut [f32] = bytemuck::cast_slice_mut(bytes);
        out.iter_mut().enumerate().for_each(|(i, out)| *out = element(i));
    };
    packed::Operands::new(cpu, constant, 1, count * size_of::<f32>(), fill).get(cpu.context(), 0)
}

/// Convolves each channel with its `m` filters: `load` copies a channel (counted over the batch) into planes, and
/// `finish(filter, at, sums, out)` writes a row of outputs that begins with element `at`.
fn run_depthwise<O: Element>(
    cpu: &Cpu,
    g: &Geometry,
    m: usize,
    filters: usize,
    w: &[f32],
    load: impl Fn(&Depthwise<'_>, usize, &mut [f32]) + Sync,
    out: &mut [O],
    finish: impl Fn(usize, usize, &mut [f32], &mut [O]) + Sync,
) {
    let depthwise = Depthwise::new(g);
    let (n, taps) = (g.output_len(), g.taps());
    let init = || cpu.scratch.take(depthwise.room() * size_of::<f32>());
    let shared = parallel::SharedMut::new(out);
    parallel::for_each_with(cpu.threads(), g.batch * g.channels, init, |room, channel| {
        let room: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        load(&depthwise, channel, room);
        for plane in channel * m..(channel + 1) * m {
            let filter = plane % filters;
            depthwise.run(&w[filter * taps..][..taps], room, |at, sums| {
                let at = plane * n + at;
                // SAFETY: each row of each plane is written once.
                finish(filter, at, sums, unsafe { shared.slice(at, sums.len()) });
            });
        }
    });
}

#[cfg(test)]
mod tests;
