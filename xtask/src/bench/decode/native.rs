//! The command line's `generate` beside ONNX Runtime in Python.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::super::{Peer, measured, python};
use super::{Case, Model, NEW_TOKENS, Pair, Turn};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// What both are run with.
pub(super) struct Native {
    lenslet: PathBuf,
    python: PathBuf,
    peer: PathBuf,
}

impl Native {
    pub(super) fn prepare(workspace: &Workspace) -> Result<Self, Error> {
        let python = python::ensure(workspace)?;
        let peer = workspace.path("xtask/src/bench/onnxruntime_decode_peer.py");
        Ok(Self { lenslet: built_lenslet(workspace)?, python, peer })
    }
}

impl Pair for Native {
    fn turn(&self, model: &Model, case: &Case, threads: usize) -> Result<Turn, Error> {
        let (threads, tokens) = (threads.to_string(), NEW_TOKENS.to_string());
        let mut command = Command::new(&self.lenslet);
        command.args(["generate", "--raw", "--json", "--device", "cpu", "--temperature", "0", "--precision", "int8"]);
        command.args(["--threads", &threads, "--max-tokens", &tokens, "--model"]).arg(&model.folder);
        command.arg(case.prompt());
        let product = rate("lenslet generate", &mut command)?;

        let mut command = Command::new(&self.python);
        command.arg(&self.peer).arg(&model.file).args([&threads, &tokens]);
        // What the tokens are does not matter for the time, how many does.
        command.args(std::iter::repeat_n("504", 10 * case.repeats));
        let peer = rate("ONNX Runtime", &mut command)?;
        Ok(Turn { product, peer, facts: json!({ "device": "cpu", "peer": Peer::OnnxRuntime.name() }) })
    }
}

/// The command `lenslet`, built.
fn built_lenslet(workspace: &Workspace) -> Result<PathBuf, Error> {
    eprintln!("Building the command `lenslet` ...");
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--package", "lenslet-models", "--bin", "lenslet"]);
    process::run("building lenslet", &mut build)?;
    Ok(workspace.target().join("release").join(format!("lenslet{}", std::env::consts::EXE_SUFFIX)))
}

/// Runs a command that prints JSON and takes its tokens a second.
fn rate(what: &str, command: &mut Command) -> Result<f64, Error> {
    let value = measured(what, command)?;
    let rate = value["tokens_per_second"].as_f64();
    rate.ok_or_else(|| Error::Failed(format!("{what} did not print tokens_per_second: {value}")))
}
