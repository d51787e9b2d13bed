//! One engine for every operator that reads elements at regular steps: Transpose, Slice, Expand, Tile.

use crate::cpu::parallel;

/// Elements that one task copies.
const CHUNK: usize = 16 * 1024;

/// Side of the square blocks in which two-dimensional transposes go: 16 rows of 4 bytes are a cache line each way.
const BLOCK: usize = 16;

/// Where the elements of a row-major output lie in a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strided {
    dims: Vec<usize>,
    /// Source elements between neighbours along each dimension; negative runs backwards, 0 repeats.
    steps: Vec<isize>,
    /// Source element of the output's first.
    start: usize,
}

impl Strided {
    /// Reads from source element `start` on; dimensions are added outermost first.
    pub(crate) fn new(start: usize) -> Self {
        Strided { start, ..Self::default() }
    }

    /// Adds a dimension inside the others, as one loop with the last where the steps allow.
    pub(crate) fn push(&mut self, dim: usize, step: isize) {
        if dim == 1 {
            return;
        }
        if let (Some(last), Some(outer)) = (self.dims.last_mut(), self.steps.last_mut())
            && *outer == step.wrapping_mul(dim as isize)
        {
            *last *= dim;
            *outer = step;
            return;
        }
        self.dims.push(dim);
        self.steps.push(step);
    }

    /// Copies `source` into `out`. All elements named by the dimensions must exist in both.
    pub(crate) fn copy<T: Copy + Send + Sync>(mut self, threads: usize, source: &[T], out: &mut [T]) {
        if out.is_empty() {
            return;
        }
        if self.dims.is_empty() {
            out[0] = source[self.start];
            return;
        }
        // The outermost loop is split over tasks, in whole blocks; a lone loop is split into runs.
        let inner: usize = self.dims[1..].iter().product();
        let rows = if inner == 1 { CHUNK } else { CHUNK.div_ceil(inner).next_multiple_of(BLOCK) };
        let rows = rows.min(self.dims[0]);
        let (first_step, start) = (self.steps[0], self.start as isize);
        let total = std::mem::replace(&mut self.dims[0], rows);
        parallel::for_each_chunk(threads, out, rows * inner, |i, out| {
            let at = start + (i * rows) as isize * first_step;
            let count = rows.min(total - i * rows);
            copy_box(source, at, count, &self.dims, &self.steps, out);
        });
    }
}

/// Fills `out` with the box whose outermost loop has `count` turns.
fn copy_box<T: Copy>(source: &[T], at: isize, count: usize, dims: &[usize], steps: &[isize], out: &mut [T]) {
    match (dims, steps) {
        ([_], [step]) => copy_run(source, at, *step, &mut out[..count]),
        // A transpose: the source runs along the outer loop, the output along the inner one.
        ([_, columns], [1, step]) => copy_block(source, at, (count, *columns), (1, *step), out),
        _ => {
            let inner: usize = dims[1..].iter().product();
            // The source's own direction may lie further out than the last two loops; bring it next to the last.
            if dims.len() > 2 && steps[0] == 1 && steps[dims.len() - 1] != 1 {
                return copy_far(source, at, count, dims, steps, out);
            }
            for i in 0..count {
                let at = at + i as isize * steps[0];
                copy_box(source, at, dims[1], &dims[1..], &steps[1..], &mut out[i * inner..][..inner]);
            }
        }
    }
}

fn copy_run<T: Copy>(source: &[T], at: isize, step: isize, out: &mut [T]) {
    match step {
        1 => out.copy_from_slice(&source[at as usize..][..out.len()]),
        0 => out.fill(source[at as usize]),
        _ => {
            let mut at = at;
            for o in out {
                *o = source[at as usize];
                at += step;
            }
        }
    }
}

/// Rows of `size.1` elements, `size.0` of them one element apart in the source, in blocks so that each cache line is
/// used up while it is there.
fn copy_block<T: Copy>(source: &[T], at: isize, size: (usize, usize), steps: (isize, isize), out: &mut [T]) {
    let (rows, columns) = size;
    for r in (0..rows).step_by(BLOCK) {
        let height = BLOCK.min(rows - r);
        for c in (0..columns).step_by(BLOCK) {
            let width = BLOCK.min(columns - c);
            for i in r..r + height {
                let mut from = at + i as isize * steps.0 + c as isize * steps.1;
                for o in &mut out[i * columns + c..][..width] {
                    *o = source[from as usize];
                    from += steps.1;
                }
            }
        }
    }
}

/// The outermost loop steps by 1 and the innermost does not: walks the loops between, and for each moves the plane of
/// these two in blocks.
fn copy_far<T: Copy>(source: &[T], at: isize, count: usize, dims: &[usize], steps: &[isize], out: &mut [T]) {
    let last = dims.len() - 1;
    let columns = dims[last];
    let middle: usize = dims[1..last].iter().product();
    let inner = middle * columns;
    let mut index = vec![0usize; last];
    let mut offset = at;
    for m in 0..middle {
        for r in (0..count).step_by(BLOCK) {
            for c in (0..columns).step_by(BLOCK) {
                let width = BLOCK.min(columns - c);
                for i in r..count.min(r + BLOCK) {
                    let mut from = offset + i as isize + c as isize * steps[last];
                    for o in &mut out[i * inner + m * columns + c..][..width] {
                        *o = source[from as usize];
                        from += steps[last];
                    }
                }
            }
        }
        for d in (1..last).rev() {
            index[d] += 1;
            offset += steps[d];
            if index[d] < dims[d] {
                break;
            }
            offset -= steps[d] * dims[d] as isize;
            index[d] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::testing::Rng;

    #[test]
    fn equals_a_naive_loop() {
        let mut rng = Rng(11);
        for round in 0..300 {
            let rank = rng.below(5);
            let sizes = [1usize, 2, 3, 5, 17, 40];
            let source_dims: Vec<usize> = (0..rank).map(|_| sizes[rng.below(if rank > 3 { 4 } else { 6 })]).collect();
            let source: Vec<u32> = (0..source_dims.iter().product::<usize>() as u32).collect();
            // A random order of the source's dimensions, some backwards, some with every second element, and repeats.
            let mut order: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                order.swap(i, rng.below(i + 1));
            }
            let own = crate::cpu::args::strides(&source_dims);
            let (mut dims, mut steps, mut start) = (Vec::new(), Vec::new(), 0usize);
            for &d in &order {
                let n = source_dims[d];
                let (count, step) = match rng.below(5) {
                    0 => {
                        start += (n - 1) * own[d];
                        (n, -(own[d] as isize))
                    }
                    1 => (n.div_ceil(2), 2 * own[d] as isize),
                    2 => (rng.below(4), 0),
                    _ => (n, own[d] as isize),
                };
                dims.push(count);
                steps.push(step);
            }
            let len: usize = dims.iter().product();
            let mut plan = Strided::new(start);
            dims.iter().zip(&steps).for_each(|(&d, &s)| plan.push(d, s));
            let mut out = vec![u32::MAX; len];
            plan.copy(1 + round % 3, &source, &mut out);
            let own = crate::cpu::args::strides(&dims);
            for (i, got) in out.iter().enumerate() {
                let at: isize = (0..rank).map(|d| (i / own[d] % dims[d]) as isize * steps[d]).sum();
                assert_eq!(*got, source[(start as isize + at) as usize], "{dims:?} {steps:?} {i}");
            }
        }
    }
}
