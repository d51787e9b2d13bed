//! Pages of other origins: those on the list may call, with a key, and see what they need of the answers.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::gate::{PRIORITY, REQUEST_ID, TIMEOUT};
use super::jobs::IDEMPOTENCY_KEY;
use crate::oip::HEADER_LENGTH;

/// How long the answer took to compute, as W3C's Server Timing writes it.
pub(super) const SERVER_TIMING: &str = "server-timing";

/// How long a browser may remember what it was told.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The layer for these origins; without any, no page of another origin may call.
pub(super) fn layer(origins: &[String]) -> CorsLayer {
    let named = [PRIORITY, TIMEOUT, REQUEST_ID, HEADER_LENGTH, IDEMPOTENCY_KEY].map(HeaderName::from_static);
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let (sent, seen) = (named.clone(), named);
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        // `*` would not cover `authorization`: it has to be named. OpenAI's client sends headers about itself besides.
        .allow_headers(
            [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT]
                .into_iter()
                .chain(sent)
                .chain(OPENAI.map(HeaderName::from_static))
                .collect::<Vec<_>>(),
        )
        .expose_headers(
            [header::RETRY_AFTER, HeaderName::from_static(SERVER_TIMING)].into_iter().chain(seen).collect::<Vec<_>>(),
        )
        .max_age(MAX_AGE)
}

/// Headers that OpenAI's JavaScript client adds to each request.
const OPENAI: [&str; 10] = [
    "openai-organization",
    "openai-project",
    "x-stainless-arch",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
];
