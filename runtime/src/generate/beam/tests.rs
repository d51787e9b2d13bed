use super::*;

/// A language model that knows only the last token: `table[last][next]` are probabilities.
struct Markov(Vec<Vec<f32>>);

impl Markov {
    /// Of seeded random probabilities.
    fn random(tokens: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut weight = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1 << 24) as f32).powi(3) + 0.01
        };
        let row = |_| {
            let row: Vec<f32> = (0..tokens).map(|_| weight()).collect();
            let sum: f32 = row.iter().sum();
            row.iter().map(|w| w / sum).collect()
        };
        Markov((0..tokens).map(row).collect())
    }

    fn log(&self, last: u32, next: u32) -> f32 {
        self.0[last as usize][next as usize].ln()
    }

    /// Runs a search from token 0 in every text, as a decoder would: a row's sequence is gathered by parents.
    fn search(&self, batch: usize, options: BeamOptions) -> Vec<Vec<Hypothesis>> {
        let mut search = BeamSearch::new(batch, options).unwrap();
        let mut cache: Vec<Vec<u32>> = vec![vec![0]; search.rows()];
        loop {
            let mut candidates = Vec::new();
            for (row, sequence) in cache.iter().enumerate() {
                let last = *sequence.last().unwrap();
                let mut all: Vec<Candidate> = (0..self.0.len() as u32)
                    .map(|token| Candidate { row, token, log_probability: self.log(last, token) })
                    .collect();
                all.sort_by(|a, b| b.log_probability.total_cmp(&a.log_probability));
                candidates.extend(&all[..all.len().min(search.candidates_per_row())]);
            }
            let next = search.step(&candidates).unwrap();
            if next.done {
                return search.finish();
            }
            cache = next.parents.iter().map(|&p| cache[p].clone()).collect();
            cache.iter_mut().zip(&next.tokens).for_each(|(s, &t)| s.push(t));
        }
    }

    /// Every sequence there is, with its score, best first.
    fn all(&self, options: &BeamOptions) -> Vec<(Vec<u32>, bool, f32)> {
        let mut out = Vec::new();
        let mut open = vec![(Vec::new(), 0.0f64)];
        for length in 1..=options.max_new_tokens {
            let mut grown = Vec::new();
            for (tokens, sum) in open {
                let last = tokens.last().copied().unwrap_or(0);
                for next in 0..self.0.len() as u32 {
                    let sum = sum + f64::from(self.log(last, next));
                    if options.eos.contains(&next) {
                        let score = sum / (length as f64).powf(options.length_penalty.into());
                        out.push((tokens.clone(), true, score as f32));
                    } else {
                        let mut tokens = tokens.clone();
                        tokens.push(next);
                        grown.push((tokens, sum));
                    }
                }
            }
            open = grown;
        }
        let length = options.max_new_tokens as f64;
        out.extend(open.into_iter().map(|(t, s)| (t, false, (s / length.powf(options.length_penalty.into())) as f32)));
        out.sort_by(|a, b| b.2.total_cmp(&a.2));
        out
    }
}

#[test]
fn beams_wide_enough_find_everything() {
    for (seed, length_penalty) in [(1, 1.0), (2, 0.0), (3, -0.5), (4, 2.0)] {
        for early_stopping in [EarlyStopping::Yes, EarlyStopping::No, EarlyStopping::Never] {
            let model = Markov::random(4, seed);
            let options =
                BeamOptions { beams: 1024, length_penalty, early_stopping, max_new_tokens: 4, eos: vec![1], pad: 0 };
            let want = model.all(&options);
            let found = model.search(1, options);
            assert_eq!((found.len(), found[0].len()), (1, want.len()));
            for (h, (tokens, ended, score)) in found[0].iter().zip(&want) {
                assert!((h.score - score).abs() < 1e-5, "{h:?} {tokens:?} {score}");
                // Neighbours of nearly one score may change places.
                let near =
                    want.iter().any(|(t, e, s)| *t == h.tokens && *e == h.eos.is_some() && (s - score).abs() < 1e-5);
                assert!(near, "{h:?} {tokens:?} {ended}");
            }
        }
    }
}

