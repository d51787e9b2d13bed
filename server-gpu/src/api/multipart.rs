//! Embeddings requests as forms, so that a page can send files as they are: fields `model`, `input` (a text) and `image` (a
//! file), the last two as often as wanted, in the order of the answer; `encoding_format`, `dimensions`.

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::request::Parts;
use bytes::Bytes;

use super::input::{self, Bounds, Encoding};
use crate::embed::Input;
use crate::error::ServeError;

fn broken(error: &impl std::fmt::Display) -> ServeError {
    ServeError::bad_request("form_broken", format!("the form cannot be read: {error}"))
}

/// Reads a form from a body that was read already.
pub(super) async fn parse(head: Parts, bytes: Bytes, bounds: Bounds) -> Result<input::Request, ServeError> {
    let request = Request::from_parts(head, Body::from(bytes));
    let mut form = Multipart::from_request(request, &()).await.map_err(|e| broken(&e.body_text()))?;
    let mut parsed =
        input::Request { model: String::new(), inputs: vec![], encoding: Encoding::Float, dimensions: None };
    while let Some(field) = form.next_field().await.map_err(|e| broken(&e.body_text()))? {
        let name = field.name().unwrap_or_default().to_owned();
        let bytes = field.bytes().await.map_err(|e| broken(&e.body_text()))?;
        let text = || {
            let text = std::str::from_utf8(&bytes);
            text.map_err(|_| ServeError::bad_request("invalid_type", format!("{name} is not UTF-8")).at(name.clone()))
        };
        match name.as_str() {
            "model" => parsed.model = text()?.to_owned(),
            "encoding_format" => parsed.encoding = Encoding::parse(text()?)?,
            "dimensions" => {
                let number = text()?.trim().parse().ok();
                let wrong = || ServeError::bad_request("invalid_type", "dimensions must be a whole number");
                parsed.dimensions = Some(number.ok_or_else(|| wrong().at("dimensions"))?);
            }
            "input" => parsed.inputs.push(bounds.text(text()?).map_err(|e| e.at("input"))?),
            "image" => parsed.inputs.push(Input::Picture(bytes)),
            other => {
                let shown: String = other.chars().take(50).collect();
                let what =
                    format!("a form has no field {shown:?}; it has model, input, image, encoding_format, dimensions");
                return Err(ServeError::bad_request("unknown_field", what));
            }
        }
        bounds.count(parsed.inputs.len().max(1))?;
    }
    if parsed.model.is_empty() {
        return Err(ServeError::bad_request("missing_field", "model is missing").at("model"));
    }
    bounds.count(parsed.inputs.len())?;
    Ok(parsed)
}
