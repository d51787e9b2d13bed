//! Reductions over dimensions, and ArgMax.

use bytemuck::{Pod, Zeroable};

use super::shared::{MAX_RANK, axis_of, collapse, pack, strides};
use super::{Ctx, Facts};
use crate::error::KernelError;
use crate::gpu::pipeline::{PipelineKey, Shader, Snippet, shared, types};
use crate::gpu::recorder::{Dispatch, grid};
use crate::graph::{Op, Reduce};
use crate::tensor::DType;

static REDUCE: Shader = Shader { name: "reduce", inputs: 1, outputs: 1, text: include_str!("reduce.wgsl") };
static ARGMAX: Shader = Shader { name: "argmax", inputs: 1, outputs: 1, text: include_str!("argmax.wgsl") };

/// Invocations that share an output.
#[cfg(test)]
const LANES: [u32; 3] = [1, 16, 256];

/// `Params` of `reduce.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    outputs: u32,
    n: u32,
    kept_rank: u32,
    rank: u32,
    kept_dims: [u32; MAX_RANK],
    kept_strides: [u32; MAX_RANK],
    dims: [u32; MAX_RANK],
    strides: [u32; MAX_RANK],
}

/// `Params` of `argmax.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ArgParams {
    rows: u32,
    n: u32,
    inner: u32,
    pad: u32,
}

/// Dimensions and input strides of what is kept and of what is reduced.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    kept: (Vec<usize>, Vec<usize>),
    reduced: (Vec<usize>, Vec<usize>),
    lanes: u32,
}

/// How to reduce `shape` over the dimensions that `is_reduced` marks.
fn plan(shape: &[usize], is_reduced: &[bool]) -> Plan {
    let own = strides(shape);
    let select = |want: bool| {
        let picked: Vec<usize> = (0..shape.len()).filter(|&d| is_reduced[d] == want).collect();
        let dims: Vec<usize> = picked.iter().map(|&d| shape[d]).collect();
        let moves: Vec<usize> = picked.iter().map(|&d| own[d]).collect();
        let (dims, mut s) = collapse(&dims, &[moves]);
        (dims, s.pop().unwrap_or_default())
    };
    let (kept, reduced) = (select(false), select(true));
    let outputs: usize = kept.0.iter().product();
    let n: usize = reduced.0.iter().product();
    // Neighbouring invocations should read neighbouring elements: outputs if the innermost dimension is kept, reduced
    // elements otherwise. One output an invocation needs enough outputs to fill a device.
    let inner_kept = kept.1.last() == Some(&1) && kept.0.last().is_some_and(|&d| d > 1);
    let lanes = lanes(outputs, n, inner_kept);
    Plan { kept, reduced, lanes }
}

/// Invocations that share an output of `n` elements.
fn lanes(outputs: usize, n: usize, inner_kept: bool) -> u32 {
    match n {
        0..=4 => 1,
        _ if inner_kept && outputs >= 1024 => 1,
        5..=128 => 16,
        _ => 256,
    }
}

/// The dimensions reduced; `None` if an axis is out of range.
fn reduced_dims(rank: usize, axes: Option<&[i64]>, noop: bool) -> Option<Vec<bool>> {
    match axes {
        Some(axes) if !axes.is_empty() => {
            let mut out = vec![false; rank];
            for &axis in axes {
                out[axis_of(axis, rank)?] = true;
            }
            Some(out)
        }
        _ => Some(vec![!noop; rank]),
    }
}

fn alias(kind: Reduce, dtype: DType) -> Option<&'static Snippet> {
    match (dtype, kind) {
        (DType::F32, _) => Some(&types::F32),
        (DType::I32 | DType::I64, Reduce::Sum | Reduce::Max | Reduce::Min | Reduce::Prod) => Some(&types::I32),
        _ => None,
    }
}

fn arg_alias(dtype: DType) -> Option<&'static Snippet> {
    match dtype {
        DType::F32 => Some(&types::F32),
        DType::I32 | DType::I64 => Some(&types::I32),
        _ => None,
    }
}

