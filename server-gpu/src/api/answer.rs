//! Errors as HTTP answers: OpenAI's form below `/v1`, the Open Inference Protocol's below `/v2`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Reason, ServeError};
use crate::metrics;

impl IntoResponse for ServeError {
    fn into_response(self) -> Response {
        respond(&self, openai_body(&self))
    }
}

/// An error below `/v2`.
pub(super) struct OipError(pub(super) ServeError);

impl From<ServeError> for OipError {
    fn from(error: ServeError) -> Self {
        OipError(error)
    }
}

impl IntoResponse for OipError {
    fn into_response(self) -> Response {
        respond(&self.0, json!({ "error": self.0.message, "code": self.0.code }))
    }
}

/// The error in the form of the interface that `path` belongs to.
pub(super) fn for_path(error: ServeError, path: &str) -> Response {
    if path.starts_with("/v2") { OipError(error).into_response() } else { error.into_response() }
}

/// The body that OpenAI's clients read.
pub(super) fn openai_body(error: &ServeError) -> Value {
    let mut body = json!({
        "message": error.message,
        "type": error.reason.openai_type(),
        "param": error.param,
        "code": error.code,
    });
    if let Some(details) = &error.details {
        body["details"] = Value::clone(details);
    }
    json!({ "error": body })
}

fn respond(error: &ServeError, body: Value) -> Response {
    metrics::refused(error.reason.label());
    let status = error.reason.status();
    if status == StatusCode::INTERNAL_SERVER_ERROR || status == StatusCode::BAD_GATEWAY {
        tracing::error!(code = %error.code, message = error.message, "request failed");
    }
    let mut response = (status, Json(body)).into_response();
    if let Some(wait) = error.retry_after {
        let seconds = (wait.as_secs_f64().ceil() as u64).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.reason == Reason::Unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
