//! Shapes and strides that several families use.

/// Dimensions that strided kernels count.
pub(crate) const MAX_RANK: usize = 8;

/// Row-major strides, in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        out[d - 1] = out[d] * shape[d];
    }
    out
}

/// Strides of `shape` read as if broadcast to `to`: 0 where a dimension repeats. `None` if it does not broadcast.
pub(crate) fn broadcast_strides(shape: &[usize], to: &[usize]) -> Option<Vec<usize>> {
    let skip = to.len().checked_sub(shape.len())?;
    let own = strides(shape);
    let mut out = vec![0; to.len()];
    for (d, (&n, &stride)) in shape.iter().zip(&own).enumerate() {
        if n == to[skip + d] {
            out[skip + d] = if n == 1 { 0 } else { stride };
        } else if n != 1 {
            return None;
        }
    }
    Some(out)
}

/// Drops dimensions of size 1 and joins neighbours that every operand walks in one stride.
///
/// `strides[k][d]` is operand k's stride of dimension d. At least one dimension is left.
pub(crate) fn collapse<S>(shape: &[usize], strides: &[Vec<S>]) -> (Vec<usize>, Vec<Vec<S>>)
where
    S: Copy + PartialEq + std::ops::Mul<Output = S> + TryFrom<usize> + Default,
{
    let mut dims: Vec<usize> = Vec::new();
    let mut out: Vec<Vec<S>> = vec![Vec::new(); strides.len()];
    for (d, &n) in shape.iter().enumerate() {
        if n == 1 {
            continue;
        }
        let factor = S::try_from(n).ok();
        let joins = |k: usize| match (out[k].last(), factor) {
            (Some(&outer), Some(f)) => outer == strides[k][d] * f,
            _ => false,
        };
        let all = !dims.is_empty() && (0..strides.len()).all(joins);
        if let (true, Some(last)) = (all, dims.last_mut()) {
            *last *= n;
            for (o, s) in out.iter_mut().zip(strides) {
                o.pop();
                o.push(s[d]);
            }
        } else {
            dims.push(n);
            for (o, s) in out.iter_mut().zip(strides) {
                o.push(s[d]);
            }
        }
    }
    if dims.is_empty() {
        dims.push(1);
        out.iter_mut().for_each(|o| o.push(S::default()));
    }
    (dims, out)
}

/// Up to [`MAX_RANK`] numbers as a uniform's `array<vec4<u32>, 2>`.
pub(crate) fn pack(values: &[usize]) -> [u32; MAX_RANK] {
    let mut out = [0; MAX_RANK];
    for (o, &v) in out.iter_mut().zip(values) {
        *o = v as u32;
    }
    out
}

/// The dimension that `axis` names, counted from the end if negative.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(axis).ok().filter(|&a| a < rank)
}

/// Lane counts that [`lanes_for`] gives.
#[cfg(test)]
pub(crate) const LANES: [u32; 3] = [16, 64, 256];

/// How many invocations of a workgroup of 256 share a row of `n` elements, when there are `rows` rows: all of them for
/// long or few rows, fewer for short ones so that none idle.
pub(crate) fn lanes_for(n: usize, rows: usize) -> u32 {
    match n {
        0..=32 => 16,
        33..=256 => 64,
        // Few rows would leave most of the device idle.
        257..=1024 if rows >= 1024 => 64,
        _ => 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_and_collapsing() {
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), Some(vec![0, 1, 0]));
        assert_eq!(broadcast_strides(&[3, 2], &[2, 3, 4]), None);
        // A bias over the last two dimensions: the leading ones join.
        let shape = [2, 3, 4, 5];
        let a = strides(&shape);
        let b = broadcast_strides(&[4, 5], &shape).unwrap();
        let (dims, s) = collapse(&shape, &[a, b]);
        assert_eq!(dims, [6, 20]);
        assert_eq!(s, [vec![20, 1], vec![0, 1]]);
        let (dims, s) = collapse::<usize>(&[1, 1], &[vec![0, 0]]);
        assert_eq!((dims, s), (vec![1], vec![vec![0]]));
        assert_eq!(axis_of(-1, 3), Some(2));
        assert_eq!(axis_of(3, 3), None);
    }
}
