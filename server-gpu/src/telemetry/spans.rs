//! The spans of a request: `request` around `preprocess`, `queue`, `compute` and `decode`.
//!
//! A `batch` that serves one request is inside its `compute`. One that serves several belongs to none of their traces: it begins its own
//! and links to each `compute`. Spans say how long, how much and how it ended; never what was asked, what was answered, or by whom.
//! Without a collector to send them to (feature `otlp`) they are disabled, and cost a comparison.

use axum::http::{HeaderMap, Method};
use tracing::{Span, field, info_span};

/// The target of all of them: what is no span of these is not exported.
pub(crate) const TARGET: &str = "lenslet_server::trace";

/// A request, below that of the client's which `traceparent` names.
pub(crate) fn request(method: &Method, route: &str, id: &str, headers: &HeaderMap) -> Span {
    // A client may make up methods.
    let method = if *method == Method::GET || *method == Method::POST { method.as_str() } else { "_OTHER" };
    let span = info_span!(
        target: TARGET,
        parent: None,
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
        lenslet.request_id = id,
        lenslet.complete = field::Empty,
    );
    #[cfg(feature = "otlp")]
    super::otlp::below(&span, headers);
    #[cfg(not(feature = "otlp"))]
    let _ = headers;
    span
}

/// The end of a request.
pub(crate) fn answered(span: &Span, status: u16, complete: bool) {
    span.record("http.response.status_code", i64::from(status));
    span.record("lenslet.complete", complete);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// Decoding pictures, tokenizing texts, reading tensors.
pub(crate) fn preprocess() -> Span {
    info_span!(target: TARGET, "preprocess")
}

/// A run of a tower or a text waits for its turn.
pub(crate) fn queue(depth: usize) -> Span {
    info_span!(target: TARGET, "queue", lenslet.queue_depth = whole(depth))
}

/// The engine works for a request.
pub(crate) fn compute(request: &Span, stage: &str, rows: usize) -> Span {
    info_span!(target: TARGET, parent: request, "compute", lenslet.stage = stage, lenslet.rows = whole(rows))
}

/// The engine works for all these parts at once.
pub(crate) fn batch(parts: &[Span], engine: &str, tower: &str, rows: usize) -> Span {
    let span = |parent: Option<tracing::Id>| {
        info_span!(
            target: TARGET,
            parent: parent,
            "batch",
            lenslet.engine = engine,
            lenslet.tower = tower,
            lenslet.rows = whole(rows),
            lenslet.requests = whole(parts.len()),
        )
    };
    if let [only] = parts {
        return span(only.id());
    }
    let span = span(None);
    for part in parts {
        span.follows_from(part);
    }
    span
}

/// A text is written, from its first step to its last.
pub(crate) fn decode(request: &Span) -> Span {
    info_span!(target: TARGET, parent: request, "decode", lenslet.tokens = field::Empty)
}

/// What a text has become.
pub(crate) fn written(span: &Span, tokens: usize) {
    span.record("lenslet.tokens", whole(tokens));
}

/// A number as OpenTelemetry has them; others become strings.
fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Names the current span to the server that these headers go to.
pub(crate) fn hand_on(headers: &mut HeaderMap) {
    #[cfg(feature = "otlp")]
    super::otlp::hand_on(headers);
    #[cfg(not(feature = "otlp"))]
    let _ = headers;
}

/// The number of a span's trace, if it is traced.
pub(crate) fn trace_id(span: &Span) -> Option<String> {
    #[cfg(feature = "otlp")]
    return super::otlp::trace_id(span);
    #[cfg(not(feature = "otlp"))]
    {
        let _ = span;
        None
    }
}
