//! Many queries at once: they are the columns of both products.
//!
//! Scores are computed transposed, a row for each key and a column for each query. What the tile of the first product
//! writes is then laid out as the second product reads its right-hand side, so nothing is packed in between; and softmax
//! runs down the columns, a vector of queries at a time, without sums across a vector. Its division is left to the
//! outputs, of which there are fewer. Keys and values are packed once for all queries of a task.

use std::ops::Range;

use super::core::{Bias, Job, union};
use super::weights::{MOST_COLUMNS, PanelBias, Sees, Weights};
use crate::cpu::matmul::driver::RowPanels;
use crate::cpu::matmul::kernel::Kernel;
use crate::cpu::matmul::pack::turn;
use crate::cpu::parallel::SharedMut;
use crate::cpu::{Cpu, math, parallel};
use crate::tensor::AlignedBytes;

/// Whether [`run`] is the better way: the columns of its tiles should not be mostly empty.
pub(super) fn serves(cpu: &Cpu, queries: usize) -> bool {
    let columns = cpu.kernels().f32.nr;
    queries >= columns / 2 && columns <= MOST_COLUMNS
}

/// Writes all of `y`. `visible(b, i)` are the keys that query i sees.
pub(super) fn run(job: &Job<'_>, cpu: &Cpu, visible: impl Fn(usize, usize) -> Range<usize> + Sync, y: &mut [f32]) {
    let kernel = cpu.kernels().f32;
    let (queries, panels) = (job.q.rows, job.q.rows.div_ceil(kernel.nr));
    let units = job.q.batch * job.heads;
    // Few heads are cut up so that all threads have something to do, at the cost of packing keys again.
    let blocks = if cpu.threads() > 1 { (3 * cpu.threads()).div_ceil(units).min(panels) } else { 1 };
    let each = panels.div_ceil(blocks);
    let blocks = panels.div_ceil(each);
    let bias = job.bias.as_ref().map(|bias| TurnedBias::new(bias, cpu, job));
    let sizes = Rooms::sizes(kernel, job);
    let y = SharedMut::new(y);
    let take = || cpu.scratch.take(sizes.iter().sum::<usize>() * size_of::<f32>());
    parallel::for_each_with(cpu.threads(), units * blocks, take, |room: &mut AlignedBytes, task| {
        let (unit, block) = (task / blocks, task % blocks);
        let (b, h) = (unit / job.heads, unit % job.heads);
        let mine = block * each..((block + 1) * each).min(panels);
        let of_panel = |panel: usize| panel * kernel.nr..((panel + 1) * kernel.nr).min(queries);
        let seen = union(of_panel(mine.start).start..of_panel(mine.end - 1).end, |query| visible(b, query));
        let at = [b, h, h / (job.heads / job.kv_heads)];
        let mut head = HeadTask { job, kernel, at, keys: seen, rooms: Rooms::cut(room, sizes) };
        head.pack();
        for panel in mine {
            let queries = of_panel(panel);
            let sees = Sees::new(queries.clone().map(|query| visible(b, query)));
            let rows = head.scores(queries.clone(), union(queries.clone(), |query| visible(b, query)));
            let bias = bias.as_ref().map_or(PanelBias::None, |bias| bias.panel([b, h], panel, rows.clone()));
            head.weights(rows.clone(), bias, &sees);
            head.outputs(rows);
            for (c, query) in queries.enumerate() {
                let row = &head.rooms.rows[c * job.v.size..][..job.v.size];
                // SAFETY: each (batch, head, query) belongs to one task, and rows of y do not overlap.
                unsafe { y.slice(job.row_of_output(b, h, query), job.v.size) }.copy_from_slice(row);
            }
        }
    });
}

/// One head, and the queries of one panel after another.
struct HeadTask<'a> {
    job: &'a Job<'a>,
    kernel: &'static Kernel<f32>,
    /// Batch, head, head of the keys and values.
    at: [usize; 3],
    /// The keys that are packed.
    keys: Range<usize>,
    rooms: Rooms<'a>,
}

