use std::slice;

use super::*;
use crate::cpu::args::testing::{Rng, run as run_kernel, values};
use crate::tensor::Tensor;

/// Settings of one row, in the order of the columns.
type Row = [f32; SAMPLE_PARAMS];

fn run_op(
    logits: &[Vec<f32>],
    history: Option<&[Vec<i64>]>,
    params: &[Row],
    recent: Option<&[Vec<i64>]>,
) -> Result<(Vec<i64>, Vec<f32>), KernelError> {
    let (batch, vocab) = (logits.len(), logits[0].len());
    let logits = Tensor::from_slice(&[batch, vocab], &logits.concat()).unwrap();
    let ids = |rows: &[Vec<i64>]| Tensor::from_slice(&[rows.len(), rows[0].len()], &rows.concat()).unwrap();
    let (history, recent) = (history.map(ids), recent.map(ids));
    let params = Tensor::from_slice(&[params.len(), SAMPLE_PARAMS], &params.concat()).unwrap();
    let cpu = Cpu::new(2);
    let inputs = [Some(&logits), history.as_ref(), Some(&params), recent.as_ref()];
    let y = run_kernel(&inputs, &[(DType::I64, &[batch]), (DType::F32, &[batch])], |i, o| run(&cpu, i, o))?;
    Ok((values(&y[0]), values(&y[1])))
}

/// The probabilities that are left, by sorting: transformers' processors one after another, in f64. Equal logits stay
/// together, which is the one thing that sorting leaves open.
fn reference(logits: &[f32], seen: &[i64], [temperature, top_k, top_p, penalty, _]: Row) -> Vec<f64> {
    let n = logits.len();
    let mut x: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
    for (_, v) in x.iter_mut().enumerate().filter(|(i, _)| seen.contains(&(*i as i64))) {
        *v = if *v < 0.0 { *v * f64::from(penalty) } else { *v / f64::from(penalty) };
    }
    x.iter_mut().for_each(|v| *v /= f64::from(temperature));
    let mut sorted = x.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    if top_k > 0.0 && (top_k as usize) < n {
        let last = sorted[top_k as usize - 1];
        x.iter_mut().filter(|v| **v < last).for_each(|v| *v = f64::NEG_INFINITY);
    }
    let softmax = |x: &[f64]| {
        let sum: f64 = x.iter().map(|v| (v - sorted[0]).exp()).sum();
        x.iter().map(|v| (v - sorted[0]).exp() / sum).collect::<Vec<f64>>()
    };
    if top_p < 1.0 {
        let p = softmax(&x);
        let mut by_size: Vec<usize> = (0..n).collect();
        by_size.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
        let mut before = 0.0;
        let mut last = f64::INFINITY;
        for i in by_size {
            if x[i] < last && last < f64::INFINITY && before >= f64::from(top_p) {
                break;
            }
            last = x[i];
            before += p[i];
        }
        x.iter_mut().filter(|v| **v < last).for_each(|v| *v = f64::NEG_INFINITY);
    }
    softmax(&x)
}

/// Fails unless the reference draws the same token, or one so near that rounding decides.
fn check(logits: &[f32], seen: &[i64], params: Row, token: i64, score: f32) {
    let p = reference(logits, seen, params);
    let token = usize::try_from(token).unwrap();
    let before: f64 = p[..token].iter().sum();
    let draw = f64::from(params[4]);
    assert!(p[token] > 0.0, "{token} was cut away, {params:?}");
    assert!(before <= draw + 1e-5 && draw <= before + p[token] + 1e-5, "{before} {draw} {} {params:?}", p[token]);
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&v| (f64::from(v) - max).exp()).sum();
    let want = f64::from(logits[token]) - max - sum.ln();
    assert!((f64::from(score) - want).abs() < 1e-4, "{score} {want}");
}

#[test]
fn equals_a_sort_of_everything() {
    let mut rng = Rng(1);
    for (vocab, spread) in [(1, 1.0), (2, 1.0), (17, 3.0), (300, 0.1), (1000, 8.0), (50_257, 4.0)] {
        for case in 0..12 {
            let logits: Vec<f32> = (0..vocab).map(|_| rng.float() * spread).collect();
            let seen: Vec<i64> = (0..20).map(|_| rng.below(vocab + 5) as i64 - 3).collect();
            let params = [
                [0.3, 1.0, 2.5][case % 3],
                [0.0, 1.0, 5.0, 40.0, 1e6][case % 5],
                [1.0, 0.9, 0.3, 0.0][case % 4],
                [1.0, 1.3, 0.7][case % 3],
                (rng.float() + 1.0) / 2.0,
            ];
            let (token, score) =
                run_op(slice::from_ref(&logits), Some(slice::from_ref(&seen)), &[params], None).unwrap();
            check(&logits, &seen, params, token[0], score[0]);
        }
    }
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = vec![1.0f32, f32::NEG_INFINITY, 2.0, 0.0, 1.5];
    let params = |draw: f32| [0.8, 3.0, 1.0, 1.0, draw];
    let p = reference(&logits, &[], params(0.0));
    let n = 2000;
    let mut counts = [0; 5];
    for i in 0..n {
        let draw = i as f32 / n as f32;
        counts[run_op(slice::from_ref(&logits), None, &[params(draw)], None).unwrap().0[0] as usize] += 1;
    }
    for (count, p) in counts.iter().zip(&p) {
        assert!((f64::from(*count) / n as f64 - p).abs() <= 1.5 / n as f64, "{counts:?} {p}");
    }
    assert_eq!((counts[1], counts[3]), (0, 0));
}

