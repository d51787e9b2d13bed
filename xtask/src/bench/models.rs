//! The models that are measured: full-size skeletons of the test material, filled by its own recipe, and the Python that fills
//! them and runs the peer.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// Names a Python for the peer.
const PYTHON: &str = "LENSLET_PYTHON";

/// What that Python must be able to import.
const MODULES: &str = "numpy, onnx, onnxruntime";

/// The Python named by `LENSLET_PYTHON`, or the one on `PATH`, if it has what is needed.
pub(super) fn python() -> Result<PathBuf, Error> {
    let named = env::var_os(PYTHON).map(PathBuf::from);
    let found = named.or_else(|| process::find_program("python3")).or_else(|| process::find_program("python"));
    let missing = |why: String| Error::Missing {
        what: "a Python with onnxruntime",
        why,
        remedy: format!(
            "python3 -m venv peers && peers/bin/pip install numpy onnx onnxruntime, then set {PYTHON} to peers/bin/python"
        ),
    };
    let Some(python) = found else {
        return Err(missing("there is no python3 on PATH".to_owned()));
    };
    process::capture("asking Python for its modules", Command::new(&python).args(["-c", &format!("import {MODULES}")]))
        .map_err(|_| missing(format!("{} cannot import {MODULES}", python.display())))?;
    Ok(python)
}

/// A full-size graph of CLIP ViT-B/32, filled unless that was done before.
pub(super) fn filled(workspace: &Workspace, python: &Path, graph: &str, int8: bool) -> Result<PathBuf, Error> {
    let folder = workspace.records().join("bench");
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let exact = folder.join(format!("{graph}.onnx"));
    let wanted = if int8 { folder.join(format!("{graph}_quantized.onnx")) } else { exact.clone() };
    // The recipe writes the exact graph first; a half-written file would be taken for a whole one.
    let done = folder.join(format!("{}.done", wanted.file_name().unwrap_or_default().to_string_lossy()));
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
    let mut command = Command::new(python);
    command
        .arg(zoo.join("fill.py"))
        .arg(zoo.join(format!("clip-vit-base-patch32/full/{graph}.skeleton.onnx.gz")))
        .arg(&exact);
    if int8 {
        command.args(["--quantize", "quantized"]);
    }
    process::capture("filling a skeleton with weights", &mut command)?;
    fs::write(&done, "").map_err(Error::io("write", &done))?;
    Ok(wanted)
}
