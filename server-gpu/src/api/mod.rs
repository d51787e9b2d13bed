//! The HTTP interface.

mod answer;
mod body;
mod chat;
mod cors;
pub(crate) mod embeddings;
mod gate;
#[cfg(feature = "grpc")]
pub mod grpc;
mod health;
pub(crate) mod input;
mod jobs;
pub(crate) mod keys;
mod metrics;
mod models;
mod multipart;
mod oip;
mod openapi;
pub(crate) mod picture;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};

use crate::app::App;

/// All paths.
pub fn router(app: Arc<App>) -> Router {
    let served = Router::new()
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/jobs", post(jobs::submit))
        .route("/v1/jobs/{id}", get(jobs::status))
        .route("/v1/jobs/{id}/result", get(jobs::result))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::one))
        .merge(oip::routes());
    let open = Router::new()
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .route("/openapi.json", get(openapi::document))
        .route("/metrics", get(metrics::render));
    let cors = cors::layer(&app.config.cors_origins);
    // The gate stands in front of all paths, those that do not exist too, except those that are asked for while the
    // server starts and ends and when it has too much to do.
    served
        .fallback(gate::no_such_path)
        .method_not_allowed_fallback(gate::no_such_method)
        // Bodies are read within bounds of this server's own.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), gate::gate))
        .merge(open)
        .layer(cors)
        .with_state(app)
}

/// What a worker answers: it serves no requests.
pub fn worker_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::worker_ready))
        .route("/metrics", get(metrics::render))
        .fallback(gate::no_such_path)
        .method_not_allowed_fallback(gate::no_such_method)
        .with_state(app)
}
