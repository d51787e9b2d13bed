//! What stands in front of every request: whether the server takes it, how urgent it is, and how it is counted and logged.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::{Instrument as _, Span};

use super::answer;
use super::keys::Client;
use crate::app::{App, UnderWay};
use crate::context::{Context, Priority};
use crate::error::{Reason, ServeError};
use crate::metrics;
use crate::telemetry::spans;

/// How urgent a request says it is: `high`, `normal` or `low`.
pub(super) const PRIORITY: &str = "x-lenslet-priority";

/// Milliseconds after which the answer is of no use.
pub(super) const TIMEOUT: &str = "x-lenslet-timeout-ms";

/// Names a request in the log: the client's name for it, or one of ours.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// Lets a request through, or refuses it.
pub(super) async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let path = request.uri().path().to_owned();
    let mut record = Record::new(route, &request);
    let (response, under_way) = match admit(&app, &request) {
        Ok((under_way, context, client)) => {
            request.extensions_mut().insert(Caller(client));
            let answer = context.scope(next.run(request)).instrument(record.span.clone());
            (answer.await, Some(under_way))
        }
        Err(error) => (answer::for_path(error, &path), None),
    };
    record.status = response.status().as_u16();
    guard(response, record, under_way)
}

/// An answer with the request that it answers: one that is streamed is under way until its last byte.
pub(super) fn guard(mut response: Response, record: Record, under_way: Option<UnderWay>) -> Response {
    if let Ok(id) = HeaderValue::from_str(&record.id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.map(|body| Body::new(Guarded { body, record, _under_way: under_way }))
}

/// The client's name for a request, if it is one that logs can bear.
fn request_id(headers: &HeaderMap) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match given.filter(|id| (1..=64).contains(&id.len()) && id.chars().all(fine)) {
        Some(id) => id.to_owned(),
        None => format!("{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Who sent a request, where that is known.
#[derive(Clone, Copy)]
pub(super) struct Caller(pub(super) Option<Client>);

/// Takes a request of a client that may ask now.
pub(super) fn admit(app: &Arc<App>, request: &Request) -> Result<(UnderWay, Context, Option<Client>), ServeError> {
    let client = match app.keys.check(request.headers())? {
        Some(key) => Some(Client::Key(key)),
        None => request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| Client::Address(info.0.ip())),
    };
    if let Some(client) = client {
        app.pace.take(client)?;
    }
    let under_way = app.begin()?;
    let context = context(app, request.headers())?;
    Ok((under_way, context, client))
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

/// What the log and the metrics say of a request once its answer has ended. Nothing of what it carried is in there.
pub(super) struct Record {
    route: String,
    id: String,
    pub(super) status: u16,
    complete: bool,
    started: Instant,
    /// Ends with it.
    pub(super) span: Span,
}

impl Record {
    /// Of a request that has just come.
    pub(super) fn new(route: String, request: &Request) -> Record {
        let id = request_id(request.headers());
        let span = spans::request(request.method(), &route, &id, request.headers());
        Record { route, id, status: 0, complete: false, started: Instant::now(), span }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let time = self.started.elapsed();
        metrics::request(&self.route, self.status, time);
        let (route, id, status, complete) = (&self.route, &self.id, self.status, self.complete);
        spans::answered(&self.span, status, complete);
        let (trace_id, ms) = (spans::trace_id(&self.span), time.as_secs_f64() * 1e3);
        tracing::info!(target: "lenslet_server::request", route, id, trace_id, status, complete, ms);
    }
}

/// A body with the request that it answers.
struct Guarded {
    body: Body,
    record: Record,
    _under_way: Option<UnderWay>,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // A body of known length is not asked for its end.
        self.record.complete = frame.is_none() || self.body.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
