//! What tests for aarch64 need on another machine: the target's standard library, a linker with a C library, and an
//! emulator of its processors.

use std::path::Path;
use std::process::Command;

use super::{State, apt, rustup};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// The target of the tests.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";

const WHAT: &str = "aarch64";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where Debian keeps the C library for the target.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
/// The part of it that every program is linked with.
const START: &str = "/usr/aarch64-linux-gnu/lib/crt1.o";
const PACKAGES: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];

/// Why tests for aarch64 cannot run here, if they cannot.
pub(crate) fn missing(workspace: &Workspace) -> Option<String> {
    if let Some(reason) = not_needed() {
        return Some(reason.to_owned());
    }
    if !rustup::has_target(workspace, TARGET) {
        return Some(format!("this compiler has no standard library for {TARGET}"));
    }
    let lacking = lacking();
    (!lacking.is_empty()).then(|| format!("there is no {}", lacking.join(" and no ")))
}

/// `cargo` for the target, whose programs run as on the processor `model` of the emulator.
pub(crate) fn cargo(workspace: &Workspace, model: &str) -> Command {
    let mut command = workspace.cargo();
    command
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("{EMULATOR} -L {LIBRARIES} -cpu {model}"));
    command
}

pub(super) fn ensure(workspace: &Workspace) -> Result<State, Error> {
    if let Some(reason) = not_needed() {
        return Ok(State::NotNeeded(reason));
    }
    let (has_target, has_tools) = (rustup::has_target(workspace, TARGET), lacking().is_empty());
    if has_target && has_tools {
        return Ok(State::Present(format!("{TARGET}, {EMULATOR}")));
    }
    rustup::ensure_target(workspace, WHAT, TARGET).map_err(|why| Error::Missing {
        what: "Rust's standard library for aarch64",
        why,
        remedy: format!("rustup target add {TARGET}"),
    })?;
    if !has_tools {
        apt::install(WHAT, &PACKAGES, "install a cross compiler for aarch64 with its C library, and QEMU's user mode")?;
        let lacking = lacking();
        if !lacking.is_empty() {
            return Err(Error::Missing {
                what: WHAT,
                why: format!("with {} installed there is still no {}", PACKAGES.join(", "), lacking.join(" and no ")),
                remedy: "put the programs on PATH".to_owned(),
            });
        }
    }
    Ok(State::Installed(format!("{TARGET}, {EMULATOR}")))
}

/// Why this machine has no use for an emulator.
fn not_needed() -> Option<&'static str> {
    match () {
        () if !cfg!(target_os = "linux") => Some("the emulator runs under Linux only"),
        () if cfg!(target_arch = "aarch64") => Some("this machine is aarch64 itself"),
        () => None,
    }
}

/// Programs and files that are not there.
fn lacking() -> Vec<&'static str> {
    let mut lacking = vec![LINKER, EMULATOR];
    lacking.retain(|name| process::find_program(name).is_none());
    if !Path::new(START).exists() {
        lacking.push(START);
    }
    lacking
}
