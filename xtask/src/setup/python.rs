//! A Python that can make virtual environments: the server's tests put other people's clients into one.

use std::process::Command;

use super::{State, apt};
use crate::error::Error;
use crate::process;

/// Finds it, or installs it. Where neither works, those tests are left out and all others run.
pub(super) fn ensure() -> Result<State, Error> {
    if let Some(version) = version() {
        return Ok(State::Present(version));
    }
    let installed = apt::install("Python", &["python3", "python3-venv"], "install Python 3 with its module venv");
    match (installed, version()) {
        (Ok(()), Some(version)) => Ok(State::Installed(version)),
        _ => Ok(State::NotNeeded("without Python's venv, the server's tests with other clients are left out")),
    }
}

/// The version of a Python that has what it takes.
fn version() -> Option<String> {
    process::find_program("python3")?;
    let script = "import ensurepip, platform, venv; print(platform.python_version())";
    let version = process::capture("asking Python for its modules", Command::new("python3").args(["-c", script]));
    version.ok().map(|version| version.trim().to_owned())
}
