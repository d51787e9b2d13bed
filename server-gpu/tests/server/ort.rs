//! The ort engine on its CPU provider, beside the lenslet engine.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::OnceLock;

use axum::http::StatusCode;
use lenslet_server::Server;
use lenslet_server::config::{Device, EngineKind};
use lenslet_server::serve::StartError;
use serde_json::json;

use crate::chat::caption_request;
use crate::embeddings::vectors;
use crate::http::{get, post};
use crate::python::onnxruntime;
use crate::setup::{block_on, config, cosine, data_url, picture, shared, start};

/// A server with ONNX Runtime, where its library can be had.
pub(crate) fn ort() -> Option<SocketAddr> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let library = onnxruntime()?;
    let begin = move || {
        let mut config = config(&["emoji-clip", "photo-search", "emoji-captioner"]);
        config.engine = EngineKind::Ort;
        config.ort.library = Some(library);
        block_on(start(config))
    };
    let server = SERVER.get_or_init(|| Some(std::thread::spawn(begin).join().unwrap()));
    server.as_ref().map(Server::address)
}

#[test]
fn both_engines_give_the_same_vectors() {
    let Some(ort) = ort() else { return };
    block_on(async {
        assert_eq!(get(ort, "/v1/models/emoji-clip").await.json()["lenslet"]["engine"], "ort");
        for (model, file) in [("emoji-clip", "emoji/1F34E.png"), ("photo-search", "photos/astronaut.jpg")] {
            let texts = ["a red apple", "an astronaut in front of a flag", "x"];
            let input = json!([data_url(&picture(file)), texts[0], texts[1], texts[2]]);
            let body = json!({"model": model, "input": input});
            let (a, b) = (post(ort, "/v1/embeddings", &body).await, post(shared(), "/v1/embeddings", &body).await);
            for (at, (a, b)) in vectors(&a).iter().zip(&vectors(&b)).enumerate() {
                assert!(cosine(a, b) >= 0.9999, "{model} {at}: {}", cosine(a, b));
            }
            assert_eq!(a.json()["lenslet"], b.json()["lenslet"]);
        }
    });
}

#[test]
fn both_engines_describe_a_tower_alike_and_refuse_the_same() {
    let Some(ort) = ort() else { return };
    block_on(async {
        for tower in ["emoji-clip.image", "emoji-clip.text", "photo-search.text"] {
            let path = format!("/v2/models/{tower}");
            let (a, b) = (get(ort, &path).await.json(), get(shared(), &path).await.json());
            assert_eq!((&a["inputs"], &a["parameters"]), (&b["inputs"], &b["parameters"]), "{tower}");
        }
        let body = |shape, ids: [i64; 2]| {
            let input = |name, data| json!({"name": name, "datatype": "INT64", "shape": shape, "data": data});
            json!({"inputs": [input("input_ids", json!(ids)), input("attention_mask", json!([1, 1]))]})
        };
        for (body, status) in [
            (body(json!([1, 2]), [8190, 8191]), StatusCode::OK),
            (body(json!([1, 2]), [1, 99_999_999]), StatusCode::BAD_REQUEST),
            (body(json!([2]), [1, 1]), StatusCode::BAD_REQUEST),
        ] {
            let answer = post(ort, "/v2/models/emoji-clip.text/infer", &body).await;
            assert_eq!(answer.status, status, "{:?}", answer.body);
        }
    });
}

#[test]
fn both_engines_write_the_same_tokens() {
    let Some(ort) = ort() else { return };
    let path = "/v1/chat/completions";
    block_on(async {
        assert_eq!(get(ort, "/v1/models/emoji-captioner").await.json()["lenslet"]["engine"], "ort");
        for name in ["1F34E", "1F436", "1F431", "1F680", "2615", "1F697"] {
            let file = picture(&format!("emoji/{name}.png"));
            for more in [json!({}), json!({"max_tokens": 2}), json!({"temperature": 0.7, "seed": 5})] {
                let body = caption_request(&file, &more);
                let (a, b) = (post(ort, path, &body).await, post(shared(), path, &body).await);
                assert_eq!(a.status, StatusCode::OK, "{:?}", a.body);
                let (a, b) = (a.json(), b.json());
                for part in ["choices", "usage"] {
                    assert_eq!(a[part], b[part], "{name} {more}");
                }
                assert_eq!(a["lenslet"]["tokens"], b["lenslet"]["tokens"], "{name} {more}");
            }
        }
        let words = json!({"model": "emoji-captioner", "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(post(ort, path, &words).await.code(), "picture_missing");
    });
}

#[test]
fn a_missing_library_is_an_error_at_the_start() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lenslet-server"));
    command.args(["--model", "emoji-clip", "--listen", "127.0.0.1:0", "--engine", "ort"]);
    let output = command.args(["--ort-library", "/no/such/libonnxruntime.so"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("/no/such/libonnxruntime.so") && error.contains("--ort-library"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn a_library_without_cuda_is_an_error_where_cuda_is_asked_for() {
    let Some(library) = onnxruntime() else { return };
    let mut settings = config(&["emoji-clip"]);
    (settings.engine, settings.device, settings.ort.library) = (EngineKind::Ort, Device::Cuda, Some(library));
    let error = block_on(Server::start(settings)).err().expect("PyPI's onnxruntime has no CUDA");
    let StartError::Load(error) = error else { panic!("{error}") };
    assert_eq!(error.code, "ort_provider");
    assert!(error.message.contains("emoji-clip") && error.message.contains("--device cpu"), "{error}");
}

#[test]
fn a_caption_that_was_cut_goes_on_in_onnx_runtime() {
    let Some(ort) = ort() else { return };
    crate::chat::resumes_everywhere(ort);
}
