//! `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::{Reason, ServeError};
use crate::metrics;

/// Everything that is counted, as Prometheus reads it. It wants a key where others do, but stands beside the gate: an overload
/// is what somebody wants to look at.
pub(super) async fn render(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ServeError> {
    app.keys.check(&headers)?;
    let Some(prometheus) = &app.prometheus else {
        return Err(ServeError::new(Reason::NotFound, "metrics_off", "this server counts nothing"));
    };
    let (entries, bytes) = app.cache.size();
    metrics::cache_size(entries, bytes);
    metrics::under_way(app.under_way());
    metrics::resident_memory();
    for model in app.models.get().iter().flat_map(|models| models.all()) {
        if let Some(bytes) = model.engine.device_bytes() {
            metrics::device_memory(&model.name, bytes);
        }
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], prometheus.render()).into_response())
}
