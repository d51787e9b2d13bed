//! `lenslet inspect`: what a model takes and gives, and how it would run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use lenslet::graph::{Dim, Graph};
use lenslet::onnx::{Folder, ImportOptions, LoadError, import};
use lenslet::optimize::{RewriteReport, optimize};
use lenslet::plan::Place;
use lenslet::tasks::image::Preprocessor;
use lenslet::tensor::{Bool, Tensor};
use lenslet::{Session, SessionOptions, TensorInfo};
use lenslet_models::check::BRANCH;
use lenslet_models::folder::ModelFolder;
use lenslet_models::shapes::input_shapes;
use serde::Serialize;

use crate::context::{Context, PrecisionArg, device_name};
use crate::failure::Failure;
use crate::{Outcome, output};

/// Show inputs, outputs, operators and weights of a model, and what runs where.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  lenslet inspect photo-search
  lenslet inspect vision_model.onnx --shape pixel_values=8x3x224x224 --json")]
pub(crate) struct Args {
    /// A graph file, a model's folder or a known name
    model: String,
    /// Plan for this shape of an input; may be repeated
    #[arg(long, value_name = "NAME=DIMS", value_parser = parse_shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// Which of the folder's graph files: auto takes the most exact
    #[arg(long, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionArg,
}

fn parse_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, dims) = text.split_once('=').ok_or("expected NAME=DIMS, such as pixel_values=1x3x224x224")?;
    let dims = dims
        .split(['x', ','])
        .filter(|dim| !dim.is_empty())
        .map(|dim| dim.trim().parse().map_err(|_| format!("{dim:?} is not a size")))
        .collect::<Result<_, String>>()?;
    Ok((name.to_owned(), dims))
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    device: &'a str,
    graphs: Vec<GraphReport>,
}

#[derive(Serialize)]
struct GraphReport {
    file: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    use_cache_branch: Option<bool>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    symbols: Vec<String>,
    weights: BTreeMap<&'static str, Weights>,
    nodes: Nodes,
    operators: BTreeMap<&'static str, usize>,
    rewrites: BTreeMap<&'static str, usize>,
    plan: Result<PlanSummary, String>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    dtype: &'static str,
    shape: Vec<String>,
}

