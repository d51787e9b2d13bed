//! Every graph of the zoo against its goldens, on one device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lenslet::onnx::ImportOptions;
use lenslet::tensor::Tensor;
use lenslet::{Session, SessionOptions};
use lenslet_models::check::{Case, Comparison, Tolerance, check, read_golden};

/// A graph with its golden.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Path below the zoo, without the ending.
    pub name: String,
    /// The model file.
    pub model: PathBuf,
    /// The golden file.
    pub golden: PathBuf,
}

/// The folder with the zoo: `LENSLET_SHARED/zoo`, or `shared/zoo` beside the project.
pub fn folder() -> Option<PathBuf> {
    let root = match std::env::var_os("LENSLET_SHARED") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
    };
    Some(root.join("zoo")).filter(|p| p.is_dir())
}

/// All graphs with goldens below `folder`, by name.
pub fn graphs(folder: &Path) -> Vec<Graph> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<Graph>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, out);
            } else if path.extension().is_some_and(|e| e == "onnx") {
                let golden = path.with_extension("golden.safetensors");
                if golden.is_file() {
                    let name = path.strip_prefix(root).unwrap_or(&path).with_extension("");
                    let name = name.to_string_lossy().replace('\\', "/");
                    out.push(Graph { name, model: path, golden });
                }
            }
        }
    }
    let mut out = Vec::new();
    walk(folder, folder, &mut out);
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

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
    Tolerance { cosine }
}

/// What became of a graph.
#[derive(Debug)]
pub struct Outcome {
    /// The graph.
    pub graph: Graph,
    /// A comparison an output and case, or the reason why there is none.
    pub result: Result<Vec<Comparison>, String>,
}

impl Outcome {
    /// Whether everything ran and agreed.
    pub fn ok(&self) -> bool {
        self.result.as_ref().is_ok_and(|c| !c.is_empty() && c.iter().all(|c| c.ok))
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

/// Runs one graph. Merged decoders are loaded once for each value of their branch input.
pub fn run(graph: &Graph, options: &SessionOptions) -> Outcome {
    let result = (|| {
        let cases = read_golden(&graph.golden).map_err(|e| e.to_string())?;
        let mut groups: BTreeMap<Option<u8>, Vec<(usize, Case)>> = BTreeMap::new();
        for (i, case) in cases.into_iter().enumerate() {
            let branch = case.inputs.get("use_cache_branch").map(|t| t.bytes()[0]);
            groups.entry(branch).or_default().push((i, case));
        }
        let mut all = Vec::new();
        for (branch, cases) in groups {
            let mut import = ImportOptions::default();
            if let Some(branch) = branch {
                let value = Tensor::from_slice(&[1], &[lenslet::tensor::Bool(branch)]).map_err(|e| e.to_string())?;
                import.fixed_inputs.insert("use_cache_branch".into(), value);
            }
            let session = Session::from_file(&graph.model, &import, options.clone()).map_err(|e| e.to_string())?;
            let (numbers, cases): (Vec<usize>, Vec<Case>) = cases.into_iter().unzip();
            let mut results = check(&session, &cases, tolerance(&graph.name));
            for result in &mut results {
                result.case = numbers[result.case];
            }
            all.extend(results);
        }
        Ok(all)
    })();
    Outcome { graph: graph.clone(), result }
}
