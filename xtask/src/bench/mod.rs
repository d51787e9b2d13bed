//! `cargo xtask bench`: Lenslet beside ONNX Runtime or transformers.js, and its server beside itself, on one machine, in one run.
//!
//! Machines of one class differ by half and a busy one by more, so a figure says something only beside another that was taken
//! at the same time: the two take turns, each in a process of its own, and a row has the median over the turns of each.

mod decode;
mod models;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// The options of `cargo xtask bench`.
#[derive(Debug)]
pub(crate) struct Options {
    /// What is measured.
    pub(crate) what: What,
    pub(crate) json: bool,
    pub(crate) filter: Option<String>,
    pub(crate) rounds: usize,
    pub(crate) threads: Vec<usize>,
    /// Seconds of the server's soak; 0 leaves it out.
    pub(crate) soak: usize,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Graphs of CLIP on the CPU.
    Cpu,
    /// Tokens of a language model.
    Decode,
    /// The server under load.
    Server,
}

impl Default for Options {
    fn default() -> Self {
        Self { what: What::Cpu, json: false, filter: None, rounds: 3, threads: vec![1, 2], soak: 0 }
    }
}

/// Something to measure: a graph of full-size CLIP ViT-B/32 and its inputs' sizes.
#[derive(Debug)]
struct Case {
    name: &'static str,
    graph: &'static str,
    /// Dynamic INT8 as the hub's `_quantized` files, or fp32.
    int8: bool,
    dims: &'static [&'static str],
}

const PICTURE: &[&str] = &["batch_size=1", "num_channels=3", "height=224", "width=224"];
const PICTURES: &[&str] = &["batch_size=8", "num_channels=3", "height=224", "width=224"];
const TEXT16: &[&str] = &["batch_size=1", "sequence_length=16"];
const TEXT77: &[&str] = &["batch_size=1", "sequence_length=77"];

const CASES: &[Case] = &[
    Case { name: "clip-b32 image fp32", graph: "vision_model", int8: false, dims: PICTURE },
    Case { name: "clip-b32 image int8", graph: "vision_model", int8: true, dims: PICTURE },
    Case { name: "clip-b32 image fp32 b8", graph: "vision_model", int8: false, dims: PICTURES },
    Case { name: "clip-b32 image int8 b8", graph: "vision_model", int8: true, dims: PICTURES },
    Case { name: "clip-b32 text16 fp32", graph: "text_model", int8: false, dims: TEXT16 },
    Case { name: "clip-b32 text16 int8", graph: "text_model", int8: true, dims: TEXT16 },
    Case { name: "clip-b32 text77 fp32", graph: "text_model", int8: false, dims: TEXT77 },
    Case { name: "clip-b32 text77 int8", graph: "text_model", int8: true, dims: TEXT77 },
];

/// What the peers' figures come from.
const PEER: &str = "onnxruntime";

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<(), Error> {
    // Minutes of measuring are not lost when somebody stops the rest.
    let tell = |line: String| if options.json { eprintln!("{line}") } else { println!("{line}") };
    let rows = match options.what {
        What::Decode => decode::rows(workspace, options, |row| tell(decode::line(row)))?,
        What::Cpu => graph_rows(workspace, options, |row| tell(line(row)))?,
        What::Server => {
            let rows = server::rows(workspace, options)?;
            rows.iter().for_each(|row| tell(server::line(row)));
            rows
        }
    };
    if options.json {
        println!("{:#}", json!({ "rows": rows }));
    }
    Ok(())
}

/// The rows of graphs.
fn graph_rows(workspace: &Workspace, options: &Options, mut done: impl FnMut(&Value)) -> Result<Vec<Value>, Error> {
    let wanted = |case: &&Case| options.filter.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    if cases.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        return Err(Error::Usage(format!("no row is called so; the rows are {}", names.join(", "))));
    }
    let python = models::python()?;
    let lenslet = built_lenslet(workspace)?;
    let mut rows = Vec::new();
    for case in cases {
        let model = models::filled(workspace, &python, case.graph, case.int8)?;
        for &threads in &options.threads {
            let row = measure(workspace, [&lenslet, &python], case, &model, threads, options.rounds)?;
            done(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The command `lenslet`, built.
fn built_lenslet(workspace: &Workspace) -> Result<PathBuf, Error> {
    eprintln!("Building the command `lenslet` ...");
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--package", "lenslet-models", "--bin", "lenslet"]);
    process::run("building lenslet", &mut build)?;
    Ok(workspace.target().join("release").join(format!("lenslet{}", std::env::consts::EXE_SUFFIX)))
}

/// One row: both in turns.
fn measure(
    workspace: &Workspace,
    [lenslet, python]: [&PathBuf; 2],
    case: &Case,
    model: &Path,
    threads: usize,
    rounds: usize,
) -> Result<Value, Error> {
    let (mut product, mut peer) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("{} on {threads} threads, round {round} of {rounds} ...", case.name);
        let threads = threads.to_string();
        let mut command = Command::new(lenslet);
        command.arg("bench").arg(model).args(["--device", "cpu", "--json", "--threads", &threads]);
        for dim in case.dims {
            command.args(["--dim", dim]);
        }
        product.push(number("lenslet bench", &mut command, "/rows/0/median_ms")?);

        let mut command = Command::new(python);
        command.arg(workspace.path("xtask/src/bench/onnxruntime_peer.py")).arg(model).arg(&threads).args(case.dims);
        peer.push(number("ONNX Runtime", &mut command, "/median_ms")?);
    }
    let (product_ms, peer_ms) = (median(&mut product), median(&mut peer));
    Ok(json!({
        "name": case.name,
        "device": "cpu",
        "threads": threads,
        "product_ms": product_ms,
        "peer": PEER,
        "peer_ms": peer_ms,
        "ratio": product_ms / peer_ms,
    }))
}

/// Runs a command that prints JSON and takes a number out of it.
fn number(what: &str, command: &mut Command, pointer: &str) -> Result<f64, Error> {
    let value = measured(what, command)?;
    let number = value.pointer(pointer).and_then(Value::as_f64);
    number.ok_or_else(|| Error::Failed(format!("{what} did not print a number at {pointer}: {value}")))
}

/// Runs a command that prints JSON.
fn measured(what: &str, command: &mut Command) -> Result<Value, Error> {
    let output = process::capture(what, command)?;
    serde_json::from_str(&output)
        .map_err(|error| Error::Failed(format!("{what} did not print JSON ({error}): {output}")))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn line(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "{:<24} cpu, {} threads: {:8.1} ms, {} {:8.1} ms, ratio {:.2}",
        text("name"),
        number("threads"),
        number("product_ms"),
        text("peer"),
        number("peer_ms"),
        number("ratio")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(median(&mut [3.0, 1.0, 2.0]).total_cmp(&2.0).is_eq());
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn rows_are_told_apart() {
        for (index, case) in CASES.iter().enumerate() {
            assert!(CASES[..index].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }
}
