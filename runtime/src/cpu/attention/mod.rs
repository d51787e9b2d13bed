//! Attention: the operator itself, its grouped form with a cache, and rotary embedding.
//!
//! `core` computes; this file and `grouped` say where queries, keys and values lie and which keys a query sees.

mod columns;
pub(crate) mod core;
pub(crate) mod grouped;
pub(crate) mod rotary;
mod weights;

use self::core::{Bias, Heads, Job, append, copy_rows};
use crate::cpu::args::{input, invalid, optional, output};
use crate::cpu::{Cpu, parallel};
use crate::error::KernelError;
use crate::graph::{Attention, HeadLayout};
use crate::tensor::{DType, TensorView, TensorViewMut};

const OP: &str = "Attention";

/// Inputs and outputs: see [`Attention`]. Two outputs after `y` are the caches; if only `past` comes in, they stay inside.
pub(crate) fn run(
    cpu: &Cpu,
    attention: &Attention,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let [q, mut k, mut v] = operands(attention, inputs)?;
    let kv_heads = attention.kv_heads;
    let (batch, size, v_size) = (q.batch, q.size, v.size);
    let past_k = cache(inputs, 5, batch, kv_heads, size)?;
    let past_v = cache(inputs, 6, batch, kv_heads, v_size)?;
    let past = past_k.map_or(0, |(_, rows)| rows);
    if past != past_v.map_or(0, |(_, rows)| rows) {
        return Err(invalid(OP, "the caches of keys and values differ in length"));
    }
    let keys = past + k.rows;
    let [y, present @ ..] = outputs else { return Err(invalid(OP, "no output")) };

    // The caches are appended first, and then read as keys and values.
    let (mut room_k, mut room_v);
    if past > 0 || !present.is_empty() {
        let (lk, lv) = (batch * kv_heads * keys * size, batch * kv_heads * keys * v_size);
        let (present_k, present_v): (&mut [f32], &mut [f32]) = match present {
            [] => {
                room_k = cpu.scratch.take(lk * size_of::<f32>());
                room_v = cpu.scratch.take(lv * size_of::<f32>());
                (bytemuck::cast_slice_mut(room_k.as_mut_slice()), bytemuck::cast_slice_mut(room_v.as_mut_slice()))
            }
            [_] => return Err(invalid(OP, "one cache without the other")),
            [k, v, ..] => {
                output(OP, std::slice::from_mut(k), 0, DType::F32, &[batch, kv_heads, keys, size])?;
                output(OP, std::slice::from_mut(v), 0, DType::F32, &[batch, kv_heads, keys, v_size])?;
                (k.as_mut_slice()?, v.as_mut_slice()?)
            }
        };
        append(cpu, past_k.map_or(&[], |(data, _)| data), &k, kv_heads, keys, present_k);
        append(cpu, past_v.map_or(&[], |(data, _)| data), &v, kv_heads, keys, present_v);
        k = Heads::new(present_k, HeadLayout::Split, batch, kv_heads, keys, size);
        v = Heads::new(present_v, HeadLayout::Split, batch, kv_heads, keys, v_size);
    }
    attend(cpu, attention, inputs, [q, k, v], y)
}

/// A cache that grows in place: keys and values [batch, heads, capacity, size], of which `past` rows are filled.
pub(crate) struct Growing<'a> {
    pub(crate) keys: &'a mut [f32],
    pub(crate) values: &'a mut [f32],
    /// Rows there is room for.
    pub(crate) capacity: usize,
    /// Rows that are filled.
    pub(crate) past: usize,
}

