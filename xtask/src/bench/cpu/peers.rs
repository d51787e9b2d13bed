//! The programs of the peers.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::Peer;
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// A program that serves the protocol.
pub(super) struct Program {
    /// What rows call it.
    pub(super) name: &'static str,
    pub(super) file: PathBuf,
    /// What it interprets, if it is an interpreter.
    pub(super) script: Option<PathBuf>,
    /// Whether it wants a graph whose shapes are all numbers.
    pub(super) fixed_shapes: bool,
    /// Why there is no such file.
    pub(super) unable: Option<String>,
}

impl Program {
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        command.args(&self.script);
        command
    }
}

/// Installs and builds what the chosen peers need. A peer that was asked for by its name must be there; another that cannot be
/// built says so in its rows.
pub(super) fn prepare(
    workspace: &Workspace,
    peers: &[Peer],
    named: bool,
    python: &Path,
) -> Result<Vec<Program>, Error> {
    let program = |&peer: &Peer| {
        let name = peer.name();
        if peer == Peer::OnnxRuntime {
            let script = Some(workspace.path("xtask/src/bench/onnxruntime_peer.py"));
            return Ok(Program { name, file: python.to_owned(), script, fixed_shapes: false, unable: None });
        }
        let (file, unable) = match built(workspace, name) {
            Ok(file) => (file, None),
            Err(error) if named => return Err(error),
            Err(error) => {
                eprintln!("{error}");
                (PathBuf::new(), Some("it could not be built".to_owned()))
            }
        };
        Ok(Program { name, file, script: None, fixed_shapes: peer == Peer::Wonnx, unable })
    };
    peers.iter().map(program).collect()
}

/// The program of a peer in Rust, built from a crate that is no part of the project's workspace.
///
/// One at a time: together, cargo would unify the features of what they depend on, and compile the others again for each choice
/// of peers.
fn built(workspace: &Workspace, name: &str) -> Result<PathBuf, Error> {
    eprintln!("Building {name} ...");
    let target = workspace.records().join("peers/rust");
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--locked", "--features", name, "--bin", name]);
    build.arg("--manifest-path").arg(workspace.path("xtask/peers/Cargo.toml")).arg("--target-dir").arg(&target);
    process::run("building a peer", &mut build)?;
    Ok(target.join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}
