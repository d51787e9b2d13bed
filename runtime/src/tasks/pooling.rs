//! From one vector a token to one vector a text, and to unit length.

use super::config::{ConfigError, POOLING, PoolingConfig};

/// How the vectors of the tokens become one (sentence-transformers' `1_Pooling`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// Mean over the tokens that the mask keeps.
    Mean,
    /// Their sum, divided by the square root of their number.
    MeanSqrtLength,
    /// First token that the mask keeps.
    Cls,
    /// Largest value per dimension over the tokens that the mask keeps.
    Max,
    /// Last token that the mask keeps.
    LastToken,
}

/// Tensors that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolingError {
    /// Lengths do not follow from the shape.
    #[error("cannot pool {values} values and {mask} mask entries as {shape:?}")]
    Shape {
        /// Number of values.
        values: usize,
        /// Number of mask entries.
        mask: usize,
        /// Texts, tokens, width.
        shape: [usize; 3],
    },
}

impl PoolingError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        "pooling_shape"
    }
}

impl Pooling {
    /// The mode of a `1_Pooling/config.json`.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] if the file sets several modes (their vectors would be
    /// concatenated) or one that is not here, [`ConfigError::Missing`] if it sets none.
    pub fn from_config(config: &PoolingConfig) -> Result<Self, ConfigError> {
        let unsupported = |value: String| ConfigError::Unsupported { file: POOLING, field: "pooling_mode", value };
        if let Some(name) = config.pooling_mode.as_deref() {
            return Ok(match name {
                "mean" => Self::Mean,
                "mean_sqrt_len_tokens" => Self::MeanSqrtLength,
                "cls" => Self::Cls,
                "max" => Self::Max,
                "lasttoken" => Self::LastToken,
                other => return Err(unsupported(other.to_owned())),
            });
        }
        if config.pooling_mode_weightedmean_tokens {
            return Err(unsupported("weightedmean_tokens".to_owned()));
        }
        let set: Vec<_> = [
            (config.pooling_mode_mean_tokens, Self::Mean),
            (config.pooling_mode_mean_sqrt_len_tokens, Self::MeanSqrtLength),
            (config.pooling_mode_cls_token, Self::Cls),
            (config.pooling_mode_max_tokens, Self::Max),
            (config.pooling_mode_lasttoken, Self::LastToken),
        ]
        .into_iter()
        .filter_map(|(set, mode)| set.then_some(mode))
        .collect();
        match set[..] {
            [mode] => Ok(mode),
            [] => Err(ConfigError::Missing { file: POOLING, field: "pooling_mode" }),
            _ => Err(unsupported(format!("{set:?}"))),
        }
    }

    /// A stable name, part of the canonical facts behind a fingerprint.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::MeanSqrtLength => "mean_sqrt_len",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::LastToken => "last",
        }
    }

    /// Pools `values` of `shape` (texts, tokens, width) under `mask` (texts, tokens; not zero keeps
    /// the token) to one vector a text. A text whose mask keeps nothing gives zeros.
    ///
    /// # Errors
    /// [`PoolingError::Shape`] if the lengths do not fit the shape.
    pub fn pool(self, values: &[f32], mask: &[i64], shape: [usize; 3]) -> Result<Vec<Vec<f32>>, PoolingError> {
        let [texts, tokens, width] = shape;
        let cells = texts.checked_mul(tokens);
        if cells != Some(mask.len()) || cells.and_then(|cells| cells.checked_mul(width)) != Some(values.len()) {
            return Err(PoolingError::Shape { values: values.len(), mask: mask.len(), shape });
        }
        Ok((0..texts)
            .map(|text| {
                let kept = (text * tokens..(text + 1) * tokens)
                    .filter(|&cell| mask[cell] != 0)
                    .map(|cell| &values[cell * width..(cell + 1) * width]);
                self.pool_one(kept, width)
            })
            .collect())
    }

    fn pool_one<'a>(self, mut kept: impl Iterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
        let first_or_zero = |row: Option<&[f32]>| row.map_or_else(|| vec![0.0; width], <[_]>::to_vec);
        match self {
            Self::Cls => first_or_zero(kept.next()),
            Self::LastToken => first_or_zero(kept.last()),
            Self::Max => {
                let mut pooled = first_or_zero(kept.next());
                for row in kept {
                    for (into, &value) in pooled.iter_mut().zip(row) {
                        *into = into.max(value);
                    }
                }
                pooled
            }
            Self::Mean | Self::MeanSqrtLength => {
                let mut sums = vec![0.0f64; width];
                let mut count = 0usize;
                for row in kept {
                    count += 1;
                    for (into, &value) in sums.iter_mut().zip(row) {
                        *into += f64::from(value);
                    }
                }
                let count = count.max(1) as f64;
                let divisor = if self == Self::Mean { count } else { count.sqrt() };
                sums.into_iter().map(|sum| (sum / divisor) as f32).collect()
            }
        }
    }
}

