//! Beam search: which of the sequences so far go on, and which are finished.
//!
//! Pure bookkeeping on the host. The decoder gives, for each row of its cache, the likeliest next tokens; the search
//! answers which token each row takes next and which row it goes on from. The rules are those of transformers'
//! `BeamSearchScorer`, so that a model's published settings mean the same here.

use std::cmp::Ordering;

use super::sampling::EarlyStopping;

/// Settings or candidates that a beam search cannot use.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BeamError {
    /// A setting is out of range.
    #[error("beam search: {name} is {value}; it must be {expected}")]
    OutOfRange {
        /// The field of [`BeamOptions`].
        name: &'static str,
        /// Its value.
        value: f32,
        /// The range.
        expected: &'static str,
    },
    /// A candidate names a row that the cache does not have.
    #[error("beam search: a candidate for row {row} of {rows}")]
    Row {
        /// The candidate's row.
        row: usize,
        /// Rows of the cache.
        rows: usize,
    },
    /// A candidate's log-probability is NaN: the decoder's logits are broken.
    #[error("beam search: the log-probability of token {token} in row {row} is NaN at step {step}")]
    NotANumber {
        /// Tokens generated before.
        step: usize,
        /// The candidate's row.
        row: usize,
        /// The candidate's token.
        token: u32,
    },
}

impl BeamError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OutOfRange { .. } => "beam_range",
            Self::Row { .. } => "beam_row",
            Self::NotANumber { .. } => "nan_logits",
        }
    }
}

/// How to search.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamOptions {
    /// Sequences followed for each text; 1 is greedy decoding.
    pub beams: usize,
    /// A sequence's score is its log-probability divided by its length (in generated tokens) to this power. Above 0
    /// favours long ones, below 0 short ones.
    pub length_penalty: f32,
    /// When a text is done.
    pub early_stopping: EarlyStopping,
    /// Tokens generated at most.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// The token of rows that are not needed any more.
    pub pad: u32,
}

impl Default for BeamOptions {
    fn default() -> Self {
        BeamOptions {
            beams: 4,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::No,
            max_new_tokens: 20,
            eos: Vec::new(),
            pad: 0,
        }
    }
}

/// A token that a row of the cache might take next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The row of the cache: text times beams plus beam.
    pub row: usize,
    /// The token.
    pub token: u32,
    /// Logarithm of its probability behind this row's sequence, the sequence's own probability not counted.
    pub log_probability: f32,
}

/// What the decoder does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The token that each row of the cache takes: \[texts * beams\].
    pub tokens: Vec<u32>,
    /// The row that each row goes on from: the cache is gathered by these before the tokens are run.
    pub parents: Vec<usize>,
    /// All texts are done; nothing need run.
    pub done: bool,
}

/// A sequence that the search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The generated tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// The token that ended it; `None` if the search stopped first.
    pub eos: Option<u32>,
    /// Sum of the tokens' log-probabilities, the ending one's included.
    pub log_probability: f32,
    /// What sequences are compared by: `log_probability / length ^ length_penalty`, the ending token counted.
    pub score: f32,
}

/// A sequence that goes on.
#[derive(Debug, Clone)]
struct Beam {
    tokens: Vec<u32>,
    /// Minus infinity: no sequence at all, only a row of the cache.
    log_probability: f64,
}

/// One text.
#[derive(Debug, Clone)]
struct Text {
    beams: Vec<Beam>,
    /// Best first, at most as many as beams.
    finished: Vec<Hypothesis>,
    done: bool,
}

/// A beam search over a batch of texts.
#[derive(Debug, Clone)]
pub struct BeamSearch {
    options: BeamOptions,
    texts: Vec<Text>,
    /// Tokens generated so far.
    step: usize,
}

impl BeamSearch {
    /// A search for `batch` texts. All rows of a text hold the same prompt; only the first counts in the first step.
    ///
    /// # Errors
    /// [`BeamError::OutOfRange`].
    pub fn new(batch: usize, options: BeamOptions) -> Result<Self, BeamError> {
        let bad = |name, value, expected| Err(BeamError::OutOfRange { name, value, expected });
        if options.beams == 0 {
            return bad("beams", 0.0, "at least 1");
        }
        if options.max_new_tokens == 0 {
            return bad("max_new_tokens", 0.0, "at least 1");
        }
        if !options.length_penalty.is_finite() {
            return bad("length_penalty", options.length_penalty, "a finite number");
        }
        let beam = |i| Beam { tokens: Vec::new(), log_probability: if i == 0 { 0.0 } else { f64::NEG_INFINITY } };
        let text = Text { beams: (0..options.beams).map(beam).collect(), finished: Vec::new(), done: false };
        Ok(BeamSearch { texts: vec![text; batch], options, step: 0 })
    }

    /// Rows of the cache: texts times beams.
    pub fn rows(&self) -> usize {
        self.texts.len() * self.options.beams
    }

    /// How many of each row's likeliest tokens [`BeamSearch::step`] needs: enough that a beam is left for each that
    /// ends.
    pub fn candidates_per_row(&self) -> usize {
        self.options.beams * (1 + self.options.eos.len()).max(2)
    }

