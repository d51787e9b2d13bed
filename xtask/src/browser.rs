//! The system's Chromium, and the scripts that drive it.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// Where a page is asked to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Device {
    /// What the page itself chooses.
    Auto,
    #[default]
    Wasm,
    WebGpu,
}

impl Device {
    /// The name on command lines and in URLs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Wasm => "wasm",
            Self::WebGpu => "webgpu",
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Auto, Self::Wasm, Self::WebGpu]
            .into_iter()
            .find(|device| device.name() == name)
            .ok_or_else(|| format!("there is no device `{name}`; choose auto, wasm or webgpu"))
    }
}

/// The Chromium to use: the one named by `LENSLET_CHROMIUM`, or one that is installed.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = env::var_os("LENSLET_CHROMIUM").map(PathBuf::from) {
        return path.is_file().then_some(path);
    }
    let on_path = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let elsewhere = [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    ];
    on_path
        .iter()
        .find_map(|name| process::find_program(name))
        .or_else(|| elsewhere.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// Like [`find`], but its absence is an error.
pub(crate) fn require() -> Result<PathBuf, Error> {
    find().ok_or_else(|| Error::Missing {
        what: "Chromium",
        why: "none was found on PATH, nor where LENSLET_CHROMIUM points if it is set".to_owned(),
        remedy: "run `cargo xtask setup`, or set LENSLET_CHROMIUM to its path".to_owned(),
    })
}

/// A command that runs one of the scripts in `tests/browser` with the system's Chromium.
pub(crate) fn script<S: AsRef<OsStr>>(
    workspace: &Workspace,
    name: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<Command, Error> {
    let chromium = require()?;
    let mut command = Command::new("node");
    command
        .current_dir(workspace.root())
        .arg(workspace.path("tests/browser").join(name))
        .arg("--chromium")
        .arg(chromium)
        .args(args);
    Ok(command)
}
