//! The models known by name.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// A model known by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// The name that commands take.
    pub name: String,
    /// What it is, in one line.
    pub title: String,
    /// What it does: `dual-tower` or `image-to-text`.
    pub task: String,
    /// SPDX expression.
    pub license: String,
    /// `bundled`: its folder ships with the project.
    pub source: String,
    /// Version of the files.
    pub revision: String,
    /// SHA-256 of the files that decide results, by path inside the folder.
    pub sha256: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Catalog {
    model: Vec<CatalogEntry>,
}

/// All of them; the first is the default.
pub fn entries() -> &'static [CatalogEntry] {
    static CATALOG: OnceLock<Vec<CatalogEntry>> = OnceLock::new();
    CATALOG.get_or_init(|| {
        let catalog: Catalog = toml::from_str(include_str!("../catalog.toml")).expect("a test reads this file");
        catalog.model
    })
}

/// The first that does this task.
pub fn first_for(task: &str) -> Option<&'static CatalogEntry> {
    entries().iter().find(|entry| entry.task == task)
}

/// The one of this name.
pub fn find(name: &str) -> Option<&'static CatalogEntry> {
    entries().iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::sha256_file;

    #[test]
    fn bundled_files_are_the_ones_listed() {
        assert!(!entries().is_empty());
        for entry in entries() {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled").join(&entry.name);
            for (file, expected) in &entry.sha256 {
                let digest = sha256_file(&folder.join(file)).unwrap();
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hex, *expected, "{}/{file}", entry.name);
            }
        }
    }
}