#[test]
fn narrow_beams_find_real_sequences_and_never_better_ones() {
    for seed in 0..20 {
        let model = Markov::random(6, seed);
        for beams in [1, 2, 3] {
            let options = BeamOptions { beams, max_new_tokens: 4, eos: vec![5], ..BeamOptions::default() };
            let all = model.all(&options);
            let batch = model.search(3, options.clone());
            assert!(batch[0] == batch[1] && batch[0] == batch[2], "texts do not know each other");
            for h in &batch[0] {
                let (_, _, score) = all.iter().find(|(t, e, _)| *t == h.tokens && *e == h.eos.is_some()).unwrap();
                assert!((h.score - score).abs() < 1e-5 && h.score <= all[0].2 + 1e-5);
            }
            assert!(batch[0].len() <= beams && batch[0].windows(2).all(|w| w[0].score >= w[1].score));
        }
    }
}

#[test]
fn one_beam_is_greedy() {
    for seed in 0..20 {
        let model = Markov::random(5, seed);
        let options = BeamOptions { beams: 1, max_new_tokens: 6, eos: vec![4], ..BeamOptions::default() };
        let found = model.search(1, options).remove(0).remove(0);
        let mut tokens = Vec::new();
        let mut eos = None;
        while tokens.len() < 6 && eos.is_none() {
            let last = tokens.last().copied().unwrap_or(0);
            let best = (0..5).max_by(|&a, &b| model.log(last, a).total_cmp(&model.log(last, b))).unwrap();
            if best == 4 { eos = Some(4) } else { tokens.push(best) }
        }
        assert_eq!((found.tokens, found.eos), (tokens, eos));
    }
}

#[test]
fn two_beams_find_what_greedy_misses() {
    // Greedy goes 0 -> 1 (0.6), then at best 0.4; by way of 2 it is 0.4 * 0.9.
    let p = vec![
        vec![0.0, 0.6, 0.4, 0.0],
        vec![0.0, 0.3, 0.3, 0.4],
        vec![0.05, 0.05, 0.0, 0.9],
        vec![0.25, 0.25, 0.25, 0.25],
    ];
    let options = BeamOptions { beams: 2, max_new_tokens: 2, eos: vec![3], ..BeamOptions::default() };
    let found = Markov(p.clone()).search(1, options.clone());
    assert_eq!((found[0][0].tokens.as_slice(), found[0][0].eos), (&[2][..], Some(3)));
    assert!((found[0][0].log_probability - 0.36f32.ln()).abs() < 1e-6);
    assert!((found[0][0].score - 0.36f32.ln() / 2.0).abs() < 1e-6);
    assert_eq!(found[0][1].tokens, [1]);
    let greedy = Markov(p).search(1, BeamOptions { beams: 1, ..options });
    assert_eq!(greedy[0][0].tokens, [1]);
}

/// One step of a search of one text, from (row, token, probability).
fn step(search: &mut BeamSearch, candidates: &[(usize, u32, f32)]) -> Next {
    let all: Vec<_> =
        candidates.iter().map(|&(row, token, p)| Candidate { row, token, log_probability: p.ln() }).collect();
    search.step(&all).unwrap()
}

