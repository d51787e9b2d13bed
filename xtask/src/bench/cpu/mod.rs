//! `cargo xtask bench cpu`: graphs, natively, in turns with other runtimes.
//!
//! Each runtime has a process that loads the graph once and sleeps between its turns. A turn is some tenth of a second, so
//! that twenty rounds of all of them take seconds, and what else the machine does meanwhile hits all alike.

mod peers;
mod runner;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::cases::{Case, Precision};
use super::row::{self, Measured, Outcome, Subject};
use super::{Options, Peer, measured, models, python};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use peers::Program;
use runner::{Runner, Start};

/// Every runtime is started this often for the time of loading; the last process stays for the turns.
const STARTS: usize = 3;

/// A thread pool may wait awake for more work; then it sleeps.
const REST: Duration = Duration::from_millis(40);

/// How long a turn should take at least, in milliseconds.
const TURN_MS: f64 = 80.0;

/// Runs longer than this have forgotten by their end what the caches held before: no run goes before them that does not count.
const LONG_MS: f64 = 250.0;

/// What measures, ready to be started.
struct Bench<'a> {
    workspace: &'a Workspace,
    python: PathBuf,
    product: PathBuf,
    peers: Vec<Program>,
}

/// The rows.
pub(super) fn rows(
    workspace: &Workspace,
    options: &Options,
    mut done: impl FnMut(&Value),
) -> Result<Vec<Value>, Error> {
    let cases = options.cases()?;
    let chosen = options.peers(&Peer::NATIVE)?;
    let python = python::ensure(workspace)?;
    let product = built(workspace)?;
    let peers = peers::prepare(workspace, &chosen, !options.peers.is_empty(), &python)?;
    let bench = Bench { workspace, python, product, peers };
    let logs = bench.logs();
    fs::create_dir_all(&logs).map_err(Error::io("create", &logs))?;
    let mut rows = Vec::new();
    for case in &cases {
        let model = models::filled(workspace, &bench.python, case.graph, case.precision)?;
        for &threads in &options.threads_or(&[1, 2]) {
            for row in bench.measure(case, &model, threads, options.rounds_or(super::ROUNDS))? {
                done(&row);
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Lenslet's own process, built.
fn built(workspace: &Workspace) -> Result<PathBuf, Error> {
    eprintln!("Building Lenslet's process ...");
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--package", "lenslet-tests", "--bin", "timed"]);
    process::run("building Lenslet's process", &mut build)?;
    Ok(workspace.target().join("release").join(format!("timed{}", std::env::consts::EXE_SUFFIX)))
}

/// A runtime and what was found out about it so far.
struct Side {
    runner: Runner,
    found: Measured,
    /// What a run takes by its latest turn, in milliseconds.
    pace: f64,
}

impl Bench<'_> {
    fn logs(&self) -> PathBuf {
        self.workspace.records().join("logs")
    }

    /// Rows of a case: Lenslet beside each peer.
    fn measure(&self, case: &Case, model: &Path, threads: usize, rounds: usize) -> Result<Vec<Value>, Error> {
        eprintln!("{} on {threads} threads ...", case.name());
        let limit = self.limit(case, threads)?;
        let product =
            Program { name: "lenslet", file: self.product.clone(), script: None, fixed_shapes: false, unable: None };
        let programs: Vec<&Program> = std::iter::once(&product).chain(&self.peers).collect();
        let mut sides = self.start_all(&programs, case, model, threads)?;
        let count = sides.len();
        for round in 0..rounds {
            // Nobody is always the one behind the same other.
            for turn in 0..count {
                if let Ok(side) = &mut sides[(round + turn) % count] {
                    side.turn()?;
                }
            }
        }
        let mut ended = Vec::with_capacity(count);
        for side in sides {
            ended.push(match side {
                Ok(side) => Outcome::Measured(side.end()?),
                Err(reason) => Outcome::Unable(reason),
            });
        }
        let model_bytes = fs::metadata(model).map_err(Error::io("read", model))?.len();
        let subject = Subject { case, device: "cpu", threads, model_bytes, limit: &limit };
        match ended.split_first() {
            Some((Outcome::Measured(product), peers)) => {
                let named = self.peers.iter().zip(peers);
                Ok(named.map(|(peer, outcome)| row::row(subject, product, peer.name, outcome)).collect())
            }
            Some((Outcome::Unable(reason), _)) => {
                Err(Error::Failed(format!("Lenslet cannot run {}: {reason}", model.display())))
            }
            None => Ok(Vec::new()),
        }
    }

    /// What the machine's instructions allow in this precision.
    fn limit(&self, case: &Case, threads: usize) -> Result<Value, Error> {
        let mut command = Command::new(&self.product);
        let limits = measured("the probe", command.args(["--limit", &threads.to_string()]))?;
        Ok(match case.precision {
            Precision::Fp32 => limits["f32"].clone(),
            Precision::Int8 => limits["int8"].clone(),
        })
    }

    /// Starts all of them, several times in turns; the processes of the last time, or why there is none.
    fn start_all(
        &self,
        programs: &[&Program],
        case: &Case,
        model: &Path,
        threads: usize,
    ) -> Result<Vec<Result<Side, String>>, Error> {
        let fixed = self.logs().join("bench-fixed-shapes.onnx");
        if programs.iter().any(|program| program.fixed_shapes && program.unable.is_none()) {
            let mut command = Command::new(&self.python);
            command.arg(self.workspace.path("xtask/src/bench/fixed_shapes.py")).arg(model).arg(&fixed);
            process::capture("writing shapes into a graph", command.args(case.sizes()))?;
        }
        let mut starts: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); programs.len()];
        let mut sides: Vec<Result<Side, String>> = Vec::new();
        for _ in 0..STARTS {
            // Those of the time before make room first.
            sides.clear();
            for (program, (loads, firsts)) in programs.iter().zip(&mut starts) {
                if let Some(reason) = &program.unable {
                    sides.push(Err(reason.clone()));
                    continue;
                }
                let mut command = program.command();
                command
                    .arg(if program.fixed_shapes { fixed.as_path() } else { model })
                    .arg(threads.to_string())
                    .args(case.sizes());
                let log = self.logs().join(format!("bench-{}.log", program.name));
                sides.push(match Runner::start(program.name, &mut command, &log)? {
                    Start::Ready(runner) => {
                        loads.push(runner.load_ms);
                        firsts.push(runner.first_ms);
                        let (load_ms, first_ms) = (row::median(loads), row::median(firsts));
                        let found =
                            Measured { version: runner.version.clone(), load_ms, first_ms, ..Measured::default() };
                        Ok(Side { pace: runner.first_ms, runner, found })
                    }
                    Start::Unable(reason) => Err(reason),
                });
            }
        }
        // Where nothing wanted it, there is none.
        let _ = fs::remove_file(fixed);
        Ok(sides)
    }
}

impl Side {
    fn turn(&mut self) -> Result<(), Error> {
        thread::sleep(REST);
        let (runs, before) = plan(self.pace);
        let times = self.runner.times(before + runs)?;
        self.pace = row::median(&times[before..]);
        self.found.turns.push(self.pace);
        Ok(())
    }

    fn end(mut self) -> Result<Measured, Error> {
        self.found.peak_bytes = self.runner.end()?;
        Ok(self.found)
    }
}

/// How many runs make a turn, and how many before them do not count, where a run takes `pace` milliseconds.
fn plan(pace: f64) -> (usize, usize) {
    let runs = (TURN_MS / pace.max(TURN_MS / 50.0)).ceil() as usize;
    (runs.max(1), usize::from(pace < LONG_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_long_enough_and_not_longer() {
        assert_eq!(plan(0.001), (50, 1));
        assert_eq!(plan(10.0), (8, 1));
        assert_eq!(plan(100.0), (1, 1));
        assert_eq!(plan(1500.0), (1, 0));
    }
}
