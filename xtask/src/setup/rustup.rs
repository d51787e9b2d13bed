//! Standard libraries for other targets.

use std::path::Path;
use std::process::Command;

use super::announce;
use crate::process;
use crate::workspace::Workspace;

/// Whether the compiler in use has the standard library of `target`.
pub(super) fn has_target(workspace: &Workspace, target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.current_dir(workspace.root()).args(["--print", "target-libdir", "--target", target]);
    process::capture("asking rustc for a library", &mut command).is_ok_and(|dir| has_std(Path::new(dir.trim())))
}

/// Whether a target's library folder holds the standard library; it is printed even if it does not exist.
fn has_std(dir: &Path) -> bool {
    dir.read_dir()
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

/// Whether the compiler in use has the source of the standard library.
pub(super) fn has_source(workspace: &Workspace) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.current_dir(workspace.root()).args(["--print", "sysroot"]);
    process::capture("asking rustc for its sysroot", &mut command).is_ok_and(|sysroot| is_source_in(&sysroot))
}

/// Whether the sysroot that a compiler printed holds the source of the standard library.
pub(super) fn is_source_in(sysroot: &str) -> bool {
    Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library").is_dir()
}

/// Sees to it that the compiler in use has the source of the standard library, for the component `what`, or says why that is not
/// possible.
pub(super) fn ensure_source(workspace: &Workspace, what: &str) -> Result<(), String> {
    ensure(workspace, what, ["component", "add", "rust-src"], || has_source(workspace))
}

/// The same of the standard library of `target`.
pub(super) fn ensure_target(workspace: &Workspace, what: &str, target: &str) -> Result<(), String> {
    ensure(workspace, what, ["target", "add", target], || has_target(workspace, target))
}

/// Runs rustup, unless what it adds `is_there`.
fn ensure(workspace: &Workspace, what: &str, args: [&str; 3], is_there: impl Fn() -> bool) -> Result<(), String> {
    if is_there() {
        return Ok(());
    }
    if process::find_program("rustup").is_none() {
        return Err("there is no rustup".to_owned());
    }
    announce(what, &format!("rustup {}", args.join(" ")));
    let mut command = Command::new("rustup");
    command.current_dir(workspace.root()).args(args);
    process::capture("rustup", &mut command).map_err(|error| error.to_string())?;
    if is_there() {
        return Ok(());
    }
    Err(format!("rustup {} changed another toolchain than the one in use", args.join(" ")))
}