#[test]
fn greedy_takes_the_first_of_equals() {
    let greedy = |logits: &[f32]| run_op(&[logits.to_vec()], None, &[[0.0, 0.0, 1.0, 1.0, 0.9]], None).unwrap();
    assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]).0, [1]);
    assert_eq!(greedy(&[-0.0, 0.0]).0, [0]);
    assert_eq!(greedy(&[f32::NEG_INFINITY, -5.0]).0, [1]);
    let (token, score) = greedy(&[7.0; 50]);
    assert_eq!(token, [0]);
    assert!((score[0] + 50f32.ln()).abs() < 1e-5);
}

#[test]
fn equal_logits_stand_together() {
    // Of four equal logits the top 2 are all four; the draw then takes each for a quarter.
    for (draw, want) in [(0.0, 0), (0.3, 1), (0.6, 2), (0.99, 3)] {
        assert_eq!(run_op(&[vec![0.5; 4]], None, &[[1.0, 2.0, 0.4, 1.0, draw]], None).unwrap().0, [want]);
    }
    // Both zeros are one value.
    assert_eq!(run_op(&[vec![-1.0, -0.0, 0.0]], None, &[[1.0, 1.0, 1.0, 1.0, 0.9]], None).unwrap().0, [2]);
}

#[test]
fn penalties_move_logits_away_from_their_tokens() {
    let greedy = [0.0, 0.0, 1.0, 2.0, 0.0];
    let of = |logits: &[f32], history: &[i64], recent: Option<&[i64]>| {
        let recent = recent.map(|r| [r.to_vec()]);
        run_op(&[logits.to_vec()], Some(&[history.to_vec()]), &[greedy], recent.as_ref().map(|r| &r[..])).unwrap().0[0]
    };
    // 3 / 2 < 2, and once only, however often it was there: 3 / 4 would lose to 1.
    assert_eq!(of(&[1.0, 3.0, 2.0], &[1, 1], None), 2);
    assert_eq!(of(&[1.0, 3.0, 1.2], &[1, 1], None), 1);
    // Negative ones are multiplied: -1 becomes -2, below -1.5.
    assert_eq!(of(&[-1.0, -1.5], &[0], None), 1);
    assert_eq!(of(&[-1.0, -1.5], &[-1, 2, i64::MAX, i64::MIN], None), 0);
    // Both lists count.
    assert_eq!(of(&[1.0, 3.0, 2.5], &[1], Some(&[2, -1])), 1);
    // The log-probability is that of the logits as they came.
    let score = run_op(&[vec![1.0, 3.0, 2.0]], Some(&[vec![1]]), &[greedy], None).unwrap().1[0];
    let sum = (1f32 - 3.0).exp() + 1.0 + (2f32 - 3.0).exp();
    assert!((score - (2.0 - 3.0 - sum.ln())).abs() < 1e-6);
    // A tiny penalty does not make a logit infinite.
    let tiny = [1.0, 0.0, 1.0, 1e-30, 0.0];
    let (token, score) = run_op(&[vec![1e30, 1.0]], Some(&[vec![0]]), &[tiny], None).unwrap();
    assert_eq!((token[0], score[0]), (0, 0.0));
}

#[test]
fn broken_logits_show() {
    for bad in [vec![1.0, f32::NAN], vec![f32::INFINITY, 1.0], vec![f32::NEG_INFINITY; 3], vec![-f32::NAN; 20]] {
        for temperature in [0.0, 1.0] {
            let (token, score) =
                run_op(slice::from_ref(&bad), None, &[[temperature, 2.0, 0.5, 1.0, 0.5]], None).unwrap();
            assert!(token[0] == 0 && score[0].is_nan(), "{bad:?}: {token:?} {score:?}");
        }
    }
}

#[test]
fn rows_have_their_own_settings_or_share_them() {
    let rows = [vec![0.0, 1.0, 2.0], vec![2.0, 1.0, 0.0], vec![0.0, f32::NAN, 0.0]];
    let history = [vec![2], vec![1], vec![0]];
    let own = [[0.0, 0.0, 1.0, 5.0, 0.0], [1.0, 0.0, 1.0, 1.0, 0.999], [0.0, 0.0, 1.0, 1.0, 0.0]];
    let (tokens, scores) = run_op(&rows, Some(&history), &own, None).unwrap();
    assert_eq!(tokens, [1, 2, 0]);
    assert!(scores[..2].iter().all(|s| s.is_finite()) && scores[2].is_nan());
    assert_eq!(run_op(&rows, Some(&history), &own[..1], None).unwrap().0[..2], [1, 0]);
    assert!(run_op(&rows, Some(&history), &own[..2], None).is_err());
    assert!(run_op(&rows, Some(&history[..2]), &own, None).is_err());
    assert!(run_op(&[vec![]], None, &own[..1], None).is_err());
}