/// Scratch memory of a task.
struct Rooms<'a> {
    /// Keys as a left-hand side: `[size][mr]` for each panel of keys.
    keys: &'a mut [f32],
    /// Values, transposed, as a left-hand side: `[keys][mr]` for each panel of the head's size.
    values: &'a mut [f32],
    /// A panel of queries, transposed: `[size][nr]`.
    queries: &'a mut [f32],
    /// `[keys][nr]`.
    scores: &'a mut [f32],
    /// `[size][nr]`.
    out: &'a mut [f32],
    /// `[nr][size]`.
    rows: &'a mut [f32],
    /// What each column of `out` is multiplied by.
    factors: &'a mut [f32],
}

impl<'a> Rooms<'a> {
    /// Elements of each, in order.
    fn sizes(kernel: &Kernel<f32>, job: &Job<'_>) -> [usize; 7] {
        let (mr, nr, keys) = (kernel.mr, kernel.nr, job.k.rows);
        let panels = |rows| RowPanels::new(rows, mr).count * mr;
        let size = job.v.size;
        [panels(keys) * job.q.size, panels(size) * keys, job.q.size * nr, keys * nr, size * nr, nr * size, nr]
    }

    fn cut(room: &'a mut AlignedBytes, sizes: [usize; 7]) -> Self {
        let mut rest: &mut [f32] = bytemuck::cast_slice_mut(room.as_mut_slice());
        let [keys, values, queries, scores, out, rows, factors] =
            sizes.map(|size| rest.split_off_mut(..size).expect("the room has all parts"));
        Rooms { keys, values, queries, scores, out, rows, factors }
    }
}

impl HeadTask<'_> {
    /// Packs keys and values.
    fn pack(&mut self) {
        let [b, _, kv] = self.at;
        let mr = self.kernel.mr;
        self.job.k.matrix(b, kv, self.keys.clone()).pack_rows(1, mr, self.rooms.keys);
        self.job.v.matrix(b, kv, self.keys.clone()).transposed().pack_rows(1, mr, self.rooms.values);
    }

    /// Scores of `queries`, a panel, with the panels of keys that hold some of `seen`. Returns the keys of these.
    fn scores(&mut self, queries: Range<usize>, seen: Range<usize>) -> Range<usize> {
        let (job, kernel, [b, h, _]) = (self.job, self.kernel, self.at);
        let Rooms { keys, queries: room, scores, .. } = &mut self.rooms;
        let (mr, nr, size) = (kernel.mr, kernel.nr, job.q.size);
        // Columns beyond the last query are zero.
        job.q.matrix(b, h, queries).transposed().pack_columns(1, nr, room);
        room.iter_mut().for_each(|q| *q *= job.scale);
        let panels = RowPanels::new(self.keys.len(), mr);
        let start = |panel: usize| self.keys.start + panels.start(panel);
        let mut rows = self.keys.start..self.keys.start;
        for panel in (0..panels.count).filter(|&p| start(p) < seen.end && start(p + 1) > seen.start) {
            let of_panel = start(panel)..start(panel + 1);
            if rows.is_empty() {
                rows.start = of_panel.start;
            }
            let scores = &mut scores[(of_panel.start - rows.start) * nr..];
            kernel.run(of_panel.len(), size, &keys[panel * size * mr..], room, scores, nr, false);
            rows.end = of_panel.end;
        }
        rows
    }

    /// Scores into what values are weighted with, and the factors that the outputs take.
    fn weights(&mut self, rows: Range<usize>, bias: PanelBias<'_>, sees: &Sees) {
        let (job, nr) = (self.job, self.kernel.nr);
        let scores = &mut self.rooms.scores[..rows.len() * nr];
        job.cap(scores);
        let zero_masked = job.zero_masked_rows;
        math::dispatch(Weights { scores, first: rows.start, bias, sees, factors: self.rooms.factors, zero_masked });
    }

    /// The weighted values of the panel's queries, row by row.
    fn outputs(&mut self, rows: Range<usize>) {
        let (mr, nr, size, keys) = (self.kernel.mr, self.kernel.nr, self.job.v.size, self.keys.len());
        let Rooms { values, scores, out, rows: turned, factors, .. } = &mut self.rooms;
        let panels = RowPanels::new(size, mr);
        for panel in 0..panels.count {
            let of_panel = panels.range(panel);
            let values = &values[(panel * keys + rows.start - self.keys.start) * mr..];
            self.kernel.run(of_panel.len(), rows.len(), values, scores, &mut out[of_panel.start * nr..], nr, false);
        }
        for row in out.chunks_exact_mut(nr) {
            row.iter_mut().zip(&**factors).for_each(|(o, f)| *o *= f);
        }
        turn(out, nr, (size, nr), turned, size);
    }
}

