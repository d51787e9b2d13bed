//! Traces, as a collector sees them. Needs the feature `otlp`.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message as _;
use serde_json::{Value, json};

use crate::http::send;
use crate::program::{Program, wait_for};
use crate::setup::{block_on, data_url, picture, runtime};

const KEY: &str = "a-key-of-ours";
const TEXT: &str = "an unmistakable sentence";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector: what it was sent, as it came.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Collector {
        let bodies = Arc::new(Mutex::new(vec![]));
        let kept = bodies.clone();
        let take = post(move |request: Request| {
            let kept = kept.clone();
            async move {
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                assert_eq!(request.headers()["x-tenant"], "ours");
                let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
                kept.lock().unwrap().push(body.to_vec());
                StatusCode::OK
            }
        });
        let listener = block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/v1/traces", take);
        runtime().spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let app = app.clone();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    tower_service::Service::call(&mut app.clone(), request.map(axum::body::Body::new))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        Collector { address, bodies }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn spans(&self) -> Vec<Span> {
        let decode = |body: &Vec<u8>| ExportTraceServiceRequest::decode(body.as_slice()).unwrap().resource_spans;
        let resources: Vec<_> = self.bodies.lock().unwrap().iter().flat_map(decode).collect();
        for resource in &resources {
            let attributes = &resource.resource.as_ref().unwrap().attributes;
            assert!(attributes.iter().any(|pair| {
                pair.key == "service.name"
                    && pair.value.as_ref().unwrap().value == Some(Attribute::StringValue("lenslet-server".into()))
            }));
        }
        resources.into_iter().flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

fn start(collector: &str, more: &[&str], variables: &[(&str, &str)]) -> Program {
    let args = [
        "--model",
        "emoji-clip",
        "--model",
        "emoji-captioner",
        "--listen",
        "127.0.0.1:0",
        "--otlp-endpoint",
        collector,
    ];
    let program = Program::start(&[&args, more].concat(), variables);
    program.wait_until_ready();
    program
}

fn attribute(span: &Span, name: &str) -> Option<Attribute> {
    span.attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The only one of `spans` that is called so.
fn only<'s>(spans: &[&'s Span], name: &str) -> &'s Span {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(named.len(), 1, "{name} in {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    named[0]
}

async fn ask(at: SocketAddr, path: &str, body: &Value, traceparent: Option<&str>) -> StatusCode {
    let bearer = format!("Bearer {KEY}");
    let mut headers = vec![("content-type", "application/json"), ("authorization", bearer.as_str())];
    headers.extend(traceparent.map(|value| ("traceparent", value)));
    send(at, Method::POST, path, &headers, body.to_string()).await.status
}

