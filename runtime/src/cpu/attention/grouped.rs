//! `com.microsoft.GroupQueryAttention`: causal attention with a cache, and rotary embedding inside.

use super::Growing;
use super::core::{Heads, Job, copy_rows};
use super::rotary::Angles;
use crate::cpu::args::{input, integer, integers, invalid, optional, output};
use crate::cpu::{Cpu, parallel};
use crate::error::KernelError;
use crate::graph::{GroupQueryAttention, HeadLayout};
use crate::tensor::{DType, TensorView, TensorViewMut};

const OP: &str = "GroupQueryAttention";

/// Inputs and outputs: see [`GroupQueryAttention`].
///
/// `seqlens_k` is the total length of each row minus one. When the call covers everything (`total_sequence_length` equals
/// S) it is the prompt: rows start at position 0 and shorter ones are padded on the right, the padding seen by nobody.
/// Else row b continues at position total(b) - S, whatever room its cache has behind that.
pub(crate) fn run(
    cpu: &Cpu,
    op: &GroupQueryAttention,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let call = Call::new(op, inputs)?;
    let (batch, kv_heads, size) = (call.q.batch, op.kv_heads, call.q.size);
    let past = |i: usize| -> Result<(&[f32], usize), KernelError> {
        let Some(view) = optional(inputs, i)? else { return Ok((&[], 0)) };
        match *view.shape {
            [b, h, rows, d] if [b, h, d] == [batch, kv_heads, size] => Ok((view.as_slice()?, rows)),
            _ => Err(invalid(OP, format_args!("a cache of {:?} for {kv_heads} heads of {size}", view.shape))),
        }
    };
    let ((past_k, room), (past_v, room_v)) = (past(3)?, past(4)?);
    if room != room_v {
        return Err(invalid(OP, format_args!("caches of {room} and {room_v} rows")));
    }
    let rows = call.rows(room)?;
    let keys = room.max(call.total);
    for i in 1..3 {
        output(OP, outputs, i, DType::F32, &[batch, kv_heads, keys, size])?;
    }
    let [y, present_k, present_v, ..] = outputs else { return Err(invalid(OP, "three outputs")) };
    let (present_k, present_v) = (present_k.as_mut_slice()?, present_v.as_mut_slice()?);
    append(cpu, (past_k, room), &call.k, (kv_heads, keys), &rows.starts, call.angles.as_ref(), present_k);
    append(cpu, (past_v, room), &call.v, (kv_heads, keys), &rows.starts, None, present_v);
    let k = Heads::new(present_k, HeadLayout::Split, batch, kv_heads, keys, size);
    let v = Heads::new(present_v, HeadLayout::Split, batch, kv_heads, keys, size);
    call.attend(cpu, op, &rows, [k, v], y)
}

/// Like [`run`] with a cache that only the new rows are written to. Inputs 3 and 4 are not read.
pub(crate) fn run_growing(
    cpu: &Cpu,
    op: &GroupQueryAttention,
    inputs: &[Option<TensorView<'_>>],
    cache: Growing<'_>,
    y: &mut TensorViewMut<'_>,
) -> Result<(), KernelError> {
    let call = Call::new(op, inputs)?;
    let (past, capacity, total) = (cache.past, cache.capacity, call.total);
    let plane = capacity * call.q.size;
    let len = call.q.batch * op.kv_heads * plane;
    if past.max(total) > capacity || [cache.keys.len(), cache.values.len()] != [len; 2] {
        let room = cache.keys.len();
        return Err(invalid(OP, format_args!("a cache of {room} for {past} of {total}, room for {capacity} rows")));
    }
    let rows = call.rows(past)?;
    let grown = |room: &mut [f32], new: &Heads<'_>, angles: Option<&Angles<'_>>| {
        parallel::for_each_chunk(cpu.threads(), room, plane, |i, room| {
            let (b, h) = (i / op.kv_heads, i % op.kv_heads);
            // As in `append`: what a shorter row of the batch does not reach is zeros.
            room[past.min(total) * new.size..total * new.size].fill(0.0);
            write(new, (b, h), rows.starts[b], angles, room);
        });
    };
    grown(cache.keys, &call.k, call.angles.as_ref());
    grown(cache.values, &call.v, None);
    let all = |data| Heads {
        data,
        batch: call.q.batch,
        rows: total.max(past),
        size: call.q.size,
        strides: [op.kv_heads * plane, plane, call.q.size, 1],
    };
    call.attend(cpu, op, &rows, [all(cache.keys), all(cache.values)], y)
}

/// The inputs of one call, caches apart.
struct Call<'a> {
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    lengths: Vec<i64>,
    /// Rows of the longest row of the batch, new ones included.
    total: usize,
    angles: Option<Angles<'a>>,
}

