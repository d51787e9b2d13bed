//! Zero-shot classification: an image vector against the vectors of label texts.

use super::config::ModelConfig;
use super::similarity::dot;

/// The default prompt around a label; `{}` is the label (Radford et al. 2021, section 3.1.4).
pub const DEFAULT_TEMPLATE: &str = "a photo of a {}";

/// The scale that CLIP models end training with (they clip it there), as a logarithm: ln 100. Used
/// where the configuration has only the value that training started from.
const TRAINED_LOGIT_SCALE: f32 = 4.605_17;

/// How similarities become probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scoring {
    /// The labels compete: softmax of `scale * cosine`.
    Softmax {
        /// Factor, not its logarithm.
        scale: f32,
    },
    /// Every label for itself: sigmoid of `scale * cosine + bias` (Zhai et al. 2023, SigLIP).
    Sigmoid {
        /// Factor, not its logarithm.
        scale: f32,
        /// Added before the sigmoid.
        bias: f32,
    },
}

impl Scoring {
    /// Scoring by `config.json`: a sigmoid where it has a `logit_bias`, else a softmax; the scale is
    /// `logit_scale`, a natural logarithm, or CLIP's ln 100 where the file lacks it.
    ///
    /// Exported towers rarely carry these two numbers (they live in the joint model's weights); a
    /// caller that knows them constructs the variant itself.
    pub fn from_config(config: &ModelConfig) -> Self {
        let scale = config.logit_scale.unwrap_or(TRAINED_LOGIT_SCALE).exp();
        match config.logit_bias {
            Some(bias) => Self::Sigmoid { scale, bias },
            None => Self::Softmax { scale },
        }
    }

    /// Probabilities of the labels for an image, in the order of the labels. All vectors have unit
    /// length and one width.
    ///
    /// # Errors
    /// [`ClassifyError::NoLabels`] and [`ClassifyError::Width`].
    pub fn probabilities<V: AsRef<[f32]>>(self, image: &[f32], labels: &[V]) -> Result<Vec<f32>, ClassifyError> {
        if labels.is_empty() {
            return Err(ClassifyError::NoLabels);
        }
        let mut cosines = Vec::with_capacity(labels.len());
        for label in labels {
            let label = label.as_ref();
            if label.len() != image.len() {
                return Err(ClassifyError::Width { image: image.len(), label: label.len() });
            }
            cosines.push(dot(image, label));
        }
        Ok(self.of_cosines(&cosines))
    }

    /// Probabilities from similarities.
    pub fn of_cosines(self, cosines: &[f32]) -> Vec<f32> {
        match self {
            Self::Softmax { scale } => {
                let logits: Vec<_> = cosines.iter().map(|cosine| scale * cosine).collect();
                softmax(&logits)
            }
            Self::Sigmoid { scale, bias } => cosines.iter().map(|cosine| sigmoid(scale * cosine + bias)).collect(),
        }
    }
}

/// Labels that cannot be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// There is nothing to choose from.
    #[error("no labels were given")]
    NoLabels,
    /// Vectors of different models.
    #[error("the image vector has {image} numbers and a label's has {label}")]
    Width {
        /// Numbers of the image vector.
        image: usize,
        /// Numbers of the label vector.
        label: usize,
    },
}

impl ClassifyError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoLabels => "classify_no_labels",
            Self::Width { .. } => "classify_width",
        }
    }
}

/// The prompt for a label: `{}` in the template replaced, or the label behind the template if it has
/// no `{}`.
pub fn prompt(template: &str, label: &str) -> String {
    if template.contains("{}") {
        template.replace("{}", label)
    } else {
        format!("{template} {label}").trim().to_owned()
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<_> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_and_survives_large_logits() {
        let found = Scoring::Softmax { scale: 100.0 }
            .probabilities(&[1.0, 0.0], &[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
            .unwrap();
        assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(found[0], 1.0);
        assert!(softmax(&[1e30, 1e30]).iter().all(|p| (p - 0.5).abs() < 1e-6));
        let two = softmax(&[0.0, 2f32.ln()]);
        assert!((two[1] - 2.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn sigmoid_scores_each_label_alone() {
        let scoring = Scoring::Sigmoid { scale: 10.0, bias: -10.0 };
        assert_eq!(scoring.of_cosines(&[1.0, 1.0]), [0.5, 0.5]);
        assert_eq!(Scoring::Sigmoid { scale: 1e30, bias: 0.0 }.of_cosines(&[-1.0]), [0.0]);
    }

    #[test]
    fn the_configuration_chooses() {
        let parse = |json: &str| Scoring::from_config(&serde_json::from_str(json).unwrap());
        let Scoring::Softmax { scale } = parse(r#"{"logit_scale": 3.4011973816621555}"#) else {
            panic!("no bias means softmax");
        };
        assert!((scale - 30.0).abs() < 1e-4);
        let Scoring::Softmax { scale } = parse(r#"{"logit_scale_init_value": 2.6592}"#) else {
            panic!("no bias means softmax");
        };
        assert!((scale - 100.0).abs() < 1e-3);
        assert!(matches!(parse(r#"{"logit_bias": -12.9}"#), Scoring::Sigmoid { bias: -12.9, .. }));
    }

    #[test]
    fn labels_must_fit() {
        let scoring = Scoring::Softmax { scale: 1.0 };
        assert_eq!(scoring.probabilities::<[f32; 1]>(&[1.0], &[]), Err(ClassifyError::NoLabels));
        assert_eq!(scoring.probabilities(&[1.0], &[[1.0, 2.0]]), Err(ClassifyError::Width { image: 1, label: 2 }));
    }

    #[test]
    fn prompts() {
        assert_eq!(prompt(DEFAULT_TEMPLATE, "cat"), "a photo of a cat");
        assert_eq!(prompt("{}, {}!", "cat"), "cat, cat!");
        assert_eq!(prompt("", "cat"), "cat");
        assert_eq!(prompt("photo of", "cat"), "photo of cat");
    }
}