/// Brings a vector to length 1. A zero vector stays zero.
pub fn normalise(vector: &mut [f32]) {
    // In f64: squares of f32 neither overflow nor vanish there.
    let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        for x in vector {
            *x = (f64::from(*x) / norm) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Two texts of three tokens of width 2; the second text has one token, padded on the left.
    const VALUES: [f32; 12] = [1.0, 8.0, 2.0, -1.0, 9.0, 2.0, 50.0, 50.0, 60.0, 60.0, -3.0, 4.0];
    const MASK: [i64; 6] = [1, 1, 1, 0, 0, 1];

    fn pool(mode: Pooling) -> Vec<Vec<f32>> {
        mode.pool(&VALUES, &MASK, [2, 3, 2]).unwrap()
    }

    #[test]
    fn every_mode_respects_the_mask() {
        assert_eq!(pool(Pooling::Mean), [[4.0, 3.0], [-3.0, 4.0]]);
        assert_eq!(pool(Pooling::Cls), [[1.0, 8.0], [-3.0, 4.0]]);
        assert_eq!(pool(Pooling::Max), [[9.0, 8.0], [-3.0, 4.0]]);
        assert_eq!(pool(Pooling::LastToken), [[9.0, 2.0], [-3.0, 4.0]]);
        let root = 3f64.sqrt();
        assert_eq!(pool(Pooling::MeanSqrtLength), [[(12.0 / root) as f32, (9.0 / root) as f32], [-3.0, 4.0]]);
    }

    #[test]
    fn a_text_without_tokens_is_zero() {
        for mode in [Pooling::Mean, Pooling::Cls, Pooling::Max, Pooling::LastToken] {
            assert_eq!(mode.pool(&[1.0, 2.0], &[0], [1, 1, 2]).unwrap(), [[0.0, 0.0]]);
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        for shape in [[2, 3, 3], [1, 3, 2], [usize::MAX, 2, 2]] {
            assert!(Pooling::Mean.pool(&VALUES, &MASK, shape).is_err());
        }
    }

    #[test]
    fn modes_from_the_file() {
        let parse = |json: &str| Pooling::from_config(&serde_json::from_str(json).unwrap());
        assert_eq!(parse(r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}"#), Ok(Pooling::Mean));
        assert_eq!(parse(r#"{"pooling_mode": "lasttoken"}"#), Ok(Pooling::LastToken));
        assert_eq!(parse("{}").unwrap_err().kind(), "config_missing");
        for json in [
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#,
            r#"{"pooling_mode_weightedmean_tokens": true}"#,
            r#"{"pooling_mode": "other"}"#,
        ] {
            assert_eq!(parse(json).unwrap_err().kind(), "config_unsupported", "{json}");
        }
    }

    #[test]
    fn unit_length_at_every_magnitude() {
        let mut zero = [0.0; 3];
        normalise(&mut zero);
        assert_eq!(zero, [0.0; 3]);
        for magnitude in [1e-38, 1.0, 1e37] {
            let mut vector = [3.0 * magnitude, -4.0 * magnitude, 0.0];
            normalise(&mut vector);
            let length: f32 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-6, "{magnitude}: {length}");
        }
    }
}
