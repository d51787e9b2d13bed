//! The calls.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::proto::grpc_inference_service_server::GrpcInferenceService;
use super::proto::model_metadata_response::TensorMetadata;
use super::proto::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};
use super::{infer, status};
use crate::api::oip::{self, Target, VERSION};
use crate::app::App;
use crate::context::Context;
use crate::engine::TensorSpec;
use crate::error::ServeError;
use crate::oip::datatype;

/// Answers the calls.
pub(super) struct Service(pub(super) Arc<App>);

impl Service {
    fn find(&self, name: &str, version: &str) -> Result<Target<'_>, ServeError> {
        if !version.is_empty() {
            oip::check_version(version)?;
        }
        oip::find(self.0.models()?, name)
    }

    async fn infer(&self, message: ModelInferRequest) -> Result<ModelInferResponse, ServeError> {
        let target = self.find(&message.model_name, &message.model_version)?;
        target.model.scheduler.admit()?;
        let (spec, context, name) = (target.spec.clone(), Context::current(), message.model_name.clone());
        let request = self.0.pool.run(move || infer::read(message, &spec, context)).await?;
        let tensors = target.run(request.context, request.inputs, &request.outputs).await?;
        infer::answer(name, request.id.unwrap_or_default(), &request.outputs, &tensors)
    }
}

fn metadata(specs: &[TensorSpec]) -> Vec<TensorMetadata> {
    let one = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: datatype(spec.dtype).to_owned(),
        shape: spec.shape.iter().map(|size| size.map_or(-1, |n| n as i64)).collect(),
    };
    specs.iter().map(one).collect()
}

fn answered<T>(result: Result<T, ServeError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status::refusal(&error))
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        answered(self.find(&name, &version).map(|_| ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "lenslet-server".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: vec![],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let described = self.find(&name, &version).map(|target| ModelMetadataResponse {
            versions: vec![VERSION.to_owned()],
            platform: format!("lenslet_{}", target.model.engine.name()),
            inputs: metadata(&target.spec.inputs),
            outputs: metadata(&target.spec.outputs),
            properties: HashMap::from([
                ("fingerprint".to_owned(), target.model.fingerprint.clone()),
                ("joinable".to_owned(), target.spec.joinable.to_string()),
            ]),
            name: name.clone(),
        });
        answered(described)
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        answered(self.infer(request.into_inner()).await)
    }
}
