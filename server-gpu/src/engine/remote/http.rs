//! Calls to the server behind.

use std::time::Duration;

use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use crate::config::RemoteConfig;
use crate::error::{Reason, ServeError};
use crate::outbound::{Connector, chain, connector};
use crate::telemetry::spans;

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 256 << 20;

/// A client of one server.
pub(super) struct Http {
    client: Client<Connector, Full<Bytes>>,
    base: String,
    key: Option<String>,
    timeout: Duration,
}

/// The head of an answer, and what is still to come.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
}

/// The server behind cannot be reached or breaks off.
fn unreachable(base: &str, error: impl std::fmt::Display) -> ServeError {
    ServeError::new(Reason::Upstream, "remote_unreachable", format!("the server {base} does not answer: {error}"))
}

impl Http {
    pub(super) fn new(config: &RemoteConfig, timeout: Duration) -> Result<Http, ServeError> {
        let url = config.url.clone().unwrap_or_default();
        let base = url.trim_end_matches('/').to_owned();
        if base.parse::<Uri>().is_err() {
            return Err(ServeError::internal("remote_url", format!("{base:?} is no address")));
        }
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector());
        Ok(Http { client, base, key: config.key.clone(), timeout })
    }

    /// Sends a request, again if the connection that was kept alive had been closed meanwhile. An answer that is no success
    /// is an error.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Answer, ServeError> {
        let once = async || {
            let mut request = Request::builder().method(method.clone()).uri(format!("{}{path}", self.base));
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(key) = &self.key {
                request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
            }
            let mut request = request.body(Full::new(body.clone())).map_err(|e| unreachable(&self.base, e))?;
            spans::hand_on(request.headers_mut());
            match tokio::time::timeout(self.timeout, self.client.request(request)).await {
                Ok(answer) => answer.map_err(|e| unreachable(&self.base, chain(&e))),
                Err(_) => {
                    let what = format!("the server {} says nothing for {:?}", self.base, self.timeout);
                    Err(ServeError::new(Reason::Deadline, "remote_timeout", what))
                }
            }
        };
        let answer = match once().await {
            Ok(answer) => answer,
            // What runs a graph has no effect but its answer, so it may run twice.
            Err(error) if error.reason == Reason::Upstream => once().await?,
            Err(error) => return Err(error),
        };
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            return Ok(Answer { headers: head.headers, body });
        }
        let bytes = self.collect(body).await.unwrap_or_default();
        Err(refusal(head.status, &head.headers, &bytes))
    }

    /// The rest of an answer.
    pub(super) async fn collect(&self, body: Incoming) -> Result<Bytes, ServeError> {
        let all = tokio::time::timeout(self.timeout, Limited::new(body, MAX_ANSWER).collect()).await;
        let all = all.map_err(|_| unreachable(&self.base, "its answer does not end"))?;
        Ok(all.map_err(|e| unreachable(&self.base, e))?.to_bytes())
    }

    /// The next piece of an answer, or `None` at its end.
    pub(super) async fn piece(&self, body: &mut Incoming) -> Option<Result<Bytes, ServeError>> {
        loop {
            match tokio::time::timeout(self.timeout, body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => return Some(Err(unreachable(&self.base, error))),
                Err(_) => return Some(Err(unreachable(&self.base, "its answer does not go on"))),
            }
        }
    }

    /// The JSON at a path; `None` if there is nothing.
    pub(super) async fn get_json(&self, path: &str) -> Result<Option<Value>, ServeError> {
        let answer = match self.send(Method::GET, path, &[], Bytes::new()).await {
            Ok(answer) => answer,
            Err(error) if error.reason == Reason::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = self.collect(answer.body).await?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| not_understood(format!("{path}: {e}")))
    }
}

/// The server behind says something that is not of the protocol.
pub(super) fn not_understood(what: impl Into<String>) -> ServeError {
    ServeError::new(Reason::Upstream, "remote_answer", format!("the server behind: {}", what.into()))
}

/// A refusal of the server behind as one of this server. Its 4xx are the client's fault here too, except those that concern this
/// server's own key.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ServeError {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &json["error"];
    let message = error["message"].as_str().or(error.as_str()).or(json["message"].as_str());
    let message = message.map_or_else(|| format!("the server behind answers {status}"), str::to_owned);
    let code = error["code"].as_str().or(json["code"].as_str()).unwrap_or("remote_refused").to_owned();
    let reason = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Reason::Upstream,
        StatusCode::NOT_FOUND => Reason::NotFound,
        StatusCode::PAYLOAD_TOO_LARGE => Reason::TooLarge,
        StatusCode::TOO_MANY_REQUESTS => Reason::Overloaded,
        StatusCode::SERVICE_UNAVAILABLE => Reason::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Reason::Deadline,
        status if status.is_client_error() => Reason::BadRequest,
        _ => Reason::Upstream,
    };
    let wait = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    ServeError { retry_after: wait.map(Duration::from_secs), ..ServeError::new(reason, code, message) }
}
