//! The peer in the browser. The project does not depend on it: npm installs it into a folder of its own, beside xtask's records.

use std::fs;
use std::path::PathBuf;

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

const PACKAGE: &str = "@huggingface/transformers";

/// The version that figures are given for.
pub(super) const VERSION: &str = "4.3.1";

/// Its `node_modules`, installed unless that was done before.
pub(super) fn ensure(workspace: &Workspace) -> Result<PathBuf, Error> {
    let folder = workspace.records().join("peers/transformers.js");
    let modules = folder.join("node_modules");
    // Written last: an installation that was cut off is not taken for a whole one.
    let done = folder.join("installed");
    if fs::read_to_string(&done).is_ok_and(|version| version == VERSION) && modules.is_dir() {
        return Ok(modules);
    }
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    eprintln!("Installing transformers.js {VERSION}, to compare with, into {} ...", folder.display());
    let mut npm = process::npm();
    // Named, because npm otherwise installs beside the nearest package.json further up.
    npm.current_dir(&folder).arg("install").arg("--prefix").arg(&folder);
    // Install scripts are where packages download binaries, here those for Node.js.
    npm.args(["--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", &format!("{PACKAGE}@{VERSION}")]);
    process::capture("installing transformers.js", &mut npm).map_err(|error| Error::Missing {
        what: "transformers.js",
        why: error.to_string(),
        remedy: format!(
            "give npm a network, or choose the rows that need no browser (`--filter native`); \
             npm installs {PACKAGE}@{VERSION} into {}",
            folder.display()
        ),
    })?;
    fs::write(&done, VERSION).map_err(Error::io("write", &done))?;
    Ok(modules)
}
