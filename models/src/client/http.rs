//! Requests and what their answers mean.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::ClientError;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Time for an answer, and for each piece of one that comes in pieces.
const ANSWER: Duration = Duration::from_secs(120);

/// Bytes of an answer at most.
const MOST_BYTES: u64 = 256 << 20;

/// The connections to one server.
pub(super) struct Http {
    agent: Agent,
    base: String,
    key: Option<String>,
}

impl Http {
    pub(super) fn new(url: &str, key: Option<String>) -> Result<Http, ClientError> {
        let base = url.trim_end_matches('/').to_owned();
        let scheme = base.split_once("://").map(|(scheme, rest)| (scheme, !rest.is_empty() && !rest.starts_with('/')));
        match scheme {
            Some(("http", true)) => {}
            Some(("https", true)) if cfg!(feature = "https") => {}
            Some(("https", true)) => return Err(ClientError::NoHttps(base)),
            _ => return Err(ClientError::Address(url.to_owned())),
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .build();
        Ok(Http { agent: config.into(), base, key })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, ClientError> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        self.json(self.checked(request.call())?)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        let answer = self.begin(path, body)?;
        self.json(answer)
    }

    /// Sends a request; its answer is still to be read.
    pub(super) fn begin(&self, path: &str, body: &Value) -> Result<Response<Body>, ClientError> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        request = request.header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        self.checked(request.send(body.to_string()))
    }

    fn json(&self, mut answer: Response<Body>) -> Result<Value, ClientError> {
        let text = answer.body_mut().with_config().limit(MOST_BYTES).read_to_string().map_err(|e| self.broken(&e))?;
        serde_json::from_str(&text).map_err(|e| self.failed(format!("its answer is no JSON: {e}")))
    }

    pub(super) fn failed(&self, message: impl Into<String>) -> ClientError {
        ClientError::Failed { server: self.base.clone(), message: message.into() }
    }

    /// What is wrong with a connection.
    pub(super) fn broken(&self, error: &ureq::Error) -> ClientError {
        let server = self.base.clone();
        match error {
            ureq::Error::Timeout(_) => ClientError::Timeout { server, seconds: ANSWER.as_secs() },
            ureq::Error::BadUri(_) => ClientError::Address(server),
            other => ClientError::Unreachable { server, why: other.to_string() },
        }
    }

    fn checked(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, ClientError> {
        let mut answer = answer.map_err(|e| self.broken(&e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let retry_after = answer.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let text = answer.body_mut().with_config().limit(MOST_BYTES).read_to_string().unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        let said = |name: &str| json["error"][name].as_str().map(str::to_owned);
        let message = said("message").unwrap_or_else(|| format!("it answers {status}"));
        let server = self.base.clone();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::Refused { server, message },
            StatusCode::TOO_MANY_REQUESTS => ClientError::Overloaded { server, retry_after },
            StatusCode::SERVICE_UNAVAILABLE => ClientError::Unavailable { server, retry_after },
            status if status.is_client_error() => {
                ClientError::Rejected { code: said("code").unwrap_or_default(), message }
            }
            _ => ClientError::Failed { server, message },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_and_a_host() {
        let kind = |url: &str| Http::new(url, None).map(|http| http.base).map_err(|e| e.kind());
        assert_eq!(kind("http://127.0.0.1:8080/"), Ok("http://127.0.0.1:8080".to_owned()));
        for wrong in ["", "localhost:8080", "http://", "http:///v1", "ftp://host"] {
            assert_eq!(kind(wrong), Err("server_address"), "{wrong}");
        }
        #[cfg(not(feature = "https"))]
        assert_eq!(kind("https://host"), Err("server_https"));
    }
}
