//! `lenslet bench`: how long a run takes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lenslet::onnx::ImportOptions;
use lenslet::tasks::image::Preprocessor;
use lenslet::tensor::Tensor;
use lenslet::{Session, SessionOptions};
use lenslet_models::folder::{ModelFolder, Precision, Role};
use lenslet_models::shapes::{input_shapes, sample};
use serde::Serialize;

use crate::context::{Context, PrecisionArg, device_name};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Measure how long a graph, or each tower of a model, takes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet bench photo-search
  lenslet bench vision_model.onnx --batch 8 --threads 1 --json

The median of at least 10 runs behind 3 that do not count. Texts have 16 tokens.")]
pub(crate) struct Args {
    /// A graph file, a model's folder or a known name
    model: String,
    /// Pictures or texts at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Which of the folder's graph files: auto takes the most exact
    #[arg(long, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionArg,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    device: &'a str,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    batch: usize,
    threads: usize,
    median_ms: f64,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let options = context.options()?;
    let mut picture = None;
    let files: Vec<(String, PathBuf)> = if Path::new(&args.model).is_file() {
        let path = PathBuf::from(&args.model);
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        vec![(stem, path)]
    } else {
        let folder = ModelFolder::locate(&args.model)?;
        let preprocessor = folder.config().preprocessor.as_ref();
        picture = preprocessor.and_then(|config| Preprocessor::from_config(config).ok()?.output_size());
        let precision: Precision = args.precision.into();
        let name = |role: Role| match role {
            Role::Image => format!("{} image", args.model),
            Role::Text => format!("{} text16", args.model),
            Role::Whole => args.model.clone(),
        };
        folder.graphs(precision)?.all().into_iter().map(|(role, path)| (name(role), path.to_owned())).collect()
    };
    let mut rows = Vec::new();
    for (mut name, path) in files {
        if args.batch > 1 {
            let _ = write!(name, " b{}", args.batch);
        }
        let median_ms = measure(&path, args.batch, picture, &options)?;
        rows.push(Row { name, batch: args.batch, threads: context.threads(), median_ms });
    }
    let report = Report { model: &args.model, device: device_name(&options), rows };
    if context.json {
        output::json(&report)?;
    } else {
        let mut text = String::new();
        for row in &report.rows {
            let threads = output::count(row.threads, "thread");
            let _ = writeln!(text, "{:10.2} ms  {} ({}, {threads})", row.median_ms, row.name, report.device);
        }
        output::text(&text)?;
    }
    Ok(true)
}

/// The median of the runs, in milliseconds.
fn measure(path: &Path, batch: usize, picture: Option<[u32; 2]>, options: &SessionOptions) -> Result<f64, Failure> {
    let session = Session::from_file(path, &ImportOptions::default(), options.clone())
        .map_err(|source| Failure::graph(path, &source))?;
    let bad = |what: String| {
        Failure::input("bench_input", format!("{}: {what}", path.display()), "see `lenslet inspect` for its inputs")
    };
    let mut shapes = input_shapes(session.inputs(), &BTreeMap::new(), picture).map_err(bad)?;
    for (info, (_, shape)) in session.inputs().iter().zip(&mut shapes) {
        if let (Some(first), Some(dim)) = (shape.first_mut(), info.shape.first())
            && dim.as_const().is_none()
        {
            *first = batch;
        }
    }
    let tensors = shapes
        .iter()
        .map(|(dtype, shape)| sample(*dtype, shape))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    let inputs: Vec<(&str, Tensor)> = session.inputs().iter().map(|info| &*info.name).zip(tensors).collect();
    let once = || -> Result<Duration, Failure> {
        let started = Instant::now();
        session.run(&inputs).map_err(|error| Failure::graph(path, &error.into()))?;
        Ok(started.elapsed())
    };
    for _ in 0..3 {
        once()?;
    }
    let (mut times, mut total) = (Vec::new(), Duration::ZERO);
    while times.len() < 10 || (total < Duration::from_secs(2) && times.len() < 200) {
        let time = once()?;
        total += time;
        times.push(time);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64() * 1e3)
}
