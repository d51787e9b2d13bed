//! The choice of the next token.
//!
//! No row is sorted. What top-k and top-p keep is "all logits from this one up", and the one is found by a radix select
//! on the logits' order-preserving bits: a histogram of the highest byte says which byte the sought logit has, and only
//! the logits with that byte are looked at again.

use crate::cpu::args::{input, integers, invalid, optional, output};
use crate::cpu::parallel::{self, SharedMut};
use crate::cpu::{Cpu, math};
use crate::error::KernelError;
use crate::graph::{SAMPLE_PARAMS, Unary};
use crate::tensor::{DType, TensorView, TensorViewMut};

const OP: &str = "Sample";

/// The weight of the largest logit. Weights are whole numbers so that their sums do not depend on the order of adding.
const ONE: f32 = (1u32 << 31) as f32;

/// Parts that a random number and top-p are counted in: what f32 resolves below 1.
const PARTS: u32 = 1 << 24;

/// Numbers of scratch memory for a logit.
const ROOM: usize = 4;

/// See [`crate::graph::Op::Sample`].
pub(crate) fn run(
    cpu: &Cpu,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let (logits, params) = (input(OP, inputs, 0)?, input(OP, inputs, 2)?);
    let &[batch, vocab] = logits.shape else {
        return Err(invalid(OP, format_args!("logits of shape {:?}", logits.shape)));
    };
    if vocab == 0 || u32::try_from(vocab).is_err() {
        return Err(invalid(OP, format_args!("a vocabulary of {vocab} tokens")));
    }
    let &[rows, SAMPLE_PARAMS] = params.shape else {
        return Err(invalid(OP, format_args!("parameters of shape {:?}", params.shape)));
    };
    if rows != batch && rows != 1 {
        return Err(invalid(OP, format_args!("parameters for {rows} rows, logits for {batch}")));
    }
    let (logits, params) = (logits.as_slice::<f32>()?, params.as_slice::<f32>()?);
    let mut earlier = Vec::new();
    for i in [1, 3] {
        let Some(ids) = optional(inputs, i)? else { continue };
        if ids.shape.len() != 2 || ids.shape[0] != batch {
            return Err(invalid(OP, format_args!("earlier tokens of shape {:?} for {batch} rows", ids.shape)));
        }
        earlier.push((ids.shape[1], integers(OP, ids)?));
    }
    let mut room = cpu.scratch.take(batch * vocab * ROOM * size_of::<u32>());
    let room = SharedMut::new(bytemuck::cast_slice_mut::<u8, u32>(room.as_mut_slice()));
    let [tokens, scores] = outputs else { return Err(invalid(OP, "it has two outputs")) };
    let tokens = output(OP, std::slice::from_mut(tokens), 0, DType::I64, &[batch])?.as_mut_slice::<i64>()?;
    let scores = output(OP, std::slice::from_mut(scores), 0, DType::F32, &[batch])?.as_mut_slice::<f32>()?;
    let (tokens, scores) = (SharedMut::new(tokens), SharedMut::new(scores));
    parallel::for_each(cpu.threads(), batch, |row| {
        let raw = &logits[row * vocab..][..vocab];
        let params = &params[if rows == 1 { 0 } else { row * SAMPLE_PARAMS }..][..SAMPLE_PARAMS];
        let seen = earlier.iter().flat_map(|(n, ids)| &ids[row * n..][..*n]);
        // SAFETY: each row has its own part of the scratch memory and its own element of the outputs.
        let (room, token, score) =
            unsafe { (room.slice(row * vocab * ROOM, vocab * ROOM), tokens.slice(row, 1), scores.slice(row, 1)) };
        (token[0], score[0]) = sample(raw, Settings::new(params), seen, room);
    });
    Ok(())
}

/// A row of the parameters. Numbers that mean nothing turn a setting off, here and on the GPU.
#[derive(Clone, Copy)]
struct Settings {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    penalty: f32,
    draw: f32,
}

impl Settings {
    fn new(row: &[f32]) -> Self {
        Settings { temperature: row[0], top_k: row[1] as usize, top_p: row[2], penalty: row[3], draw: row[4] }
    }
}

