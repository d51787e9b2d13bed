//! Bodies, read within bounds of size, time and total memory.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::app::{App, Share};
use crate::error::{Reason, ServeError};

/// A body, and the share of the memory for bodies that it takes.
pub(super) struct Read {
    pub(super) bytes: Bytes,
    /// Held as long as the bytes are.
    pub(super) share: Share,
}

fn too_large(most: usize) -> ServeError {
    ServeError::new(Reason::TooLarge, "body_too_large", format!("the body is larger than the limit of {most} bytes"))
}

/// Reads a body. One that announces too much is not read at all.
pub(super) async fn read(app: &App, headers: &HeaderMap, mut body: Body) -> Result<Read, ServeError> {
    let limits = &app.config.limits;
    let most = limits.max_body_bytes;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > most as u64) {
        return Err(too_large(most));
    }
    let patience = Duration::from_secs_f64(limits.read_timeout_s);
    // Slow all along is as bad as slow once.
    let all = tokio::time::Instant::now() + Duration::from_secs_f64(limits.request_timeout_s);
    let mut share = Share::default();
    let mut bytes = BytesMut::new();
    loop {
        let until = all.min(tokio::time::Instant::now() + patience);
        let frame = tokio::time::timeout_at(until, body.frame()).await;
        let frame = frame.map_err(|_| {
            ServeError::new(Reason::SlowBody, "body_too_slow", "the body did not come in time; send it faster")
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ServeError::bad_request("body_broken", "the body ended before its time"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > most {
            return Err(too_large(most));
        }
        // By what the body comes to, not by the piece: a budget counts whole kibibytes, and pieces may be of one byte.
        let units = |length: usize| length.div_ceil(1024) as u64;
        app.bodies.take(&mut share, (units(bytes.len() + data.len()) - units(bytes.len())) * 1024)?;
        bytes.extend_from_slice(&data);
    }
    Ok(Read { bytes: bytes.freeze(), share })
}

/// Whether the content type begins so.
pub(super) fn is(headers: &HeaderMap, wanted: &str) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(wanted)
}

/// Bytes that an element of parsed JSON takes at most, besides the text of strings.
const PARSED: u64 = 64;

/// The JSON object of a body. What it takes when parsed is counted with the body: a list of small numbers grows by a factor of
/// twenty or more.
pub(super) fn json_object(
    app: &App,
    share: &mut Share,
    bytes: &[u8],
) -> Result<serde_json::Map<String, Value>, ServeError> {
    // One of these stands before each element but the first; base64 has none of them.
    let elements = bytes.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{' | b':')).count();
    app.bodies.take(share, elements as u64 * PARSED)?;
    // serde_json bounds the depth of nesting by itself.
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ServeError::bad_request("body_not_object", "the body must be a JSON object")),
        Err(e) => Err(ServeError::bad_request("body_not_json", format!("the body is not JSON: {e}"))),
    }
}

/// A field that may be absent or null.
pub(super) fn optional<'v, T>(
    object: &'v serde_json::Map<String, Value>,
    name: &str,
    expected: &str,
    read: impl FnOnce(&'v Value) -> Option<T>,
) -> Result<Option<T>, ServeError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match read(value) {
            Some(value) => Ok(Some(value)),
            None => {
                let what = format!("{name} must be {expected}");
                Err(ServeError::bad_request("invalid_type", what).at(name))
            }
        },
    }
}

/// A field that must be a string.
pub(super) fn string<'v>(object: &'v serde_json::Map<String, Value>, name: &str) -> Result<&'v str, ServeError> {
    let value = optional(object, name, "a string", Value::as_str)?;
    value.ok_or_else(|| ServeError::bad_request("missing_field", format!("{name} is missing")).at(name))
}