fn key(kind: Reduce, lanes: u32, alias: &'static Snippet) -> PipelineKey {
    let op = match kind {
        Reduce::Mean => 0,
        Reduce::Sum => 1,
        Reduce::Max => 2,
        Reduce::Min => 3,
        Reduce::Prod => 4,
        Reduce::L2 => 5,
        Reduce::SumSquare => 6,
    };
    PipelineKey::new(&REDUCE).with(&shared::LINEAR).with(alias).set("LANES", lanes).set("OP", op)
}

fn arg_key(lanes: u32, min: bool, last: bool, alias: &'static Snippet) -> PipelineKey {
    let key = PipelineKey::new(&ARGMAX).with(&shared::LINEAR).with(alias);
    key.set("LANES", lanes).set("MIN", min as u8).set("LAST", last as u8)
}

/// f32; integers for sum, product and extremes. ArgMax of f32 and integers. Up to eight dimensions, none of them empty.
pub(crate) fn supports(op: &Op, facts: &Facts<'_>) -> bool {
    let (Some((from, x)), Some(&(to, out))) = (facts.input(0), facts.outputs.first()) else { return false };
    let empty = x.contains(&0) && !out.contains(&0);
    if x.len() > MAX_RANK || empty {
        return false;
    }
    match op {
        Op::Reduce { kind, .. } => from == to && alias(*kind, from).is_some(),
        Op::ArgMax { axis, .. } => to == DType::I64 && arg_alias(from).is_some() && axis_of(*axis, x.len()).is_some(),
        _ => false,
    }
}

pub(crate) fn record(op: &Op, ctx: &Ctx<'_>) -> Result<(), KernelError> {
    let (x, y) = (ctx.input(0)?, ctx.output(0)?);
    let misfit = || KernelError::Invalid(format!("{}: {:?} to {:?}", ctx.name, x.shape, y.shape));
    let unsupported = || KernelError::unsupported_type("gpu", ctx.name, x.dtype);
    if y.is_empty() {
        return Ok(());
    }
    if x.is_empty() {
        return Err(ctx.unsupported("an empty dimension".into()));
    }
    let rank = x.shape.len();
    match op {
        Op::Reduce { kind, axes, noop_with_empty_axes, .. } => {
            let given = if axes.is_some() { axes.clone() } else { ctx.host_i64(1)? };
            let marks = reduced_dims(rank, given.as_deref(), *noop_with_empty_axes).ok_or_else(misfit)?;
            if rank > MAX_RANK {
                return Err(misfit());
            }
            // "Unchanged" must not square or take a root.
            let kind = if marks.contains(&true) || rank == 0 { *kind } else { Reduce::Sum };
            let plan = plan(&x.shape, &marks);
            let outputs: usize = plan.kept.0.iter().product();
            if outputs != y.len() {
                return Err(misfit());
            }
            let params = Params {
                outputs: outputs as u32,
                n: plan.reduced.0.iter().product::<usize>() as u32,
                kept_rank: plan.kept.0.len() as u32,
                rank: plan.reduced.0.len() as u32,
                kept_dims: pack(&plan.kept.0),
                kept_strides: pack(&plan.kept.1),
                dims: pack(&plan.reduced.0),
                strides: pack(&plan.reduced.1),
            };
            let alias = alias(kind, x.dtype).ok_or_else(unsupported)?;
            ctx.dispatch(Dispatch {
                key: key(kind, plan.lanes, alias),
                params: bytemuck::bytes_of(&params),
                inputs: &[Some(x)],
                outputs: &[Some(y)],
                groups: grid((outputs as u64).div_ceil((256 / plan.lanes) as u64), ctx.caps()),
            })
        }
        Op::ArgMax { axis, last, min, .. } => {
            let axis = axis_of(*axis, rank).ok_or_else(misfit)?;
            let n = x.shape[axis];
            let inner: usize = x.shape[axis + 1..].iter().product();
            let rows = x.len() / n;
            if rows != y.len() {
                return Err(misfit());
            }
            let lanes = lanes(rows, n, inner > 1);
            let alias = arg_alias(x.dtype).ok_or_else(unsupported)?;
            let params = ArgParams { rows: rows as u32, n: n as u32, inner: inner as u32, pad: 0 };
            ctx.dispatch(Dispatch {
                key: arg_key(lanes, *min, *last, alias),
                params: bytemuck::bytes_of(&params),
                inputs: &[Some(x)],
                outputs: &[Some(y)],
                groups: grid((rows as u64).div_ceil((256 / lanes) as u64), ctx.caps()),
            })
        }
        _ => Err(ctx.unsupported("no kernel".into())),
    }
}

