//! `/v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use lenslet::tasks::classify::Scoring;
use serde_json::{Value, json};

use crate::app::App;
use crate::engine::WriterKind;
use crate::error::ServeError;
use crate::hosted::Hosted;

/// All models.
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, ServeError> {
    let data: Vec<Value> = app.models()?.all().iter().map(|model| describe(model)).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// One model.
pub(super) async fn one(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ServeError> {
    let Path(name) = name.map_err(|e| ServeError::bad_request("invalid_path", e.body_text()))?;
    Ok(Json(describe(app.models()?.get(&name)?)))
}

fn describe(model: &Hosted) -> Value {
    let task = if model.decoding.is_some() { "chat" } else { "embeddings" };
    let inputs: &[&str] = match model.engine.specs().writer {
        Some(WriterKind::Captioner) => &["image"],
        Some(WriterKind::Answerer | WriterKind::Any) => &["text", "image"],
        Some(WriterKind::Text) => &["text"],
        None => match (model.text_encoder().is_ok(), model.preprocessor().is_ok()) {
            (true, true) => &["text", "image"],
            (true, false) => &["text"],
            _ => &["image"],
        },
    };
    let mut own = json!({
        "task": task,
        "inputs": inputs,
        "engine": model.engine.name(),
        "device": model.engine.device(),
    });
    if let Some(tokenizer) = &model.tokenizer {
        own["tokenizer"] = tokenizer.clone().into();
    }
    if let Some(scoring) = model.scoring {
        own["scoring"] = match scoring {
            Scoring::Softmax { scale } => json!({ "scale": scale }),
            Scoring::Sigmoid { scale, bias } => json!({ "scale": scale, "bias": bias }),
        };
    }
    if let Some(dimensions) = model.dimensions {
        own["dimensions"] = dimensions.into();
        own["fingerprint"] = model.fingerprint.clone().into();
    }
    json!({
        "id": model.name,
        "object": "model",
        "created": model.loaded,
        "owned_by": "lenslet",
        "lenslet": own,
    })
}