#[test]
fn a_requests_spans_reach_the_collector_and_its_words_do_not() {
    let collector = Collector::start();
    let variables = [("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")];
    let inner = start(&collector.url(), &["--api-key", KEY], &variables);
    // Another server in front of it: a trace goes through both.
    let (behind, url) = (format!("http://{}", inner.address()), collector.url());
    let args = ["--model", "emoji-clip", "--listen", "127.0.0.1:0", "--otlp-endpoint", &url];
    let remote = ["--engine", "remote", "--remote-url", &behind, "--remote-key", KEY];
    let chained = Program::start_with(&[&args[..], &remote[..]].concat(), &variables);
    chained.wait_until_ready();
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let file = data_url(&picture("emoji/1F34E.png"));
    block_on(async {
        let at = chained.address();
        let embeddings = json!({"model": "emoji-clip", "input": TEXT});
        assert_eq!(ask(at, "/v1/embeddings", &embeddings, Some(&traceparent)).await, StatusCode::OK);
        let at = inner.address();
        let picture = json!([{"type": "image_url", "image_url": {"url": file}}]);
        let chat = json!({"model": "emoji-captioner", "messages": [{"role": "user", "content": picture}]});
        assert_eq!(ask(at, "/v1/chat/completions", &chat, None).await, StatusCode::OK);
        let wrong = json!({"model": TEXT, "input": TEXT});
        assert_eq!(ask(at, "/v1/embeddings", &wrong, None).await, StatusCode::NOT_FOUND);
        assert_eq!(ask(at, &format!("/{}", TEXT.replace(' ', "-")), &wrong, None).await, StatusCode::NOT_FOUND);
        // Probes are none of a trace's business.
        assert_eq!(crate::http::get(at, "/v2/health/ready").await.status, StatusCode::OK);
    });
    let log = [chained.end(), inner.end()].concat();

    // What was left when the servers ended has come too.
    let spans = collector.spans();
    let traced: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let requests: Vec<&&Span> = traced.iter().filter(|span| span.name == "POST /v1/embeddings").collect();
    let outer = requests.iter().find(|span| hex(&span.parent_span_id) == PARENT).unwrap();
    assert_eq!(outer.kind(), SpanKind::Server);
    assert_eq!(attribute(outer, "http.response.status_code"), Some(Attribute::IntValue(200)));
    // The server behind ran its tower below the batch of this one.
    let below =
        |parent: &Span| traced.iter().copied().filter(|span| span.parent_span_id == parent.span_id).collect::<Vec<_>>();
    let mut parent = **outer;
    for _ in 0..2 {
        let children = below(parent);
        assert!(children.iter().any(|span| span.name == "preprocess"), "{children:?}");
        let (queue, compute) = (only(&children, "queue"), only(&children, "compute"));
        for child in [queue, compute] {
            let within = parent.start_time_unix_nano..=parent.end_time_unix_nano;
            assert!(within.contains(&child.start_time_unix_nano) && within.contains(&child.end_time_unix_nano));
        }
        assert!(queue.end_time_unix_nano <= compute.start_time_unix_nano);
        assert_eq!(attribute(compute, "lenslet.rows"), Some(Attribute::IntValue(1)));
        let inside = below(compute);
        let batch = only(&inside, "batch");
        assert_eq!(attribute(batch, "lenslet.tower"), Some(Attribute::StringValue("text".into())));
        match below(batch).first() {
            Some(behind) => parent = behind,
            None => break,
        }
    }
    assert_eq!(parent.name, "POST /v2/models/{model}/infer");

    let chat = only(&spans.iter().collect::<Vec<_>>(), "POST /v1/chat/completions");
    assert!(chat.parent_span_id.is_empty());
    let parts: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == chat.span_id).collect();
    let Some(Attribute::IntValue(tokens)) = attribute(only(&parts, "decode"), "lenslet.tokens") else {
        panic!("{parts:?}")
    };
    assert!(tokens > 0);
    assert_eq!(attribute(only(&parts, "compute"), "lenslet.stage"), Some(Attribute::StringValue("prompt".into())));
    only(&parts, "queue");
    let missed: Vec<_> = spans
        .iter()
        .filter(|span| attribute(span, "http.response.status_code") == Some(Attribute::IntValue(404)))
        .filter(|span| span.name.starts_with("POST"))
        .collect();
    assert_eq!(missed.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["POST /v1/embeddings", "POST none"]);
    assert!(!spans.iter().any(|span| span.name.contains("health")));

    // The log names the trace.
    let named: Vec<_> = log.iter().filter(|entry| entry["trace_id"] == TRACE).collect();
    assert_eq!(
        named.iter().map(|entry| entry["route"].as_str().unwrap()).collect::<Vec<_>>(),
        ["/v1/embeddings", "/v2/models/{model}/infer"]
    );

    let known = [
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "lenslet.complete",
        "lenslet.engine",
        "lenslet.queue_depth",
        "lenslet.request_id",
        "lenslet.requests",
        "lenslet.rows",
        "lenslet.stage",
        "lenslet.tokens",
        "lenslet.tower",
    ];
    for span in &spans {
        assert!(span.events.is_empty(), "{span:?}");
        for pair in &span.attributes {
            assert!(known.contains(&pair.key.as_str()), "{}", pair.key);
        }
    }
    for body in collector.bodies.lock().unwrap().iter() {
        for secret in [TEXT.to_owned(), TEXT.replace(' ', "-"), KEY.to_owned(), file[file.len() - 60..].to_owned()] {
            assert!(!body.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} was exported");
        }
    }
}

#[test]
fn requests_that_share_a_batch_are_linked_to_it() {
    let collector = Collector::start();
    // A batch waits for the second request.
    let variables = [("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours"), ("LENSLET_MAX_QUEUE_DELAY_US", "1000000")];
    let program = start(&collector.url(), &["--cache-bytes", "0"], &variables);
    let at = program.address();
    block_on(async {
        let ask = |name: &str| {
            let body = json!({"model": "emoji-clip", "input": data_url(&picture(name))});
            async move { ask(at, "/v1/embeddings", &body, None).await }
        };
        let both = tokio::join!(ask("emoji/1F680.png"), ask("emoji/1F34E.png"));
        assert_eq!(both, (StatusCode::OK, StatusCode::OK));
    });
    program.end();
    let spans = collector.spans();
    let batches: Vec<_> =
        spans.iter().filter(|span| attribute(span, "lenslet.requests") == Some(Attribute::IntValue(2))).collect();
    let [batch] = batches.as_slice() else { panic!("{batches:?}") };
    assert!(batch.parent_span_id.is_empty());
    let linked: Vec<_> = batch.links.iter().map(|link| (link.trace_id.clone(), link.span_id.clone())).collect();
    let mut computed: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "compute")
        .map(|span| (span.trace_id.clone(), span.span_id.clone()))
        .collect();
    computed.retain(|id| linked.contains(id));
    assert_eq!((linked.len(), computed.len()), (2, 2));
    assert_ne!(computed[0].0, computed[1].0);
}

#[test]
fn a_collector_that_is_gone_or_silent_holds_up_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for address in [silent.local_addr().unwrap(), gone] {
        // Small queue, and a batch is sent at once: it overflows.
        let variables = [
            ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ];
        let program = start(&format!("http://{address}"), &[], &variables);
        let at = program.address();
        block_on(async {
            for number in 0..50 {
                let body = json!({"model": "emoji-clip", "input": format!("{TEXT} {number}")});
                assert_eq!(ask(at, "/v1/embeddings", &body, None).await, StatusCode::OK);
            }
        });
        if address == gone {
            wait_for("nothing is said of it", || {
                program.said("traces do not reach their collector; they are dropped until they do")
            });
        }
        let log = program.end();
        let warned = log.iter().filter(|entry| entry["level"] == "WARN").count();
        assert!(warned <= 1, "{warned} warnings");
        assert!(!Value::from(log).to_string().contains(TEXT));
    }
}