    /// Takes one step. `candidates`, in any order, hold at least the [`BeamSearch::candidates_per_row`] likeliest tokens
    /// of each row (all, if the vocabulary is smaller); more do no harm, and those of done texts are ignored.
    ///
    /// Where a text has fewer continuations than beams, the rows left over get the pad token and count for nothing.
    ///
    /// # Errors
    /// [`BeamError::Row`] and [`BeamError::NotANumber`]; the search is as it was before.
    pub fn step(&mut self, candidates: &[Candidate]) -> Result<Next, BeamError> {
        let (beams, rows) = (self.options.beams, self.rows());
        let mut by_text: Vec<Vec<(f64, Candidate)>> = vec![Vec::new(); self.texts.len()];
        for &candidate in candidates {
            let Candidate { row, token, log_probability } = candidate;
            if row >= rows {
                return Err(BeamError::Row { row, rows });
            }
            let text = &self.texts[row / beams];
            if log_probability.is_nan() && !text.done {
                return Err(BeamError::NotANumber { step: self.step, row, token });
            }
            let sum = text.beams[row % beams].log_probability + f64::from(log_probability);
            if !text.done && sum > f64::NEG_INFINITY {
                by_text[row / beams].push((sum, candidate));
            }
        }
        self.step += 1;
        let mut next = Next { tokens: Vec::with_capacity(rows), parents: Vec::with_capacity(rows), done: false };
        let count = self.candidates_per_row();
        for (i, (text, mut sums)) in self.texts.iter_mut().zip(by_text).enumerate() {
            // Of equals the lower row and token, so that a run can be repeated.
            sums.sort_by(|(a, x), (b, y)| b.total_cmp(a).then((x.row, x.token).cmp(&(y.row, y.token))));
            sums.truncate(count);
            text.advance(&self.options, self.step, i * beams, &sums, &mut next);
        }
        next.done = self.step == self.options.max_new_tokens || self.texts.iter().all(|t| t.done);
        Ok(next)
    }

    /// Ends the search: for each text the hypotheses, best first, at most as many as beams. Sequences that have not
    /// ended count, unless their text was done.
    pub fn finish(self) -> Vec<Vec<Hypothesis>> {
        let options = self.options;
        let end = |mut text: Text| {
            if !text.done {
                for beam in std::mem::take(&mut text.beams) {
                    // Before the first step nothing was generated.
                    if beam.log_probability > f64::NEG_INFINITY && !beam.tokens.is_empty() {
                        let length = beam.tokens.len();
                        text.add(&options, beam.tokens, None, beam.log_probability, length);
                    }
                }
            }
            text.finished
        };
        self.texts.into_iter().map(end).collect()
    }
}

impl Text {
    /// Goes on with the best of `sums` (best first); `first` is the text's first row of the cache.
    fn advance(
        &mut self,
        options: &BeamOptions,
        step: usize,
        first: usize,
        sums: &[(f64, Candidate)],
        next: &mut Next,
    ) {
        let beams = options.beams;
        let mut grown = Vec::with_capacity(beams);
        let mut parents = Vec::with_capacity(beams);
        for (rank, &(sum, candidate)) in sums.iter().enumerate() {
            let parent = &self.beams[candidate.row - first];
            if options.eos.contains(&candidate.token) {
                // An end that is not among the best as many as beams would not have been followed either.
                if rank < beams {
                    let tokens = parent.tokens.clone();
                    self.add(options, tokens, Some(candidate.token), sum, step);
                }
            } else {
                let mut tokens = parent.tokens.clone();
                tokens.push(candidate.token);
                grown.push(Beam { tokens, log_probability: sum });
                parents.push(candidate.row);
            }
            if grown.len() == beams {
                break;
            }
        }
        if !self.done {
            // The best sum of all candidates, ended ones included, as transformers takes it.
            let best = sums.first().map_or(f64::NEG_INFINITY, |s| s.0);
            self.done = grown.is_empty() || self.is_done(options, step, best);
        }
        if self.done {
            next.tokens.extend(std::iter::repeat_n(options.pad, beams));
            next.parents.extend(first..first + beams);
            return;
        }
        next.tokens.extend(grown.iter().map(|b| b.tokens.last().copied().unwrap_or(options.pad)));
        next.tokens.extend(std::iter::repeat_n(options.pad, beams - grown.len()));
        next.parents.extend(&parents);
        next.parents.extend(std::iter::repeat_n(first, beams - grown.len()));
        grown.resize(beams, Beam { tokens: Vec::new(), log_probability: f64::NEG_INFINITY });
        self.beams = grown;
    }

    /// Keeps a sequence of `length` tokens, if it is among the best.
    fn add(&mut self, options: &BeamOptions, tokens: Vec<u32>, eos: Option<u32>, sum: f64, length: usize) {
        let score = score(options, sum, length);
        let found = Hypothesis { tokens, eos, log_probability: sum as f32, score };
        // Behind its equals: a later one is no improvement.
        let at = self.finished.partition_point(|h| h.score.total_cmp(&score) != Ordering::Less);
        self.finished.insert(at, found);
        self.finished.truncate(options.beams);
    }

    /// Whether no sequence that goes on can still become one of the hypotheses.
    fn is_done(&self, options: &BeamOptions, step: usize, best: f64) -> bool {
        let worst = match self.finished.last() {
            Some(worst) if self.finished.len() == options.beams => worst.score,
            _ => return false,
        };
        match options.early_stopping {
            EarlyStopping::Yes => true,
            EarlyStopping::No => worst >= score(options, best, step),
            EarlyStopping::Never => {
                let length = if options.length_penalty > 0.0 { options.max_new_tokens } else { step };
                worst >= score(options, best, length)
            }
        }
    }
}

fn score(options: &BeamOptions, sum: f64, length: usize) -> f32 {
    (sum / (length as f64).powf(options.length_penalty.into())) as f32
}

#[cfg(test)]
mod tests;
