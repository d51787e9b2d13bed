//! A NATS server: the server's tests queue jobs in it.

use std::path::Path;
use std::process::Command;

use super::{State, apt};
use crate::error::Error;
use crate::process;

/// Where Debian puts it: a place that is not on everybody's `PATH`.
const DEBIAN: &str = "/usr/sbin/nats-server";

/// Finds it, or installs it. Where neither works, those tests are left out and all others run.
pub(super) fn ensure() -> Result<State, Error> {
    if let Some(version) = version() {
        return Ok(State::Present(version));
    }
    let installed = apt::install("NATS", &["nats-server"], "install nats-server 2.9 or newer");
    match (installed, version()) {
        (Ok(()), Some(version)) => Ok(State::Installed(version)),
        _ => Ok(State::NotNeeded("without nats-server, the server's tests of asynchronous jobs are left out")),
    }
}

/// `nats-server: v2.9.10`
fn version() -> Option<String> {
    let on_path = process::find_program("nats-server").is_some();
    let program = if on_path { "nats-server" } else { DEBIAN };
    if !on_path && !Path::new(DEBIAN).is_file() {
        return None;
    }
    let version = process::capture("asking nats-server for its version", Command::new(program).arg("--version"));
    version.ok().map(|version| version.trim().to_owned())
}
