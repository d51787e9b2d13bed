//! What can go wrong, and what the user can do about it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// The error of every task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line makes no sense.
    #[error("{0}\n  `cargo xtask help` lists the tasks and their options.")]
    Usage(String),

    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// Something that the task needs is not on this machine and could not be installed.
    #[error("{what} is missing: {why}.\n  What to do: {remedy}")]
    Missing { what: &'static str, why: String, remedy: String },

    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: std::io::Error },

    /// A program ran and failed; its own output says why.
    #[error("{what} failed ({status}): {command}{}", tail_of(output))]
    Command { what: String, command: String, status: ExitStatus, output: String },

    /// wasm-bindgen refused the module.
    #[error("wasm-bindgen cannot process {}: {message}", path.display())]
    Bindgen { path: PathBuf, message: String },

    /// A wasm file grew over the limit that the project promises.
    #[error(
        "{file} has {size} bytes, more than the {limit} that the browser build may have.\n  \
         What to do: look for the dependency or generic code that grew (`twiggy top` helps) and cut it."
    )]
    TooBig { file: String, size: u64, limit: u64 },

    /// A check ran to its end and did not pass; its report has been printed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Wraps an I/O error with what was being done to which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The exit status of xtask: 2 is bad usage, 1 everything else.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// A command as one would type it, for messages.
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn tail_of(output: &str) -> String {
    let tail = crate::process::last_lines(output, 40);
    if tail.is_empty() { String::new() } else { format!("\n  its last lines:\n{}", indent(&tail)) }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
