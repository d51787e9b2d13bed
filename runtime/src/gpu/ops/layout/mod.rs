//! Operators that move elements without changing them: Transpose, Slice, Expand, Tile, Concat, Split, Pad.
//!
//! All but Pad are one strided copy ([`Move`]): dimensions, a signed input stride and an output stride for each. Joining
//! dimensions that both sides walk in one stride turns most of them into copies of long runs, four words at a time.

mod pad;

use bytemuck::{Pod, Zeroable};

use super::shared::{MAX_RANK, axis_of, broadcast_strides, collapse, pack, strides};
use super::{Ctx, Facts};
use crate::error::KernelError;
#[cfg(test)]
use crate::gpu::device::Caps;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared, types};
use crate::gpu::recorder::{Dispatch, grid_for};
use crate::gpu::tensor::GpuTensor;
use crate::graph::Op;
use crate::tensor::DType;

static COPY: Shader = Shader { name: "copy", inputs: 1, outputs: 1, text: include_str!("copy.wgsl") };
static PACKED: Shader = Shader { name: "copy_packed", inputs: 1, outputs: 1, text: include_str!("copy_packed.wgsl") };
static WORDS4: Snippet = Snippet { name: "T=vec4<u32>", text: "alias T = vec4<u32>;\n" };

/// `Params` of `copy.wgsl` and `copy_packed.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    len: u32,
    rank: u32,
    in_offset: i32,
    out_offset: u32,
    dims: [u32; MAX_RANK],
    in_strides: [i32; MAX_RANK],
    out_strides: [u32; MAX_RANK],
}

/// A strided copy, in elements. Output strides are never negative but share the type so that dimensions can be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    dims: Vec<usize>,
    in_offset: isize,
    in_strides: Vec<isize>,
    out_offset: usize,
    out_strides: Vec<isize>,
}

fn signed(values: &[usize]) -> Vec<isize> {
    values.iter().map(|&v| v as isize).collect()
}

impl Move {
    /// Into a dense output of shape `dims`.
    fn dense(dims: &[usize], in_offset: isize, in_strides: Vec<isize>) -> Self {
        let out_strides = signed(&strides(dims));
        Move { dims: dims.to_vec(), in_offset, in_strides, out_offset: 0, out_strides }
    }

    fn joined(self) -> Self {
        let (dims, mut s) = collapse(&self.dims, &[self.in_strides, self.out_strides]);
        let out_strides = s.pop().unwrap_or_default();
        let in_strides = s.pop().unwrap_or_default();
        Move { dims, in_strides, out_strides, ..self }
    }

    /// The same move in units of `unit` elements, if all of it falls on whole units.
    fn in_units(&self, unit: usize) -> Option<Self> {
        let u = unit as isize;
        let (last, outer) = self.dims.split_last()?;
        let inner =
            self.in_strides.last() == Some(&1) && self.out_strides.last() == Some(&1) && last.is_multiple_of(unit);
        let whole = |s: &[isize]| s.iter().take(outer.len()).all(|v| v % u == 0);
        let offsets = self.in_offset % u == 0 && self.out_offset.is_multiple_of(unit);
        if !inner || !offsets || !whole(&self.in_strides) || !whole(&self.out_strides) {
            return None;
        }
        let divide = |s: &[isize]| {
            let n = s.len();
            s.iter().enumerate().map(|(d, &v)| if d + 1 == n { v } else { v / u }).collect()
        };
        let mut dims = self.dims.clone();
        if let Some(d) = dims.last_mut() {
            *d /= unit;
        }
        Some(Move {
            dims,
            in_offset: self.in_offset / u,
            in_strides: divide(&self.in_strides),
            out_offset: self.out_offset / unit,
            out_strides: divide(&self.out_strides),
        })
    }

    fn is_dense(&self) -> bool {
        self.out_offset == 0 && self.out_strides == signed(&strides(&self.dims))
    }
}

/// Which kernel runs, with the move in its units.
#[derive(Debug, PartialEq, Eq)]
enum Kernel {
    /// Four words at a time.
    Words4(Move),
    /// One word at a time.
    Words(Move),
    /// Elements of so many bits, gathered into whole words.
    Packed(u32, Move),
}

/// The kernel for `m` on elements of `dtype`; `None` if it has too many dimensions, or writes parts of words.
fn choose(m: Move, dtype: DType) -> Option<Kernel> {
    let m = m.joined();
    if m.dims.len() > MAX_RANK {
        return None;
    }
    let per_word = match dtype {
        DType::U8 | DType::I8 => 4,
        DType::F16 => 2,
        _ => 1,
    };
    let wide = m.in_units(per_word * 4).map(Kernel::Words4);
    let narrow = || m.in_units(per_word).map(Kernel::Words);
    wide.or_else(narrow).or_else(|| match per_word {
        1 => Some(Kernel::Words(m.clone())),
        _ if m.is_dense() => Some(Kernel::Packed(32 / per_word as u32, m.clone())),
        _ => None,
    })
}

