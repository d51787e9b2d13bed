//! `/v1/jobs`: embeddings that are made when there is time.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::embeddings::{all_known, dimensions, written};
use super::gate::Caller;
use super::input::{Bounds, Request};
use super::keys::Client;
use super::{body, multipart};
use crate::app::App;
use crate::cache;
use crate::context::Context;
use crate::error::{Reason, ServeError};
use crate::jobs::{Answer, Jobs, Progress, Record, Submission};

/// Two requests with one value of this header make one job.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The longest of them.
pub(super) const MAX_KEY: usize = 255;

/// The only interface that jobs have so far.
const ENDPOINT: &str = "/v1/embeddings";

/// Accepts a job. Once it is answered for, it is not lost.
pub(super) async fn submit(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    request: axum::extract::Request,
) -> Result<Response, ServeError> {
    let jobs = app.jobs()?.clone();
    let models = app.models()?;
    let (head, body) = request.into_parts();
    let bounds = Bounds { inputs: app.config.jobs.max_inputs, text_bytes: app.config.limits.max_text_bytes };
    let mut read = body::read(&app, &head.headers, body).await?;
    let digest = cache::digest(&read.bytes);
    let mut idempotency_key = header_key(&head.headers)?;
    let request = if body::is(&head.headers, "multipart/form-data") {
        multipart::parse(head, read.bytes, bounds).await?
    } else {
        let object = body::json_object(&app, &mut read.share, &read.bytes)?;
        let field = body::optional(&object, "idempotency_key", "a text of 1 to 255 characters", |value| {
            value.as_str().filter(|key| valid_key(key))
        })?;
        match (&idempotency_key, field) {
            (Some(header), Some(field)) if header != field => {
                let what = "the header Idempotency-Key and the field idempotency_key differ; send one of them";
                return Err(ServeError::bad_request("invalid_value", what).at("idempotency_key"));
            }
            (None, Some(field)) => idempotency_key = Some(field.to_owned()),
            _ => {}
        }
        let endpoint = body::optional(&object, "endpoint", "a text", Value::as_str)?;
        if endpoint.is_some_and(|endpoint| endpoint != ENDPOINT) {
            let what = format!("endpoint must be {ENDPOINT}: there are no jobs of other kinds");
            return Err(ServeError::bad_request("invalid_value", what).at("endpoint"));
        }
        let request = Request::parse(&object, bounds)?;
        drop((object, read.bytes));
        request
    };
    let model = models.get(&request.model)?.clone();
    let dimensions = dimensions(&model, request.dimensions)?;
    all_known(&app, &model, &request.inputs).await?;
    let submission = Submission {
        model,
        inputs: request.inputs,
        dimensions,
        encoding: request.encoding,
        owner: owner(&app, caller),
        idempotency_key,
        request: digest,
    };
    let submitted = crate::jobs::submit(&app, &jobs, submission);
    let record = match Context::current().deadline {
        // What is queued by then belongs to no job.
        Some(deadline) => {
            tokio::time::timeout_at(deadline.into(), submitted).await.map_err(|_| ServeError::deadline())??
        }
        None => submitted.await?,
    };
    drop(read.share);
    let progress = jobs.progress(&record).await.ok();
    let mut response = (StatusCode::ACCEPTED, Json(describe(&record, progress))).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/jobs/{}", record.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

fn valid_key(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len()) && !key.chars().any(char::is_control)
}

fn header_key(headers: &HeaderMap) -> Result<Option<String>, ServeError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if valid_key(key) => Ok(Some(key.to_owned())),
        _ => {
            let what = format!("Idempotency-Key must be a text of 1 to {MAX_KEY} ASCII characters");
            Err(ServeError::bad_request("invalid_header", what).at(IDEMPOTENCY_KEY))
        }
    }
}

/// Whom a job of this caller belongs to: everybody, where no keys are needed.
fn owner(app: &App, Caller(client): Caller) -> Option<String> {
    match client {
        Some(Client::Key(key)) => app.keys.owner(key),
        _ => None,
    }
}

