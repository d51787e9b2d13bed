//! The Open Inference Protocol, version 2, over gRPC: the towers of the REST interface under the same names, in front of the same queues.
//!
//! Calls pass a gate as HTTP requests do: keys (in the metadata `authorization`), paces, limits, priorities, deadlines (`grpc-timeout`),
//! draining, metrics and the log are the same. `grpc.health.v1.Health` is served beside it, for load balancers.

pub(crate) mod codec;
mod gate;
mod infer;
mod service;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::App;

/// The messages, and the trait of the calls, as `proto/inference.proto` has them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("inference");
}

use proto::grpc_inference_service_server::GrpcInferenceServiceServer as Calls;

type Inference = Calls<service::Service>;

/// Says whether the server is ready to those that ask by `grpc.health.v1.Health`.
pub struct Health(HealthReporter);

impl Health {
    /// Tells those that ask and those that watch.
    pub async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", Inference::NAME] {
            self.0.set_service_status(name, status).await;
        }
    }
}

/// All calls.
pub async fn router(app: Arc<App>) -> (Router, Health) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reporter = Health(reporter);
    reporter.set(app.ready()).await;
    let inference = Calls::new(service::Service(app.clone()))
        // The gate has bounded the body already.
        .max_decoding_message_size(usize::MAX);
    let router = Router::new()
        .route_service(&format!("/{}/{{*call}}", Inference::NAME), inference)
        .fallback(gate::no_such_call)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app, gate::gate))
        .route_service("/grpc.health.v1.Health/{*call}", health.max_decoding_message_size(1024));
    (router, reporter)
}
