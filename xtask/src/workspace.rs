//! Where things are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout that the tasks work on.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the checkout from the manifest that cargo runs xtask from.
    pub(crate) fn find() -> Self {
        let manifest_dir =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// The root of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the checkout.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Cargo's target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where xtask keeps its own records; beside its build, so that `cargo clean` clears them too.
    pub(crate) fn records(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// The folder of test graphs and models too large for git, which lies beside the checkout.
    pub(crate) fn shared(&self) -> Option<PathBuf> {
        let candidates = [
            env::var_os("LENSLET_SHARED").map(PathBuf::from),
            Some(self.root.join("../shared")),
            Some(self.root.join("shared")),
        ];
        candidates.into_iter().flatten().find(|dir| dir.is_dir())
    }

    /// The cargo that runs xtask, working in the checkout.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }

    /// npm, working in the npm package.
    pub(crate) fn npm(&self) -> Command {
        let mut command = crate::process::npm();
        command.current_dir(self.path("web"));
        command
    }
}
