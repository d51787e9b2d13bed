//! The Open Inference Protocol, version 2, over REST, with the binary tensor extension.
//!
//! A tower is a model of the protocol: `emoji-clip.image` is the tower `image` of the model `emoji-clip`. Where a model has one
//! tower only, its own name will do.

mod infer;
mod metadata;
pub(super) mod request;
pub(super) mod tensor;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{get, post};
use std::sync::Arc;

use lenslet::tensor::Tensor;

use self::request::Wanted;
use super::answer::OipError;
use crate::app::App;
use crate::context::Context;
use crate::engine::TowerSpec;
use crate::error::{Reason, ServeError};
use crate::hosted::{Hosted, Models};
use crate::schedule::TowerJob;

/// The protocol's paths.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v2", get(metadata::server))
        .route("/v2/models/{model}", get(metadata::model))
        .route("/v2/models/{model}/versions/{version}", get(metadata::model))
        .route("/v2/models/{model}/ready", get(metadata::ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(metadata::ready))
        .route("/v2/models/{model}/infer", post(infer::infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer::infer))
}

/// The only version of each model.
pub(super) const VERSION: &str = "1";

/// The model's name in a path; a version, if there is one, is known.
struct ModelPath(String);

impl<S: Send + Sync> FromRequestParts<S> for ModelPath {
    type Rejection = OipError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, OipError> {
        let names: Result<Path<Vec<(String, String)>>, PathRejection> = Path::from_request_parts(parts, state).await;
        let Path(names) = names.map_err(|e| ServeError::bad_request("invalid_path", e.body_text()))?;
        let find = |wanted: &str| names.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        find("version").map_or(Ok(()), |version| check_version(&version))?;
        Ok(ModelPath(find("model").unwrap_or_default()))
    }
}

/// A version that is there.
pub(super) fn check_version(version: &str) -> Result<(), ServeError> {
    if version == VERSION {
        return Ok(());
    }
    let shown: String = version.chars().take(20).collect();
    let what = format!("there is no version {shown:?}; there is version {VERSION}");
    Err(ServeError::new(Reason::NotFound, "version_not_found", what))
}

/// A tower by the protocol's name for it.
pub(super) struct Target<'m> {
    pub(super) model: &'m Arc<Hosted>,
    at: usize,
    pub(super) spec: &'m TowerSpec,
}

impl Target<'_> {
    /// Runs the tower when its turn comes.
    pub(super) async fn run(
        &self,
        context: Context,
        inputs: Vec<(String, Tensor)>,
        outputs: &[Wanted],
    ) -> Result<Vec<Tensor>, ServeError> {
        let job = TowerJob {
            engine: self.model.engine.clone(),
            tower: self.at,
            inputs,
            outputs: outputs.iter().map(|output| output.name.clone()).collect(),
        };
        context.scope(self.model.scheduler.submit(job)).await
    }
}

pub(super) fn find<'m>(models: &'m Models, name: &str) -> Result<Target<'m>, ServeError> {
    for model in models.all() {
        let towers = &model.engine.specs().towers;
        for (at, spec) in towers.iter().enumerate() {
            let full = name.strip_prefix(&model.name).and_then(|rest| rest.strip_prefix('.')) == Some(&spec.name);
            if full || (towers.len() == 1 && name == model.name) {
                return Ok(Target { model, at, spec });
            }
        }
    }
    let shown: String = name.chars().take(100).collect();
    let known = names(models).join(", ");
    let what = format!("there is no tower {shown:?} here; there are {known}");
    Err(ServeError::new(Reason::NotFound, "model_not_found", what))
}

/// The protocol's names of all towers.
pub(super) fn names(models: &Models) -> Vec<String> {
    let towers = |model: &Arc<Hosted>| {
        let name = model.name.clone();
        let towers = model.engine.specs().towers.iter().map(move |tower| format!("{name}.{}", tower.name));
        towers.collect::<Vec<_>>()
    };
    models.all().iter().flat_map(towers).collect()
}
