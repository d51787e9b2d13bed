//! The models that are measured: full-size skeletons of the test material, filled by its own recipe.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cases::Precision;
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// A graph of the test material: its model's folder and its file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Graph(pub(super) &'static str, pub(super) &'static str);

impl Graph {
    /// Its file below [`folder`].
    pub(super) fn file(self, precision: Precision) -> String {
        let suffix = match precision {
            Precision::Fp32 => "",
            Precision::Int8 => "_quantized",
        };
        format!("{}/{}{suffix}.onnx", self.0, self.1)
    }
}

/// Where filled graphs lie.
pub(super) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.records().join("bench")
}

/// A full-size graph, filled unless that was done before.
pub(super) fn filled(
    workspace: &Workspace,
    python: &Path,
    graph: Graph,
    precision: Precision,
) -> Result<PathBuf, Error> {
    let folder = folder(workspace);
    let (exact, wanted) = (folder.join(graph.file(Precision::Fp32)), folder.join(graph.file(precision)));
    // The recipe writes the exact graph first; a half-written file would be taken for a whole one.
    let done = wanted.with_extension("onnx.done");
    if done.is_file() && wanted.is_file() {
        return Ok(wanted);
    }
    let zoo = workspace.shared().map(|shared| shared.join("zoo")).filter(|zoo| zoo.is_dir());
    let zoo = zoo.ok_or_else(|| Error::Missing {
        what: "the zoo of test graphs",
        why: "there is no folder shared/zoo beside this checkout".to_owned(),
        remedy: "set LENSLET_SHARED to the folder that holds zoo/".to_owned(),
    })?;
    eprintln!("Making {} ...", wanted.display());
    if let Some(parent) = wanted.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    let mut command = Command::new(python);
    command
        .arg(zoo.join("fill.py"))
        .arg(zoo.join(format!("{}/full/{}.skeleton.onnx.gz", graph.0, graph.1)))
        .arg(&exact);
    if precision == Precision::Int8 {
        command.args(["--quantize", "quantized"]);
    }
    process::capture("filling a skeleton with weights", &mut command)?;
    fs::write(&done, "").map_err(Error::io("write", &done))?;
    Ok(wanted)
}
