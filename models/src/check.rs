//! Runs a model on the cases of a golden file and compares.
//!
//! A golden is a safetensors file with `case{n}.input.{name}` and `case{n}.output.{name}`.

use std::collections::BTreeMap;
use std::path::Path;

use lenslet::Session;
use lenslet::graph::{Bindings, Graph, Op};
use lenslet::tensor::{DType, Tensor};
use serde::Serialize;

/// Why a golden file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not what the layout asks for.
    #[error("{path} is not a golden file: {reason}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor does not belong to the model.
    #[error("the golden does not fit the model: tensor {tensor}: {reason}")]
    Mismatch {
        /// Its name in the golden file.
        tensor: String,
        /// What the model has.
        reason: String,
    },
}

impl GoldenError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            GoldenError::Io { .. } => "io",
            GoldenError::Format { .. } => "golden_format",
            GoldenError::Mismatch { .. } => "golden_mismatch",
        }
    }
}

/// The input that chooses the branch of a merged decoder. It is fixed when loading.
pub const BRANCH: &str = "use_cache_branch";

/// One case of a golden file.
#[derive(Debug, Default, Clone)]
pub struct Case {
    /// By name.
    pub inputs: BTreeMap<String, Tensor>,
    /// By name.
    pub outputs: BTreeMap<String, Tensor>,
}

/// Reads all cases of a golden file, in order.
pub fn read_golden(path: &Path) -> Result<Vec<Case>, GoldenError> {
    let bytes = std::fs::read(path).map_err(|source| GoldenError::Io { path: path.display().to_string(), source })?;
    parse_golden(&bytes).map_err(|reason| GoldenError::Format { path: path.display().to_string(), reason })
}

/// Reads all cases of the bytes of a golden file, in order.
pub fn parse_golden(bytes: &[u8]) -> Result<Vec<Case>, String> {
    let file = safetensors::SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let mut cases: BTreeMap<usize, Case> = BTreeMap::new();
    for (name, view) in file.tensors() {
        let mut parts = name.splitn(3, '.');
        let (case, side, tensor) = (parts.next(), parts.next(), parts.next());
        let index = case.and_then(|c| c.strip_prefix("case")).and_then(|n| n.parse().ok());
        let (Some(index), Some(side), Some(tensor)) = (index, side, tensor) else {
            return Err(format!("tensor {name} is not called case<n>.input.<name> or case<n>.output.<name>"));
        };
        use safetensors::Dtype as S;
        let dtype = match view.dtype() {
            S::F32 => DType::F32,
            S::F16 => DType::F16,
            S::I64 => DType::I64,
            S::I32 => DType::I32,
            S::U8 => DType::U8,
            S::I8 => DType::I8,
            S::BOOL => DType::Bool,
            other => return Err(format!("tensor {name} has elements of type {other:?}")),
        };
        let value = Tensor::from_bytes(dtype, view.shape(), view.data()).map_err(|e| format!("{name}: {e}"))?;
        let entry = cases.entry(index).or_default();
        match side {
            "input" => entry.inputs.insert(tensor.to_owned(), value),
            "output" => entry.outputs.insert(tensor.to_owned(), value),
            _ => return Err(format!("tensor {name} is neither an input nor an output")),
        };
    }
    if cases.is_empty() {
        return Err("it holds no case".into());
    }
    Ok(cases.into_values().collect())
}

/// How close is close enough.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Least cosine between an output of floats and its golden.
    pub cosine: f64,
    /// Greatest absolute difference of a float, if that counts too.
    pub max_abs: Option<f64>,
}

impl Tolerance {
    /// What a graph as it was read should keep: 0.9999 in single precision, 0.999 where weights or activations have
    /// fewer bits. There, another order of additions now and then flips a rounding.
    pub fn of_graph(graph: &Graph) -> Self {
        let few_bits = |dtype: DType| matches!(dtype, DType::F16 | DType::U8 | DType::I8);
        let weights =
            graph.value_ids().any(|id| graph.constant(id).is_some_and(|t| t.len() > 1 && few_bits(t.dtype())));
        let operators = graph.nodes().any(|(_, node)| {
            matches!(
                node.op,
                Op::DynamicQuantizeLinear
                    | Op::QuantizeLinear { .. }
                    | Op::DequantizeLinear { .. }
                    | Op::MatMulInteger
                    | Op::MatMulIntegerToFloat(_)
                    | Op::MatMulNBits(_)
                    | Op::GatherBlockQuantized(_)
                    | Op::ConvInteger(_)
                    | Op::ConvIntegerToFloat(_)
            )
        });
        Tolerance { cosine: if weights || operators { 0.999 } else { 0.9999 }, max_abs: None }
    }
}