/// The job of this id, if it is the caller's.
async fn find(
    app: &App,
    jobs: &Jobs,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Record, ServeError> {
    let Path(id) = id.map_err(|e| ServeError::bad_request("invalid_path", e.body_text()))?;
    let record = jobs.record(&id).await?;
    // Whether others have a job of this id is nothing that a caller learns.
    record.filter(|record| record.owner == owner(app, caller)).ok_or_else(|| {
        let what = "there is no such job; it may have expired, or belong to another key";
        ServeError::new(Reason::NotFound, "job_not_found", what).at("id")
    })
}

/// Where a job stands.
pub(super) async fn status(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ServeError> {
    let jobs = app.jobs()?;
    let record = find(&app, jobs, caller, id).await?;
    let progress = jobs.progress(&record).await?;
    Ok(Json(describe(&record, Some(progress))))
}

/// A job, in the words of OpenAI's jobs and batches. Without progress it was accepted a moment ago.
fn describe(record: &Record, progress: Option<Progress>) -> Value {
    let Progress { status, completed, failed, parts, dead, finished } = progress.unwrap_or(Progress::ACCEPTED);
    json!({
        "id": record.id,
        "object": "job",
        "endpoint": ENDPOINT,
        "model": record.model,
        "status": status,
        "created_at": record.created,
        "finished_at": finished,
        "expires_at": record.expires,
        "request_counts": { "total": record.inputs(), "completed": completed, "failed": failed },
        "lenslet": {
            "fingerprint": record.fingerprint,
            "parts": { "total": record.parts.len(), "done": parts, "dead": dead },
        },
    })
}

/// Parts that are read ahead of the client.
const AHEAD: usize = 4;

/// The vectors of a job that has ended, as `/v1/embeddings` would have answered, written while they are read. Inputs without a
/// vector have their error in its place.
pub(super) async fn result(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ServeError> {
    let jobs = app.jobs()?.clone();
    let record = Arc::new(find(&app, &jobs, caller, id).await?);
    let progress = jobs.progress(&record).await?;
    if !progress.status.ended() {
        let what =
            format!("{} of {} inputs are done; ask again later", progress.completed + progress.failed, record.inputs());
        let error = ServeError::new(Reason::Conflict, "job_not_finished", what);
        return Err(ServeError { retry_after: Some(std::time::Duration::from_secs(1)), ..error });
    }
    let status = serde_json::to_value(progress.status).unwrap_or_default();
    let head = format!(
        "{{\"object\":\"list\",\"model\":{},\"lenslet\":{},\"data\":[",
        json!(record.model),
        json!({ "fingerprint": record.fingerprint, "job": record.id, "status": status }),
    );
    let parts = (0..record.parts.len()).map({
        let (jobs, record) = (jobs.clone(), record.clone());
        move |part| {
            let (jobs, record) = (jobs.clone(), record.clone());
            async move { Ok::<_, ServeError>((part, jobs.part_answer(&record, part).await?)) }
        }
    });
    let (mut index, mut tokens) = (0, 0);
    let items = stream::iter(parts).buffered(AHEAD).map(move |read| {
        let (part, answer) = read?;
        let mut text = String::new();
        for answer in answer.into_answers(record.parts[part] as usize) {
            if index > 0 {
                text.push(',');
            }
            text += &item(&record, index, answer, &mut tokens).to_string();
            index += 1;
        }
        if part + 1 == record.parts.len() {
            text += &format!("],\"usage\":{}}}", json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
        }
        Ok(Bytes::from(text))
    });
    let head = stream::iter([Ok::<_, ServeError>(Bytes::from(head))]);
    // Once it has begun, an answer that breaks off is the only way to say that something failed.
    let broken = |result: Result<Bytes, ServeError>| {
        result.inspect_err(|error| tracing::error!(code = %error.code, message = error.message, "a result breaks off"))
    };
    let body = Body::from_stream(head.chain(items).map(broken));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn item(record: &Record, index: usize, answer: Answer, tokens: &mut usize) -> Value {
    match answer {
        Answer::Vector(vector) => {
            *tokens += vector.tokens;
            let vector = written(&vector.embedding, record.dimensions, record.encoding);
            json!({ "object": "embedding", "index": index, "embedding": vector })
        }
        Answer::Refused(why) => {
            json!({ "object": "error", "index": index, "error": { "code": why.code, "message": why.message } })
        }
    }
}
