//! Iteration over operands of different shapes (NumPy's broadcasting).

use crate::cpu::args::invalid;
use crate::error::KernelError;

/// How `N` contiguous operands are read along an output, with dimensions merged as far as all operands allow.
///
/// What remains is the shortest list of loops; equal shapes become one loop, a scalar operand one loop with stride 0, a
/// row vector two loops.
pub(crate) struct Broadcast<const N: usize> {
    /// Loop lengths, outermost first; never empty.
    dims: Vec<usize>,
    /// Each loop's step in each operand. The innermost is 0 or 1.
    steps: Vec<[usize; N]>,
    /// Elements of the output.
    len: usize,
}

impl<const N: usize> Broadcast<N> {
    /// The plan for operands of `shapes`, whose common shape must be `out`.
    pub(crate) fn new(op: &'static str, out: &[usize], shapes: [&[usize]; N]) -> Result<Self, KernelError> {
        let mut steps = vec![[0usize; N]; out.len()];
        for (n, shape) in shapes.iter().enumerate() {
            let Some(lead) = out.len().checked_sub(shape.len()) else {
                return Err(invalid(op, format_args!("shape {shape:?} does not broadcast to {out:?}")));
            };
            let mut stride = 1usize;
            for i in (0..shape.len()).rev() {
                match shape[i] {
                    d if d == out[lead + i] => steps[lead + i][n] = if d == 1 { 0 } else { stride },
                    1 => {}
                    _ => return Err(invalid(op, format_args!("shape {shape:?} does not broadcast to {out:?}"))),
                }
                stride = stride.saturating_mul(shape[i]);
            }
        }
        let mut dims: Vec<usize> = Vec::with_capacity(out.len().max(1));
        let mut merged: Vec<[usize; N]> = Vec::with_capacity(out.len().max(1));
        for (&d, step) in out.iter().zip(&steps) {
            if d == 1 {
                continue;
            }
            // The loop outside continues where this one ends: both are one loop.
            if let (Some(last), Some(outer)) = (dims.last_mut(), merged.last_mut())
                && (0..N).all(|n| outer[n] == step[n] * d)
            {
                *last *= d;
                *outer = *step;
                continue;
            }
            dims.push(d);
            merged.push(*step);
        }
        if dims.is_empty() {
            dims.push(1);
            merged.push([0; N]);
        }
        let len = dims.iter().product();
        Ok(Broadcast { dims, steps: merged, len })
    }

    /// Steps of the innermost loop: 0 or 1 for each operand.
    pub(crate) fn inner_steps(&self) -> [usize; N] {
        self.steps[self.steps.len() - 1]
    }

    /// Calls `f(start in the output, length, start in each operand)` for each run of the innermost loop between output
    /// elements `from` and `to`.
    pub(crate) fn runs(&self, from: usize, to: usize, mut f: impl FnMut(usize, usize, [usize; N])) {
        let to = to.min(self.len);
        if from >= to {
            return;
        }
        let last = self.dims.len() - 1;
        let inner = self.dims[last];
        let mut index = vec![0usize; last];
        let mut offsets = [0usize; N];
        let mut rest = from / inner;
        for i in (0..last).rev() {
            index[i] = rest % self.dims[i];
            rest /= self.dims[i];
            for (offset, step) in offsets.iter_mut().zip(self.steps[i]) {
                *offset += index[i] * step;
            }
        }
        let mut column = from % inner;
        let mut at = from;
        loop {
            let run = (inner - column).min(to - at);
            let mut starts = offsets;
            for (start, step) in starts.iter_mut().zip(self.steps[last]) {
                *start += column * step;
            }
            f(at, run, starts);
            at += run;
            if at == to {
                return;
            }
            column = 0;
            for i in (0..last).rev() {
                index[i] += 1;
                for (offset, step) in offsets.iter_mut().zip(self.steps[i]) {
                    *offset += step;
                }
                if index[i] < self.dims[i] {
                    break;
                }
                for (offset, step) in offsets.iter_mut().zip(self.steps[i]) {
                    *offset -= step * self.dims[i];
                }
                index[i] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_merge() {
        let plan = |out: &[usize], a: &[usize], b: &[usize]| Broadcast::new("Add", out, [a, b]).unwrap();
        assert_eq!(plan(&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]).dims, [24]);
        let scalar = plan(&[2, 3, 4], &[2, 3, 4], &[]);
        assert_eq!((scalar.dims.clone(), scalar.inner_steps()), (vec![24], [1, 0]));
        assert_eq!(plan(&[2, 3, 4], &[2, 3, 4], &[4]).dims, [6, 4]);
        assert_eq!(plan(&[2, 3, 4, 5], &[2, 3, 4, 5], &[3, 1, 1]).dims, [2, 3, 20]);
        assert_eq!(plan(&[1, 1], &[1], &[1, 1]).dims, [1]);
        assert!(Broadcast::new("Add", &[2, 3], [&[2], &[3]]).is_err());
        assert!(Broadcast::new("Add", &[3], [&[1, 3]]).is_err());
    }

    #[test]
    fn runs_start_anywhere() {
        let plan = Broadcast::new("Add", &[3, 2, 4], [&[3, 1, 4], &[2, 1]]).unwrap();
        let mut seen = Vec::new();
        for (from, to) in [(0, 5), (5, 7), (7, 24), (24, 30)] {
            plan.runs(from, to, |at, n, [a, b]| {
                let [sa, sb] = plan.inner_steps();
                seen.extend((0..n).map(|i| (at + i, a + i * sa, b + i * sb)));
            });
        }
        let want: Vec<_> = (0..24).map(|o| (o, o / 8 * 4 + o % 4, o / 4 % 2)).collect();
        assert_eq!(seen, want);
        // An empty output has no run.
        Broadcast::new("Add", &[0, 2], [&[0, 2], &[1]]).unwrap().runs(0, 0, |_, _, _| panic!("a run"));
    }
}