/// Pipelines of all kinds, types and lane counts.
#[cfg(test)]
pub(crate) fn variants(_caps: &crate::gpu::Caps) -> Vec<PipelineKey> {
    let mut keys = Vec::new();
    for lanes in LANES {
        for dtype in [DType::F32, DType::I32] {
            keys.extend(tests::ALL.iter().filter_map(|&k| Some(key(k, lanes, alias(k, dtype)?))));
            for (min, last) in [(false, false), (false, true), (true, false), (true, true)] {
                keys.extend(arg_alias(dtype).map(|a| arg_key(lanes, min, last, a)));
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{Lcg, assert_close, gpu, run};
    use crate::tensor::Tensor;

    pub(super) const ALL: [Reduce; 7] =
        [Reduce::Mean, Reduce::Sum, Reduce::Max, Reduce::Min, Reduce::Prod, Reduce::L2, Reduce::SumSquare];

    #[test]
    fn lanes_follow_the_memory() {
        // A spatial mean reads along the reduced dimensions, which join.
        let p = plan(&[1, 2048, 7, 7], &[false, false, true, true]);
        assert_eq!((p.reduced, p.lanes), ((vec![49], vec![1]), 16));
        // A mean over tokens reads along the kept ones.
        let p = plan(&[8, 50, 768], &[false, true, false]);
        assert_eq!((p.kept, p.lanes), ((vec![8, 768], vec![38400, 1]), 1));
        let p = plan(&[3, 4], &[true, true]);
        assert_eq!(p.kept, (vec![1], vec![0]));
    }

    fn naive(kind: Reduce, x: &[f32], shape: &[usize], marks: &[bool]) -> Vec<f32> {
        let p = plan(shape, marks);
        let walk = |i: usize, dims: &[usize], moves: &[usize]| {
            let (mut rest, mut at) = (i, 0);
            for (n, s) in dims.iter().zip(moves).rev() {
                at += rest % n * s;
                rest /= n;
            }
            at
        };
        let (outputs, n): (usize, usize) = (p.kept.0.iter().product(), p.reduced.0.iter().product());
        (0..outputs)
            .map(|o| {
                let base = walk(o, &p.kept.0, &p.kept.1);
                let values = (0..n).map(|k| x[base + walk(k, &p.reduced.0, &p.reduced.1)] as f64);
                (match kind {
                    Reduce::Mean => values.sum::<f64>() / n as f64,
                    Reduce::Sum => values.sum(),
                    Reduce::Max => values.fold(f64::MIN, f64::max),
                    Reduce::Min => values.fold(f64::MAX, f64::min),
                    Reduce::Prod => values.product(),
                    Reduce::L2 => values.map(|v| v * v).sum::<f64>().sqrt(),
                    Reduce::SumSquare => values.map(|v| v * v).sum(),
                }) as f32
            })
            .collect()
    }

    #[test]
    fn all_kinds_over_all_sorts_of_axes() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(11);
        let cases: [(&[usize], &[i64]); 10] = [
            (&[3, 5, 7], &[-1]),
            (&[3, 5, 7], &[0]),
            (&[3, 5, 7], &[0, 2]),
            (&[3, 5, 7], &[]),
            (&[2, 300, 5, 2], &[1, 3]),
            (&[2, 50, 768], &[1]),
            (&[70_000, 3], &[1]),
            (&[1, 64, 7, 7], &[2, 3]),
            (&[0, 5], &[1]),
            (&[], &[]),
        ];
        for (shape, axes) in cases {
            let x: Vec<f32> = rng.floats(shape.iter().product()).iter().map(|v| 1.0 + v * 0.1).collect();
            let marks = reduced_dims(shape.len(), Some(axes), false).unwrap();
            for kind in ALL {
                let want = naive(kind, &x, shape, &marks);
                let out: Vec<usize> = shape.iter().zip(&marks).map(|(&d, &m)| if m { 1 } else { d }).collect();
                // Half through the attribute, half through the input.
                let by_input = kind == Reduce::Mean;
                let op = Op::Reduce {
                    kind,
                    axes: (!by_input).then(|| axes.to_vec()),
                    keep_dims: true,
                    noop_with_empty_axes: false,
                };
                let axes = by_input.then(|| Tensor::vector(axes));
                let got = run(&gpu, &op, &[Some(Tensor::from_slice(shape, &x).unwrap()), axes], &[(DType::F32, &out)]);
                if out.contains(&0) {
                    assert!(got[0].is_empty());
                } else {
                    assert_close(&got[0], &want, 2e-4, 1e-5, (kind, shape));
                }
            }
        }
    }

    #[test]
    fn no_axes_may_mean_no_change_and_integers_add() {
        let Some(gpu) = gpu() else { return };
        let op = |kind, noop| Op::Reduce { kind, axes: None, keep_dims: false, noop_with_empty_axes: noop };
        let x = Tensor::vector(&[-1f32, 2.0]);
        let got = run(&gpu, &op(Reduce::L2, true), &[Some(x)], &[(DType::F32, &[2])]);
        assert_eq!(got[0].as_slice::<f32>().unwrap(), [-1.0, 2.0]);
        let x = Tensor::vector(&[5i64, -7, 3]);
        for (kind, want) in [(Reduce::Sum, 1), (Reduce::Max, 5), (Reduce::Min, -7), (Reduce::Prod, -105)] {
            let got = run(&gpu, &op(kind, false), &[Some(x.clone())], &[(DType::I64, &[])]);
            assert_eq!(got[0].as_slice::<i64>().unwrap(), [want]);
        }
    }

    #[test]
    fn positions_of_extremes() {
        let Some(gpu) = gpu() else { return };
        let mut rng = Lcg(12);
        let cases: [(&[usize], i64); 6] =
            [(&[5, 7], -1), (&[5, 7], 0), (&[1, 50_000], 1), (&[3, 40, 4], 1), (&[3000, 9], 1), (&[2, 3], 1)];
        for (shape, axis) in cases {
            // Few values, so that there are ties.
            let x: Vec<f32> = (0..shape.iter().product()).map(|_| rng.below(5) as f32 - 2.0).collect();
            let a = axis.rem_euclid(shape.len() as i64) as usize;
            let (n, inner) = (shape[a], shape[a + 1..].iter().product::<usize>());
            for (min, last) in [(false, false), (false, true), (true, false), (true, true)] {
                let want: Vec<i64> = (0..x.len() / n)
                    .map(|r| {
                        let at = |k: usize| x[r / inner * n * inner + k * inner + r % inner];
                        let better = |a: f32, b: f32| if min { a < b } else { a > b };
                        let mut best = 0;
                        for k in 1..n {
                            if better(at(k), at(best)) || (last && at(k) == at(best)) {
                                best = k;
                            }
                        }
                        best as i64
                    })
                    .collect();
                let mut out = shape.to_vec();
                out[a] = 1;
                let op = Op::ArgMax { axis, keep_dims: true, last, min };
                let t = Tensor::from_slice(shape, &x).unwrap();
                let got = run(&gpu, &op, &[Some(t)], &[(DType::I64, &out)]);
                assert_eq!(got[0].as_slice::<i64>().unwrap(), want, "{shape:?} {min} {last}");
            }
        }
    }
}