/// How an output compares with its golden.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Number of the case.
    pub case: usize,
    /// Name of the output.
    pub output: String,
    /// Greatest absolute difference; `None` if shapes or types differ.
    pub max_abs: Option<f64>,
    /// Greatest difference relative to the greatest magnitude of the golden.
    pub max_rel: Option<f64>,
    /// Cosine of the angle between the two, as vectors.
    pub cosine: Option<f64>,
    /// Whether it is within tolerance. Whole numbers must be equal.
    pub ok: bool,
    /// What is wrong, when not only numbers are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Compares an output with its golden.
pub fn compare(case: usize, output: &str, got: &Tensor, want: &Tensor, tolerance: Tolerance) -> Comparison {
    let mut result = Comparison {
        case,
        output: output.to_owned(),
        max_abs: None,
        max_rel: None,
        cosine: None,
        ok: false,
        reason: None,
    };
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        result.reason =
            Some(format!("got {} {:?}, the golden is {} {:?}", got.dtype(), got.shape(), want.dtype(), want.shape()));
        return result;
    }
    let numbers = |t: &Tensor| -> Vec<f64> {
        match (t.to_f32_vec(), t.to_i64_vec()) {
            (Some(v), _) => v.into_iter().map(f64::from).collect(),
            (_, Some(v)) => v.into_iter().map(|x| x as f64).collect(),
            _ => Vec::new(),
        }
    };
    let (a, b) = (numbers(got), numbers(want));
    let (mut max_abs, mut largest, mut dot, mut aa, mut bb) = (0f64, 0f64, 0f64, 0f64, 0f64);
    let mut broken = 0usize;
    for (&x, &y) in a.iter().zip(&b) {
        // Equal infinities and NaN on both sides agree; they say nothing about the angle.
        if x == y && x.is_infinite() || x.is_nan() && y.is_nan() {
            continue;
        }
        if !x.is_finite() || !y.is_finite() {
            broken += 1;
            continue;
        }
        max_abs = max_abs.max((x - y).abs());
        largest = largest.max(y.abs());
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    // Two zero vectors agree; a zero vector and another do not.
    let cosine = if aa == 0.0 && bb == 0.0 {
        1.0
    } else if aa == 0.0 || bb == 0.0 {
        0.0
    } else {
        dot / (aa.sqrt() * bb.sqrt())
    };
    result.max_abs = Some(max_abs);
    result.max_rel = Some(if largest > 0.0 { max_abs / largest } else { max_abs });
    result.cosine = Some(cosine);
    result.ok = if broken > 0 {
        result.reason = Some(format!("{broken} numbers are not finite on one side only"));
        false
    } else if want.dtype().is_float() {
        cosine >= tolerance.cosine && tolerance.max_abs.is_none_or(|limit| max_abs <= limit)
    } else {
        max_abs == 0.0
    };
    result
}

