//! Pad.

use crate::cpu::args::{axis, by_size, input, integers, invalid, optional, output, product, strides};
use crate::error::KernelError;
use crate::graph::PadMode;
use crate::tensor::{TensorError, TensorView, TensorViewMut};

/// Inputs: `x`, `pads` (begins, then ends, of the padded axes; negative ones crop), `value?`, `axes?`.
pub(crate) fn pad(
    mode: PadMode,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    const OP: &str = "Pad";
    let x = input(OP, inputs, 0)?;
    let rank = x.shape.len();
    let pads = integers(OP, input(OP, inputs, 1)?)?;
    let axes = match optional(inputs, 3)? {
        Some(axes) => integers(OP, axes)?,
        None => (0..rank as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(invalid(OP, format_args!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let mut maps: Vec<Map> = x.shape.iter().map(|&d| Map::Whole(d)).collect();
    for (i, &at) in axes.iter().enumerate() {
        let (d, before, after) = (axis(OP, at, rank)?, pads[i], pads[axes.len() + i]);
        if (before, after) != (0, 0) {
            maps[d] = Map::Padded(map(mode, x.shape[d], before, after)?);
        }
    }
    let shape: Vec<usize> = maps.iter().map(Map::len).collect();
    let value = match optional(inputs, 2)? {
        Some(v) if v.dtype != x.dtype => return Err(TensorError::DType { expected: x.dtype, got: v.dtype }.into()),
        Some(v) if v.len() != 1 => return Err(invalid(OP, "the padding value is one number")),
        value => value,
    };
    let y = output(OP, outputs, 0, x.dtype, &shape)?;
    by_size!(x.dtype.size(), T => {
        let fill = value.map_or(T::default(), |v| bytemuck::cast_slice::<u8, T>(v.bytes)[0]);
        fill_rows::<T>(bytemuck::cast_slice(x.bytes), x.shape, &maps, fill, bytemuck::cast_slice_mut(y.bytes));
    });
    Ok(())
}

/// Where the elements along a dimension come from.
enum Map {
    /// From the same place: a dimension of that size without padding.
    Whole(usize),
    /// The source of each; `None` is padding.
    Padded(Vec<Option<usize>>),
}

impl Map {
    fn len(&self) -> usize {
        match self {
            Map::Whole(len) => *len,
            Map::Padded(sources) => sources.len(),
        }
    }

    fn source(&self, i: usize) -> Option<usize> {
        match self {
            Map::Whole(_) => Some(i),
            Map::Padded(sources) => sources[i],
        }
    }
}

/// Source indices of one padded dimension.
fn map(mode: PadMode, size: usize, before: i64, after: i64) -> Result<Vec<Option<usize>>, KernelError> {
    const OP: &str = "Pad";
    let n = size as i64;
    let length = before.checked_add(after).and_then(|p| p.checked_add(n)).filter(|&l| l >= 0);
    let length = length.ok_or_else(|| invalid(OP, format_args!("pads {before} and {after} of a dimension of {n}")))?;
    let room = usize::try_from(length).ok().filter(|&l| l <= isize::MAX as usize / 16);
    let room = room.ok_or_else(|| invalid(OP, format_args!("pads {before} and {after} are too large")))?;
    if mode != PadMode::Constant && n == 0 && length > 0 {
        return Err(invalid(OP, "an empty dimension has no edge to repeat"));
    }
    let source = |i: usize| {
        let at = i as i64 - before;
        match mode {
            PadMode::Constant => (0..n).contains(&at).then_some(at as usize),
            PadMode::Edge => Some(at.clamp(0, n - 1) as usize),
            PadMode::Reflect => {
                // Mirrors without the edge have period 2 (n - 1); a single element mirrors onto itself.
                let period = 2 * (n - 1).max(0);
                let at = if period == 0 { 0 } else { at.rem_euclid(period) };
                Some(at.min(period - at) as usize)
            }
        }
    };
    Ok((0..room).map(source).collect())
}

fn fill_rows<T: Copy>(x: &[T], shape: &[usize], maps: &[Map], fill: T, y: &mut [T]) {
    let Some((columns, outer)) = maps.split_last() else {
        y.copy_from_slice(x);
        return;
    };
    if y.is_empty() {
        return;
    }
    let own = strides(shape);
    let rows: Vec<usize> = outer.iter().map(Map::len).collect();
    let steps = strides(&rows);
    for (r, y) in y.chunks_exact_mut(columns.len()).enumerate().take(product(&rows)) {
        let at: Option<usize> = (0..rows.len()).map(|d| Some(outer[d].source(r / steps[d] % rows[d])? * own[d])).sum();
        match (at, columns) {
            (Some(at), Map::Whole(len)) => y.copy_from_slice(&x[at..][..*len]),
            (Some(at), Map::Padded(columns)) => {
                y.iter_mut().zip(columns).for_each(|(y, c)| *y = c.map_or(fill, |c| x[at + c]));
            }
            (None, _) => y.fill(fill),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::{run, values};
    use crate::tensor::{DType, Tensor};

    fn padded(mode: PadMode, x: &Tensor, pads: &[i64], shape: &[usize]) -> Result<Vec<i32>, KernelError> {
        let pads = Tensor::vector(pads);
        run(&[Some(x), Some(&pads)], &[(DType::I32, shape)], |i, o| pad(mode, i, o)).map(|y| values(&y[0]))
    }

    #[test]
    fn modes() {
        let x = Tensor::vector(&[1i32, 2, 3]);
        assert_eq!(padded(PadMode::Constant, &x, &[2, 1], &[6]).unwrap(), [0, 0, 1, 2, 3, 0]);
        assert_eq!(padded(PadMode::Edge, &x, &[2, 1], &[6]).unwrap(), [1, 1, 1, 2, 3, 3]);
        assert_eq!(padded(PadMode::Reflect, &x, &[2, 1], &[6]).unwrap(), [3, 2, 1, 2, 3, 2]);
        assert_eq!(padded(PadMode::Reflect, &x, &[5, 0], &[8]).unwrap(), [2, 1, 2, 3, 2, 1, 2, 3]);
        assert_eq!(padded(PadMode::Constant, &x, &[-1, 2], &[4]).unwrap(), [2, 3, 0, 0]);
        assert_eq!(padded(PadMode::Edge, &x, &[-2, -1], &[0]).unwrap(), [0i32; 0]);
        assert!(padded(PadMode::Edge, &x, &[-2, -2], &[0]).is_err());
        assert!(padded(PadMode::Edge, &x, &[1], &[4]).is_err());
        assert!(padded(PadMode::Constant, &x, &[i64::MAX, 1], &[4]).is_err());
        let empty = Tensor::from_slice::<i32>(&[0], &[]).unwrap();
        assert!(padded(PadMode::Edge, &empty, &[1, 0], &[1]).is_err());
        assert_eq!(padded(PadMode::Constant, &empty, &[1, 1], &[2]).unwrap(), [0, 0]);
        assert_eq!(padded(PadMode::Reflect, &Tensor::vector(&[7i32]), &[1, 1], &[3]).unwrap(), [7, 7, 7]);
    }

    #[test]
    fn two_dimensions_a_value_and_axes() {
        let x = Tensor::from_slice(&[2, 2], &[1i32, 2, 3, 4]).unwrap();
        assert_eq!(padded(PadMode::Constant, &x, &[1, 0, 0, 1], &[3, 3]).unwrap(), [0, 0, 0, 1, 2, 0, 3, 4, 0]);
        let (pads, value, axes) = (Tensor::vector(&[1i64, 0]), Tensor::scalar(9i32), Tensor::vector(&[-1i64]));
        let inputs = [Some(&x), Some(&pads), Some(&value), Some(&axes)];
        let y = run(&inputs, &[(DType::I32, &[2, 3])], |i, o| pad(PadMode::Constant, i, o)).unwrap();
        assert_eq!(values::<i32>(&y[0]), [9, 1, 2, 9, 3, 4]);
        let wrong = Tensor::scalar(9i64);
        let inputs = [Some(&x), Some(&pads), Some(&wrong), Some(&axes)];
        assert!(run(&inputs, &[(DType::I32, &[2, 3])], |i, o| pad(PadMode::Constant, i, o)).is_err());
    }
}
