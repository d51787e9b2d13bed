//! `cargo xtask demo`: the search page, built from nothing, to look at or to check.

use std::path::PathBuf;

use crate::browser::{self, Device};
use crate::build_web;
use crate::error::Error;
use crate::process;
use crate::serve::{Server, Site};
use crate::setup::{self, Component};
use crate::workspace::Workspace;

/// The options of `cargo xtask demo`.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) check: bool,
    pub(crate) device: Device,
    pub(crate) screenshot: Option<PathBuf>,
    pub(crate) port: u16,
    pub(crate) isolated: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { check: false, device: Device::Auto, screenshot: None, port: 0, isolated: false }
    }
}

/// What a person might type, and what should then be among the first five.
const QUERIES: &str = "models/gallery/queries.json";

/// Builds the page, then serves or checks it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<(), Error> {
    build(workspace, options.check)?;
    let dist = workspace.path("web/apps/search/dist");
    let server = Server::bind(Site::new(options.isolated).mount("/", &dist)?, options.port)?;
    if options.check {
        return check(workspace, &format!("{}/", server.spawn()), options);
    }
    println!("The search page is at {}/ (Ctrl-C stops it)", server.url());
    server.run();
    Ok(())
}

fn build(workspace: &Workspace, with_browser: bool) -> Result<(), Error> {
    eprintln!("Checking what the demo needs:");
    let mut components = vec![Component::Wasm, Component::Node, Component::NodePackages];
    if with_browser {
        components.push(Component::Chromium);
    }
    setup::run(workspace, &components)?;
    build_web::run(workspace, &build_web::Options::default())?;
    eprintln!("Building the search page ...");
    process::run("building the search page", workspace.npm().args(["run", "--silent", "build:search"]))
}

/// Drives the page in headless Chromium; the script's JSON is this task's standard output.
fn check(workspace: &Workspace, url: &str, options: &Options) -> Result<(), Error> {
    eprintln!("Using {url} in headless Chromium ...");
    let mut command =
        browser::script(workspace, "demo-check.mjs", ["--url", url, "--device", options.device.name(), "--queries"])?;
    command.arg(workspace.path(QUERIES));
    if let Some(screenshot) = &options.screenshot {
        // The script runs in the root of the checkout; the user may not.
        let absolute = std::path::absolute(screenshot).map_err(Error::io("find", screenshot))?;
        command.arg("--screenshot").arg(absolute);
    }
    let status = command.status().map_err(|source| process::start_error(&command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed("the search page did not pass its check; the lines above say why".to_owned()))
}
