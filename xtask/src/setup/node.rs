//! Node.js, npm and the npm packages of `web/`.

use std::fs;
use std::process::Command;

use super::{State, announce, apt};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// The oldest Node.js that the build tools of `web/` run on.
const OLDEST: (u32, u32) = (20, 19);

pub(super) fn ensure_node() -> Result<State, Error> {
    let elsewhere = format!("install Node.js {}.{} or newer, with npm", OLDEST.0, OLDEST.1);
    let present = process::find_program("node").is_some() && process::find_program("npm").is_some();
    if !present {
        apt::install("Node.js", &["nodejs", "npm"], &elsewhere)?;
    }
    let version = process::capture("asking node for its version", Command::new("node").arg("--version"))?;
    let version = version.trim();
    if parse_version(version).is_none_or(|version| version < OLDEST) {
        return Err(Error::Missing {
            what: "a recent Node.js",
            why: format!("node on PATH is {version}"),
            remedy: elsewhere,
        });
    }
    let detail = version.to_owned();
    Ok(if present { State::Present(detail) } else { State::Installed(detail) })
}

/// Installs exactly what the lock file says. A copy of the lock file inside `node_modules` tells that this
/// has been done.
pub(super) fn ensure_packages(workspace: &Workspace) -> Result<State, Error> {
    let lock_path = workspace.path("web/package-lock.json");
    if !lock_path.is_file() {
        return Ok(State::NotNeeded("there is no web/package-lock.json"));
    }
    let lock = fs::read(&lock_path).map_err(Error::io("read", &lock_path))?;
    let installed_path = workspace.path("web/node_modules/.xtask-package-lock.json");
    if fs::read(&installed_path).is_ok_and(|installed| installed == lock) {
        return Ok(State::Present("web/node_modules".to_owned()));
    }
    announce("npm packages", "npm ci --ignore-scripts, in web/");
    // Install scripts are where packages download browsers and binaries; nothing here needs them.
    process::capture(
        "installing the npm packages of web/",
        workspace.npm().args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]),
    )?;
    fs::write(&installed_path, &lock).map_err(Error::io("write", &installed_path))?;
    Ok(State::Installed("web/node_modules".to_owned()))
}

/// Major and minor of `v20.19.5`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn reads_versions() {
        assert_eq!(parse_version("v20.19.5\n"), Some((20, 19)));
        assert_eq!(parse_version("v8"), None);
        assert_eq!(parse_version("20.1"), None);
    }
}
