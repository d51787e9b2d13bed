//! The programs of the peers.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::Peer;
use crate::error::Error;
use crate::workspace::Workspace;

/// A program that serves the protocol.
pub(super) struct Program {
    /// What rows call it.
    pub(super) name: &'static str,
    pub(super) file: PathBuf,
    /// What it interprets, if it is an interpreter.
    pub(super) script: Option<PathBuf>,
}

impl Program {
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        command.args(&self.script);
        command
    }
}

/// Installs and builds what the chosen peers need.
pub(super) fn prepare(workspace: &Workspace, peers: &[Peer], python: &Path) -> Result<Vec<Program>, Error> {
    let program = |&peer: &Peer| {
        let script = workspace.path("xtask/src/bench/onnxruntime_peer.py");
        Program { name: peer.name(), file: python.to_owned(), script: Some(script) }
    };
    Ok(peers.iter().map(program).collect())
}
