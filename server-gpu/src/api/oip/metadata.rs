//! What the server and its towers say about themselves.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{ModelPath, VERSION, find};
use crate::api::answer::OipError;
use crate::app::App;
use crate::engine::TensorSpec;
use crate::oip::datatype;

/// The server.
pub(super) async fn server() -> Json<Value> {
    Json(json!({
        "name": "lenslet-server",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data"],
    }))
}

/// A tower's inputs and outputs. A size of -1 is the caller's choice.
pub(super) async fn model(State(app): State<Arc<App>>, ModelPath(name): ModelPath) -> Result<Json<Value>, OipError> {
    let target = find(app.models()?, &name)?;
    let list = |specs: &[TensorSpec]| -> Vec<Value> {
        let one = |spec: &TensorSpec| {
            let shape: Vec<i64> = spec.shape.iter().map(|size| size.map_or(-1, |n| n as i64)).collect();
            json!({ "name": spec.name, "datatype": datatype(spec.dtype), "shape": shape })
        };
        specs.iter().map(one).collect()
    };
    Ok(Json(json!({
        "name": name,
        "versions": [VERSION],
        "platform": format!("lenslet_{}", target.model.engine.name()),
        "inputs": list(&target.spec.inputs),
        "outputs": list(&target.spec.outputs),
        "parameters": { "fingerprint": target.model.fingerprint, "joinable": target.spec.joinable },
    })))
}

/// A tower that is there is ready: nothing is listed before it is warmed up.
pub(super) async fn ready(State(app): State<Arc<App>>, ModelPath(name): ModelPath) -> Result<Json<Value>, OipError> {
    find(app.models()?, &name)?;
    Ok(Json(json!({ "name": name, "ready": true })))
}
