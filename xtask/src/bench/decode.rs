//! `cargo xtask bench decode`: tokens a second of a language model, beside ONNX Runtime with the same file.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Options, PEER, median, number};
use crate::error::Error;
use crate::workspace::Workspace;

/// Names the folder of SmolLM2-135M-Instruct with `model_quantized.onnx`, as the test material's recipe makes it.
const FOLDER: &str = "LENSLET_SMOLLM2";
/// Tokens of one measurement.
const NEW_TOKENS: usize = 64;

/// Where in a sequence tokens are made.
struct Case {
    name: &'static str,
    /// How often the sentence is repeated in the prompt.
    repeats: usize,
}

/// Ten tokens.
const SENTENCE: &str = "The quick brown fox jumps over the lazy dog. ";

const CASES: &[Case] =
    &[Case { name: "smollm2 int8 native", repeats: 2 }, Case { name: "smollm2 int8 native at 1000", repeats: 98 }];

/// The rows, measured in turns.
pub(super) fn rows(
    workspace: &Workspace,
    [lenslet, python]: [&PathBuf; 2],
    options: &Options,
    mut done: impl FnMut(&Value),
) -> Result<Vec<Value>, Error> {
    let folder = std::env::var_os(FOLDER).map(PathBuf::from).filter(|f| f.join("model_quantized.onnx").is_file());
    let folder = folder.ok_or_else(|| Error::Missing {
        what: "SmolLM2-135M-Instruct as ONNX",
        why: format!("{FOLDER} does not name a folder with model_quantized.onnx"),
        remedy: format!("run shared/smollm2-135m-instruct/make.py FOLDER int8, and set {FOLDER} to FOLDER"),
    })?;
    let model = folder.join("model_quantized.onnx");
    let bytes = std::fs::metadata(&model).map_err(Error::io("read", &model))?.len();
    let wanted = |case: &&Case| options.filter.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    let mut rows = Vec::new();
    for case in CASES.iter().filter(wanted) {
        for &threads in &options.threads {
            let row = measure(workspace, [lenslet, python], (&folder, &model, bytes), case, threads, options.rounds)?;
            done(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

fn measure(
    workspace: &Workspace,
    [lenslet, python]: [&PathBuf; 2],
    (folder, model, bytes): (&Path, &Path, u64),
    case: &Case,
    threads: usize,
    rounds: usize,
) -> Result<Value, Error> {
    let (mut product, mut peer, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    let prompt = SENTENCE.repeat(case.repeats);
    let count = threads.to_string();
    for round in 1..=rounds {
        eprintln!("{} on {threads} threads, round {round} of {rounds} ...", case.name);
        limits.push(read_rate(threads) / bytes as f64);
        let mut command = Command::new(lenslet);
        command.args(["generate", "--raw", "--json", "--device", "cpu", "--temperature", "0", "--precision", "int8"]);
        command.args(["--threads", &count, "--max-tokens", &NEW_TOKENS.to_string(), "--model"]).arg(folder);
        command.arg(prompt.trim_end());
        product.push(number("lenslet generate", &mut command, "/tokens_per_second")?);

        let mut command = Command::new(python);
        command.arg(workspace.path("xtask/src/bench/onnxruntime_decode_peer.py")).arg(model).arg(&count);
        command.arg(NEW_TOKENS.to_string());
        // What the tokens are does not matter for the time, how many does.
        command.args(std::iter::repeat_n("504", 10 * case.repeats));
        peer.push(number("ONNX Runtime", &mut command, "/tokens_per_second")?);
    }
    let (product, peer, limit) = (median(&mut product), median(&mut peer), median(&mut limits));
    Ok(json!({
        "name": case.name,
        "device": "cpu",
        "threads": threads,
        "product_tokens_per_second": product,
        "peer": PEER,
        "peer_tokens_per_second": peer,
        "ratio": product / peer,
        "memory_limit_tokens_per_second": limit,
    }))
}

/// Bytes a second that `threads` threads read from memory: every weight is read once a token.
fn read_rate(threads: usize) -> f64 {
    const WORDS: usize = 1 << 25;
    let buffers: Vec<Vec<u64>> = (0..threads).map(|t| vec![t as u64 + 1; WORDS]).collect();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for buffer in &buffers {
            scope.spawn(|| black_box(buffer.iter().fold(0u64, |sum, x| sum.wrapping_add(*x))));
        }
    });
    (threads * WORDS * size_of::<u64>()) as f64 / started.elapsed().as_secs_f64()
}

/// A row for people.
pub(super) fn line(row: &Value) -> String {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "{:<28} cpu, {} threads: {:6.1} tokens/s, {PEER} {:6.1}, ratio {:.2}; memory would allow {:.0}",
        row["name"].as_str().unwrap_or_default(),
        number("threads"),
        number("product_tokens_per_second"),
        number("peer_tokens_per_second"),
        number("ratio"),
        number("memory_limit_tokens_per_second"),
    )
}
