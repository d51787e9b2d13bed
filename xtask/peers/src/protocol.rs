//! How a runtime is measured in turns with others: a process that loads a graph once and then waits, asleep, to be told how
//! often to run it.
//!
//! Its arguments are `MODEL THREADS NAME=SIZE...`, where a size that the graph does not leave open is ignored. It prints one JSON
//! object a line:
//! - when the graph has been loaded and has run once, `{"load_ms", "first_ms", "version"}`; or `{"unable": REASON}`, and it ends;
//! - for each line with a number N on its standard input, `{"ms": [..]}`, the times of N runs;
//! - when its standard input ends, `{"peak_bytes"}`, the most memory it has had (`null` where the system does not tell), and it
//!   ends.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

/// What is to be measured.
pub(crate) struct Task {
    /// The graph's file.
    pub(crate) model: PathBuf,
    /// How many threads the runtime may use.
    pub(crate) threads: usize,
    /// Sizes that the graph leaves open, by their names.
    pub(crate) sizes: BTreeMap<String, usize>,
}

/// A loaded graph.
pub(crate) struct Loaded {
    /// The runtime's version.
    pub(crate) version: &'static str,
    /// Runs the graph once, on inputs that never change.
    pub(crate) run: Box<dyn FnMut() -> Result<(), String>>,
}

/// Serves the protocol. `load` reads the file, makes the graph ready and the inputs.
pub(crate) fn serve(load: impl FnOnce(&Task) -> Result<Loaded, String>) -> ExitCode {
    let Some(task) = parse(std::env::args().skip(1)) else {
        eprintln!("usage: MODEL THREADS NAME=SIZE...");
        return ExitCode::from(2);
    };
    match answer(&task, load) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Task> {
    let (model, threads) = (args.next()?.into(), args.next()?.parse().ok()?);
    let size = |word: String| word.split_once('=').and_then(|(name, size)| Some((name.to_owned(), size.parse().ok()?)));
    let sizes = args.map(size).collect::<Option<_>>()?;
    Some(Task { model, threads, sizes })
}

fn answer(task: &Task, load: impl FnOnce(&Task) -> Result<Loaded, String>) -> io::Result<()> {
    let started = Instant::now();
    let loaded = load(task).and_then(|mut loaded| {
        let load_ms = milliseconds(started);
        let started = Instant::now();
        (loaded.run)()?;
        Ok((loaded, load_ms, milliseconds(started)))
    });
    let mut loaded = match loaded {
        Ok((loaded, load_ms, first_ms)) => {
            say(&json!({ "load_ms": load_ms, "first_ms": first_ms, "version": loaded.version }))?;
            loaded
        }
        Err(reason) => return say(&json!({ "unable": reason })),
    };
    for line in io::stdin().lock().lines() {
        let count: usize = line?.trim().parse().map_err(io::Error::other)?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let started = Instant::now();
            (loaded.run)().map_err(io::Error::other)?;
            times.push(milliseconds(started));
        }
        say(&json!({ "ms": times }))?;
    }
    say(&json!({ "peak_bytes": peak_bytes() }))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn say(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

/// The high-water mark of this process's resident memory, where Linux tells it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kilobytes.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Option<Task> {
        parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_a_file_threads_and_sizes() {
        let task = parse_words("model.onnx 2 batch_size=8 height=224").unwrap();
        assert_eq!((task.model.to_str(), task.threads, task.sizes["batch_size"]), (Some("model.onnx"), 2, 8));
        for wrong in ["", "model.onnx", "model.onnx two", "model.onnx 1 batch_size", "model.onnx 1 batch_size=many"] {
            assert!(parse_words(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_has_memory() {
        assert!(peak_bytes().unwrap() > 100_000);
    }
}
