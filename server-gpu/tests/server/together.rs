//! Texts that share runs of their decoder.

use std::net::SocketAddr;

use axum::http::StatusCode;
use lenslet_server::config::ModelConfig;
use serde_json::{Value, json};

use crate::http::{get, post};
use crate::setup::{block_on, config, data_url, picture, start, zoo};

/// What a caller reads: the words, and the ids behind them.
async fn text(server: SocketAddr, request: &Value) -> (String, Vec<u64>) {
    let answer = post(server, "/v1/chat/completions", request).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let json = answer.json();
    let tokens: Vec<u64> = json["lenslet"]["tokens"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    (json["choices"][0]["message"]["content"].as_str().unwrap().to_owned(), tokens)
}

/// Runs of decoders whose texts share them, and texts in all of these.
async fn runs(server: SocketAddr) -> [u64; 2] {
    let metrics = String::from_utf8(get(server, "/metrics").await.body.to_vec()).unwrap();
    let of = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        line.map_or(0, |n| n as u64)
    };
    [of("lenslet_decode_rows_count"), of("lenslet_decode_rows_sum")]
}

/// Asks for all of these one by one, and then at once.
async fn check(folder: &str, requests: &[Value]) {
    let Some(path) = zoo(folder) else { return };
    let mut settings = config(&[]);
    let model = path.to_string_lossy().into_owned();
    settings.models = vec![ModelConfig { name: Some("tiny".into()), model, precision: Some("fp32".into()) }];
    let server = start(settings).await;
    let at = server.address();
    let mut wanted = vec![];
    let before = runs(at).await;
    for request in requests {
        wanted.push(text(at, request).await);
    }
    let alone = runs(at).await;
    let got = async {
        // Nothing is computed before all are there.
        let hosted = server.app().models().unwrap().get("tiny").unwrap().clone();
        let place = hosted.scheduler.place().await.unwrap();
        let asks = futures_util::future::join_all(requests.iter().map(|request| text(at, request)));
        let start = async {
            while server.app().under_way() < requests.len() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            drop(place);
        };
        futures_util::future::join(asks, start).await.0
    };
    let got = got.await;
    let together = runs(at).await;
    assert_eq!(got, wanted, "{folder}");
    assert!(wanted.iter().any(|text| *text != wanted[0]), "{folder}: the texts are told apart");
    // The first token of a text comes with its prompt.
    let steps: u64 = wanted.iter().map(|(_, tokens)| tokens.len() as u64 - 1).sum();
    let [alone, shared] = [(before, alone), (alone, together)].map(|(a, b)| [b[0] - a[0], b[1] - a[1]]);
    assert!(alone[0] == alone[1] && alone[0] >= steps, "{folder}: {alone:?} for {steps}");
    assert_eq!(shared[1], alone[1], "{folder}");
    assert!(shared[0] * 2 < shared[1], "{folder}: {} runs for {}", shared[0], shared[1]);
    server.drain().await;
}

fn words(text: &str, more: Value) -> Value {
    let mut request = json!({"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 48});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

fn caption(name: &str) -> Value {
    let picture = json!({"type": "image_url", "image_url": {"url": data_url(&picture(&format!("emoji/{name}.png")))}});
    json!({"model": "tiny", "messages": [{"role": "user", "content": [picture]}], "max_tokens": 24})
}

// One test: what is counted is counted for the whole process.
#[test]
fn texts_at_once_are_those_of_texts_in_turn_in_fewer_runs() {
    block_on(async {
        let requests = [
            words("The capital of France is", json!({})),
            words("a", json!({})),
            words("Once upon a time there was a princess who", json!({"temperature": 0.9, "seed": 3})),
            words("ten nine eight seven six five", json!({"max_tokens": 20})),
            words("What?", json!({"temperature": 1.2, "top_p": 0.9, "seed": 7})),
        ];
        check("smollm2-135m/tiny", &requests).await;
        check("vit-gpt2-image-captioning/tiny", &["1F34E", "1F436", "1F680", "2615"].map(caption)).await;
    });
}
