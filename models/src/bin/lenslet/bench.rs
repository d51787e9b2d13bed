//! `lenslet bench`: how long a run takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lenslet::Session;
use lenslet::onnx::ImportOptions;
use lenslet::tasks::image::Preprocessor;
use lenslet::tensor::Tensor;
use lenslet_models::folder::{ModelFolder, Precision, Role};
use lenslet_models::shapes::{exporters_name, input_shapes, open_sizes, sample};
use serde::Serialize;

use crate::context::{Context, PrecisionArg, device_name};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Measure how long a graph, or each tower of a model, takes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet bench photo-search
  lenslet bench vision_model.onnx --batch 8 --threads 1 --json
  lenslet bench text_model.onnx --dim batch_size=1 --dim sequence_length=77

The median of at least 10 runs behind 3 that do not count. Texts have 16 tokens unless --dim says otherwise.")]
pub(crate) struct Args {
    /// A graph file, a model's folder or a known name
    model: String,
    /// Pictures or texts at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// A size that the graph leaves open, by its name there (may be repeated)
    #[arg(long = "dim", value_parser = parse_dim, value_name = "NAME=SIZE")]
    dims: Vec<(String, usize)>,
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

fn parse_dim(text: &str) -> Result<(String, usize), String> {
    let parsed = text.split_once('=').and_then(|(name, size)| Some((name.to_owned(), size.parse().ok()?)));
    parsed.ok_or_else(|| "expected NAME=SIZE, as in batch_size=4".into())
}

/// A loaded graph and what to call it.
struct Graph {
    name: String,
    role: Option<Role>,
    path: PathBuf,
    session: Session,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let options = context.options()?;
    let mut picture = None;
    let files: Vec<(Option<Role>, PathBuf)> = if Path::new(&args.model).is_file() {
        vec![(None, PathBuf::from(&args.model))]
    } else {
        let folder = ModelFolder::locate(&args.model)?;
        let preprocessor = folder.config().preprocessor.as_ref();
        picture = preprocessor.and_then(|config| Preprocessor::from_config(config).ok()?.output_size());
        let precision: Precision = args.precision.into();
        folder.graphs(precision)?.all().into_iter().map(|(role, path)| (Some(role), path.to_owned())).collect()
    };
    let mut graphs = Vec::new();
    for (role, path) in files {
        let session = Session::from_file(&path, &ImportOptions::default(), options.clone())
            .map_err(|source| Failure::graph(&path, &source))?;
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = if role.is_some() { args.model.clone() } else { stem() };
        graphs.push(Graph { name, role, path, session });
    }
    let dims = check_dims(&graphs, &args.dims)?;
    let mut rows = Vec::new();
    for graph in &graphs {
        rows.push(measure(graph, args.batch, &dims, picture, context.threads())?);
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

/// The given sizes by name; each must be one of some graph's.
fn check_dims(graphs: &[Graph], given: &[(String, usize)]) -> Result<BTreeMap<String, usize>, Failure> {
    let known: BTreeSet<String> = graphs.iter().flat_map(|graph| open_sizes(graph.session.inputs())).collect();
    if let Some((name, _)) = given.iter().find(|(name, _)| !known.contains(name)) {
        let known: Vec<String> = known.into_iter().collect();
        let advice = match known.is_empty() {
            true => "leave --dim out".to_owned(),
            false => format!("the sizes are {}", known.join(", ")),
        };
        return Err(Failure::input("bench_input", format_args!("no input has an open size {name}"), advice));
    }
    Ok(given.iter().cloned().collect())
}

/// What a row is called: the tower, for texts their length, and a batch that is not one.
fn row_name(graph: &Graph, inputs: &[(&str, Tensor)], batch: usize) -> String {
    let mut name = graph.name.clone();
    match graph.role {
        Some(Role::Image) => name.push_str(" image"),
        Some(Role::Text) => {
            let ids = inputs.iter().find(|(name, _)| *name == "input_ids");
            let _ = write!(name, " text{}", ids.and_then(|(_, ids)| ids.shape().get(1)).unwrap_or(&0));
        }
        Some(Role::Whole) | None => {}
    }
    if batch > 1 {
        let _ = write!(name, " b{batch}");
    }
    name
}

/// Runs a graph until the median of its times says something.
fn measure(
    graph: &Graph,
    batch: usize,
    dims: &BTreeMap<String, usize>,
    picture: Option<[u32; 2]>,
    threads: usize,
) -> Result<Row, Failure> {
    let Graph { session, path, .. } = graph;
    let bad = |what: String| {
        Failure::input("bench_input", format!("{}: {what}", path.display()), "see `lenslet inspect` for its inputs")
    };
    // The other tower's sizes do not concern this one.
    let open = open_sizes(session.inputs());
    let mut own: BTreeMap<String, usize> =
        dims.iter().filter(|(name, _)| open.contains(*name)).map(|(name, &size)| (name.clone(), size)).collect();
    for info in session.inputs() {
        let symbol = info.shape.first().and_then(|dim| dim.as_symbol());
        if let Some(name) = symbol.map(|symbol| exporters_name(info, symbol))
            && open.contains(name)
        {
            own.entry(name.to_owned()).or_insert(batch);
        }
    }
    let shapes = input_shapes(session.inputs(), &BTreeMap::new(), &own, picture).map_err(bad)?;
    let tensors = shapes
        .iter()
        .map(|(dtype, shape)| sample(*dtype, shape))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(error.to_string()))?;
    let inputs: Vec<(&str, Tensor)> = session.inputs().iter().map(|info| &*info.name).zip(tensors).collect();
    // A graph may fix its batch.
    let batch = inputs.first().and_then(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(1);
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
    let median_ms = times[times.len() / 2].as_secs_f64() * 1e3;
    Ok(Row { name: row_name(graph, &inputs, batch), batch, threads, median_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_name_and_number() {
        assert_eq!(parse_dim("batch_size=4"), Ok(("batch_size".to_owned(), 4)));
        assert_eq!(parse_dim("past_sequence_length=0"), Ok(("past_sequence_length".to_owned(), 0)));
        for wrong in ["batch_size", "batch_size=", "batch_size=-1", "batch_size=many"] {
            assert!(parse_dim(wrong).is_err(), "{wrong}");
        }
    }
}