impl<'a> Call<'a> {
    fn new(op: &GroupQueryAttention, inputs: &[Option<TensorView<'a>>]) -> Result<Self, KernelError> {
        let (heads, kv_heads) = (op.heads, op.kv_heads);
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            return Err(invalid(OP, format_args!("{kv_heads} key heads for {heads} query heads")));
        }
        let (q, k, v) = operands(inputs, heads, kv_heads)?;
        let total = integer(OP, input(OP, inputs, 6)?)?;
        let total = usize::try_from(total).map_err(|_| invalid(OP, format_args!("a total length of {total}")))?;
        if total < q.rows {
            return Err(invalid(OP, format_args!("{} new rows, {total} in all", q.rows)));
        }
        let angles = match op.rotary {
            true => Some(Angles::new(OP, input(OP, inputs, 7)?, input(OP, inputs, 8)?, op.rotary_interleaved)?),
            false => None,
        };
        if let Some(angles) = angles.as_ref().filter(|a| 2 * a.pairs > q.size) {
            return Err(invalid(OP, format_args!("tables for {} elements in heads of {}", 2 * angles.pairs, q.size)));
        }
        Ok(Call { q, k, v, lengths: integers(OP, input(OP, inputs, 5)?)?, total, angles })
    }

    /// Where each row of the batch continues behind `room` cached rows.
    fn rows(&self, room: usize) -> Result<Rows, KernelError> {
        let rows = Rows::new(self.lengths.clone(), self.q.batch, self.q.rows, self.total, room)?;
        if let Some(angles) = &self.angles {
            for &start in rows.starts.iter().filter(|_| self.q.rows > 0) {
                angles.check(OP, (start + self.q.rows - 1) as i64)?;
            }
        }
        Ok(rows)
    }

    /// The computation, once all keys and values lie together.
    fn attend(
        &self,
        cpu: &Cpu,
        op: &GroupQueryAttention,
        rows: &Rows,
        [k, v]: [Heads<'_>; 2],
        y: &mut TensorViewMut<'_>,
    ) -> Result<(), KernelError> {
        let (heads, q) = (op.heads, self.q);
        let (batch, queries, size) = (q.batch, q.rows, q.size);
        output(OP, std::slice::from_mut(y), 0, DType::F32, &[batch, queries, heads * size])?;
        let y = y.as_mut_slice::<f32>()?;
        let mut turned_q;
        let q = match &self.angles {
            None => q,
            Some(angles) => {
                turned_q = cpu.scratch.take(batch * heads * queries * size * size_of::<f32>());
                let out: &mut [f32] = bytemuck::cast_slice_mut(turned_q.as_mut_slice());
                parallel::for_each_chunk(cpu.threads(), out, queries * size, |i, out| {
                    let (b, h) = (i / heads, i % heads);
                    for (r, out) in out.chunks_exact_mut(size).enumerate() {
                        angles.turn(rows.starts[b] + r, &q.from(b, h, r)[..size], out);
                    }
                });
                Heads::new(out, HeadLayout::Split, batch, heads, queries, size)
            }
        };
        let visible = |b: usize, query: usize| {
            let end = rows.starts[b] + query + 1;
            let start = op.window.map_or(0, |w| end.saturating_sub(w));
            start.min(rows.totals[b])..end.min(rows.totals[b])
        };
        Job {
            heads,
            kv_heads: op.kv_heads,
            q,
            k,
            v,
            scale: op.scale.unwrap_or_else(|| 1.0 / (size as f32).sqrt()),
            softcap: op.softcap,
            bias: None,
            merged_output: true,
            zero_masked_rows: true,
        }
        .run(cpu, visible, y);
        Ok(())
    }
}

/// q, k and v, from three inputs or packed in the first.
fn operands<'a>(
    inputs: &[Option<TensorView<'a>>],
    heads: usize,
    kv_heads: usize,
) -> Result<(Heads<'a>, Heads<'a>, Heads<'a>), KernelError> {
    let q = input(OP, inputs, 0)?;
    let &[batch, rows, hidden] = q.shape else {
        return Err(invalid(OP, format_args!("q of shape {:?}", q.shape)));
    };
    let data = q.as_slice::<f32>()?;
    match (optional(inputs, 1)?, optional(inputs, 2)?) {
        (Some(k), Some(v)) => {
            let size = hidden / heads;
            let wanted = [batch, rows, kv_heads * size];
            if hidden % heads != 0 || k.shape != wanted || v.shape != wanted {
                let (a, b, c) = (q.shape, k.shape, v.shape);
                return Err(invalid(OP, format_args!("q {a:?}, k {b:?}, v {c:?} for {heads} and {kv_heads} heads")));
            }
            let merged = |data, heads| Heads::new(data, HeadLayout::Merged, batch, heads, rows, size);
            Ok((merged(data, heads), merged(k.as_slice()?, kv_heads), merged(v.as_slice()?, kv_heads)))
        }
        (None, None) => {
            let all = heads + 2 * kv_heads;
            if hidden % all != 0 {
                return Err(invalid(OP, format_args!("packed q of shape {:?} for {all} heads", q.shape)));
            }
            let size = hidden / all;
            let packed = Heads::new(data, HeadLayout::Merged, batch, all, rows, size);
            // The same strides, starting at another head.
            let from = |head: usize| Heads { data: packed.from(0, head, 0), ..packed };
            Ok((from(0), from(heads), from(heads + kv_heads)))
        }
        _ => Err(invalid(OP, "k without v, or v without k")),
    }
}

/// Where each row of the batch continues and how long it is then.
struct Rows {
    starts: Vec<usize>,
    totals: Vec<usize>,
}

impl Rows {
    fn new(lengths: Vec<i64>, batch: usize, queries: usize, total: usize, room: usize) -> Result<Self, KernelError> {
        if lengths.len() != batch {
            return Err(invalid(OP, format_args!("{} lengths for a batch of {batch}", lengths.len())));
        }
        let prompt = queries == total;
        let (mut starts, mut totals) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
        for length in lengths {
            let all = length.checked_add(1).and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= total);
            let start = match all {
                Some(_) if prompt => Some(0),
                Some(all) => all.checked_sub(queries).filter(|&start| start <= room),
                None => None,
            };
            let (Some(all), Some(start)) = (all, start) else {
                return Err(KernelError::OutOfRange(format!(
                    "{OP}: a length of {length} + 1 with {queries} new rows, {room} cached and {total} in all"
                )));
            };
            starts.push(start);
            totals.push(all);
        }
        Ok(Rows { starts, totals })
    }
}

