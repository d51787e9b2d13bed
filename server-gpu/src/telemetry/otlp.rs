//! Spans on their way to an OpenTelemetry collector, by OTLP over HTTP.
//!
//! A thread of the exporter's own sends them in batches from a queue of bounded length; what does not fit is dropped, so a collector that is
//! slow, or gone, holds up no request. Which share of traces is kept, the name of the service, and headers that the collector wants, are
//! said by OpenTelemetry's variables of the environment (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_HEADERS`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_http::{HeaderExtractor, HeaderInjector, HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::spans::TARGET;
use crate::outbound::{Connector, chain, connector};

/// Time that a collector has to take a batch.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time that the last batch has when the server ends.
const LAST: Duration = Duration::from_secs(2);

/// Bytes of a collector's answer at most.
const MAX_ANSWER: usize = 1 << 20;

/// Sends spans until it is told to end.
pub(super) struct Export(SdkTracerProvider);

impl Export {
    /// Sends spans to the collector at this address; its path is `/v1/traces` if it has none.
    pub(super) fn start(endpoint: &str, runtime: &Handle) -> Result<Export, String> {
        let plain = endpoint.trim_end_matches('/');
        let has_path = plain.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        let endpoint = if has_path { plain.to_owned() } else { format!("{plain}/v1/traces") };
        let exporter = SpanExporter::builder().with_http().with_http_client(Sender::new(runtime.clone()));
        let exporter = exporter.with_endpoint(endpoint).with_timeout(PATIENCE).build().map_err(|e| e.to_string())?;
        let resource = Resource::builder();
        // The name that the environment gives goes before ours.
        let named =
            ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"].iter().any(|name| std::env::var_os(name).is_some());
        let resource = if named { resource } else { resource.with_service_name("lenslet-server") };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        Ok(Export(provider))
    }

    /// What turns this server's spans, and nothing else, into those of OpenTelemetry.
    pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync>(&self) -> impl Layer<S> + use<S> {
        OpenTelemetryLayer::new(self.0.tracer("lenslet-server"))
            .with_location(false)
            .with_tracked_inactivity(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
    }

    /// Sends what is left, within bounds of time.
    pub(super) fn end(&self) {
        // That it could not be sent has been said where it was sent.
        let _ = self.0.shutdown_with_timeout(LAST);
    }
}

/// Puts a span below that of the client's, if the headers name one.
pub(super) fn below(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    if parent.span().span_context().is_valid() {
        // Fails where spans are not exported.
        let _ = span.set_parent(parent);
    }
}

/// Names the current span in headers.
pub(super) fn hand_on(headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut HeaderInjector(headers));
}

/// The number of a span's trace.
pub(super) fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let of_span = context.span().span_context().clone();
    of_span.is_valid().then(|| of_span.trace_id().to_string())
}

/// Sends batches on the server's own threads: the exporter's has no runtime.
#[derive(Debug)]
struct Sender {
    runtime: Handle,
    client: Client<Connector, Full<Bytes>>,
    /// Whether the last batch was not taken: it is said once, not every five seconds.
    failing: AtomicBool,
}

impl Sender {
    fn new(runtime: Handle) -> Sender {
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector());
        Sender { runtime, client, failing: AtomicBool::new(false) }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let read = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        // Clocks and connections belong to the runtime.
        let read = self.runtime.spawn(async move { tokio::time::timeout(PATIENCE, read).await });
        read.await?.map_err(|_| HttpError::from("it does not answer"))?
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request).await;
        let error = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(chain(&**error)),
        };
        let failed = error.is_some();
        if self.failing.swap(failed, Ordering::Relaxed) != failed {
            match error {
                Some(error) => {
                    tracing::warn!(error, "traces do not reach their collector; they are dropped until they do")
                }
                None => tracing::info!("traces reach their collector again"),
            }
        }
        answer
    }
}