/// One row: the token and its log-probability. `room` holds [`ROOM`] numbers a logit.
fn sample<'a>(raw: &[f32], s: Settings, seen: impl Iterator<Item = &'a i64>, room: &mut [u32]) -> (i64, f32) {
    let mut parts = room.chunks_exact_mut(raw.len());
    let mut part = || parts.next().unwrap_or_default();
    let (scores, weights, candidates, ids) = (part(), part(), part(), part());
    let scores: &mut [f32] = bytemuck::cast_slice_mut(scores);

    let max = math::row_max(raw);
    scores.copy_from_slice(raw);
    let sum = math::exp_minus_max_sum(scores, max);
    // A NaN anywhere, plus infinity, and minus infinity throughout all end up here.
    if !max.is_finite() || sum.is_nan() {
        return (0, f32::NAN);
    }
    let answer = |token: usize| (token as i64, raw[token] - max - sum.ln());

    scores.copy_from_slice(raw);
    if s.penalty > 0.0 && s.penalty != 1.0 {
        for &id in seen {
            if let Some((score, &raw)) =
                usize::try_from(id).ok().and_then(|id| Some((scores.get_mut(id)?, raw.get(id)?)))
            {
                // From the logit as it came: an id that was there twice is penalised once.
                *score = penalised(raw, s.penalty);
            }
        }
    }
    // Of equals the first.
    let highest = math::row_max(scores);
    let top = scores.iter().position(|&x| x == highest).unwrap_or(0);
    // NaN is no temperature either.
    if s.temperature.is_nan() || s.temperature <= 0.0 {
        return answer(top);
    }

    // What top-k keeps moves to the front, so that the exponentials of the many others are never taken.
    let mut kept = scores.len();
    if s.top_k > 0 && s.top_k < kept {
        let least = select(scores, |_| 1, s.top_k as u64, candidates);
        kept = 0;
        for i in 0..scores.len() {
            if order(scores[i]) >= least {
                (scores[kept], ids[kept]) = (scores[i], i as u32);
                kept += 1;
            }
        }
    } else {
        ids.iter_mut().zip(0..).for_each(|(id, i)| *id = i);
    }
    let (scores, weights) = (&scores[..kept], &mut weights[..kept]);
    let exponents: &mut [f32] = bytemuck::cast_slice_mut(weights);
    exponents.iter_mut().zip(scores).for_each(|(e, &x)| *e = (x - highest) / s.temperature);
    math::apply_unary(Unary::Exp, exponents);
    weights.iter_mut().for_each(|w| *w = (f32::from_bits(*w) * ONE) as u32);
    let total = |weights: &[u32]| weights.iter().map(|&w| u64::from(w)).sum::<u64>();
    if s.top_p < 1.0 {
        let wanted = share(total(weights), s.top_p).max(1);
        let least = select(scores, |i| weights[i].into(), wanted, candidates);
        weights.iter_mut().zip(scores).filter(|(_, x)| order(**x) < least).for_each(|(w, _)| *w = 0);
    }
    let drawn = share(total(weights), s.draw);
    let mut so_far = 0;
    for (&w, &id) in weights.iter().zip(&*ids) {
        so_far += u64::from(w);
        if so_far > drawn {
            return answer(id as usize);
        }
    }
    answer(top)
}

/// A logit whose token was there before. It stays finite, or else no other token would have a chance at all.
fn penalised(x: f32, penalty: f32) -> f32 {
    if x < 0.0 { x * penalty } else { (x / penalty).min(f32::MAX) }
}

/// `part` (in 0..1) of `total`, in whole numbers.
fn share(total: u64, part: f32) -> u64 {
    let parts = ((part * PARTS as f32) as u32).min(PARTS - 1);
    ((u128::from(total) * u128::from(parts)) >> PARTS.trailing_zeros()) as u64
}

/// Bits that compare as whole numbers the way the floats do, zeros being equal.
fn order(x: f32) -> u32 {
    // Minus zero becomes plus zero.
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The largest `least` such that the weights of all scores at or above it reach `wanted`, which is more than 0 and at
/// most the sum of them all.
fn select(scores: &[f32], weight: impl Fn(usize) -> u64, wanted: u64, candidates: &mut [u32]) -> u32 {
    let mut above = 0;
    let mut prefix = 0;
    let mut count = 0;
    for shift in [24, 16, 8, 0] {
        let mut bins = [0u64; 256];
        let mut add = |i: usize, key: u32| bins[(key >> shift) as usize & 255] += weight(i);
        if shift == 24 {
            scores.iter().enumerate().for_each(|(i, &x)| add(i, order(x)));
        } else {
            candidates[..count].iter().for_each(|&i| add(i as usize, order(scores[i as usize])));
        }
        let mut bin = 255;
        while bin > 0 && above + bins[bin] < wanted {
            above += bins[bin];
            bin -= 1;
        }
        prefix |= (bin as u32) << shift;
        // What shares all bytes found so far is looked at again.
        if shift == 24 {
            for (i, &x) in scores.iter().enumerate() {
                if order(x) >> 24 == prefix >> 24 {
                    candidates[count] = i as u32;
                    count += 1;
                }
            }
        } else {
            let mut kept = 0;
            for j in 0..count {
                if order(scores[candidates[j] as usize]) >> shift == prefix >> shift {
                    candidates[kept] = candidates[j];
                    kept += 1;
                }
            }
            count = kept;
        }
    }
    prefix
}

#[cfg(test)]
mod tests;
