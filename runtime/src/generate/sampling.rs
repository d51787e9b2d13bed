//! How the next token is chosen, and the random numbers it is chosen by.
//!
//! Random numbers come from a counter, not from a state that is carried along: token `t` of row `b` under seed `s` is
//! a pure function of `(s, t, b)`. So every backend draws the same number, whatever the order of its work, and a
//! stream that is resumed or replayed in part continues as it would have.

use serde::{Deserialize, Deserializer};

use crate::graph::SAMPLE_PARAMS;
use crate::tensor::{Tensor, TensorError};

/// Settings of [`Sampling`] that mean nothing, or a `generation_config.json` that cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A setting is out of range.
    #[error("{name} is {value}; it must be {expected}")]
    OutOfRange {
        /// The field of [`Sampling`].
        name: &'static str,
        /// Its value.
        value: f32,
        /// The range.
        expected: &'static str,
    },
    /// `generation_config.json` is not JSON, or a field has a type that no known writer produces.
    #[error("generation_config.json cannot be read: {0}")]
    Parse(String),
}

impl SamplingError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OutOfRange { .. } => "sampling_range",
            Self::Parse(_) => "generation_config_parse",
        }
    }
}

/// How the next token is chosen. The default is greedy: the likeliest token, always.
///
/// The settings apply in the order in which transformers' generation applies them: repetition penalty, temperature,
/// top-k, top-p, and then one draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this. 0 chooses the likeliest token, of equals the one with the lowest id.
    pub temperature: f32,
    /// Only this many of the likeliest tokens are drawn from (and those that equal the last of them); 0 is off.
    pub top_k: u32,
    /// Only the likeliest tokens that together reach this probability are drawn from; 1 is off. At least one stays.
    pub top_p: f32,
    /// Logits of tokens that were already there are divided by this if positive and multiplied if negative (Keskar et
    /// al., "CTRL", 2019, section 4.1); 1 is off.
    pub repetition_penalty: f32,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Whether chance has no part in it.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether earlier tokens matter, that is, whether [`crate::graph::Op::Sample`] needs its history.
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    /// Checks that the settings mean something.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`] names the first that does not.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let bad = |name, value, expected| Err(SamplingError::OutOfRange { name, value, expected });
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return bad("temperature", self.temperature, "0 (greedy) or a positive number");
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return bad("top_p", self.top_p, "between 0 and 1");
        }
        if !self.repetition_penalty.is_finite() || self.repetition_penalty <= 0.0 {
            return bad("repetition_penalty", self.repetition_penalty, "a positive number");
        }
        Ok(())
    }

    /// The row of [`crate::graph::Op::Sample`]'s `params` for token `step` of row `row` of the batch.
    pub fn params_row(&self, step: u64, row: u64) -> [f32; SAMPLE_PARAMS] {
        // f32 holds every integer below 2^24 exactly, and no vocabulary is larger.
        let top_k = self.top_k.min(1 << 24) as f32;
        let draw = if self.is_greedy() { 0.0 } else { uniform(self.seed, step, row) };
        [self.temperature, top_k, self.top_p, self.repetition_penalty, draw]
    }

    /// The tensor `params` f32 \[batch, [`SAMPLE_PARAMS`]\] for token `step` of a batch.
    ///
    /// # Errors
    /// [`TensorError::TooLarge`] for a batch that no machine holds.
    pub fn params(&self, step: u64, batch: usize) -> Result<Tensor, TensorError> {
        let rows: Vec<f32> = (0..batch as u64).flat_map(|row| self.params_row(step, row)).collect();
        Tensor::from_slice(&[batch, SAMPLE_PARAMS], &rows)
    }
}

/// The random number in 0..1 (1 excluded, a multiple of 2^-24) for token `step` of row `row` under `seed`.
pub fn uniform(seed: u64, step: u64, row: u64) -> f32 {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let ([s0, s1], [r0, r1]) = (halves(step), halves(row));
    let word = philox([s0, s1, r0, r1], halves(seed))[0];
    // 24 bits: as many as f32 holds without rounding up to 1.
    (word >> 8) as f32 / (1u32 << 24) as f32
}

