//! The Python that fills graphs with weights and runs ONNX Runtime.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// Names a Python to use as it is.
const PYTHON: &str = "LENSLET_PYTHON";

/// What that Python must be able to import.
const MODULES: &str = "numpy, onnx, onnxruntime";

/// What is installed otherwise; ONNX Runtime in the version that figures are given for.
const PACKAGES: [&str; 3] = ["numpy", "onnx", "onnxruntime==1.32.0"];

/// The Python named by `LENSLET_PYTHON`, or one of our own beside xtask's records, made unless that was done before.
pub(super) fn ensure(workspace: &Workspace) -> Result<PathBuf, Error> {
    let missing = |why: String| Error::Missing {
        what: "a Python with onnxruntime",
        why,
        remedy: format!(
            "python3 -m venv peers && peers/bin/pip install {}, then set {PYTHON} to peers/bin/python",
            PACKAGES.join(" ")
        ),
    };
    if let Some(named) = env::var_os(PYTHON).map(PathBuf::from) {
        return imports(&named).map(|()| named).map_err(missing);
    }
    let folder = workspace.records().join("peers/python");
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    // Written last: an installation that was cut off is not taken for a whole one.
    let done = folder.join("installed");
    let wanted = PACKAGES.join(" ");
    if fs::read_to_string(&done).is_ok_and(|packages| packages == wanted) && python.is_file() {
        return Ok(python);
    }
    let found = process::find_program("python3").or_else(|| process::find_program("python"));
    let found = found.ok_or_else(|| missing("there is no python3 on PATH".to_owned()))?;
    eprintln!("Installing {wanted}, to compare with, into {} ...", folder.display());
    let make =
        |what, command: &mut Command| process::capture(what, command).map_err(|error| missing(error.to_string()));
    make("making a Python environment", Command::new(found).args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    make("installing onnxruntime", Command::new(&python).args(pip).args(PACKAGES))?;
    imports(&python).map_err(missing)?;
    fs::write(&done, wanted).map_err(Error::io("write", &done))?;
    Ok(python)
}

fn imports(python: &Path) -> Result<(), String> {
    let mut command = Command::new(python);
    process::capture("asking Python for its modules", command.args(["-c", &format!("import {MODULES}")]))
        .map(drop)
        .map_err(|_| format!("{} cannot import {MODULES}", python.display()))
}
