//! The Open Inference Protocol over gRPC. Needs the feature `grpc`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use axum::http::{Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lenslet_server::Server;
use lenslet_server::api::grpc::proto::infer_parameter::ParameterChoice;
use lenslet_server::api::grpc::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use lenslet_server::api::grpc::proto::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse, ModelReadyRequest, ModelReadyResponse,
    ServerLiveRequest, ServerLiveResponse, ServerReadyRequest, ServerReadyResponse,
};
use lenslet_server::config::Config;
use prost::Message;
use serde_json::json;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::http::{get, post};
use crate::oip::pixels;
use crate::python::{python, run_script};
use crate::setup::{bind, block_on, config, cosine, data_url, picture, start};

const SERVICE: &str = "inference.GRPCInferenceService";
const KEY: &str = "a-key-of-ours";

fn with_grpc(mut config: Config) -> Config {
    config.grpc_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config
}

/// A server that many of these tests use, and where it speaks gRPC.
fn shared() -> (SocketAddr, SocketAddr) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let begin = || block_on(start(with_grpc(config(&["emoji-clip"]))));
    let server = SERVER.get_or_init(|| std::thread::spawn(begin).join().unwrap());
    (server.address(), server.grpc_address().unwrap())
}

/// A call by tonic's client over hyper's HTTP/2.
async fn call<Q, A>(address: SocketAddr, call: &str, message: Q, metadata: &[(&'static str, &str)]) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<tonic::body::Body>();
    let origin: Uri = format!("http://{address}").parse().unwrap();
    let mut grpc = tonic::client::Grpc::with_origin(client, origin);
    grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
    let mut request = tonic::Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let path = format!("/{call}").parse().unwrap();
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    grpc.unary(request, path, codec).await.map(tonic::Response::into_inner)
}

async fn infer(
    address: SocketAddr,
    request: ModelInferRequest,
    metadata: &[(&'static str, &str)],
) -> Result<ModelInferResponse, Status> {
    call(address, &format!("{SERVICE}/ModelInfer"), request, metadata).await
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

fn request(tower: &str, inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: format!("emoji-clip.{tower}"),
        id: "7".into(),
        inputs,
        raw_input_contents: raw,
        ..ModelInferRequest::default()
    }
}

fn input(name: &str, datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        contents,
        ..InferInputTensor::default()
    }
}

fn ids(name: &str, ids: &[i64]) -> InferInputTensor {
    let contents = InferTensorContents { int64_contents: ids.to_vec(), ..InferTensorContents::default() };
    input(name, "INT64", &[1, ids.len() as i64], Some(contents))
}

fn text() -> ModelInferRequest {
    request("text", vec![ids("attention_mask", &[1, 1]), ids("input_ids", &[8190, 8191])], vec![])
}

fn floats(raw: &[u8]) -> Vec<f32> {
    raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn tritons_grpc_client_is_served() {
    let Some(python) = python() else { return };
    let mut config = with_grpc(config(&["emoji-clip"]));
    config.api_keys = vec![KEY.into()];
    let server = block_on(start(config));
    let address = server.grpc_address().unwrap().to_string();
    run_script(python, include_str!("../clients/triton_grpc_client.py"), &[&address, KEY]);
}

#[test]
fn a_tower_gives_the_same_over_grpc() {
    let file = picture("emoji/1F680.png");
    let (values, shape) = pixels(&file);
    let shape = shape.map(|n| n as i64);
    let (http, grpc) = shared();
    block_on(async {
        let body = json!({"model": "emoji-clip", "input": data_url(&file)});
        let wanted = crate::embeddings::vectors(&post(http, "/v1/embeddings", &body).await).remove(0);
        let least = values.iter().copied().fold(f32::INFINITY, f32::min);
        let scale = (values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / 255.0;
        let quantized: Vec<u32> = values.iter().map(|x| ((x - least) / scale).round() as u32).collect();
        let scaling = HashMap::from([
            ("scale".to_owned(), parameter(ParameterChoice::DoubleParam(f64::from(scale)))),
            ("zero_point".to_owned(), parameter(ParameterChoice::DoubleParam(f64::from(-least / scale)))),
        ]);
        let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let half: Vec<u8> = values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
        let typed = InferTensorContents { fp32_contents: values.clone(), ..InferTensorContents::default() };
        let bytes = InferTensorContents { uint_contents: quantized, ..InferTensorContents::default() };
        let tensor = |datatype, contents| input("pixel_values", datatype, &shape, contents);
        let small = InferInputTensor { parameters: scaling, ..tensor("UINT8", Some(bytes)) };
        for (least, request) in [
            (0.99999, request("image", vec![tensor("FP32", None)], vec![raw.into()])),
            (0.99999, request("image", vec![tensor("FP32", Some(typed))], vec![])),
            (0.9999, request("image", vec![tensor("FP16", None)], vec![half.into()])),
            (0.999, request("image", vec![small], vec![])),
        ] {
            for binary in [true, false] {
                let parameters =
                    HashMap::from([("binary_data".to_owned(), parameter(ParameterChoice::BoolParam(binary)))]);
                let output = InferRequestedOutputTensor { name: "image_embeds".into(), parameters };
                let asked = ModelInferRequest { outputs: vec![output], ..request.clone() };
                let answer = infer(grpc, asked, &[]).await.unwrap();
                assert_eq!((answer.id.as_str(), answer.model_name.as_str()), ("7", "emoji-clip.image"));
                let [output] = answer.outputs.as_slice() else { panic!("{:?}", answer.outputs) };
                assert_eq!((output.name.as_str(), output.shape.as_slice()), ("image_embeds", &[1, 192][..]));
                let vector = match &output.contents {
                    Some(contents) => contents.fp32_contents.clone(),
                    None => floats(&answer.raw_output_contents[0]),
                };
                assert_eq!(output.contents.is_none(), binary);
                assert!(cosine(&vector, &wanted) >= least, "{}", cosine(&vector, &wanted));
            }
        }
    });
}

#[test]
fn malformed_calls_are_refused_with_a_reason() {
    let (_, grpc) = shared();
    let mask = || ids("attention_mask", &[1, 1]);
    let good = || ids("input_ids", &[8190, 8191]);
    let of = |inputs| request("text", inputs, vec![]);
    let raw = |raw: Vec<Bytes>| {
        let inputs = vec![input("attention_mask", "INT64", &[1, 2], None), input("input_ids", "INT64", &[1, 2], None)];
        request("text", inputs, raw)
    };
    let two = || Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let with = |name: &str, choice| ModelInferRequest {
        parameters: HashMap::from([(name.to_owned(), parameter(choice))]),
        ..text()
    };
    let none = InferRequestedOutputTensor { name: "none".into(), ..InferRequestedOutputTensor::default() };
    let sound = ModelInferRequest { model_name: "emoji-clip.sound".into(), ..text() };
    let second = ModelInferRequest { model_version: "2".into(), ..text() };
    block_on(async {
        infer(grpc, text(), &[]).await.unwrap();
        infer(grpc, raw(vec![two(), two()]), &[]).await.unwrap();
        use Code::{InvalidArgument, NotFound, OutOfRange};
        for (code, name, request) in [
            (NotFound, "model_not_found", ModelInferRequest::default()),
            (NotFound, "model_not_found", sound),
            (NotFound, "version_not_found", second),
            (InvalidArgument, "missing_input", of(vec![])),
            (InvalidArgument, "missing_input", of(vec![good()])),
            (InvalidArgument, "invalid_request", of(vec![good(), good(), mask()])),
            (InvalidArgument, "unknown_input", of(vec![mask(), good(), ids("x", &[1])])),
            (InvalidArgument, "invalid_tensor", of(vec![mask(), InferInputTensor { shape: vec![1, 3], ..good() }])),
            (InvalidArgument, "invalid_request", of(vec![mask(), InferInputTensor { shape: vec![1, -2], ..good() }])),
            (InvalidArgument, "invalid_request", of(vec![mask(), InferInputTensor { shape: vec![1; 9], ..good() }])),
            (
                InvalidArgument,
                "invalid_tensor",
                of(vec![mask(), InferInputTensor { shape: vec![1 << 62; 2], ..good() }]),
            ),
            (InvalidArgument, "input_mismatch", of(vec![mask(), InferInputTensor { shape: vec![2], ..good() }])),
            (
                InvalidArgument,
                "invalid_request",
                of(vec![mask(), InferInputTensor { datatype: "BYTES".into(), ..good() }]),
            ),
            (
                InvalidArgument,
                "invalid_request",
                of(vec![mask(), InferInputTensor { datatype: "FP32".into(), ..good() }]),
            ),
            (InvalidArgument, "invalid_request", of(vec![mask(), InferInputTensor { contents: None, ..good() }])),
            (InvalidArgument, "kernel", of(vec![mask(), ids("input_ids", &[1, 99_999_999])])),
            (InvalidArgument, "invalid_request", raw(vec![two()])),
            (InvalidArgument, "invalid_tensor", raw(vec![two(), Bytes::from_static(&[1; 15])])),
            (
                InvalidArgument,
                "invalid_request",
                ModelInferRequest { raw_input_contents: vec![two(), two()], ..text() },
            ),
            (InvalidArgument, "unknown_output", ModelInferRequest { outputs: vec![none], ..text() }),
            (InvalidArgument, "invalid_type", with("timeout", ParameterChoice::Int64Param(-1))),
            (InvalidArgument, "invalid_type", with("priority", ParameterChoice::StringParam("high".into()))),
            (OutOfRange, "batch_too_large", of(vec![ids("attention_mask", &[1; 5000]), ids("input_ids", &[1; 5000])])),
        ] {
            let shown = format!("{:.300}", format!("{request:?}"));
            let status = infer(grpc, request, &[]).await.unwrap_err();
            let reason = status.metadata().get("lenslet-code").map(|name| name.to_str().unwrap().to_owned());
            assert_eq!((status.code(), reason.as_deref()), (code, Some(name)), "{shown}: {status}");
        }
        for (wrong, metadata) in [
            ("x-lenslet-priority", [("x-lenslet-priority", "urgent")]),
            ("grpc-timeout", [("grpc-timeout", "soon")]),
            ("grpc-timeout", [("grpc-timeout", "999999999S")]),
        ] {
            let status = infer(grpc, text(), &metadata).await.unwrap_err();
            assert_eq!(status.code(), InvalidArgument, "{status}");
            assert!(status.message().contains(wrong), "{status}");
        }
    });
}

#[test]
fn keys_paces_and_deadlines_hold_for_calls() {
    block_on(async {
        let mut config = with_grpc(config(&["emoji-clip"]));
        config.api_keys = vec![KEY.into(), "another-key".into()];
        (config.limits.requests_per_second, config.limits.burst) = (0.01, 3);
        let server = start(config).await;
        let at = server.grpc_address().unwrap();
        let ready: ServerReadyResponse =
            call(at, &format!("{SERVICE}/ServerReady"), ServerReadyRequest {}, &[]).await.unwrap();
        assert!(ready.ready);
        let named = ModelReadyRequest { name: "emoji-clip.image".into(), version: String::new() };
        let asked: Result<ModelReadyResponse, _> = call(at, &format!("{SERVICE}/ModelReady"), named, &[]).await;
        assert_eq!(asked.unwrap_err().code(), Code::Unauthenticated);
        let key = [("authorization", "Bearer a-key-of-ours")];
        infer(at, text(), &key).await.unwrap();
        let late = [key[0], ("grpc-timeout", "1n")];
        assert_eq!(infer(at, text(), &late).await.unwrap_err().code(), Code::DeadlineExceeded);
        infer(at, text(), &[key[0], ("grpc-timeout", "60S"), ("x-lenslet-priority", "high")]).await.unwrap();
        // The pace is that of the key, whichever way it comes.
        let refused = infer(at, text(), &key).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.metadata().get("lenslet-code").unwrap().to_str().unwrap()),
            (Code::ResourceExhausted, "rate_limit_exceeded")
        );
        let wait: u64 = refused.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
        assert!((90_000..=100_000).contains(&wait), "{wait}");
        let bearer = [("authorization", "Bearer a-key-of-ours")];
        let http = crate::http::send(server.address(), axum::http::Method::GET, "/v1/models", &bearer, "").await;
        assert_eq!(http.status, StatusCode::TOO_MANY_REQUESTS);
        infer(at, text(), &[("authorization", "Bearer another-key")]).await.unwrap();
    });
}

#[test]
fn health_follows_the_servers_life() {
    block_on(async {
        let server = bind(with_grpc(config(&["emoji-clip"])).checked().unwrap()).await;
        let at = server.grpc_address().unwrap();
        let health = async |service: &str| {
            let asked = HealthCheckRequest { service: service.into() };
            let answer: Result<HealthCheckResponse, _> = call(at, "grpc.health.v1.Health/Check", asked, &[]).await;
            answer.map(|answer| answer.status)
        };
        let (serving, not_serving) = (1, 2);
        let live: ServerLiveResponse =
            call(at, &format!("{SERVICE}/ServerLive"), ServerLiveRequest {}, &[]).await.unwrap();
        assert!(live.live);
        assert_eq!((health("").await.unwrap(), health(SERVICE).await.unwrap()), (not_serving, not_serving));
        assert_eq!(health("another").await.unwrap_err().code(), Code::NotFound);
        let early = infer(at, text(), &[]).await.unwrap_err();
        assert_eq!(
            (early.code(), early.metadata().get("lenslet-code").unwrap().to_str().unwrap()),
            (Code::Unavailable, "starting")
        );
        server.load().await.unwrap();
        assert_eq!((health("").await.unwrap(), health(SERVICE).await.unwrap()), (serving, serving));
        infer(at, text(), &[]).await.unwrap();

        // While a call is under way the server drains: that one is answered, new ones are refused.
        let app = server.app().clone();
        let under_way = app.begin().unwrap();
        let drained = tokio::spawn(server.drain());
        while !app.draining() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(infer(at, text(), &[]).await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(health("").await.unwrap(), not_serving);
        drop(under_way);
        assert!(drained.await.unwrap());
        assert!(infer(at, text(), &[]).await.is_err());
    });
}

/// What a call gets whose body is `body`, over HTTP/2.
async fn post_raw(
    client: &Client<HttpConnector, Full<Bytes>>,
    at: SocketAddr,
    path: &str,
    kind: &str,
    body: impl Into<Bytes>,
) -> (StatusCode, Option<Code>) {
    let request = Request::post(format!("http://{at}/{path}")).header("content-type", kind).header("te", "trailers");
    let answer = client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let trailer = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
    let code = head.headers.get("grpc-status").or(trailer).map(|code| Code::from_bytes(code.as_bytes()));
    (head.status, code)
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

#[test]
fn hostile_messages_are_refused_within_bounds() {
    let mut settings = with_grpc(config(&["emoji-clip"]));
    settings.limits.max_body_bytes = 4 << 20;
    settings.limits.max_total_body_bytes = 16 << 20;
    settings.limits.read_timeout_s = 0.5;
    let server = block_on(start(settings));
    let at = server.grpc_address().unwrap();
    let path = format!("{SERVICE}/ModelInfer");
    block_on(async {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
        let post = async |body: Vec<u8>| {
            let (status, code) = post_raw(&client, at, &path, "application/grpc", body).await;
            assert_eq!(status, StatusCode::OK);
            code.unwrap()
        };
        let good = text().encode_to_vec();
        assert_eq!(post(frame(&good)).await, Code::Ok);
        // Two bytes an input: a million tensors of some hundred bytes each.
        let tensors = [0x2a, 0x00].repeat(1 << 20);
        // One byte an element: four million elements of eight.
        let elements = InferTensorContents { int64_contents: vec![1; 3 << 20], ..InferTensorContents::default() };
        let elements = request("text", vec![input("input_ids", "INT64", &[1, 3 << 20], Some(elements))], vec![]);
        let mut compressed = frame(&good);
        compressed[0] = 1;
        for (wanted, body) in [
            (Code::ResourceExhausted, frame(&tensors)),
            (Code::ResourceExhausted, frame(&elements.encode_to_vec())),
            (Code::OutOfRange, frame(&vec![0; 5 << 20])),
            (Code::InvalidArgument, frame(&good[..good.len() - 1])),
            (Code::InvalidArgument, frame(&[0xff; 100])),
            (Code::InvalidArgument, [0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3].to_vec()),
            (Code::InvalidArgument, vec![]),
            (Code::InvalidArgument, [frame(&good), frame(&good)].concat()),
            (Code::Unimplemented, compressed),
        ] {
            assert_eq!(post(body.clone()).await, wanted, "{:?}", &body[..body.len().min(20)]);
        }
        // Groups in groups, beyond what a parser follows.
        let nested = [[0x7b].repeat(5000), [0x7c].repeat(5000)].concat();
        assert_eq!(post(frame(&nested)).await, Code::InvalidArgument);
        let (status, code) = post_raw(&client, at, &path, "application/json", "{}").await;
        assert_eq!((status, code), (StatusCode::UNSUPPORTED_MEDIA_TYPE, None));
        for call in [format!("{SERVICE}/ModelLoad"), "other.Service/Call".into(), String::new()] {
            let (_, code) = post_raw(&client, at, &call, "application/grpc", frame(&[])).await;
            assert_eq!(code, Some(Code::Unimplemented), "{call}");
        }
        // Open to all, so not for much.
        let (_, code) =
            post_raw(&client, at, &format!("{SERVICE}/ServerReady"), "application/grpc", frame(&[0; 2000])).await;
        assert!(code.is_some_and(|code| code != Code::Ok), "{code:?}");

        // All of the memory for bodies is there again.
        assert_eq!(post(frame(&good)).await, Code::Ok);
        let mut all = lenslet_server::app::Share::default();
        server.app().bodies.take(&mut all, 16 << 20).unwrap();
        assert_eq!(server.app().under_way(), 0);
    });
    // Who says nothing, or speaks HTTP/1, is cut off.
    for said in ["", "PRI * HTTP/2.0\r\n", "GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        let mut heard = vec![];
        // A reset is an end too.
        let _ = stream.read_to_end(&mut heard);
        assert_eq!(heard, b"", "{said:?}");
    }
}

#[test]
fn calls_are_counted_as_requests_are() {
    let (http, grpc) = shared();
    block_on(async {
        infer(grpc, text(), &[]).await.unwrap();
        let sound = ModelInferRequest { model_name: "emoji-clip.sound".into(), ..text() };
        infer(grpc, sound, &[]).await.unwrap_err();
        let text = String::from_utf8(get(http, "/metrics").await.body.to_vec()).unwrap();
        for status in ["200", "404"] {
            let line = format!("lenslet_requests_total{{route=\"/{SERVICE}/ModelInfer\",status=\"{status}\"}}");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    });
}