fn words_key(alias: &'static Snippet) -> PipelineKey {
    PipelineKey::new(&COPY).with(&shared::LINEAR).with(alias)
}

fn packed_key(bits: u32) -> PipelineKey {
    PipelineKey::new(&PACKED).with(&shared::LINEAR).set("BITS", bits)
}

/// Records `m` from `x` into `y`.
fn copy(ctx: &Ctx<'_>, m: Move, x: &GpuTensor, y: &GpuTensor) -> Result<(), KernelError> {
    if m.dims.contains(&0) {
        return Ok(());
    }
    let kernel = choose(m, x.dtype).ok_or_else(|| ctx.unsupported("parts of words, or too many dimensions".into()))?;
    let (key, m, per_item) = match kernel {
        Kernel::Words4(m) => (words_key(&WORDS4), m, 1),
        Kernel::Words(m) => (words_key(&types::U32), m, 1),
        Kernel::Packed(bits, m) => (packed_key(bits), m, 32 / bits as u64),
    };
    let len: usize = m.dims.iter().product();
    let mut in_strides = [0i32; MAX_RANK];
    in_strides.iter_mut().zip(&m.in_strides).for_each(|(o, &s)| *o = s as i32);
    let params = Params {
        len: len as u32,
        rank: m.dims.len() as u32,
        in_offset: m.in_offset as i32,
        out_offset: m.out_offset as u32,
        dims: pack(&m.dims),
        in_strides,
        out_strides: pack(&m.out_strides.iter().map(|&s| s as usize).collect::<Vec<_>>()),
    };
    ctx.dispatch(Dispatch {
        key,
        params: bytemuck::bytes_of(&params),
        inputs: &[Some(x)],
        outputs: &[Some(y)],
        groups: grid_for((len as u64).div_ceil(per_item), 256, ctx.caps()),
    })
}

fn transpose(shape: &[usize], perm: Option<&[usize]>) -> Option<Move> {
    let reversed: Vec<usize> = (0..shape.len()).rev().collect();
    let perm = perm.unwrap_or(&reversed);
    if perm.len() != shape.len() || perm.iter().any(|&d| d >= shape.len()) {
        return None;
    }
    let own = strides(shape);
    let dims: Vec<usize> = perm.iter().map(|&d| shape[d]).collect();
    Some(Move::dense(&dims, 0, perm.iter().map(|&d| own[d] as isize).collect()))
}

fn expand(shape: &[usize], out: &[usize]) -> Option<Move> {
    Some(Move::dense(out, 0, signed(&broadcast_strides(shape, out)?)))
}

/// Each dimension becomes two: the repeats, which do not move the input, and the input's own.
fn tile(shape: &[usize], out: &[usize]) -> Option<Move> {
    if shape.len() != out.len() {
        return None;
    }
    let own = strides(shape);
    let (mut dims, mut moves) = (Vec::new(), Vec::new());
    for d in 0..shape.len() {
        let repeats = out[d].checked_div(shape[d]).unwrap_or(0);
        dims.extend([repeats, shape[d]]);
        moves.extend([0, own[d] as isize]);
    }
    Some(Move::dense(&dims, 0, moves))
}

/// One part of a concatenation or, turned around, of a split: `part` along `axis` of `whole`, from `start` on.
fn part(whole: &[usize], part: &[usize], axis: usize, start: usize, into_whole: bool) -> Move {
    let outer = strides(whole);
    let inner = strides(part);
    let offset = start * outer[axis];
    if into_whole {
        let (in_strides, out_strides) = (signed(&inner), signed(&outer));
        Move { dims: part.to_vec(), in_offset: 0, in_strides, out_offset: offset, out_strides }
    } else {
        Move::dense(part, offset as isize, signed(&outer))
    }
}