/// Like [`run`] with a cache that only the new rows are written to. Inputs 5 and 6 are not read.
pub(crate) fn run_growing(
    cpu: &Cpu,
    attention: &Attention,
    inputs: &[Option<TensorView<'_>>],
    cache: Growing<'_>,
    y: &mut TensorViewMut<'_>,
) -> Result<(), KernelError> {
    let [q, k, v] = operands(attention, inputs)?;
    let (past, capacity, rows) = (cache.past, cache.capacity, k.rows);
    let planes = q.batch * attention.kv_heads;
    let fits = |room: &[f32], size: usize| room.len() == planes * capacity * size;
    if past + rows > capacity || !fits(cache.keys, k.size) || !fits(cache.values, v.size) {
        let room = cache.keys.len();
        return Err(invalid(OP, format_args!("a cache of {room} for {past} + {rows} of {capacity} rows")));
    }
    let k = grown(cpu, cache.keys, &k, attention.kv_heads, past, capacity);
    let v = grown(cpu, cache.values, &v, attention.kv_heads, past, capacity);
    attend(cpu, attention, inputs, [q, k, v], y)
}

/// Writes the new rows behind the `past` ones of `room`, and returns all.
fn grown<'a>(cpu: &Cpu, room: &'a mut [f32], new: &Heads<'_>, heads: usize, past: usize, capacity: usize) -> Heads<'a> {
    let (size, rows) = (new.size, new.rows);
    parallel::for_each_chunk(cpu.threads(), room, (capacity * size).max(1), |i, plane| {
        copy_rows(new, i / heads, i % heads, &mut plane[past * size..][..rows * size]);
    });
    let plane = capacity * size;
    Heads { data: room, batch: new.batch, rows: past + rows, size, strides: [heads * plane, plane, size, 1] }
}

/// Queries, new keys and new values, checked against each other.
fn operands<'a>(attention: &Attention, inputs: &[Option<TensorView<'a>>]) -> Result<[Heads<'a>; 3], KernelError> {
    let &Attention { heads, kv_heads, .. } = attention;
    if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
        return Err(invalid(OP, format_args!("{kv_heads} key heads for {heads} query heads")));
    }
    let q = operand(input(OP, inputs, 0)?, attention.q_layout, heads)?;
    let k = operand(input(OP, inputs, 1)?, attention.k_layout, kv_heads)?;
    let v = operand(input(OP, inputs, 2)?, attention.v_layout, kv_heads)?;
    if k.batch != q.batch || v.batch != q.batch || k.size != q.size || v.rows != k.rows {
        let (a, b, c) = (q.dims(), k.dims(), v.dims());
        return Err(invalid(OP, format_args!("q {a:?}, k {b:?} and v {c:?} ([batch, rows, size]) do not fit")));
    }
    Ok([q, k, v])
}