#[derive(Serialize, Default)]
struct Weights {
    tensors: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Nodes {
    read: usize,
    optimised: usize,
}

#[derive(Serialize)]
struct PlanSummary {
    shapes: BTreeMap<String, Vec<usize>>,
    steps: usize,
    places: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    peak_bytes: usize,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let options = context.options()?;
    let mut picture = None;
    let files: Vec<PathBuf> = if Path::new(&args.model).is_file() {
        vec![PathBuf::from(&args.model)]
    } else {
        let folder = ModelFolder::locate(&args.model)?;
        let preprocessor = folder.config().preprocessor.as_ref();
        picture = preprocessor.and_then(|config| Preprocessor::from_config(config).ok()?.output_size());
        folder.graphs(args.precision.into())?.all().into_iter().map(|(_, path)| path.to_owned()).collect()
    };
    let given: BTreeMap<String, Vec<usize>> = args.shape.iter().cloned().collect();
    let mut graphs = Vec::new();
    for file in &files {
        for (branch, graph) in read(file)? {
            graphs.push(inspect(file, branch, graph, &given, picture, &options)?);
        }
    }
    let report = Report { model: &args.model, device: device_name(&options), graphs };
    if context.json {
        output::json(&report)?;
    } else {
        output::text(&report.graphs.iter().map(|graph| describe(graph, report.device)).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(true)
}

/// The graph of a file; both graphs of a merged decoder, with the value that chooses each.
fn read(path: &Path) -> Result<Vec<(Option<bool>, Graph)>, Failure> {
    let fail = |error: LoadError| Failure::graph(path, &error.into());
    let file =
        std::fs::read(path).map_err(|source| fail(LoadError::Io { path: path.display().to_string(), source }))?;
    let folder = Folder(path.parent().map(Path::to_path_buf).unwrap_or_default());
    let error = match import(&file, &folder, &ImportOptions::default()) {
        Ok(graph) => return Ok(vec![(None, graph)]),
        Err(error) => error,
    };
    if !matches!(&error, LoadError::Node { op, .. } if op == "If") {
        return Err(fail(error));
    }
    [false, true]
        .into_iter()
        .map(|branch| {
            let fixed_inputs = [(BRANCH.to_owned(), Tensor::vector(&[Bool::from(branch)]))].into();
            let graph = import(&file, &folder, &ImportOptions { fixed_inputs }).map_err(fail)?;
            Ok((Some(branch), graph))
        })
        .collect()
}

fn inspect(
    file: &Path,
    branch: Option<bool>,
    mut graph: Graph,
    given: &BTreeMap<String, Vec<usize>>,
    picture: Option<[u32; 2]>,
    options: &SessionOptions,
) -> Result<GraphReport, Failure> {
    let mut weights: BTreeMap<&'static str, Weights> = BTreeMap::new();
    for tensor in graph.value_ids().filter_map(|id| graph.constant(id)) {
        let entry = weights.entry(tensor.dtype().name()).or_default();
        entry.tensors += 1;
        entry.bytes += tensor.bytes().len() as u64;
    }
    let read = graph.node_count();
    let rewrites: RewriteReport = optimize(&mut graph).map_err(|error| Failure::graph(file, &error.into()))?;
    let mut operators = BTreeMap::new();
    for (_, node) in graph.nodes() {
        *operators.entry(node.op.name()).or_insert(0) += 1;
    }
    let optimised = graph.node_count();
    let session = Session::new(graph, options.clone());
    let port = |info: &TensorInfo| Port {
        name: info.name.to_string(),
        dtype: info.dtype.name(),
        shape: info.shape.iter().map(|dim| format!("{dim:?}")).collect(),
    };
    let mut symbols: Vec<String> = session
        .inputs()
        .iter()
        .flat_map(|info| info.shape.iter().filter_map(Dim::as_symbol).map(ToString::to_string))
        .collect();
    symbols.sort_unstable();
    symbols.dedup();
    // With several graphs a shape belongs to those that have the input.
    let known: BTreeMap<String, Vec<usize>> = given
        .iter()
        .filter(|(name, _)| session.inputs().iter().any(|info| *info.name == ***name))
        .map(|(name, shape)| (name.clone(), shape.clone()))
        .collect();
    let given = if known.is_empty() { given } else { &known };
    let shapes = input_shapes(session.inputs(), given, &BTreeMap::new(), picture).map_err(|what| {
        Failure::input("bad_shape", format!("{}: {what}", file.display()), "give --shape NAME=1x3x224x224")
    })?;
    let plan = session.report(&shapes).map_err(|error| error.to_string()).map(|plan| {
        let mut places: BTreeMap<&'static str, BTreeMap<&'static str, usize>> = BTreeMap::new();
        for node in &plan.nodes {
            *places.entry(place_name(node.place)).or_default().entry(node.op).or_insert(0) += 1;
        }
        let names = session.inputs().iter().map(|info| info.name.to_string());
        PlanSummary {
            shapes: names.zip(shapes.iter().map(|(_, shape)| shape.clone())).collect(),
            steps: plan.nodes.len(),
            places,
            peak_bytes: plan.peak_bytes,
        }
    });
    let mut counts = BTreeMap::new();
    for (name, count) in rewrites.into_iter().filter(|(_, count)| *count > 0) {
        *counts.entry(name).or_insert(0) += count;
    }
    Ok(GraphReport {
        file: file.display().to_string(),
        bytes: std::fs::metadata(file).map_or(0, |data| data.len()),
        use_cache_branch: branch,
        inputs: session.inputs().iter().map(port).collect(),
        outputs: session.outputs().iter().map(port).collect(),
        symbols,
        weights,
        nodes: Nodes { read, optimised },
        operators,
        rewrites: counts,
        plan,
    })
}

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Cpu => "cpu",
        Place::Gpu => "gpu",
        Place::Alias => "nowhere",
    }
}

fn describe(graph: &GraphReport, device: &str) -> String {
    let mut text = format!("{} ({})\n", graph.file, output::bytes(graph.bytes));
    if let Some(branch) = graph.use_cache_branch {
        let _ = writeln!(text, "  branch    {BRANCH} = {branch}");
    }
    for (title, ports) in [("inputs", &graph.inputs), ("outputs", &graph.outputs)] {
        for (at, port) in ports.iter().enumerate() {
            let title = if at == 0 { title } else { "" };
            let _ = writeln!(text, "  {title:8}  {}: {} [{}]", port.name, port.dtype, port.shape.join(", "));
        }
    }
    for (at, (dtype, weights)) in graph.weights.iter().enumerate() {
        let title = if at == 0 { "weights" } else { "" };
        let tensors = output::count(weights.tensors, "tensor");
        let _ = writeln!(text, "  {title:8}  {dtype}: {tensors}, {}", output::bytes(weights.bytes));
    }
    let list = |counts: &BTreeMap<&str, usize>| {
        let mut counts: Vec<_> = counts.iter().collect();
        counts.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(text, "  nodes     {} in the file, {} to run", graph.nodes.read, graph.nodes.optimised);
    let _ = writeln!(text, "  operators {}", list(&graph.operators));
    if !graph.rewrites.is_empty() {
        let _ = writeln!(text, "  rewrites  {}", list(&graph.rewrites));
    }
    match &graph.plan {
        Ok(plan) => {
            let shapes: Vec<String> = plan.shapes.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
            let _ = writeln!(text, "  plan      on {device} for {}", shapes.join(", "));
            for (place, counts) in &plan.places {
                let steps: usize = counts.values().sum();
                let _ = writeln!(text, "    {place:7} {steps}: {}", list(counts));
            }
            let _ = writeln!(text, "    memory  {} between steps at most", output::bytes(plan.peak_bytes as u64));
        }
        Err(reason) => {
            let _ = writeln!(text, "  plan      none for default shapes ({reason}); give --shape");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_parsed() {
        assert_eq!(parse_shape("x=1x3x224"), Ok(("x".into(), vec![1, 3, 224])));
        assert_eq!(parse_shape("x=2,0"), Ok(("x".into(), vec![2, 0])));
        assert!(parse_shape("x=two").is_err() && parse_shape("x").is_err());
    }
}
