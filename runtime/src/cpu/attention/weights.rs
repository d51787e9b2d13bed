//! Softmax down the columns of a panel of scores: a row for each key, a column for each query.

use std::ops::Range;

use crate::cpu::math::{self, exp};

/// What is added to the scores.
#[derive(Clone, Copy)]
pub(super) enum PanelBias<'a> {
    None,
    /// A number for each row.
    Keys(&'a [f32]),
    /// A number for each score.
    Each(&'a [f32]),
}

/// Columns of a panel at most.
pub(super) const MOST_COLUMNS: usize = 32;

/// The keys that each column's query sees.
pub(super) struct Sees {
    from: [u32; MOST_COLUMNS],
    to: [u32; MOST_COLUMNS],
    /// Those that all see.
    all: Range<usize>,
}

impl Sees {
    /// Columns beyond `seen` see everything.
    pub(super) fn new(seen: impl Iterator<Item = Range<usize>>) -> Self {
        let mut sees = Sees { from: [0; MOST_COLUMNS], to: [u32::MAX; MOST_COLUMNS], all: 0..usize::MAX };
        for ((from, to), seen) in sees.from.iter_mut().zip(&mut sees.to).zip(seen) {
            (*from, *to) = (seen.start as u32, seen.end as u32);
            sees.all = sees.all.start.max(seen.start)..sees.all.end.min(seen.end);
        }
        sees
    }
}

/// Scores into weights: e to the power of the score less the column's maximum, and for each column the factor, one over
/// their sum, that whoever uses them must multiply by.
///
/// A column with NaN or plus infinity, or without a finite score, has a factor or weights of NaN; the last has the factor
/// 0 if `zero_masked`.
pub(super) struct Weights<'a> {
    /// `[keys][columns]`.
    pub(super) scores: &'a mut [f32],
    /// The key of the first row.
    pub(super) first: usize,
    pub(super) bias: PanelBias<'a>,
    pub(super) sees: &'a Sees,
    /// One for each column.
    pub(super) factors: &'a mut [f32],
    pub(super) zero_masked: bool,
}

/// Rows whose weights are added up before their sum goes elsewhere, which keeps sums of thousands accurate.
const BLOCK: usize = 256;

impl math::Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // As many columns at a time as fit registers.
        match self.factors.len() {
            columns if columns.is_multiple_of(16) => self.columns::<16, FMA>(),
            columns if columns.is_multiple_of(8) => self.columns::<8, FMA>(),
            columns if columns.is_multiple_of(4) => self.columns::<4, FMA>(),
            _ => self.columns::<1, FMA>(),
        }
    }
}

impl Weights<'_> {
    #[inline(always)]
    fn columns<const N: usize, const FMA: bool>(self) {
        let Weights { scores, first, bias, sees, factors, zero_masked } = self;
        let columns = factors.len();
        match bias {
            PanelBias::None => (),
            PanelBias::Keys(bias) => {
                scores.chunks_exact_mut(columns).zip(bias).for_each(|(row, b)| row.iter_mut().for_each(|s| *s += b));
            }
            PanelBias::Each(bias) => scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b),
        }
        for (key, row) in (first..).zip(scores.chunks_exact_mut(columns)).filter(|(key, _)| !sees.all.contains(key)) {
            let key = key as u32;
            for ((s, &from), &to) in row.iter_mut().zip(&sees.from).zip(&sees.to) {
                *s = if from <= key && key < to { *s } else { f32::NEG_INFINITY };
            }
        }
        for at in (0..columns).step_by(N) {
            let lanes = |row: &[f32]| -> [f32; N] { std::array::from_fn(|i| row[at..at + N][i]) };
            let mut max = [f32::NEG_INFINITY; N];
            for row in scores.chunks_exact(columns) {
                max.iter_mut().zip(lanes(row)).for_each(|(m, s)| *m = if s > *m { s } else { *m });
            }
            if zero_masked {
                max.iter_mut().for_each(|m| *m = if *m == f32::NEG_INFINITY { 0.0 } else { *m });
            }
            let mut total = [0.0; N];
            for block in scores.chunks_mut(BLOCK * columns) {
                let mut sum = [0.0; N];
                for row in block.chunks_exact_mut(columns) {
                    let row = &mut row[at..at + N];
                    for ((s, max), sum) in row.iter_mut().zip(&max).zip(&mut sum) {
                        *s = exp::<FMA>(*s - max);
                        *sum += *s;
                    }
                }
                total.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
            }
            let empty = if zero_masked { 0.0 } else { f32::NAN };
            for (factor, sum) in factors[at..at + N].iter_mut().zip(total) {
                *factor = if sum == 0.0 { empty } else { 1.0 / sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows, and in each column one oddity.
    #[test]
    fn oddities_stay_in_their_columns() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for (zero_masked, empty) in [(false, nan), (true, 0.0)] {
            let mut scores = [[0.0, nan, inf, -inf], [0.0, 1.0, 1.0, -inf]].concat();
            let mut factors = [0.0; 4];
            let sees = Sees::new(std::iter::empty());
            let bias = PanelBias::None;
            let factors_of = &mut factors;
            math::dispatch(Weights {
                scores: &mut scores,
                first: 0,
                bias,
                sees: &sees,
                factors: factors_of,
                zero_masked,
            });
            let value = |column: usize| (scores[column] + scores[4 + column]) * factors[column];
            assert_eq!(value(0), 1.0);
            assert!(value(1).is_nan() && value(2).is_nan());
            assert_eq!(value(3).to_bits() << 1, f32::to_bits(empty) << 1);
        }
    }
}
