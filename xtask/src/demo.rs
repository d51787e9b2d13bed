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
    /// A server that the page may speak to.
    pub(crate) server: Option<String>,
    /// Check the page with a server of its own.
    pub(crate) check_server: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            check: false,
            device: Device::Auto,
            screenshot: None,
            port: 0,
            isolated: false,
            server: None,
            check_server: false,
        }
    }
}

/// What a person might type, and what should then be among the first five.
const QUERIES: &str = "models/gallery/queries.json";

/// Builds the page, then serves or checks it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<(), Error> {
    let servers = match (&options.server, options.check_server) {
        (Some(server), _) => server.as_str(),
        // It takes any free port.
        (None, true) => "http://127.0.0.1:*",
        (None, false) => "",
    };
    build(workspace, options.check || options.check_server, servers)?;
    let dist = workspace.path("web/apps/search/dist");
    let server = Server::bind(Site::new(options.isolated).mount("/", &dist)?, options.port)?;
    if options.check {
        return check(workspace, &format!("{}/", server.spawn()), options);
    }
    if options.check_server {
        return check_server(workspace, &format!("{}/", server.spawn()), options);
    }
    let query = options.server.as_ref().map_or_else(String::new, |server| format!("?server={server}"));
    println!("The search page is at {}/{query} (Ctrl-C stops it)", server.url());
    server.run();
    Ok(())
}

/// `servers` are the addresses that the page may speak to besides its own, as its policy writes them.
fn build(workspace: &Workspace, with_browser: bool, servers: &str) -> Result<(), Error> {
    eprintln!("Checking what the demo needs:");
    let mut components = vec![Component::Wasm, Component::Node, Component::NodePackages];
    if with_browser {
        components.push(Component::Chromium);
    }
    setup::run(workspace, &components)?;
    build_web::run(workspace, &build_web::Options::default())?;
    eprintln!("Building the search page ...");
    let mut npm = workspace.npm();
    npm.args(["run", "--silent", "build:search"]).env("LENSLET_SERVER", servers);
    process::run("building the search page", &mut npm)
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
    finish(command)
}

/// Drives the page with a server beside it, which it kills.
fn check_server(workspace: &Workspace, url: &str, options: &Options) -> Result<(), Error> {
    eprintln!("Building the server ...");
    let mut cargo = workspace.cargo();
    // With the features that the tests of all crates have: it is built already where these ran.
    cargo.args(["build", "--release", "--workspace", "--exclude", "xtask", "--bin", "lenslet-server"]);
    process::run("building the server", &mut cargo)?;
    eprintln!("Using {url} with a server in headless Chromium ...");
    let mut command = browser::script(workspace, "offload-check.mjs", ["--url", url, "--server"])?;
    command.arg(workspace.target().join("release").join(format!("lenslet-server{}", std::env::consts::EXE_SUFFIX)));
    if let Some(screenshot) = &options.screenshot {
        let absolute = std::path::absolute(screenshot).map_err(Error::io("find", screenshot))?;
        command.arg("--screenshot").arg(absolute);
    }
    finish(command)
}

/// Runs a script that says itself what is wrong.
fn finish(mut command: std::process::Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| process::start_error(&command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed("the search page did not pass its check; the lines above say why".to_owned()))
}
