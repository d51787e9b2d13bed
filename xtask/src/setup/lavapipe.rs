//! Mesa's lavapipe: Vulkan on the CPU, for the GPU tests.

use std::fs;
use std::path::PathBuf;

use super::{State, apt};
use crate::error::Error;

/// Where Vulkan drivers register themselves on Linux.
const ICD_DIRS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// The file that registers lavapipe with the Vulkan loader. It is called `lvp_icd.json` or
/// `lvp_icd.x86_64.json`, depending on the version of Mesa.
pub(crate) fn icd() -> Option<PathBuf> {
    ICD_DIRS.iter().find_map(|dir| {
        fs::read_dir(dir)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_lavapipe))
    })
}

pub(super) fn ensure() -> Result<State, Error> {
    if !cfg!(target_os = "linux") {
        return Ok(State::NotNeeded("GPU tests use the system's own device"));
    }
    if let Some(path) = icd() {
        return Ok(State::Present(path.display().to_string()));
    }
    apt::install(
        "lavapipe",
        &["mesa-vulkan-drivers", "libvulkan1"],
        "install Mesa's Vulkan drivers (mesa-vulkan-swrast, vulkan-swrast or the like) and the Vulkan loader",
    )?;
    icd().map(|path| State::Installed(path.display().to_string())).ok_or_else(|| Error::Missing {
        what: "lavapipe",
        why: "mesa-vulkan-drivers is installed but registers no lavapipe".to_owned(),
        remedy: "run the tests on a machine with a Vulkan device".to_owned(),
    })
}

fn is_lavapipe(name: &str) -> bool {
    name.starts_with("lvp_icd.") && name.ends_with("json")
}

#[cfg(test)]
mod tests {
    use super::is_lavapipe;

    #[test]
    fn knows_both_names() {
        assert!(is_lavapipe("lvp_icd.json"));
        assert!(is_lavapipe("lvp_icd.x86_64.json"));
        assert!(!is_lavapipe("intel_icd.x86_64.json"));
        assert!(!is_lavapipe("lvp_icd.json.bak"));
    }
}
