//! `cargo xtask suite` and `cargo xtask pictures`: tests in headless Chromium.
//!
//! The suite's page is `tests/browser/suite/index.html`; it finds the module under `/pkg/`, the models that
//! ship with the project under `/models/`, what they must give under `/goldens/` and `/data/`, and the test
//! graphs, where there are any, under `/shared/`, and SmolLM2, where it is, under `/smollm2/`.
//!
//! The other page, `tests/browser/pictures/index.html`, goes through the npm package as any page would, from
//! JPEG files that the browser itself decodes; it finds the package under `/package/`, and under `/served/`
//! the models as the search page serves them, and the test graphs under `/shared/` too.

use std::fs;
use std::path::PathBuf;

use crate::browser::{self, Device};
use crate::build_web::{self, Exports};
use crate::error::Error;
use crate::process;
use crate::serve::{Server, Site};
use crate::setup::{self, Component};
use crate::workspace::Workspace;

/// The options of both tasks.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) device: Device,
    pub(crate) filter: Option<String>,
    pub(crate) report: Option<PathBuf>,
}

/// Names a folder with a language model whose continuations are then compared; see `tests/tests/writing.rs`.
const SMOLLM2: &str = "LENSLET_SMOLLM2";

/// A page of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The cases of `tests/src`, on the module itself.
    Suite,
    /// Photographs, captions and answers through the npm package.
    Pictures,
}

impl Page {
    /// Its folder below `tests/browser`, and the task that runs it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Suite => "suite",
            Self::Pictures => "pictures",
        }
    }

    fn build(self, workspace: &Workspace) -> Result<(), Error> {
        let exports = if self == Self::Suite { Exports::TestSuite } else { Exports::Package };
        build_web::run(workspace, &build_web::Options { exports, no_wasm_opt: false })?;
        if self == Self::Pictures {
            // The page's build makes the package, and the lists of files that models are served with.
            eprintln!("Building the npm package and the search page ...");
            process::run("building the search page", workspace.npm().args(["run", "--silent", "build:search"]))?;
        }
        Ok(())
    }

    /// The package's page is isolated on WASM, where it then has threads; the search page is not, and shows the other case.
    fn site(self, workspace: &Workspace, device: Device) -> Result<Site, Error> {
        let site = Site::new(self == Self::Pictures && device == Device::Wasm)
            .mount("/", &workspace.path("tests/browser"))?
            .mount("/models/", &workspace.path("models"))?
            .mount("/goldens/", &workspace.path("tests/goldens"))?;
        let site = match self {
            Self::Pictures => site
                .mount("/package/", &workspace.path("web"))?
                .mount("/served/", &workspace.path("web/apps/search/dist/models"))?,
            Self::Suite => {
                let site = site
                    .mount("/pkg/", &workspace.path("web/pkg-test"))?
                    .mount("/data/", &workspace.path("tests/data"))?;
                match std::env::var_os(SMOLLM2) {
                    Some(folder) => site.mount("/smollm2/", &PathBuf::from(folder))?,
                    None => site,
                }
            }
        };
        match workspace.shared() {
            Some(shared) => site.mount("/shared/", &shared),
            None => {
                eprintln!("There is no folder of test graphs beside this checkout (or LENSLET_SHARED).");
                Ok(site)
            }
        }
    }
}

/// Builds what a page needs and runs its tests.
pub(crate) fn run(workspace: &Workspace, page: Page, options: &Options) -> Result<(), Error> {
    eprintln!("Checking what the tests in the browser need:");
    setup::run(workspace, &[Component::Wasm, Component::Node, Component::NodePackages, Component::Chromium])?;
    page.build(workspace)?;
    let url = format!("{}/{}/index.html", Server::bind(page.site(workspace, options.device)?, 0)?.spawn(), page.name());

    let device = options.device.name();
    let report = options.report.clone().unwrap_or_else(|| default_report(workspace, page, options.device));
    if let Some(dir) = report.parent() {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    }
    eprintln!("Running {url} on {device} in headless Chromium ...");
    let mut command = browser::script(workspace, "run-suite.mjs", ["--url", &url, "--device", device])?;
    command.arg("--report").arg(&report);
    if let Some(filter) = &options.filter {
        command.args(["--filter", filter]);
    }
    process::run("the tests in the browser", &mut command)?;
    eprintln!("The report is in {}", report.display());
    Ok(())
}

/// Where the report of a page and a device goes.
pub(crate) fn default_report(workspace: &Workspace, page: Page, device: Device) -> PathBuf {
    workspace.records().join(format!("{}-{}.json", page.name(), device.name()))
}