#[test]
fn early_stopping_by_hand() {
    // Two beams; token 9 ends. Step 1: both ends are among the best two of four.
    let first = [(0, 9, 0.5), (0, 1, 0.3), (0, 2, 0.15), (0, 3, 0.05)];
    // Rows 0 and 1 hold 1 and 2. The sums: 0.3 * 0.9 = 0.27 ends, 0.15 * 0.5 = 0.075 and so on go on.
    let second = [(0, 9, 0.9), (0, 1, 0.06), (0, 2, 0.04), (1, 1, 0.5), (1, 2, 0.3), (1, 9, 0.2)];
    let run = |early_stopping, length_penalty| {
        let options =
            BeamOptions { beams: 2, length_penalty, early_stopping, max_new_tokens: 10, eos: vec![9], pad: 7 };
        let mut search = BeamSearch::new(1, options).unwrap();
        let next = step(&mut search, &first);
        assert_eq!((next.tokens, next.parents, next.done), (vec![1, 2], vec![0, 0], false));
        let next = step(&mut search, &second);
        (next.done, next.tokens, next.parents)
    };
    // As many hypotheses as beams: that is enough for `true`.
    let done = (true, vec![7, 7], vec![0, 1]);
    assert_eq!(run(EarlyStopping::Yes, 1.0), done);
    // The worst is ln(0.5) / 1 = -0.693, the best possible ln(0.27) / 2 = -0.655: better, so it goes on.
    let on = (false, vec![1, 2], vec![1, 1]);
    assert_eq!(run(EarlyStopping::No, 1.0), on);
    assert_eq!(run(EarlyStopping::Never, 1.0), on);
    // Without a reward for length: the worst is ln(0.27), no better than the best possible.
    assert_eq!(run(EarlyStopping::No, 0.0), done);
    assert_eq!(run(EarlyStopping::Never, 0.0), done);
    // With a penalty on length the length so far is what counts.
    assert_eq!(run(EarlyStopping::Never, -1.0), done);
}

#[test]
fn ends_outside_the_best_do_not_count() {
    let options = BeamOptions {
        beams: 2,
        eos: vec![8, 9],
        early_stopping: EarlyStopping::Yes,
        max_new_tokens: 5,
        ..BeamOptions::default()
    };
    let mut search = BeamSearch::new(1, options).unwrap();
    assert_eq!(search.candidates_per_row(), 6);
    // 8 is the third best of four: with it there would be two hypotheses, and the text would be done.
    let next = step(&mut search, &[(0, 2, 0.05), (0, 8, 0.1), (0, 9, 0.3), (0, 1, 0.5)]);
    assert_eq!((next.tokens, next.done), (vec![1, 2], false));
    let found = search.finish();
    assert_eq!(found[0].iter().map(|h| h.eos).collect::<Vec<_>>(), [None, Some(9)]);
}

#[test]
fn rows_without_a_sequence_count_for_nothing() {
    let options = BeamOptions { beams: 3, eos: vec![9], max_new_tokens: 5, pad: 7, ..BeamOptions::default() };
    let mut search = BeamSearch::new(2, options).unwrap();
    // The second text can only end; the first has one way to go on. Candidates of rows 1 and 2 hold the same prompt.
    let next = step(&mut search, &[(0, 4, 1.0), (1, 5, 1.0), (0, 6, 0.0), (3, 9, 1.0)]);
    assert_eq!(next.tokens, [4, 7, 7, 7, 7, 7]);
    assert_eq!(next.parents, [0, 0, 0, 3, 4, 5]);
    assert!(!next.done);
    let next = step(&mut search, &[(0, 9, 1.0), (1, 5, 1.0), (3, 5, f32::NAN)]);
    assert!(next.done);
    let found = search.finish();
    assert_eq!(found[0][0].tokens, [4]);
    assert_eq!((found[0].len(), found[1].len(), found[1][0].tokens.len()), (1, 1, 0));
}

#[test]
fn what_cannot_be_used_is_refused() {
    let bad = |options| BeamSearch::new(1, options).unwrap_err().kind();
    assert_eq!(bad(BeamOptions { beams: 0, ..Default::default() }), "beam_range");
    assert_eq!(bad(BeamOptions { max_new_tokens: 0, ..Default::default() }), "beam_range");
    assert_eq!(bad(BeamOptions { length_penalty: f32::NAN, ..Default::default() }), "beam_range");
    let mut search = BeamSearch::new(1, BeamOptions { beams: 2, ..Default::default() }).unwrap();
    let candidate = |row, log_probability| [Candidate { row, token: 3, log_probability }];
    assert_eq!(search.step(&candidate(2, 0.0)).unwrap_err(), BeamError::Row { row: 2, rows: 2 });
    let error = search.step(&candidate(0, f32::NAN)).unwrap_err();
    assert_eq!(error, BeamError::NotANumber { step: 0, row: 0, token: 3 });
    assert_eq!(error.kind(), "nan_logits");
    assert!(search.finish()[0].is_empty());
}
