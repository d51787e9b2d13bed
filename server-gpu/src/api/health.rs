//! Whether the process lives, and whether it takes requests.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;

/// The process answers: there is no reason to restart it.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// The models are loaded and warmed up, and the server is not about to end.
pub(super) async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    answer(app.ready())
}

/// The same of a worker, which is of no use without its queue.
pub(super) async fn worker_ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    answer(app.ready() && app.jobs.get().is_some_and(|jobs| jobs.queue.reachable()))
}

fn answer(ready: bool) -> (StatusCode, Json<Value>) {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready })))
}