/// Philox4x32 with ten rounds: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let [a, b] = [MULTIPLIERS[0] * counter[0] as u64, MULTIPLIERS[1] * counter[2] as u64];
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// What a `generation_config.json` says. Absent fields mean what they mean in transformers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Draw, rather than take the likeliest token.
    #[serde(deserialize_with = "or_false")]
    pub do_sample: bool,
    /// See [`Sampling::temperature`].
    pub temperature: Option<f32>,
    /// See [`Sampling::top_k`]. transformers draws from the 50 likeliest if a file asks for drawing and does not say.
    pub top_k: Option<u32>,
    /// See [`Sampling::top_p`].
    pub top_p: Option<f32>,
    /// See [`Sampling::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// Hypotheses that beam search follows.
    pub num_beams: Option<usize>,
    /// Exponent of the length by which beam search divides scores.
    pub length_penalty: Option<f32>,
    /// When beam search stops.
    pub early_stopping: EarlyStopping,
    /// Tokens at most, the prompt included.
    pub max_length: Option<usize>,
    /// Tokens at most, the prompt not counted.
    pub max_new_tokens: Option<usize>,
    /// Tokens that end a text.
    #[serde(deserialize_with = "one_or_many")]
    pub eos_token_id: Vec<u32>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The token behind the end of shorter rows.
    pub pad_token_id: Option<u32>,
    /// The first token of an encoder-decoder's decoder.
    pub decoder_start_token_id: Option<u32>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        GenerationConfig {
            do_sample: false,
            temperature: None,
            top_k: Some(50),
            top_p: None,
            repetition_penalty: None,
            num_beams: None,
            length_penalty: None,
            early_stopping: EarlyStopping::default(),
            max_length: None,
            max_new_tokens: None,
            eos_token_id: Vec::new(),
            bos_token_id: None,
            pad_token_id: None,
            decoder_start_token_id: None,
        }
    }
}

impl GenerationConfig {
    /// Parses the bytes of a `generation_config.json`.
    ///
    /// # Errors
    /// [`SamplingError::Parse`] if it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, SamplingError> {
        serde_json::from_slice(bytes).map_err(|error| SamplingError::Parse(error.to_string()))
    }

    /// How the file says that tokens are chosen. The repetition penalty holds for greedy decoding too.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`].
    pub fn sampling(&self, seed: u64) -> Result<Sampling, SamplingError> {
        let repetition_penalty = self.repetition_penalty.unwrap_or(1.0);
        let greedy = Sampling { repetition_penalty, seed, ..Sampling::default() };
        let sampling = if self.do_sample {
            Sampling {
                temperature: self.temperature.unwrap_or(1.0),
                top_k: self.top_k.unwrap_or(0),
                top_p: self.top_p.unwrap_or(1.0),
                ..greedy
            }
        } else {
            greedy
        };
        sampling.validate()?;
        Ok(sampling)
    }
}

/// When beam search is done with a row: transformers' `early_stopping`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `true`: as soon as there are as many finished hypotheses as beams.
    Yes,
    /// `false`: when no unfinished hypothesis can improve on the finished ones if it ended now.
    #[default]
    No,
    /// `"never"`: when none can improve on them even if it grew to the length that favours it most.
    Never,
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Flag(Option<bool>),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Flag(Some(true)) => Ok(Self::Yes),
            Written::Flag(_) => Ok(Self::No),
            Written::Word(word) if word == "never" => Ok(Self::Never),
            Written::Word(word) => Err(serde::de::Error::custom(format!("early_stopping is {word:?}"))),
        }
    }
}

