//! Media types by file extension.

use std::path::Path;

/// The media type of a file. Browsers insist on the right one for modules and streamed wasm; what is not
/// listed is plain bytes.
pub(super) fn of(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "txt" | "md" | "toml" | "wgsl" => "text/plain; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "avif" => "image/avif",
        "ico" => "image/vnd.microsoft.icon",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_browsers_are_strict_about() {
        assert_eq!(of(Path::new("a/lenslet.wasm")), "application/wasm");
        assert_eq!(of(Path::new("worker.mjs")), "text/javascript; charset=utf-8");
        assert_eq!(of(Path::new("PHOTO.JPG")), "image/jpeg");
        assert_eq!(of(Path::new("queries.json")), "application/json");
        assert_eq!(of(Path::new("model.onnx")), "application/octet-stream");
        assert_eq!(of(Path::new("LICENSE")), "application/octet-stream");
    }
}
