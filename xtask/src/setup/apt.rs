//! Installing Debian packages.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::error::Error;
use crate::process;

/// Installs packages if this is root on a system with `apt-get`; otherwise the error says the command.
pub(super) fn install(what: &'static str, packages: &[&str], elsewhere: &str) -> Result<(), Error> {
    let list = packages.join(" ");
    let missing = |why: &str, remedy: String| Err(Error::Missing { what, why: why.to_owned(), remedy });
    if process::find_program("apt-get").is_none() {
        return missing("it was not found, and xtask can install only with apt-get", elsewhere.to_owned());
    }
    if !is_root() {
        return missing(
            "it was not found, and installing it needs root",
            format!("sudo apt-get update && sudo apt-get install {list}"),
        );
    }
    super::announce(what, &format!("apt-get install {list}"));
    update()?;
    process::capture(
        &format!("installing {list}"),
        apt().args(["install", "--yes", "--no-install-recommends"]).args(packages),
    )?;
    Ok(())
}

/// Unpacks a package into a folder, without installing it or what it depends on.
pub(super) fn unpack(package: &str, folder: &Path) -> Result<(), Error> {
    if is_root() {
        update()?;
    }
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let what = format!("downloading {package}");
    process::capture(&what, apt().args(["download", package]).current_dir(folder))?;
    let files = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let files = files.flatten().map(|file| file.path());
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "deb")) {
        process::capture("unpacking", Command::new("dpkg-deb").arg("--extract").arg(&file).arg(folder))?;
        fs::remove_file(&file).map_err(Error::io("remove", &file))?;
    }
    Ok(())
}

/// Fetches the package lists, once per run: a container's are empty, and old ones name files that are gone.
fn update() -> Result<(), Error> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        process::capture("fetching the lists of Debian packages", apt().arg("update"))?;
        let _ = DONE.set(());
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Wait for another apt-get instead of failing, and try again on a shaky network.
        .args(["--quiet", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    command
}

fn is_root() -> bool {
    let id = process::capture("asking who runs this", Command::new("id").arg("-u"));
    id.is_ok_and(|id| id.trim() == "0")
}
