//! Errors as gRPC answers.

use axum::http::HeaderValue;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::error::{Reason, ServeError};
use crate::metrics;

/// Metadata with the error's stable name.
const CODE: &str = "lenslet-code";

/// Metadata that gRPC's clients wait by before they try again, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The error as an answer. Counted: to be called once for each refusal.
pub(super) fn refusal(error: &ServeError) -> Status {
    metrics::refused(error.reason.label());
    let code = code(error.reason);
    if matches!(code, Code::Internal) {
        tracing::error!(code = %error.code, message = error.message, "request failed");
    }
    let mut metadata = MetadataMap::new().into_headers();
    if let Ok(name) = HeaderValue::from_str(&error.code) {
        metadata.insert(CODE, name);
    }
    if let Some(wait) = error.retry_after {
        metadata.insert(PUSHBACK, HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
    }
    Status::with_metadata(code, error.message.clone(), MetadataMap::from_headers(metadata))
}

fn code(reason: Reason) -> Code {
    match reason {
        Reason::BadRequest | Reason::MediaType | Reason::Unprocessable => Code::InvalidArgument,
        Reason::Unauthorized => Code::Unauthenticated,
        Reason::Conflict => Code::FailedPrecondition,
        Reason::NotFound => Code::NotFound,
        Reason::MethodNotAllowed => Code::Unimplemented,
        Reason::SlowBody | Reason::Deadline => Code::DeadlineExceeded,
        Reason::TooLarge => Code::OutOfRange,
        Reason::RateLimited | Reason::Overloaded => Code::ResourceExhausted,
        Reason::Cancelled => Code::Cancelled,
        Reason::Internal => Code::Internal,
        Reason::Upstream | Reason::Unavailable => Code::Unavailable,
    }
}

/// The HTTP status of the same meaning: the log and the metrics count calls and requests alike.
pub(super) fn http(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::OutOfRange => 413,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_name_and_when_to_come_back() {
        let status = refusal(&ServeError::overloaded(std::time::Duration::from_millis(1500)));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(CODE).unwrap(), "overloaded");
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "1500");
        assert!(refusal(&ServeError::deadline()).metadata().get(PUSHBACK).is_none());
    }
}
