//! Pictures as requests carry them: in data URLs, or as files of a form.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::DecodePaddingMode};
use bytes::Bytes;
use lenslet::tasks::image::{Pixels, decode};

use crate::error::{Reason, ServeError};

/// Standard alphabet, with or without padding: clients write both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether a text is meant as the address of a picture.
pub(super) fn is_data_url(text: &str) -> bool {
    text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("data:"))
}

/// The bytes of a data URL (RFC 2397). Addresses of other servers are refused: this server fetches nothing.
pub(super) fn from_url(url: &str) -> Result<Bytes, ServeError> {
    let broken = |what: &str| ServeError::bad_request("invalid_image_url", what);
    if !is_data_url(url) {
        return Err(broken(
            "this server does not fetch pictures; send the picture itself, as a data URL (data:image/png;base64,...)",
        ));
    }
    let (head, data) = url[5..].split_once(',').ok_or_else(|| broken("the data URL has no comma"))?;
    let mut parts = head.split(';');
    let kind = parts.next().unwrap_or_default().trim();
    if !kind.is_empty() && !kind.to_ascii_lowercase().starts_with("image/") && kind != "application/octet-stream" {
        return Err(broken("the data URL does not hold an image"));
    }
    if !parts.any(|part| part.trim().eq_ignore_ascii_case("base64")) {
        return Err(broken("the data URL is not in base64"));
    }
    let bytes = BASE64.decode(data.trim()).map_err(|e| broken(&format!("the data URL is not valid base64: {e}")))?;
    Ok(bytes.into())
}

/// Pixels that the header claims. Nothing is decoded for it.
pub(super) fn claimed_pixels(bytes: &[u8]) -> Option<u64> {
    let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    let (width, height) = reader.into_dimensions().ok()?;
    Some(u64::from(width) * u64::from(height))
}

/// A picture of more pixels than this.
pub(super) fn too_large(most: u64) -> ServeError {
    let what = format!("the picture has more pixels than the limit of {most}; make it smaller");
    ServeError::new(Reason::TooLarge, "image_too_large", what)
}

/// Decodes a picture of at most so many pixels.
pub(crate) fn decoded(bytes: &[u8], most: u64) -> Result<Pixels, ServeError> {
    if claimed_pixels(bytes).is_some_and(|pixels| pixels > most) {
        return Err(too_large(most));
    }
    decode(bytes).map_err(|error| {
        let (kind, message) = (error.kind(), error.to_string());
        let reason = if kind == "image_too_large" { Reason::TooLarge } else { Reason::BadRequest };
        ServeError::new(reason, kind, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_are_read_and_others_refused() {
        assert_eq!(from_url("data:image/png;base64,aGk=").unwrap(), "hi");
        assert_eq!(from_url("DATA:image/png;name=x;base64,aGk").unwrap(), "hi");
        for url in [
            "http://127.0.0.1/x.png",
            "file:///etc/passwd",
            "data:image/png;base64",
            "data:image/png,hi",
            "data:text/html;base64,aGk=",
            "data:image/png;base64,a*b",
            "",
        ] {
            assert_eq!(from_url(url).unwrap_err().code, "invalid_image_url", "{url}");
        }
    }
}