/// Writes the cache of `room` rows into the first of `out`'s, then the new rows of each batch row where it continues.
fn append(
    cpu: &Cpu,
    (past, room): (&[f32], usize),
    new: &Heads<'_>,
    (heads, keys): (usize, usize),
    starts: &[usize],
    angles: Option<&Angles<'_>>,
    out: &mut [f32],
) {
    let size = new.size;
    parallel::for_each_chunk(cpu.threads(), out, keys * size, |i, out| {
        let (b, h) = (i / heads, i % heads);
        let (old, rest) = out.split_at_mut(room * size);
        old.copy_from_slice(&past[i * room * size..][..room * size]);
        // Rows that a shorter row of the batch does not reach are zeros, so that a cache never holds garbage.
        rest.fill(0.0);
        write(new, (b, h), starts[b], angles, out);
    });
}

/// Writes the new rows of a head from row `start` of `out` on, turned by their angles.
fn write(new: &Heads<'_>, (b, h): (usize, usize), start: usize, angles: Option<&Angles<'_>>, out: &mut [f32]) {
    let size = new.size;
    let fresh = &mut out[start * size..][..new.rows * size];
    match angles {
        None => copy_rows(new, b, h, fresh),
        Some(angles) => {
            for (r, out) in fresh.chunks_exact_mut(size).enumerate() {
                angles.turn(start + r, &new.from(b, h, r)[..size], out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::product;
    use crate::cpu::args::testing::{Rng, assert_close, run as run_kernel, values};
    use crate::tensor::Tensor;

    const HEADS: usize = 4;
    const KV: usize = 2;
    const SIZE: usize = 6;

    /// Calls on one growing cache give what calls with the whole past give, rows of the batch of different lengths included.
    #[test]
    fn a_growing_cache_equals_a_given_past() {
        let cpu = Cpu::new(2);
        let mut rng = Rng(41);
        let (b, capacity) = (2, 9);
        let op = GroupQueryAttention { rotary: true, ..op(Some(5)) };
        let tables = [rng.tensor(&[16, SIZE / 2]), rng.tensor(&[16, SIZE / 2])];
        let mut rooms = [vec![7f32; b * KV * capacity * SIZE], vec![7f32; b * KV * capacity * SIZE]];
        let mut past = [
            Tensor::from_slice::<f32>(&[b, KV, 0, SIZE], &[]).unwrap(),
            Tensor::from_slice::<f32>(&[b, KV, 0, SIZE], &[]).unwrap(),
        ];
        let mut filled = 0;
        for (rows, lengths) in [(4usize, [4i32, 2]), (1, [5, 3]), (2, [7, 5])] {
            let q = rng.tensor(&[b, rows, HEADS * SIZE]);
            let (k, v) = (rng.tensor(&[b, rows, KV * SIZE]), rng.tensor(&[b, rows, KV * SIZE]));
            let total = lengths[0] as usize;
            let lengths = Tensor::vector(&lengths.map(|n| n - 1));
            let all = Tensor::scalar(total as i32);
            let inputs = [
                Some(&q),
                Some(&k),
                Some(&v),
                Some(&past[0]),
                Some(&past[1]),
                Some(&lengths),
                Some(&all),
                Some(&tables[0]),
                Some(&tables[1]),
            ];
            let (y, present) = ([b, rows, HEADS * SIZE], [b, KV, total, SIZE]);
            let outputs: [(DType, &[usize]); 3] = [(DType::F32, &y), (DType::F32, &present), (DType::F32, &present)];
            let want = run_kernel(&inputs, &outputs, |i, o| run(&cpu, &op, i, o)).unwrap();
            let [keys, values_room] = &mut rooms;
            let mut growing = Some(Growing { keys, values: values_room, capacity, past: filled });
            let mut alone = inputs;
            alone[3..5].fill(None);
            let got =
                run_kernel(&alone, &outputs[..1], |i, o| run_growing(&cpu, &op, i, growing.take().unwrap(), &mut o[0]));
            assert_eq!(values::<f32>(&got.unwrap()[0]), values::<f32>(&want[0]));
            filled = total;
            for (room, present) in rooms.iter().zip(&want[1..]) {
                let present = values::<f32>(present);
                for plane in 0..b * KV {
                    let (rows, free) = room[plane * capacity * SIZE..][..capacity * SIZE].split_at(total * SIZE);
                    assert_eq!(rows, &present[plane * total * SIZE..][..total * SIZE]);
                    assert!(free.iter().all(|x| *x == 7.0), "rows behind the new ones are not touched");
                }
            }
            past = [want[1].clone(), want[2].clone()];
        }
    }

    fn op(window: Option<usize>) -> GroupQueryAttention {
        GroupQueryAttention {
            heads: HEADS,
            kv_heads: KV,
            scale: None,
            softcap: 0.0,
            window,
            rotary: false,
            rotary_interleaved: false,
        }
    }

    struct Call<'a> {
        rows: usize,
        packed: &'a [f32],
        past: Option<(&'a Tensor, &'a Tensor)>,
        lengths: &'a [i32],
        total: usize,
    }

    /// y and the two caches; packed or apart.
    fn run_case(op: &GroupQueryAttention, c: &Call<'_>, apart: bool) -> Result<Vec<Tensor>, KernelError> {
        let (batch, all) = (c.lengths.len(), (HEADS + 2 * KV) * SIZE);
        let cut = |from: usize, to: usize| {
            let v: Vec<f32> = c.packed.chunks(all).flat_map(|r| r[from * SIZE..to * SIZE].to_vec()).collect();
            Tensor::from_slice(&[batch, c.rows, (to - from) * SIZE], &v).unwrap()
        };
        let (q, k, v) = (cut(0, HEADS), cut(HEADS, HEADS + KV), cut(HEADS + KV, HEADS + 2 * KV));
        let packed = cut(0, HEADS + 2 * KV);
        let (lengths, total) = (Tensor::vector(c.lengths), Tensor::scalar(c.total as i32));
        let keys = c.past.map_or(0, |(k, _)| k.shape()[2]).max(c.total);
        let inputs = [
            Some(if apart { &q } else { &packed }),
            apart.then_some(&k),
            apart.then_some(&v),
            c.past.map(|p| p.0),
            c.past.map(|p| p.1),
            Some(&lengths),
            Some(&total),
        ];
        let (y, cache) = ([batch, c.rows, HEADS * SIZE], [batch, KV, keys, SIZE]);
        let rooms: [(DType, &[usize]); 3] = [(DType::F32, &y), (DType::F32, &cache), (DType::F32, &cache)];
        run_kernel(&inputs, &rooms, |i, o| run(&Cpu::new(2), op, i, o))
    }

    /// One row of the batch, all of its `rows` tokens at once, in f64.
    fn naive(packed: &[f32], window: Option<usize>) -> Vec<f32> {
        let all = (HEADS + 2 * KV) * SIZE;
        let at = |token: usize, head: usize| &packed[token * all + head * SIZE..][..SIZE];
        let mut y = Vec::new();
        for i in 0..packed.len() / all {
            for h in 0..HEADS {
                let g = h / (HEADS / KV);
                let first = window.map_or(0, |w| (i + 1).saturating_sub(w));
                let dot = |t| at(i, h).iter().zip(at(t, HEADS + g)).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
                let e: Vec<f64> = (first..=i).map(|t| (dot(t) / (SIZE as f64).sqrt()).exp()).collect();
                let sum: f64 = e.iter().sum();
                y.extend((0..SIZE).map(|d| {
                    let v = |t: usize| at(t, HEADS + KV + g)[d] as f64;
                    (first..=i).map(|t| e[t - first] / sum * v(t)).sum::<f64>() as f32
                }));
            }
        }
        y
    }

    #[test]
    fn a_padded_prompt_and_steps_in_a_larger_cache_equal_the_whole() {
        let all = (HEADS + 2 * KV) * SIZE;
        let mut rng = Rng(41);
        let tokens: Vec<Vec<f32>> = [7usize, 5].iter().map(|&n| (0..n * all).map(|_| rng.float()).collect()).collect();
        for (window, apart) in [(None, false), (None, true), (Some(3), false)] {
            let op = op(window);
            let want: Vec<Vec<f32>> = tokens.iter().map(|t| naive(t, window)).collect();
            // A prompt of 5 and 3 tokens: the second row is padded on the right with garbage.
            let mut packed = tokens[0][..5 * all].to_vec();
            packed.extend(&tokens[1][..3 * all]);
            packed.extend(vec![77.0; 2 * all]);
            let call = Call { rows: 5, packed: &packed, past: None, lengths: &[4, 2], total: 5 };
            let got = run_case(&op, &call, apart).unwrap();
            let (y, width) = (values::<f32>(&got[0]), HEADS * SIZE);
            assert_close(&y[..5 * width], &want[0][..5 * width], 2e-6);
            assert_close(&y[5 * width..8 * width], &want[1][..3 * width], 2e-6);
            // The cache in a buffer of 9 rows, then two steps for both rows, one token each.
            let grow = |t: &Tensor| {
                let v: Vec<f32> = values::<f32>(t)
                    .chunks(t.shape()[2] * SIZE)
                    .flat_map(|c| c.iter().copied().chain(vec![55.0; (9 - t.shape()[2]) * SIZE]).collect::<Vec<_>>())
                    .collect();
                Tensor::from_slice(&[2, KV, 9, SIZE], &v).unwrap()
            };
            let (mut k, mut v) = (grow(&got[1]), grow(&got[2]));
            for step in 0..2 {
                let mut packed = tokens[0][(5 + step) * all..][..all].to_vec();
                packed.extend(&tokens[1][(3 + step) * all..][..all]);
                let lengths = [5 + step as i32, 3 + step as i32];
                let past = Some((&k, &v));
                let got =
                    run_case(&op, &Call { rows: 1, packed: &packed, past, lengths: &lengths, total: 6 + step }, apart);
                let got = got.unwrap();
                let y = values::<f32>(&got[0]);
                assert_close(&y[..width], &want[0][(5 + step) * width..][..width], 2e-6);
                assert_close(&y[width..], &want[1][(3 + step) * width..][..width], 2e-6);
                (k, v) = (got[1].clone(), got[2].clone());
                assert_eq!(k.shape(), [2, KV, 9, SIZE]);
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        let all = (HEADS + 2 * KV) * SIZE;
        let packed = vec![0f32; 2 * all];
        let past = Tensor::from_slice(&[1, KV, 3, SIZE], &vec![0f32; product(&[KV, 3, SIZE])]).unwrap();
        let of = |length: i32, total: usize| {
            let call = Call { rows: 2, packed: &packed, past: Some((&past, &past)), lengths: &[length], total };
            run_case(&op(None), &call, false).map(|_| ())
        };
        assert!(of(4, 5).is_ok());
        // Beyond the total, before the new rows, behind what is cached, negative.
        for (length, total) in [(5, 5), (0, 5), (6, 7), (-2, 5), (i32::MAX, 5)] {
            assert!(matches!(of(length, total), Err(KernelError::OutOfRange(_))), "{length} {total}");
        }
        assert!(of(0, 1).is_err());
    }
}
