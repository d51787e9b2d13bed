//! `com.microsoft.GroupQueryAttention`: causal attention with a cache, and rotary embedding inside.

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
    let (heads, kv_heads) = (op.heads, op.kv_heads);
    if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
        return Err(invalid(OP, format_args!("{kv_heads} key heads for {heads} query heads")));
    }
    let (q, k, v) = operands(inputs, heads, kv_heads)?;
    let (batch, queries, size) = (q.batch, q.rows, q.size);

    let past = |i: usize| -> Result<(&[f32], usize), KernelError> {
        let Some(view) = optional(inputs, i)? else { return Ok((&[], 0)) };
        match *view.shape {
            [b, h, rows, d] if [b, h, d] == [batch, kv_heads, size] => Ok((view.as_slice()?, rows)),
            _ => Err(invalid(OP, format_args!("a cache of {:?} for {kv_heads} heads of {size}", view.shape))),
        }
    };
    let ((past_k, room), (past_v, room_v)) = (past(3)?, past(4)?);
    let total = integer(OP, input(OP, inputs, 6)?)?;
    let total = usize::try_from(total).map_err(|_| invalid(OP, format_args!("a total length of {total}")))?;
    if room != room_v || total < queries {
        return Err(invalid(OP, format_args!("caches of {room} and {room_v} rows, {queries} new, {total} in all")));
    }
    let keys = room.max(total);
    let rows = Rows::new(integers(OP, input(OP, inputs, 5)?)?, batch, queries, total, room)?;
    let angles = match op.rotary {
        true => Some(Angles::new(OP, input(OP, inputs, 7)?, input(OP, inputs, 8)?, op.rotary_interleaved)?),
        false => None,
    };
    if let Some(angles) = &angles {
        if 2 * angles.pairs > size {
            return Err(invalid(OP, format_args!("tables for {} elements in heads of {size}", 2 * angles.pairs)));
        }
        for &start in rows.starts.iter().filter(|_| queries > 0) {
            angles.check(OP, (start + queries - 1) as i64)?;
        }
    }

    output(OP, outputs, 0, DType::F32, &[batch, queries, heads * size])?;
    for i in 1..3 {
        output(OP, outputs, i, DType::F32, &[batch, kv_heads, keys, size])?;
    }
    let [y, present_k, present_v, ..] = outputs else { return Err(invalid(OP, "three outputs")) };
    let (y, present_k, present_v) = (y.as_mut_slice::<f32>()?, present_k.as_mut_slice()?, present_v.as_mut_slice()?);
    let turned = angles.as_ref();
    append(cpu, (past_k, room), &k, (kv_heads, keys), &rows.starts, turned, present_k);
    append(cpu, (past_v, room), &v, (kv_heads, keys), &rows.starts, None, present_v);

    let mut turned_q;
    let q = match turned {
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
        kv_heads,
        q,
        k: Heads::new(present_k, HeadLayout::Split, batch, kv_heads, keys, size),
        v: Heads::new(present_v, HeadLayout::Split, batch, kv_heads, keys, size),
        scale: op.scale.unwrap_or_else(|| 1.0 / (size as f32).sqrt()),
        softcap: op.softcap,
        bias: None,
        merged_output: true,
        zero_masked_rows: true,
    }
    .run(cpu, visible, y);
    Ok(())
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
        let fresh = &mut out[starts[b] * size..][..new.rows * size];
        match angles {
            None => copy_rows(new, b, h, fresh),
            Some(angles) => {
                for (r, out) in fresh.chunks_exact_mut(size).enumerate() {
                    angles.turn(starts[b] + r, &new.from(b, h, r)[..size], out);
                }
            }
        }
    });
}