/// The computation, once all keys and values lie together.
fn attend(
    cpu: &Cpu,
    attention: &Attention,
    inputs: &[Option<TensorView<'_>>],
    [q, k, v]: [Heads<'_>; 3],
    y: &mut TensorViewMut<'_>,
) -> Result<(), KernelError> {
    let &Attention { heads, kv_heads, .. } = attention;
    let (batch, queries, keys, size) = (q.batch, q.rows, k.rows, q.size);
    let bias = match optional(inputs, 3)? {
        None => None,
        Some(bias) => Some(Bias::new(OP, bias, [batch, heads, queries, keys])?),
    };
    output(OP, std::slice::from_mut(y), 0, DType::F32, &[batch, queries, heads, v.size])?;
    let y = y.as_mut_slice::<f32>()?;
    let lengths = match key_lengths(inputs, batch)? {
        Some(lengths) => lengths,
        None => vec![keys; batch],
    };
    let causal = attention.causal;
    let visible = |b: usize, query: usize| {
        // Query i of S sees keys up to T - S + i; with more queries than keys the first see none.
        let end = if causal { (keys + query + 1).saturating_sub(queries) } else { keys };
        0..end.min(lengths[b]).min(keys)
    };
    Job {
        heads,
        kv_heads,
        q,
        k,
        v,
        scale: attention.scale.unwrap_or_else(|| 1.0 / (size as f32).sqrt()),
        softcap: 0.0,
        bias,
        merged_output: attention.merged_output,
        zero_masked_rows: attention.zero_masked_rows,
    }
    .run(cpu, visible, y);
    Ok(())
}

/// `view` in `layout`, its batch, rows and head size taken from its shape.
fn operand(view: TensorView<'_>, layout: HeadLayout, heads: usize) -> Result<Heads<'_>, KernelError> {
    let data = view.as_slice::<f32>()?;
    let (batch, rows, size) = match (layout, view.shape) {
        (HeadLayout::Merged, &[b, s, hidden]) if hidden % heads == 0 => (b, s, hidden / heads),
        (HeadLayout::Split, &[b, h, s, d]) if h == heads => (b, s, d),
        (HeadLayout::SplitTransposed, &[b, h, d, s]) if h == heads => (b, s, d),
        _ => {
            let shape = view.shape;
            return Err(invalid(OP, format_args!("shape {shape:?} is not {heads} heads in layout {layout:?}")));
        }
    };
    Ok(Heads::new(data, layout, batch, heads, rows, size))
}

/// The cache in input `i`, [batch, heads, rows, size], with its number of rows.
fn cache<'a>(
    inputs: &[Option<TensorView<'a>>],
    i: usize,
    batch: usize,
    heads: usize,
    size: usize,
) -> Result<Option<(&'a [f32], usize)>, KernelError> {
    let Some(view) = optional(inputs, i)? else { return Ok(None) };
    match *view.shape {
        [b, h, rows, d] if [b, h, d] == [batch, heads, size] => Ok(Some((view.as_slice()?, rows))),
        _ => {
            let shape = view.shape;
            Err(invalid(OP, format_args!("a cache of shape {shape:?}, expected [{batch}, {heads}, past, {size}]")))
        }
    }
}

/// How many keys each row of the batch has, if the input is there.
fn key_lengths(inputs: &[Option<TensorView<'_>>], batch: usize) -> Result<Option<Vec<usize>>, KernelError> {
    let Some(view) = optional(inputs, 4)? else { return Ok(None) };
    if view.len() != batch {
        return Err(invalid(OP, format_args!("{} key lengths for a batch of {batch}", view.len())));
    }
    let lengths = crate::cpu::args::integers(OP, view)?;
    Ok(Some(lengths.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::args::product;
    use crate::cpu::args::testing::{Rng, assert_close, run as run_kernel, values};
    use crate::tensor::Tensor;

    /// [batch, heads, rows, size] numbers in `layout`.
    fn lay(v: &[f32], layout: HeadLayout, [b, h, s, d]: [usize; 4]) -> Tensor {
        let shape = match layout {
            HeadLayout::Merged => vec![b, s, h * d],
            HeadLayout::Split => vec![b, h, s, d],
            HeadLayout::SplitTransposed => vec![b, h, d, s],
        };
        let mut out = vec![0.0; v.len()];
        let heads = Heads::new(v, layout, b, h, s, d);
        for (i, &x) in v.iter().enumerate() {
            let at = [i / (h * s * d), i / (s * d).max(1) % h, i / d % s, i % d];
            out[at.iter().zip(heads.strides).map(|(a, s)| a * s).sum::<usize>()] = x;
        }
        Tensor::from_slice(&shape, &out).unwrap()
    }

    struct Case {
        batch: usize,
        heads: usize,
        kv_heads: usize,
        queries: usize,
        keys: usize,
        past: usize,
        size: usize,
        v_size: usize,
    }

    /// Everything in f64, one score at a time; q, k, v and past as [batch, heads, rows, size].
    fn naive(
        c: &Case,
        op: &Attention,
        q: &[f32],
        (k, v): (&[f32], &[f32]),
        bias: impl Fn([usize; 4]) -> f32,
        lengths: Option<&[i32]>,
    ) -> Vec<f32> {
        let total = c.past + c.keys;
        let scale = op.scale.map_or(1.0 / (c.size as f64).sqrt(), |s| s as f64);
        let mut y = vec![0f32; c.batch * c.queries * c.heads * c.v_size];
        for b in 0..c.batch {
            for h in 0..c.heads {
                let g = b * c.kv_heads + h / (c.heads / c.kv_heads);
                for i in 0..c.queries {
                    let seen = |t: usize| {
                        (!op.causal || t + c.queries <= total + i) && lengths.is_none_or(|l| (t as i32) < l[b])
                    };
                    let row = &q[((b * c.heads + h) * c.queries + i) * c.size..][..c.size];
                    let scores: Vec<f64> = (0..total)
                        .map(|t| {
                            let key = &k[(g * total + t) * c.size..][..c.size];
                            let dot: f64 = row.iter().zip(key).map(|(a, b)| *a as f64 * *b as f64).sum();
                            if seen(t) { dot * scale + bias([b, h, i, t]) as f64 } else { f64::NEG_INFINITY }
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    for d in 0..c.v_size {
                        let x: f64 = (0..total)
                            .map(|t| (scores[t] - max).exp() / sum * v[(g * total + t) * c.v_size + d] as f64)
                            .sum();
                        let x =
                            if max == f64::NEG_INFINITY { if op.zero_masked_rows { 0.0 } else { f64::NAN } } else { x };
                        let at = if op.merged_output {
                            (b * c.queries + i) * c.heads + h
                        } else {
                            (b * c.heads + h) * c.queries + i
                        };
                        y[at * c.v_size + d] = x as f32;
                    }
                }
            }
        }
        y
    }

    /// Appends the rows of b to those of a, per (batch, head).
    fn join(a: &[f32], b: &[f32], pairs: usize) -> Vec<f32> {
        let (m, n) = (a.len() / pairs, b.len() / pairs);
        (0..pairs).flat_map(|i| a[i * m..][..m].iter().chain(&b[i * n..][..n]).copied()).collect()
    }

    #[test]
    fn random_cases_equal_a_naive_loop() {
        let mut rng = Rng(33);
        let cpus: Vec<Cpu> = Cpu::of_every_kind().collect();
        let layouts = [HeadLayout::Merged, HeadLayout::Split, HeadLayout::SplitTransposed];
        for cpu in cpus.iter().cycle().take(120 * cpus.len()) {
            let kv_heads = 1 + rng.below(3);
            let c = Case {
                batch: 1 + rng.below(3),
                heads: kv_heads * (1 + rng.below(3)),
                kv_heads,
                queries: [0, 1, 2, 7, 20, 70][rng.below(6)],
                keys: [0, 1, 5, 9, 33, 80][rng.below(6)],
                past: [0, 0, 1, 6][rng.below(4)],
                size: [1, 3, 8, 16][rng.below(4)],
                v_size: [1, 4, 8, 17][rng.below(4)],
            };
            let total = c.past + c.keys;
            let op = Attention {
                heads: c.heads,
                kv_heads,
                scale: [None, Some(0.7)][rng.below(2)],
                causal: rng.below(2) == 1,
                q_layout: layouts[rng.below(3)],
                k_layout: layouts[rng.below(3)],
                v_layout: layouts[rng.below(3)],
                merged_output: rng.below(2) == 1,
                zero_masked_rows: rng.below(2) == 1,
            };
            let mut list = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.float()).collect() };
            let (q, k) = (list(c.batch * c.heads * c.queries * c.size), list(c.batch * kv_heads * c.keys * c.size));
            let v = list(c.batch * kv_heads * c.keys * c.v_size);
            let (pk, pv) = (list(c.batch * kv_heads * c.past * c.size), list(c.batch * kv_heads * c.past * c.v_size));
            let bias_shape = [
                if rng.below(2) == 1 { c.batch } else { 1 },
                if rng.below(2) == 1 { c.heads } else { 1 },
                if rng.below(2) == 1 { c.queries } else { 1 },
                if rng.below(4) > 0 { total } else { 1 },
            ];
            let bias = rng.tensor(&bias_shape);
            let with_bias = rng.below(2) == 1;
            let bias_values = values::<f32>(&bias);
            let bias_at = |i: [usize; 4]| {
                let i: Vec<usize> = (0..4).map(|d| if bias_shape[d] == 1 { 0 } else { i[d] }).collect();
                let [_, h, q, k] = bias_shape;
                if with_bias { bias_values[((i[0] * h + i[1]) * q + i[2]) * k + i[3]] } else { 0.0 }
            };
            let lengths: Vec<i32> = (0..c.batch).map(|_| rng.below(total + 2) as i32).collect();
            let with_lengths = rng.below(3) == 0;
            let (all_k, all_v) = (join(&pk, &k, c.batch * kv_heads), join(&pv, &v, c.batch * kv_heads));
            let want = naive(&c, &op, &q, (&all_k, &all_v), bias_at, with_lengths.then_some(&lengths[..]));

            let q = lay(&q, op.q_layout, [c.batch, c.heads, c.queries, c.size]);
            let k = lay(&k, op.k_layout, [c.batch, kv_heads, c.keys, c.size]);
            let v = lay(&v, op.v_layout, [c.batch, kv_heads, c.keys, c.v_size]);
            let pk = Tensor::from_slice(&[c.batch, kv_heads, c.past, c.size], &pk).unwrap();
            let pv = Tensor::from_slice(&[c.batch, kv_heads, c.past, c.v_size], &pv).unwrap();
            let lengths = Tensor::vector(&lengths);
            let with_past = c.past > 0 || rng.below(2) == 1;
            let inputs = [
                Some(&q),
                Some(&k),
                Some(&v),
                with_bias.then_some(&bias),
                with_lengths.then_some(&lengths),
                with_past.then_some(&pk),
                with_past.then_some(&pv),
            ];
            let y_shape = [c.batch, c.queries, c.heads, c.v_size];
            let (k_shape, v_shape) = ([c.batch, kv_heads, total, c.size], [c.batch, kv_heads, total, c.v_size]);
            let rooms: [(DType, &[usize]); 3] =
                [(DType::F32, &y_shape), (DType::F32, &k_shape), (DType::F32, &v_shape)];
            let wanted = [1, 3][rng.below(2)];
            let got = run_kernel(&inputs, &rooms[..wanted], |i, o| run(cpu, &op, i, o)).unwrap();
            assert_close(&values::<f32>(&got[0]), &want, 2e-6);
            if wanted == 3 {
                assert_eq!(values::<f32>(&got[1]), all_k);
                assert_eq!(values::<f32>(&got[2]), all_v);
            }
        }
    }

    /// Three calls on one growing cache equal calls that are given the past, and write nothing but their rows.
    #[test]
    fn a_growing_cache_equals_a_given_past() {
        let cpu = Cpu::new(2);
        let mut rng = Rng(34);
        let (b, heads, kv_heads, size, v_size, capacity) = (2, 4, 2, 8, 5, 9);
        let op = Attention {
            heads,
            kv_heads,
            scale: None,
            causal: true,
            q_layout: HeadLayout::Merged,
            k_layout: HeadLayout::Merged,
            v_layout: HeadLayout::Split,
            merged_output: true,
            zero_masked_rows: false,
        };
        let mut room_k = vec![7f32; b * kv_heads * capacity * size];
        let mut room_v = vec![7f32; b * kv_heads * capacity * v_size];
        let (mut past_k, mut past_v) = (Vec::<f32>::new(), Vec::<f32>::new());
        let mut past = 0;
        for rows in [3, 1, 4] {
            let q = rng.tensor(&[b, rows, heads * size]);
            let (k, v) = (rng.tensor(&[b, rows, kv_heads * size]), rng.tensor(&[b, kv_heads, rows, v_size]));
            let pk = Tensor::from_slice(&[b, kv_heads, past, size], &past_k).unwrap();
            let pv = Tensor::from_slice(&[b, kv_heads, past, v_size], &past_v).unwrap();
            let total = past + rows;
            let outputs: [(DType, &[usize]); 3] = [
                (DType::F32, &[b, rows, heads * v_size]),
                (DType::F32, &[b, kv_heads, total, size]),
                (DType::F32, &[b, kv_heads, total, v_size]),
            ];
            let inputs = [Some(&q), Some(&k), Some(&v), None, None, Some(&pk), Some(&pv)];
            let want = run_kernel(&inputs, &outputs, |i, o| run(&cpu, &op, i, o)).unwrap();
            let growing = Growing { keys: &mut room_k, values: &mut room_v, capacity, past };
            let mut growing = Some(growing);
            let got = run_kernel(&inputs[..3], &outputs[..1], |i, o| {
                run_growing(&cpu, &op, i, growing.take().unwrap(), &mut o[0])
            })
            .unwrap();
            assert_eq!(values::<f32>(&got[0]), values::<f32>(&want[0]));
            (past_k, past_v, past) = (values(&want[1]), values(&want[2]), total);
            for plane in 0..b * kv_heads {
                let (filled, free) = room_k[plane * capacity * size..][..capacity * size].split_at(total * size);
                assert_eq!(filled, &past_k[plane * total * size..][..total * size]);
                assert!(free.iter().all(|x| *x == 7.0), "rows behind the new ones are not touched");
            }
        }
        let q = rng.tensor(&[b, 2, heads * size]);
        let (k, v) = (rng.tensor(&[b, 2, kv_heads * size]), rng.tensor(&[b, kv_heads, 2, v_size]));
        let mut growing = Some(Growing { keys: &mut room_k, values: &mut room_v, capacity, past });
        let full = run_kernel(&[Some(&q), Some(&k), Some(&v)], &[(DType::F32, &[b, 2, heads * v_size])], |i, o| {
            run_growing(&cpu, &op, i, growing.take().unwrap(), &mut o[0])
        });
        assert!(full.is_err(), "one row of room for two");
    }

    #[test]
    fn bad_input_is_an_error() {
        let cpu = Cpu::new(1);
        let op = Attention {
            heads: 2,
            kv_heads: 1,
            scale: None,
            causal: false,
            q_layout: HeadLayout::Merged,
            k_layout: HeadLayout::Merged,
            v_layout: HeadLayout::Merged,
            merged_output: true,
            zero_masked_rows: false,
        };
        let zeros = |s: &[usize]| Tensor::from_slice(s, &vec![0f32; product(s)]).unwrap();
        let of = |op: &Attention, inputs: &[Option<&Tensor>]| {
            run_kernel(inputs, &[(DType::F32, &[1, 3, 8])], |i, o| run(&cpu, op, i, o)).map(|_| ())
        };
        let (q, k) = (zeros(&[1, 3, 8]), zeros(&[1, 5, 4]));
        assert!(of(&op, &[Some(&q), Some(&k), Some(&k)]).is_ok());
        assert!(of(&op, &[Some(&q), Some(&k)]).is_err());
        assert!(of(&op, &[Some(&q), Some(&zeros(&[1, 5, 3])), Some(&k)]).is_err());
        assert!(of(&op, &[Some(&q), Some(&k), Some(&zeros(&[1, 6, 4]))]).is_err());
        assert!(of(&op, &[Some(&zeros(&[1, 3, 7])), Some(&k), Some(&k)]).is_err());
        assert!(of(&op, &[Some(&q), Some(&k), Some(&k), Some(&zeros(&[3, 4]))]).is_err());
        assert!(of(&op, &[Some(&q), Some(&k), Some(&k), None, Some(&Tensor::vector(&[1i32, 2]))]).is_err());
        assert!(of(&op, &[Some(&q), Some(&k), Some(&k), None, None, Some(&zeros(&[1, 1, 2, 4]))]).is_err());
        assert!(of(&Attention { kv_heads: 0, ..op }, &[Some(&q), Some(&k), Some(&k)]).is_err());
        assert!(of(&Attention { heads: 3, kv_heads: 2, ..op }, &[Some(&q), Some(&k), Some(&k)]).is_err());
    }
}