fn or_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or(false))
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match Option::<Ids>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Many(ids)) => ids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers() {
        // The known-answer vectors that the authors publish with their Random123 library.
        let cases = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox(counter, key), want);
        }
    }

    #[test]
    fn numbers_depend_on_all_three_and_on_nothing_else() {
        let base = uniform(1, 2, 3);
        assert_eq!(base, uniform(1, 2, 3));
        for other in [uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4), uniform(1 | 1 << 40, 2, 3)] {
            assert_ne!(base, other);
        }
        let n = 20_000u64;
        let all: Vec<f32> = (0..n).map(|t| uniform(7, t / 4, t % 4)).collect();
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = all.iter().map(|&u| f64::from(u)).sum::<f64>() / n as f64;
        // The standard deviation of the mean of so many is 0.002.
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let good = Sampling { temperature: 0.7, top_k: 40, top_p: 0.9, repetition_penalty: 1.1, seed: 3 };
        good.validate().unwrap();
        Sampling::default().validate().unwrap();
        let cases = [
            (Sampling { temperature: -1.0, ..good }, "temperature"),
            (Sampling { temperature: f32::NAN, ..good }, "temperature"),
            (Sampling { temperature: f32::INFINITY, ..good }, "temperature"),
            (Sampling { top_p: 1.5, ..good }, "top_p"),
            (Sampling { top_p: f32::NAN, ..good }, "top_p"),
            (Sampling { repetition_penalty: 0.0, ..good }, "repetition_penalty"),
            (Sampling { repetition_penalty: f32::INFINITY, ..good }, "repetition_penalty"),
        ];
        for (sampling, field) in cases {
            let error = sampling.validate().unwrap_err();
            assert_eq!(error.kind(), "sampling_range");
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn params_carry_a_draw_for_each_row() {
        let sampling = Sampling { temperature: 0.7, top_k: 40, top_p: 0.9, repetition_penalty: 1.1, seed: 3 };
        let params = sampling.params(5, 2).unwrap();
        assert_eq!(params.shape(), [2, SAMPLE_PARAMS]);
        let want = [0.7, 40.0, 0.9, 1.1, uniform(3, 5, 0), 0.7, 40.0, 0.9, 1.1, uniform(3, 5, 1)];
        assert_eq!(params.as_slice::<f32>().unwrap(), want);
    }

    #[test]
    fn files_mean_what_they_mean_in_transformers() {
        let of = |json: &str| GenerationConfig::parse(json.as_bytes()).unwrap();
        let greedy = of(r#"{"eos_token_id": 2, "repetition_penalty": 1.3, "temperature": 0.7, "x": [1]}"#);
        assert_eq!(greedy.eos_token_id, [2]);
        let sampling = greedy.sampling(9).unwrap();
        assert!(sampling.is_greedy() && sampling.needs_history());
        assert_eq!(sampling, Sampling { repetition_penalty: 1.3, seed: 9, ..Sampling::default() });
        let drawn = of(r#"{"do_sample": true, "eos_token_id": [1, 106], "top_p": 0.8, "early_stopping": "never"}"#);
        assert_eq!(drawn.eos_token_id, [1, 106]);
        assert_eq!(drawn.early_stopping, EarlyStopping::Never);
        let want = Sampling { temperature: 1.0, top_k: 50, top_p: 0.8, repetition_penalty: 1.0, seed: 0 };
        assert_eq!(drawn.sampling(0).unwrap(), want);
        let off = of(r#"{"do_sample": true, "top_k": null, "eos_token_id": null, "early_stopping": true}"#);
        assert_eq!(off.sampling(0).unwrap().top_k, 0);
        assert_eq!((off.eos_token_id.len(), off.early_stopping), (0, EarlyStopping::Yes));
        let bad = of(r#"{"do_sample": true, "temperature": -1}"#).sampling(0).unwrap_err();
        assert_eq!(bad.kind(), "sampling_range");
        for json in ["", "[1]", r#"{"top_k": "x"}"#, r#"{"early_stopping": "soon"}"#] {
            assert_eq!(GenerationConfig::parse(json.as_bytes()).unwrap_err().kind(), "generation_config_parse");
        }
    }
}
