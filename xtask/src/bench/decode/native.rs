//! The command line's `generate` beside ONNX Runtime in Python.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::super::{PEER, built_lenslet, models, number};
use super::{Case, Model, NEW_TOKENS, Pair, Turn};
use crate::error::Error;
use crate::workspace::Workspace;

/// What both are run with.
pub(super) struct Native {
    lenslet: PathBuf,
    python: PathBuf,
    peer: PathBuf,
}

impl Native {
    pub(super) fn prepare(workspace: &Workspace) -> Result<Self, Error> {
        let python = models::python()?;
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
        let product = number("lenslet generate", &mut command, "/tokens_per_second")?;

        let mut command = Command::new(&self.python);
        command.arg(&self.peer).arg(&model.file).args([&threads, &tokens]);
        // What the tokens are does not matter for the time, how many does.
        command.args(std::iter::repeat_n("504", 10 * case.repeats));
        let peer = number("ONNX Runtime", &mut command, "/tokens_per_second")?;
        Ok(Turn { product, peer, facts: json!({ "device": "cpu", "peer": PEER }) })
    }
}
