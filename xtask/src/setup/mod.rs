//! `cargo xtask setup`: what the other tasks need on this machine, checked and, where that is possible
//! without asking, installed.
//!
//! System packages are installed only by root on a system with `apt-get` (a container, CI); everybody else
//! is told the command. Everything that is there already costs a look at a file or one `--version`.

pub(crate) mod aarch64;
mod apt;
mod chromium;
pub(crate) mod deploy;
mod lavapipe;
mod make;
mod nats;
mod node;
mod python;
mod rustup;
pub(crate) mod wasm;

pub(crate) use lavapipe::icd as lavapipe_icd;
pub(crate) use make::is_there as can_build_c;

use crate::error::Error;
use crate::workspace::Workspace;

/// One thing that a task may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component {
    /// A compiler for wasm32-unknown-unknown.
    Wasm,
    /// Node.js and npm.
    Node,
    /// The npm packages of `web/`.
    NodePackages,
    /// Chromium, to test and check pages with.
    Chromium,
    /// A Vulkan device for GPU tests on a machine that has none.
    Lavapipe,
    /// A compiler for aarch64 and an emulator, to test its kernels elsewhere.
    Aarch64,
    /// Python with virtual environments, for clients that others wrote.
    Python,
    /// A NATS server, for asynchronous jobs.
    Nats,
    /// What builds librdkafka, for asynchronous jobs too.
    Make,
    /// Helm, hadolint, promtool and schemas, for the files that deploy the server.
    Deploy,
}

/// How a component was found.
#[derive(Debug)]
pub(crate) enum State {
    /// It was there.
    Present(String),
    /// It was missing and is there now.
    Installed(String),
    /// This machine or checkout has no use for it.
    NotNeeded(&'static str),
}

impl Component {
    pub(crate) const ALL: &[Self] = &[
        Self::Wasm,
        Self::Node,
        Self::NodePackages,
        Self::Chromium,
        Self::Lavapipe,
        Self::Aarch64,
        Self::Python,
        Self::Nats,
        Self::Make,
        Self::Deploy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Wasm => "wasm toolchain",
            Self::Node => "node",
            Self::NodePackages => "npm packages",
            Self::Chromium => "chromium",
            Self::Lavapipe => "lavapipe",
            Self::Aarch64 => "aarch64",
            Self::Python => "python",
            Self::Nats => "nats-server",
            Self::Make => "make",
            Self::Deploy => "deploy",
        }
    }

    fn ensure(self, workspace: &Workspace) -> Result<State, Error> {
        match self {
            Self::Wasm => wasm::ensure(workspace),
            Self::Node => node::ensure_node(),
            Self::NodePackages => node::ensure_packages(workspace),
            Self::Chromium => chromium::ensure(),
            Self::Lavapipe => lavapipe::ensure(),
            Self::Aarch64 => aarch64::ensure(workspace),
            Self::Python => python::ensure(),
            Self::Nats => nats::ensure(),
            Self::Make => make::ensure(),
            Self::Deploy => deploy::ensure(workspace),
        }
    }

    /// Whether the tasks do without it: what needs it says that it is left out.
    fn is_optional(self) -> bool {
        matches!(self, Self::Aarch64 | Self::Deploy)
    }
}

/// Sets up the given components, in order, and prints a line for each. Goes through all of them even if one
/// cannot be had, so that the user reads everything there is to do at once.
pub(crate) fn run(workspace: &Workspace, components: &[Component]) -> Result<(), Error> {
    let mut missing = Vec::new();
    for component in components {
        let name = component.name();
        match component.ensure(workspace) {
            Ok(State::Present(detail)) => eprintln!("  {name:<15} present    {detail}"),
            Ok(State::Installed(detail)) => eprintln!("  {name:<15} installed  {detail}"),
            Ok(State::NotNeeded(reason)) => eprintln!("  {name:<15} not needed {reason}"),
            Err(error) if component.is_optional() => eprintln!("  {name:<15} left out   {error}"),
            Err(error) => {
                eprintln!("  {name:<15} MISSING    {error}");
                missing.push(name);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Failed(format!("this machine lacks: {}; see above for what to do", missing.join(", "))))
}

/// Says that something is being installed: it may take minutes.
fn announce(what: &str, how: &str) {
    eprintln!("  {what:<15} installing ({how}) ...");
}
