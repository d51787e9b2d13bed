//! A compiler for wasm32-unknown-unknown.
//!
//! Where rustup is at home, the target is one command away. Where it is not (a distribution's Rust, a
//! network without rustup's servers), Debian packages a compiler for the web whose standard library can be
//! built from source.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{State, apt, rustup};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// The target of the browser build.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// What is missing without a toolchain, for messages.
const COMPILER: &str = "a Rust compiler for wasm";

const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "cargo-web", "lld"];

/// Builds the standard library too, which a stable compiler does if `RUSTC_BOOTSTRAP` says so.
const BUILD_STD: [&str; 2] = ["-Z", "build-std=std,panic_abort"];

/// How to build for [`TARGET`] on this machine.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// The toolchain that built xtask has the target.
    Current,
    /// Debian's compiler, with the standard library built from source.
    Debian { linker: PathBuf },
}

impl Toolchain {
    /// Finds a toolchain that is ready to use.
    pub(crate) fn find(workspace: &Workspace) -> Option<Self> {
        if is_complete(workspace) { Some(Self::Current) } else { debian().ok() }
    }

    /// `cargo build` for the target; with a standard library built from source, as modules with `atomics` need it, because the one
    /// that comes with the compiler has none.
    pub(crate) fn build(&self, workspace: &Workspace, atomics: bool) -> Command {
        match self {
            Self::Current => {
                let mut command = workspace.cargo();
                command.args(["build", "--target", TARGET]);
                if atomics {
                    command.env("RUSTC_BOOTSTRAP", "1").args(BUILD_STD);
                }
                command
            }
            Self::Debian { linker } => {
                let mut command = Command::new("/usr/bin/cargo");
                command
                    .current_dir(workspace.root())
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env_remove("CARGO")
                    .env("RUSTC", "/usr/bin/rustc")
                    // -Z build-std on a stable compiler.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
                    .args(["build", "--target", TARGET])
                    .args(BUILD_STD);
                command
            }
        }
    }
}

/// Whether the toolchain that built xtask has the target, and the source from which modules with threads get a standard library of
/// their own.
fn is_complete(workspace: &Workspace) -> bool {
    rustup::has_target(workspace, TARGET) && rustup::has_source(workspace)
}

pub(super) fn ensure(workspace: &Workspace) -> Result<State, Error> {
    const WHAT: &str = "wasm toolchain";
    if is_complete(workspace) {
        return Ok(State::Present(TARGET.to_owned()));
    }
    let target = rustup::ensure_target(workspace, WHAT, TARGET);
    let why_not_rustup = match target.and_then(|()| rustup::ensure_source(workspace, WHAT)) {
        Ok(()) => return Ok(State::Installed(format!("{TARGET}, by rustup"))),
        Err(error) => error,
    };
    if debian().is_ok() {
        return Ok(State::Present("Debian's rustc-web, with build-std".to_owned()));
    }
    let with_debian =
        apt::install(COMPILER, &DEBIAN_PACKAGES, "install your distribution's standard library of Rust for wasm32")
            .and_then(|()| debian());
    match with_debian {
        Ok(_) => Ok(State::Installed("Debian's rustc-web, with build-std".to_owned())),
        Err(Error::Missing { why, remedy, .. }) => Err(Error::Missing {
            what: COMPILER,
            why: format!("{why_not_rustup}; without rustup: {why}"),
            remedy: format!(
                "rustup target add {TARGET} and rustup component add rust-src; or, without rustup: {remedy}"
            ),
        }),
        Err(other) => Err(other),
    }
}

/// Debian's toolchain, if it is complete and new enough.
fn debian() -> Result<Toolchain, Error> {
    let missing = |why: String| Error::Missing {
        what: "Debian's Rust for wasm",
        why,
        remedy: format!("apt-get install {}", DEBIAN_PACKAGES.join(" ")),
    };
    if !Path::new("/usr/bin/cargo").exists() {
        return Err(missing("there is no /usr/bin/cargo".to_owned()));
    }
    let mut rustc = Command::new("/usr/bin/rustc");
    let version = process::capture("asking Debian's rustc for its version", rustc.arg("--version"))?;
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    if release(&version).is_none_or(|version| Some(version) < release(wanted)) {
        return Err(missing(format!("Debian's is {}, and Lenslet needs {wanted}", version.trim())));
    }
    let mut rustc = Command::new("/usr/bin/rustc");
    let sysroot = process::capture("asking for its sysroot", rustc.args(["--print", "sysroot"]))?;
    if !rustup::is_source_in(&sysroot) {
        return Err(missing("the source of the standard library is not there".to_owned()));
    }
    let linker = find_linker().ok_or_else(|| missing("there is no wasm-ld".to_owned()))?;
    Ok(Toolchain::Debian { linker })
}

/// The `wasm-ld` with the highest version behind its name, or the plain one.
fn find_linker() -> Option<PathBuf> {
    (19..40)
        .rev()
        .find_map(|version| process::find_program(&format!("wasm-ld-{version}")))
        .or_else(|| process::find_program("wasm-ld"))
}

/// Major and minor of a version, with or without a name before it.
fn release(text: &str) -> Option<(u32, u32)> {
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = version.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(release("rustc 1.85.0 (4d91de4e4 2025-02-17) (built from a source tarball)"), Some((1, 85)));
        assert_eq!(release("1.91"), Some((1, 91)));
        assert_eq!(release("rustc"), None);
        assert!(release("1.100.0") > release("1.91"));
    }
}
