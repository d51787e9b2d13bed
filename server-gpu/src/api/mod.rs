//! The HTTP interface.

mod answer;
mod body;
mod chat;
mod embeddings;
mod gate;
mod health;
mod input;
mod models;
mod multipart;
mod oip;
mod picture;

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
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::one))
        .merge(oip::routes());
    let probes =
        Router::new().route("/v2/health/live", get(health::live)).route("/v2/health/ready", get(health::ready));
    // The gate stands in front of all paths, those that do not exist too.
    served
        .fallback(gate::no_such_path)
        .method_not_allowed_fallback(gate::no_such_method)
        // Bodies are read within bounds of this server's own.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), gate::gate))
        .merge(probes)
        .with_state(app)
}
