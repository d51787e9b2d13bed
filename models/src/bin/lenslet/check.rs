//! `lenslet check`: a graph against recorded outputs.

use std::fmt::Write as _;
use std::path::PathBuf;

use lenslet::onnx::{Folder, ImportOptions, LoadError, import};
use lenslet::optimize::optimize;
use lenslet::tensor::Tensor;
use lenslet::{Session, SessionOptions};
use lenslet_models::check::{BRANCH, Case, Comparison, Tolerance, check_case, read_golden, validate};
use serde::Serialize;

use crate::context::{Context, device_name};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Run a graph on recorded inputs and compare with the recorded outputs.
#[derive(clap::Args)]
#[command(after_help = "Example:
  lenslet check model.onnx model.golden.safetensors --device gpu

The golden holds tensors case0.input.NAME and case0.output.NAME, then case1 and so on. Whole numbers must
be equal. Floats need a cosine of 0.9999; 0.999 if the graph holds 16-, 8- or 4-bit numbers. Exit status 1
if an output is outside. A merged decoder is loaded once for each value of use_cache_branch.")]
pub(crate) struct Args {
    /// The graph
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Inputs and outputs
    #[arg(value_name = "GOLDEN.safetensors")]
    golden: PathBuf,
    /// Least cosine of an output of floats
    #[arg(long, value_name = "X")]
    cosine: Option<f64>,
    /// Greatest absolute difference of a float
    #[arg(long, value_name = "X")]
    max_abs: Option<f64>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    device: &'a str,
    ok: bool,
    tolerance: f64,
    cases: &'a [Comparison],
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let cases = read_golden(&args.golden)?;
    let options = context.options()?;
    let mut branches: Vec<Option<&Tensor>> = Vec::new();
    for case in &cases {
        if !branches.iter().any(|known| same_branch(*known, case)) {
            branches.push(case.inputs.get(BRANCH));
        }
    }
    let mut results = Vec::new();
    let mut cosine: f64 = 1.0;
    for branch in branches {
        let (session, tolerance) = load(args, branch, &options)?;
        cosine = cosine.min(tolerance.cosine);
        for (index, case) in cases.iter().enumerate().filter(|(_, case)| same_branch(branch, case)) {
            validate(&session, index, case)?;
            results.extend(check_case(&session, index, case, tolerance));
        }
    }
    results.sort_by_key(|comparison| comparison.case);
    let ok = results.iter().all(|comparison| comparison.ok);
    let report = Report {
        model: args.model.display().to_string(),
        device: device_name(&options),
        ok,
        tolerance: cosine,
        cases: &results,
    };
    if context.json {
        output::json(&report)?;
    } else {
        output::text(&table(&report))?;
    }
    Ok(ok)
}

fn same_branch(branch: Option<&Tensor>, case: &Case) -> bool {
    branch.map(Tensor::bytes) == case.inputs.get(BRANCH).map(Tensor::bytes)
}

fn load(args: &Args, branch: Option<&Tensor>, options: &SessionOptions) -> Result<(Session, Tolerance), Failure> {
    let fail = |error: lenslet::Error| Failure::graph(&args.model, &error);
    let file = std::fs::read(&args.model)
        .map_err(|source| fail(LoadError::Io { path: args.model.display().to_string(), source }.into()))?;
    let folder = args.model.parent().map(PathBuf::from).unwrap_or_default();
    let fixed_inputs = branch.map(|value| (BRANCH.to_owned(), value.clone())).into_iter().collect();
    let mut graph = import(&file, &Folder(folder), &ImportOptions { fixed_inputs }).map_err(|e| fail(e.into()))?;
    // As it was read: rewriting widens and fuses.
    let mut tolerance = Tolerance::of_graph(&graph);
    tolerance.cosine = args.cosine.unwrap_or(tolerance.cosine);
    tolerance.max_abs = args.max_abs;
    optimize(&mut graph).map_err(|e| fail(e.into()))?;
    Ok((Session::new(graph, options.clone()), tolerance))
}

fn table(report: &Report<'_>) -> String {
    let width = report.cases.iter().map(|c| c.output.chars().count()).max().unwrap_or(0).max("output".len());
    let mut text = format!("case  {:width$}  {:>10}  {:>10}  {:>11}\n", "output", "max_abs", "max_rel", "cosine");
    for row in report.cases {
        let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3e}"));
        let cosine = row.cosine.map_or("-".into(), |cosine| format!("{cosine:.8}"));
        let verdict = if row.ok { "ok" } else { "FAILED" };
        let _ = write!(
            text,
            "{:<4}  {:width$}  {:>10}  {:>10}  {:>11}  {verdict}",
            row.case,
            row.output,
            number(row.max_abs),
            number(row.max_rel),
            cosine
        );
        if let Some(reason) = &row.reason {
            let _ = write!(text, ": {reason}");
        }
        text.push('\n');
    }
    let passed = report.cases.iter().filter(|row| row.ok).count();
    let _ = writeln!(
        text,
        "{}: {passed} of {} on {}, cosine >= {}",
        if report.ok { "ok" } else { "FAILED" },
        output::count(report.cases.len(), "output"),
        report.device,
        report.tolerance
    );
    text
}
