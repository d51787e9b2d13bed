//! What stands in front of every call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes};
use tonic::Status;
use tonic::server::NamedService;
use tracing::Instrument as _;

use super::codec::Held;
use super::{Inference, status};
use crate::api::body;
use crate::api::gate::{Record, admit, guard};
use crate::app::App;
use crate::error::{Reason, ServeError};

/// Calls that are answered without a key, and while the server starts and ends.
const OPEN: [&str; 2] = ["ServerLive", "ServerReady"];

/// The others: what metrics count by.
const CALLS: [&str; 4] = ["ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"];

/// Lets a call through, or refuses it.
pub(super) async fn gate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        let what = "this port speaks gRPC; HTTP has another one\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, what).into_response();
    }
    let call = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(Inference::NAME));
    let call = call.and_then(|path| path.strip_prefix('/'));
    if call.is_some_and(|call| OPEN.contains(&call)) {
        // A key would do no harm, a body of many bytes would.
        let (head, body) = request.into_parts();
        let body = Body::new(http_body_util::Limited::new(body, 1024));
        return next.run(Request::from_parts(head, body)).await;
    }
    let known = call.and_then(|call| CALLS.into_iter().find(|known| *known == call));
    let route = known.map_or("none".to_owned(), |call| format!("/{}/{call}", Inference::NAME));
    let mut record = Record::new(route, &request);
    let (response, under_way) = match admit(&app, &request) {
        Ok((under_way, mut context, _)) => match timeout(request.headers()) {
            Ok(timeout) => {
                context.hurry(timeout.and_then(|timeout| Instant::now().checked_add(timeout)));
                let answer = context.scope(serve(&app, request, next)).instrument(record.span.clone());
                (answer.await, Some(under_way))
            }
            Err(error) => (refuse(&error), Some(under_way)),
        },
        Err(error) => (refuse(&error), None),
    };
    let code = response.extensions().get::<Status>().map_or(tonic::Code::Ok, Status::code);
    record.status = status::http(code);
    guard(response, record, under_way)
}

/// A call that does not exist.
pub(super) async fn no_such_call() -> Response {
    Status::unimplemented("there is no such call; proto/inference.proto has those that exist").into_http::<Body>()
}

fn refuse(error: &ServeError) -> Response {
    status::refusal(error).into_http::<Body>()
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// Reads the body as those of HTTP requests are read, and answers it.
async fn serve(app: &Arc<App>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let read = match body::read(app, &head.headers, body).await.and_then(|read| one_message(&read.bytes).map(|()| read))
    {
        Ok(read) => read,
        Err(error) => return refuse(&error),
    };
    let mut share = read.share;
    // Between here and the message that is read from it lies a copy.
    if let Err(error) = app.bodies.take(&mut share, read.bytes.len() as u64) {
        return refuse(&error);
    }
    let request = Request::from_parts(head, Body::from(read.bytes));
    Held::new(app.clone(), share).scope(next.run(request)).await
}

/// A body is one message: a byte for its compression, its length, and nothing behind it.
fn one_message(body: &Bytes) -> Result<(), ServeError> {
    let wrong = |what| Err(ServeError::bad_request("invalid_frame", what));
    let Some((mut head, message)) = body.split_at_checked(5) else {
        return wrong("the call has no message; each takes one");
    };
    if head.get_u8() != 0 {
        let what = "compressed messages are not read; send them as they are";
        return Err(ServeError::new(Reason::MethodNotAllowed, "compressed", what));
    }
    if head.get_u32() as usize != message.len() {
        return wrong("the message's length is not that of the body; each call takes one message");
    }
    Ok(())
}

/// How long the client waits, by its header: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ServeError> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let wrong =
        || ServeError::bad_request("invalid_header", "grpc-timeout must be up to 8 digits and H, M, S, m, u or n");
    let (digits, unit) =
        value.to_str().ok().and_then(|text| text.split_at_checked(text.len().wrapping_sub(1))).ok_or_else(wrong)?;
    let fine = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let n: u64 = digits.parse().ok().filter(|_| fine).ok_or_else(wrong)?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return Err(wrong()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read() {
        let read =
            |text: &str| timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]));
        for (text, wanted) in
            [("2H", 7200.0), ("3M", 180.0), ("4S", 4.0), ("500m", 0.5), ("7u", 7e-6), ("99999999n", 0.099_999_999)]
        {
            assert_eq!(read(text).unwrap().unwrap().as_secs_f64(), wanted, "{text}");
        }
        for text in ["", "S", "5", "5s", "-5S", "123456789S", "+1S", "5 S", "５S"] {
            assert_eq!(read(text).unwrap_err().code, "invalid_header", "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_body_is_one_message() {
        let check = |bytes: &[u8]| one_message(&Bytes::copy_from_slice(bytes)).map_err(|e| e.code.into_owned());
        assert_eq!(check(&[0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check(&[0, 0, 0, 0, 2, 7, 7]), Ok(()));
        for wrong in
            [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0xff, 0xff, 0xff, 0xff, 1], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(check(wrong), Err("invalid_frame".to_owned()), "{wrong:?}");
        }
        assert_eq!(check(&[1, 0, 0, 0, 0]), Err("compressed".to_owned()));
    }
}
