//! Peers in the browser. The project does not depend on them: npm installs each into a folder of its own, beside xtask's
//! records.

use std::fs;
use std::path::PathBuf;

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// A package, in the version that figures are given for.
pub(super) struct Package {
    /// What people call it.
    pub(super) name: &'static str,
    /// What npm calls it.
    pub(super) package: &'static str,
    pub(super) version: &'static str,
}

impl Package {
    /// Its `node_modules`, installed unless that was done before.
    pub(super) fn ensure(&self, workspace: &Workspace) -> Result<PathBuf, Error> {
        let Self { name, package, version } = self;
        let folder = workspace.records().join("peers").join(name);
        let modules = folder.join("node_modules");
        // Written last: an installation that was cut off is not taken for a whole one.
        let done = folder.join("installed");
        if fs::read_to_string(&done).is_ok_and(|installed| installed == *version) && modules.is_dir() {
            return Ok(modules);
        }
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        eprintln!("Installing {name} {version}, to compare with, into {} ...", folder.display());
        let mut npm = process::npm();
        // Named, because npm otherwise installs beside the nearest package.json further up.
        npm.current_dir(&folder).arg("install").arg("--prefix").arg(&folder);
        // Install scripts are where packages download binaries, here those for Node.js.
        npm.args(["--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", &format!("{package}@{version}")]);
        process::capture("installing a peer with npm", &mut npm).map_err(|error| Error::Missing {
            what: "a runtime to compare with",
            why: error.to_string(),
            remedy: format!(
                "give npm a network, or choose rows that need no browser; npm installs {package}@{version} into {}",
                folder.display()
            ),
        })?;
        fs::write(&done, version).map_err(Error::io("write", &done))?;
        Ok(modules)
    }
}