/// A bias as the panels of scores take it.
enum TurnedBias<'a> {
    /// One for each key, whatever the query.
    Keys(&'a Bias<'a>),
    /// `[keys][nr]` for each panel of queries of each head that has its own.
    Panels { data: AlignedBytes, bias: &'a Bias<'a>, heads: usize, keys: usize, panels: usize, nr: usize },
}

impl<'a> TurnedBias<'a> {
    fn new(bias: &'a Bias<'a>, cpu: &Cpu, job: &Job<'_>) -> Self {
        let (nr, queries, keys) = (cpu.kernels().f32.nr, job.q.rows, job.k.rows);
        let [of_batch, of_head, of_query, of_key] = bias.strides;
        if of_query == 0 && of_key == 1 {
            return TurnedBias::Keys(bias);
        }
        let own = |stride: usize, count: usize| if stride == 0 { 1 } else { count };
        let (batch, heads, panels) = (own(of_batch, job.q.batch), own(of_head, job.heads), queries.div_ceil(nr));
        let mut data = cpu.scratch.take(batch * heads * panels * keys * nr * size_of::<f32>());
        let all: &mut [f32] = bytemuck::cast_slice_mut(data.as_mut_slice());
        parallel::for_each_chunk(cpu.threads(), all, keys * nr, |i, out| {
            let (plane, panel) = (i / panels, i % panels);
            let mine = panel * nr..((panel + 1) * nr).min(queries);
            let from = &bias.data[plane / heads * of_batch + plane % heads * of_head + mine.start * of_query..];
            if mine.len() < nr {
                out.fill(0.0);
            }
            if of_key == 1 {
                turn(from, of_query, (mine.len(), keys), out, nr);
            } else {
                let rows = out.chunks_exact_mut(nr).enumerate();
                rows.for_each(|(key, row)| (0..mine.len()).for_each(|c| row[c] = from[c * of_query + key * of_key]));
            }
        });
        TurnedBias::Panels { data, bias, heads, keys, panels, nr }
    }

    /// The part for `keys` of a panel of queries.
    fn panel(&self, [b, h]: [usize; 2], panel: usize, rows: Range<usize>) -> PanelBias<'_> {
        match self {
            TurnedBias::Keys(bias) => PanelBias::Keys(&bias.data[b * bias.strides[0] + h * bias.strides[1]..][rows]),
            TurnedBias::Panels { data, bias, heads, keys, panels, nr } => {
                let own = |stride: usize, index: usize| if stride == 0 { 0 } else { index };
                let plane = own(bias.strides[0], b) * heads + own(bias.strides[1], h);
                let data: &[f32] = bytemuck::cast_slice(data.as_slice());
                PanelBias::Each(&data[((plane * panels + panel) * keys + rows.start) * nr..][..rows.len() * nr])
            }
        }
    }
}
