//! `cargo xtask suite`: the test suite in headless Chromium.
//!
//! The page is `tests/browser/suite/index.html`; it finds the module under `/pkg/`, the models that ship
//! with the project under `/models/`, what they must give under `/goldens/` and `/data/`, and the test
//! graphs, where there are any, under `/shared/`, and SmolLM2, where it is, under `/smollm2/`.

use std::fs;
use std::path::PathBuf;

use crate::browser::{self, Device};
use crate::build_web;
use crate::error::Error;
use crate::process;
use crate::serve::{Server, Site};
use crate::setup::{self, Component};
use crate::workspace::Workspace;

/// The options of `cargo xtask suite`.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) device: Device,
    pub(crate) filter: Option<String>,
    pub(crate) report: Option<PathBuf>,
}

/// Names a folder with a language model whose continuations are then compared; see `tests/tests/writing.rs`.
const SMOLLM2: &str = "LENSLET_SMOLLM2";

/// The page, below `tests/browser`.
const PAGE: &str = "suite/index.html";

/// Builds the suite's module and runs the suite.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<(), Error> {
    eprintln!("Checking what the browser suite needs:");
    setup::run(workspace, &[Component::Wasm, Component::Node, Component::NodePackages, Component::Chromium])?;
    build_web::run(workspace, &build_web::Options { test_suite: true, no_wasm_opt: false })?;

    let mut site = Site::new(false)
        .mount("/", &workspace.path("tests/browser"))?
        .mount("/pkg/", &workspace.path("web/pkg-test"))?
        .mount("/models/", &workspace.path("models"))?
        .mount("/goldens/", &workspace.path("tests/goldens"))?
        .mount("/data/", &workspace.path("tests/data"))?;
    match workspace.shared() {
        Some(shared) => site = site.mount("/shared/", &shared)?,
        None => {
            eprintln!("There is no folder of test graphs beside this checkout (or LENSLET_SHARED).")
        }
    }
    if let Some(folder) = std::env::var_os(SMOLLM2) {
        site = site.mount("/smollm2/", &PathBuf::from(folder))?;
    }
    let url = format!("{}/{PAGE}", Server::bind(site, 0)?.spawn());

    let device = options.device.name();
    let report = options.report.clone().unwrap_or_else(|| default_report(workspace, options.device));
    if let Some(dir) = report.parent() {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    }
    eprintln!("Running {url} on {device} in headless Chromium ...");
    let mut command = browser::script(workspace, "run-suite.mjs", ["--url", &url, "--device", device])?;
    command.arg("--report").arg(&report);
    if let Some(filter) = &options.filter {
        command.args(["--filter", filter]);
    }
    process::run("the browser suite", &mut command)?;
    eprintln!("The report is in {}", report.display());
    Ok(())
}

/// Where the report of a device goes.
pub(crate) fn default_report(workspace: &Workspace, device: Device) -> PathBuf {
    workspace.records().join(format!("suite-{}.json", device.name()))
}
