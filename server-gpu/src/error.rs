//! Why a request is not served: one type from the engine to the HTTP answer.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::StatusCode;

/// The class of a refusal; it decides the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request is wrong, and stays wrong when sent again: 400.
    BadRequest,
    /// No key, or one that nobody gave out: 401.
    Unauthorized,
    /// There is no such model, tower or content: 404.
    NotFound,
    /// There is such a path, but not with this method: 405.
    MethodNotAllowed,
    /// The body took too long to come: 408.
    SlowBody,
    /// What it is about is not in a state to be asked for: 409.
    Conflict,
    /// A body, picture or batch beyond the limits: 413.
    TooLarge,
    /// A body of a type that this path does not read: 415.
    MediaType,
    /// It contradicts an earlier request: 422.
    Unprocessable,
    /// This key asks too often: 429.
    RateLimited,
    /// The queues are full: 429.
    Overloaded,
    /// Nobody waits for the answer any more: 499, which no client sees.
    Cancelled,
    /// The engine failed: 500.
    Internal,
    /// A server behind this one failed: 502.
    Upstream,
    /// The server is about to end, or not ready yet: 503.
    Unavailable,
    /// The deadline passed: 504.
    Deadline,
}

impl Reason {
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::Unauthorized => StatusCode::UNAUTHORIZED,
            Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Reason::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Reason::Conflict => StatusCode::CONFLICT,
            Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Reason::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Reason::RateLimited | Reason::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Reason::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Reason::Upstream => StatusCode::BAD_GATEWAY,
            Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Reason::Deadline => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The `type` that OpenAI's interface gives such errors.
    pub fn openai_type(self) -> &'static str {
        match self {
            Reason::Unauthorized => "authentication_error",
            Reason::NotFound => "not_found_error",
            Reason::RateLimited => "rate_limit_error",
            Reason::Overloaded => "overloaded_error",
            Reason::Internal | Reason::Upstream | Reason::Unavailable | Reason::Deadline => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The name that metrics count refusals under.
    pub fn label(self) -> &'static str {
        match self {
            Reason::BadRequest => "bad_request",
            Reason::Unauthorized => "unauthorized",
            Reason::NotFound => "not_found",
            Reason::MethodNotAllowed => "method_not_allowed",
            Reason::SlowBody => "slow_body",
            Reason::Conflict => "conflict",
            Reason::TooLarge => "too_large",
            Reason::MediaType => "media_type",
            Reason::Unprocessable => "unprocessable",
            Reason::RateLimited => "rate_limited",
            Reason::Overloaded => "overloaded",
            Reason::Cancelled => "cancelled",
            Reason::Internal => "internal",
            Reason::Upstream => "upstream",
            Reason::Unavailable => "unavailable",
            Reason::Deadline => "deadline",
        }
    }
}

/// A request that is not served. Cheap to clone: all requests of a batch get the same one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ServeError {
    /// The class.
    pub reason: Reason,
    /// A stable name of the kind of error, for programs.
    pub code: Cow<'static, str>,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<Box<str>>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// More for programs, beside the message.
    pub details: Option<Box<serde_json::Value>>,
}

impl ServeError {
    /// An error of this class.
    pub fn new(reason: Reason, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        ServeError { reason, code: code.into(), message: message.into(), param: None, retry_after: None, details: None }
    }

    /// A request that is wrong.
    pub fn bad_request(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, code, message)
    }

    /// The engine failed.
    pub fn internal(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Reason::Internal, code, message)
    }

    /// A queue is full; it is worth trying again after `wait`.
    pub fn overloaded(wait: Duration) -> Self {
        let error = Self::new(Reason::Overloaded, "overloaded", "the server has all the work it can queue; try again");
        ServeError { retry_after: Some(wait), ..error }
    }

    /// The server is about to end.
    pub fn draining() -> Self {
        let error = Self::new(Reason::Unavailable, "draining", "this server is about to end; ask another one");
        ServeError { retry_after: Some(Duration::from_secs(1)), ..error }
    }

    /// The deadline passed before the work was done.
    pub fn deadline() -> Self {
        Self::new(Reason::Deadline, "deadline_exceeded", "the deadline passed before the work was done")
    }

    /// Nobody waits any more.
    pub fn cancelled() -> Self {
        Self::new(Reason::Cancelled, "cancelled", "the client went away")
    }

    /// Names the field of the request that is wrong.
    #[must_use]
    pub fn at(mut self, param: impl Into<Box<str>>) -> Self {
        self.param.get_or_insert_with(|| param.into());
        self
    }

    /// Adds what programs want to know.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }
}
