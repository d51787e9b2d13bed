//! The zoo: graphs as exporters write them, each beside a golden file with what ONNX Runtime made of it.

use std::collections::BTreeMap;

use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tensor::{Bool, Tensor};
use lenslet::{Session, SessionOptions};
use lenslet_models::check::{BRANCH, Case, Comparison, Tolerance, check_case_async, parse_golden, validate};

/// How far a graph's outputs may be from its golden, and why, by the name of its file.
///
/// The zoo's page gives the reasons: in convolutional INT8 graphs a rounding that another order of additions flips moves
/// the output, and ONNX Runtime's own output moves as far when its input changes by 1e-5.
pub fn tolerance(name: &str) -> Tolerance {
    let file = name.rsplit('/').next().unwrap_or(name);
    let int8 = ["_quantized", "_qdq", "_int8", "_uint8"].iter().any(|s| file.contains(s));
    let narrow = int8 || ["_fp16", "_q4", "_q4f16"].iter().any(|s| file.ends_with(s));
    let sensitive = int8
        && (name.starts_with("resnet-50/")
            || name.starts_with("mobileclip-s0/")
            || name.contains("/resnet/")
            || name.starts_with("smolvlm-256m-instruct/tiny/onnx/vision_encoder"));
    let cosine = if sensitive {
        0.996
    } else if narrow {
        0.999
    } else {
        0.9999
    };
    Tolerance { cosine, max_abs: None }
}

/// What became of a graph.
#[derive(Debug)]
pub struct Outcome {
    /// A comparison an output and case, or the reason why there is none.
    pub result: Result<Vec<Comparison>, String>,
}

impl Outcome {
    /// Whether everything ran and agreed.
    pub fn ok(&self) -> bool {
        self.reason().is_none()
    }

    /// The least cosine.
    pub fn cosine(&self) -> Option<f64> {
        let cosines = self.result.as_ref().ok()?.iter().filter_map(|c| c.cosine);
        cosines.min_by(f64::total_cmp)
    }

    /// The first thing that is wrong.
    pub fn reason(&self) -> Option<String> {
        match &self.result {
            Err(reason) => Some(reason.clone()),
            Ok(comparisons) if comparisons.is_empty() => Some("nothing was compared".into()),
            Ok(comparisons) => comparisons.iter().find(|c| !c.ok).map(|c| match &c.reason {
                Some(reason) => format!("case {} {}: {reason}", c.case, c.output),
                None => format!(
                    "case {} {}: cosine {:.6}, max_abs {:.3e}",
                    c.case,
                    c.output,
                    c.cosine.unwrap_or(f64::NAN),
                    c.max_abs.unwrap_or(f64::NAN)
                ),
            }),
        }
    }
}

/// Runs a graph on the cases of its golden. Merged decoders are loaded once for each value of their branch input.
pub async fn run(name: &str, model: &[u8], golden: &[u8], options: &SessionOptions) -> Outcome {
    Outcome { result: compare_all(name, model, golden, options).await }
}

async fn compare_all(
    name: &str,
    model: &[u8],
    golden: &[u8],
    options: &SessionOptions,
) -> Result<Vec<Comparison>, String> {
    let mut groups: BTreeMap<Option<u8>, Vec<(usize, Case)>> = BTreeMap::new();
    for (i, case) in parse_golden(golden)?.into_iter().enumerate() {
        let branch = case.inputs.get(BRANCH).map(|t| t.bytes()[0]);
        groups.entry(branch).or_default().push((i, case));
    }
    let mut all = Vec::new();
    for (branch, cases) in groups {
        let mut import = ImportOptions::default();
        if let Some(branch) = branch {
            let value = Tensor::from_slice(&[1], &[Bool(branch)]).map_err(|e| e.to_string())?;
            import.fixed_inputs.insert(BRANCH.into(), value);
        }
        let session =
            Session::from_onnx(model, &NoExternalData, &import, options.clone()).map_err(|e| e.to_string())?;
        for (index, case) in cases {
            validate(&session, index, &case).map_err(|e| e.to_string())?;
            all.extend(check_case_async(&session, index, &case, tolerance(name)).await);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_bits_are_allowed_more_and_nothing_is_allowed_to_be_empty() {
        assert_eq!(tolerance("gpt2/tiny/onnx/model").cosine, 0.9999);
        assert_eq!(tolerance("gpt2/tiny/onnx/model_fp16").cosine, 0.999);
        assert_eq!(tolerance("resnet-50/tiny/onnx/model").cosine, 0.9999);
        assert_eq!(tolerance("resnet-50/tiny/onnx/model_qdq").cosine, 0.996);
        assert!(!Outcome { result: Ok(Vec::new()) }.ok());
    }
}