/// Checks names, types and shapes of a case against what the model declares, before anything runs.
///
/// # Errors
/// [`GoldenError::Mismatch`] names the tensor.
pub fn validate(session: &Session, index: usize, case: &Case) -> Result<(), GoldenError> {
    let mut sizes = Bindings::new();
    let mut sides = [("input", &case.inputs, session.inputs()), ("output", &case.outputs, session.outputs())];
    // Inputs first: they say what the names of sizes stand for.
    for (side, tensors, declared) in &mut sides {
        for (name, tensor) in tensors.iter() {
            let bad = |reason: String| GoldenError::Mismatch { tensor: format!("case{index}.{side}.{name}"), reason };
            let Some(info) = declared.iter().find(|info| *info.name == **name) else {
                if name == BRANCH {
                    continue;
                }
                let known: Vec<&str> = declared.iter().map(|info| &*info.name).collect();
                return Err(bad(format!("the model has no such {side}, only {}", known.join(", "))));
            };
            let got = || format!("it is {} {:?}, the model has {info}", tensor.dtype(), tensor.shape());
            if tensor.dtype() != info.dtype || tensor.shape().len() != info.shape.len() {
                return Err(bad(got()));
            }
            for (dim, &size) in info.shape.iter().zip(tensor.shape()) {
                let size = size as i64;
                if let (Some(symbol), true) = (dim.as_symbol(), *side == "input") {
                    let bound = *sizes.entry(symbol.clone()).or_insert(size);
                    if bound != size {
                        return Err(bad(format!("{}, and another input has {symbol} = {bound}", got())));
                    }
                } else if dim.eval(&sizes).is_some_and(|expected| expected != size) {
                    return Err(bad(got()));
                }
            }
        }
        if *side == "input"
            && let Some(info) = declared.iter().find(|info| !tensors.contains_key(&*info.name))
        {
            let tensor = format!("case{index}.input.{}", info.name);
            return Err(GoldenError::Mismatch { tensor, reason: "it is missing".into() });
        }
    }
    Ok(())
}

/// Runs every case and compares every output. An error of the run becomes a comparison that is not ok.
#[cfg(feature = "cli")]
pub fn check(session: &Session, cases: &[Case], tolerance: Tolerance) -> Vec<Comparison> {
    cases.iter().enumerate().flat_map(|(index, case)| check_case(session, index, case, tolerance)).collect()
}

/// Runs one case and compares every output. Not in browsers, see [`check_case_async`].
#[cfg(feature = "cli")]
pub fn check_case(session: &Session, index: usize, case: &Case, tolerance: Tolerance) -> Vec<Comparison> {
    pollster::block_on(check_case_async(session, index, case, tolerance))
}

/// Runs one case and compares every output.
pub async fn check_case_async(session: &Session, index: usize, case: &Case, tolerance: Tolerance) -> Vec<Comparison> {
    let mut results = Vec::new();
    let known: Vec<&str> = session.inputs().iter().map(|i| &*i.name).collect();
    // An input that was fixed when loading is no input any more.
    let inputs: Vec<(&str, Tensor)> = case
        .inputs
        .iter()
        .filter(|(name, _)| known.contains(&name.as_str()))
        .map(|(n, t)| (n.as_str(), t.clone()))
        .collect();
    match session.run_async(&inputs).await {
        Ok(outputs) => {
            for (name, want) in &case.outputs {
                match outputs.iter().find(|(n, _)| **n == **name) {
                    Some((_, got)) => results.push(compare(index, name, got, want, tolerance)),
                    None => results.push(failed(index, name, format!("the model has no output {name}"))),
                }
            }
        }
        Err(error) => results.push(failed(index, "", error.to_string())),
    }
    results
}

fn failed(case: usize, output: &str, reason: String) -> Comparison {
    Comparison {
        case,
        output: output.to_owned(),
        max_abs: None,
        max_rel: None,
        cosine: None,
        ok: false,
        reason: Some(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_sees_angles_shapes_and_broken_numbers() {
        let t = |v: &[f32]| Tensor::vector(v);
        let tolerance = Tolerance { cosine: 0.9999, max_abs: None };
        assert!(compare(0, "y", &t(&[1., 2.]), &t(&[1., 2.]), tolerance).ok);
        assert!(!compare(0, "y", &t(&[1., -2.]), &t(&[1., 2.]), tolerance).ok);
        assert!(!compare(0, "y", &t(&[1., f32::NAN]), &t(&[1., 2.]), tolerance).ok);
        assert!(!compare(0, "y", &t(&[0., 0.]), &t(&[1., 2.]), tolerance).ok);
        assert!(!compare(0, "y", &t(&[1.]), &t(&[1., 2.]), tolerance).ok);
        assert!(!compare(0, "y", &Tensor::vector(&[1i64]), &Tensor::vector(&[2i64]), tolerance).ok);
        let strict = Tolerance { cosine: 0.0, max_abs: Some(0.1) };
        assert!(!compare(0, "y", &t(&[1., 2.2]), &t(&[1., 2.]), strict).ok);
        assert!(compare(0, "y", &t(&[f32::NEG_INFINITY, 1.]), &t(&[f32::NEG_INFINITY, 1.]), tolerance).ok);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(parse_golden(b"not a golden").is_err());
    }
}
