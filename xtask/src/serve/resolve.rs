//! From the target of a request to a file, and never out of the served folders.

use std::path::PathBuf;

/// A folder served under a URL path that begins and ends with a slash.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) prefix: String,
    /// Canonical, so that links can be checked against it.
    pub(super) folder: PathBuf,
}

/// All served folders.
#[derive(Debug, Default)]
pub(super) struct Mounts(Vec<Mount>);

/// What a request's target leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    File(PathBuf),
    /// A folder named without the slash at its end: relative links on its page would go wrong.
    Redirect(String),
    NotFound,
}

impl Mounts {
    /// Adds a folder. The longest matching prefix wins, so keep them in that order.
    pub(super) fn add(&mut self, mount: Mount) {
        self.0.push(mount);
        self.0.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
    }

    /// Finds the file behind a request's target.
    pub(super) fn resolve(&self, target: &str) -> Target {
        let encoded = target.split(['?', '#']).next().unwrap_or_default();
        let Some(path) = decode(encoded) else {
            return Target::NotFound;
        };
        for mount in &self.0 {
            let Some(rest) = path.strip_prefix(&mount.prefix) else {
                continue;
            };
            let Some(mut file) = join(&mount.folder, rest) else {
                return Target::NotFound;
            };
            if file.is_dir() {
                if !path.ends_with('/') {
                    return Target::Redirect(format!("{encoded}/"));
                }
                file.push("index.html");
            }
            // A symbolic link may point anywhere; what it points to must be inside too.
            return match file.canonicalize() {
                Ok(real) if real.starts_with(&mount.folder) && real.is_file() => Target::File(real),
                _ => Target::NotFound,
            };
        }
        Target::NotFound
    }
}

/// Joins the segments of a decoded URL path to a folder; `None` if one of them could leave it, or is hidden.
fn join(folder: &std::path::Path, path: &str) -> Option<PathBuf> {
    let mut file = folder.to_owned();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let hidden = segment.starts_with('.');
        // Separators and drive letters of Windows, and what no file name may hold.
        let strange = segment.contains(['\\', ':', '\0']);
        if hidden || strange {
            return None;
        }
        file.push(segment);
    }
    Some(file)
}

/// Percent-decodes a URL path; `None` if an escape is broken or the result is not UTF-8.
fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn decodes_escapes_once() {
        assert_eq!(decode("/a%20b%C3%A9").as_deref(), Some("/a bé"));
        assert_eq!(decode("/a+b").as_deref(), Some("/a+b"));
        assert_eq!(decode("/%252e").as_deref(), Some("/%2e"));
        for broken in ["/%", "/%4", "/%zz", "/%ff", "/%+1"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }

    #[test]
    fn refuses_segments_that_leave_or_hide() {
        let folder = std::path::Path::new("/site");
        assert_eq!(join(folder, "a//b.js"), Some(PathBuf::from("/site/a/b.js")));
        for path in ["..", "a/../b", ".git/config", "a\\..\\b", "c:/x", "a\0b"] {
            assert_eq!(join(folder, path), None, "{path}");
        }
    }

    #[test]
    fn longest_prefix_wins_and_links_stay_inside() {
        let base = std::env::temp_dir().join(format!("lenslet-resolve-{}", std::process::id()));
        let (app, data) = (base.join("app"), base.join("data"));
        fs::create_dir_all(app.join("docs")).unwrap();
        fs::create_dir_all(&data).unwrap();
        fs::write(app.join("index.html"), "").unwrap();
        fs::write(data.join("model.onnx"), "").unwrap();
        let base = base.canonicalize().unwrap();
        let (app, data) = (base.join("app"), base.join("data"));
        let mut mounts = Mounts::default();
        mounts.add(Mount { prefix: "/".into(), folder: app.clone() });
        mounts.add(Mount { prefix: "/data/".into(), folder: data.clone() });

        assert_eq!(mounts.resolve("/?device=wasm"), Target::File(app.join("index.html")));
        assert_eq!(mounts.resolve("/data/model.onnx"), Target::File(data.join("model.onnx")));
        assert_eq!(mounts.resolve("/docs?x"), Target::Redirect("/docs/".into()));
        assert_eq!(mounts.resolve("/docs/"), Target::NotFound);
        assert_eq!(mounts.resolve("/data/../index.html"), Target::NotFound);
        assert_eq!(mounts.resolve("index.html"), Target::NotFound);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(data.join("model.onnx"), app.join("leak")).unwrap();
            assert_eq!(mounts.resolve("/leak"), Target::NotFound);
        }
        fs::remove_dir_all(base).unwrap();
    }
}
