//! What stands in front of every request: whether the server takes it, how urgent it is, and how it is counted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::answer;
use crate::app::{App, UnderWay};
use crate::context::{Context, Priority};
use crate::error::{Reason, ServeError};
use crate::metrics;

/// How urgent a request says it is: `high`, `normal` or `low`.
const PRIORITY: &str = "x-lenslet-priority";

/// Milliseconds after which the answer is of no use.
const TIMEOUT: &str = "x-lenslet-timeout-ms";

/// Lets a request through, or refuses it.
pub(super) async fn gate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let path = request.uri().path().to_owned();
    let response = match admit(&app, &request) {
        Ok((under_way, context)) => {
            let response = context.scope(next.run(request)).await;
            // An answer that is streamed is under way until its last byte.
            response.map(|body| Body::new(Guarded { body, _under_way: under_way }))
        }
        Err(error) => answer::for_path(error, &path),
    };
    metrics::request(&route, response.status().as_u16(), started.elapsed());
    response
}

fn admit(app: &Arc<App>, request: &Request) -> Result<(UnderWay, Context), ServeError> {
    let under_way = app.begin()?;
    let context = context(app, request.headers())?;
    Ok((under_way, context))
}

/// Priority and deadline, from the request's headers.
fn context(app: &App, headers: &HeaderMap) -> Result<Context, ServeError> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let priority = match text(PRIORITY).as_deref() {
        None | Some("normal") => Priority::Normal,
        Some("high") => Priority::High,
        Some("low") => Priority::Low,
        Some(_) => {
            let what = format!("{PRIORITY} must be high, normal or low");
            return Err(ServeError::bad_request("invalid_header", what).at(PRIORITY));
        }
    };
    let most = Duration::from_secs_f64(app.config.limits.request_timeout_s);
    let timeout = match text(TIMEOUT) {
        None => most,
        Some(text) => match text.parse::<u64>() {
            Ok(ms) if ms > 0 => Duration::from_millis(ms).min(most),
            _ => {
                let what = format!("{TIMEOUT} must be a number of milliseconds above 0");
                return Err(ServeError::bad_request("invalid_header", what).at(TIMEOUT));
            }
        },
    };
    Ok(Context { priority, deadline: Some(Instant::now() + timeout) })
}

/// A path that does not exist.
pub(super) async fn no_such_path(uri: Uri) -> Response {
    let what = "there is no such path; GET /openapi.json describes those that exist";
    answer::for_path(ServeError::new(Reason::NotFound, "path_not_found", what), uri.path())
}

/// A path that exists for other methods.
pub(super) async fn no_such_method(uri: Uri) -> Response {
    let what = "this path does not take this method; GET /openapi.json describes those that it takes";
    answer::for_path(ServeError::new(Reason::MethodNotAllowed, "method_not_allowed", what), uri.path())
}

/// A body with the request that it answers.
struct Guarded {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Poll::Ready(ready!(Pin::new(&mut self.body).poll_frame(cx)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