/// The first element and the step along each dimension that the bounds select.
fn slice(shape: &[usize], out: &[usize], starts: &[i64], axes: Option<&[i64]>, steps: Option<&[i64]>) -> Option<Move> {
    let own = strides(shape);
    let mut offset = 0isize;
    let mut moves = signed(&own);
    for (k, &start) in starts.iter().enumerate() {
        let axis = match axes {
            Some(axes) => axis_of(*axes.get(k)?, shape.len())?,
            None => Some(k).filter(|&k| k < shape.len())?,
        };
        let step = steps.map_or(Some(1), |s| s.get(k).copied())?;
        let size = shape[axis] as i64;
        let start = if start < 0 { start.saturating_add(size) } else { start };
        let start = if step > 0 { start.clamp(0, size) } else { start.clamp(-1, size - 1) };
        offset += start as isize * own[axis] as isize;
        // A step beyond the dimension selects one element, so its stride is never used.
        moves[axis] = own[axis] as isize * step.clamp(-size - 1, size + 1) as isize;
    }
    (shape.len() == out.len()).then(|| Move::dense(out, offset, moves))
}

/// 32-bit types: everything up to eight dimensions after joining. 8- and 16-bit types: everything that writes whole words,
/// which leaves out concatenations along dimensions that are no multiple of a word, and padding.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let (Some((dtype, x)), Some(&(to, out))) = (facts.input(0), facts.outputs.first()) else { return false };
    let serves = |m: Option<Move>| m.is_some_and(|m| choose(m, dtype).is_some());
    if facts.outputs.iter().any(|&(t, _)| t != dtype) || to != dtype {
        return false;
    }
    match op {
        Op::Transpose { perm } => serves(transpose(x, perm.as_deref())),
        Op::Expand => serves(expand(x, out)),
        Op::Tile => serves(tile(x, out)),
        // Where it starts is not known here, but the kernels serve any start.
        Op::Slice => x.len() == out.len() && x.len() <= MAX_RANK,
        Op::Pad { .. } => pad::supports(facts),
        Op::Concat { axis } => {
            let Some(axis) = axis_of(*axis, out.len()) else { return false };
            let mut start = 0;
            facts.inputs.iter().flatten().all(|&(t, shape)| {
                let m = part(out, shape, axis, start, true);
                start += shape.get(axis).copied().unwrap_or(0);
                t == dtype && shape.len() == out.len() && (m.dims.contains(&0) || choose(m, dtype).is_some())
            })
        }
        Op::Split { axis, .. } => {
            let Some(axis) = axis_of(*axis, x.len()) else { return false };
            let mut start = 0;
            facts.outputs.iter().all(|&(_, shape)| {
                let m = part(x, shape, axis, start, false);
                start += shape.get(axis).copied().unwrap_or(0);
                shape.len() == x.len() && choose(m, dtype).is_some()
            })
        }
        _ => false,
    }
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let misfit = || KernelError::Invalid(format!("{}: shapes or bounds do not fit", ctx.name));
    match op {
        Op::Pad { mode } => pad::record(*mode, ctx),
        Op::Concat { axis } => {
            let y = ctx.output(0)?;
            let axis = axis_of(*axis, y.shape.len()).ok_or_else(misfit)?;
            let mut start = 0;
            for x in ctx.inputs.iter().flatten() {
                if x.shape.len() != y.shape.len() {
                    return Err(misfit());
                }
                copy(ctx, part(&y.shape, &x.shape, axis, start, true), x, y)?;
                start += x.shape[axis];
            }
            Ok(())
        }
        Op::Split { axis, .. } => {
            let x = ctx.input(0)?;
            let axis = axis_of(*axis, x.shape.len()).ok_or_else(misfit)?;
            let mut start = 0;
            for y in ctx.outputs {
                if x.shape.len() != y.shape.len() {
                    return Err(misfit());
                }
                copy(ctx, part(&x.shape, &y.shape, axis, start, false), x, y)?;
                start += y.shape[axis];
            }
            Ok(())
        }
        _ => {
            let (x, y) = (ctx.input(0)?, ctx.output(0)?);
            let m = match op {
                Op::Transpose { perm } => transpose(&x.shape, perm.as_deref()),
                Op::Expand => expand(&x.shape, &y.shape),
                Op::Tile => tile(&x.shape, &y.shape),
                Op::Slice => {
                    let starts = ctx.host_i64(1)?.ok_or_else(misfit)?;
                    let (axes, steps) = (ctx.host_i64(3)?, ctx.host_i64(4)?);
                    slice(&x.shape, &y.shape, &starts, axes.as_deref(), steps.as_deref())
                }
                _ => None,
            };
            copy(ctx, m.ok_or_else(misfit)?, x, y)
        }
    }
}

/// Pipelines of the copies and of Pad.
#[cfg(test)]
pub(crate) fn variants(_caps: &Caps) -> Vec<PipelineKey> {
    let mut keys = vec![words_key(&WORDS4), words_key(&types::U32), packed_key(8), packed_key(16)];
    keys.extend(pad::variants());
    keys
}

#[cfg(test)]
mod tests;
