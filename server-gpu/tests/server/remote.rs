//! A server in front of another one.

use std::net::SocketAddr;
use std::sync::OnceLock;

use axum::http::StatusCode;
use lenslet_server::config::{Config, EngineKind};
use lenslet_server::{Server, serve::StartError};
use serde_json::{Value, json};

use crate::chat::caption_request;
use crate::embeddings::vectors;
use crate::http::{get, post};
use crate::setup::{block_on, config, cosine, data_url, picture, shared, start};

fn in_front_of(behind: SocketAddr, models: &[&str]) -> Config {
    let mut config = config(models);
    config.engine = EngineKind::Remote;
    config.remote.url = Some(format!("http://{behind}"));
    config
}

fn chained() -> SocketAddr {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let models = ["emoji-clip", "photo-search", "emoji-captioner"];
    let begin = move || block_on(start(in_front_of(shared(), &models)));
    SERVER.get_or_init(|| std::thread::spawn(begin).join().unwrap()).address()
}

#[test]
fn vectors_through_two_servers_are_those_of_one() {
    block_on(async {
        let described = get(chained(), "/v1/models/emoji-clip").await.json();
        assert_eq!(described["lenslet"]["engine"], "remote");
        for (model, file) in [("emoji-clip", "emoji/1F436.png"), ("photo-search", "photos/baseball.jpg")] {
            let body = json!({"model": model, "input": [data_url(&picture(file)), "two dogs", "x"]});
            let (a, b) =
                (post(chained(), "/v1/embeddings", &body).await, post(shared(), "/v1/embeddings", &body).await);
            for (a, b) in vectors(&a).iter().zip(&vectors(&b)) {
                assert!(cosine(a, b) >= 0.9999, "{model}: {}", cosine(a, b));
            }
            assert_eq!(a.json()["lenslet"], b.json()["lenslet"]);
        }
    });
}

#[test]
fn a_caption_through_two_servers_is_that_of_one() {
    let file = picture("emoji/1F697.png");
    let path = "/v1/chat/completions";
    block_on(async {
        let whole = |json: Value| (json["choices"].clone(), json["usage"].clone(), json["lenslet"]["tokens"].clone());
        let body = caption_request(&file, &json!({}));
        let (a, b) = (post(chained(), path, &body).await, post(shared(), path, &body).await);
        assert_eq!(a.status, StatusCode::OK, "{:?}", a.body);
        assert_eq!(whole(a.json()), whole(b.json()));
        let body = caption_request(&file, &json!({"stream": true}));
        let text = |events: Vec<String>| -> String {
            let chunks = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
            chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
        };
        let (a, b) = (post(chained(), path, &body).await, post(shared(), path, &body).await);
        assert_eq!(text(a.events()), text(b.events()));
    });
}

#[test]
fn a_caption_goes_on_through_two_servers() {
    let models = |at| async move { get(at, "/v1/models/emoji-captioner").await.json()["lenslet"]["tokenizer"].clone() };
    let (a, b) = block_on(async { (models(chained()).await, models(shared()).await) });
    assert!(a.as_str().is_some_and(|digest| digest.len() == 64) && a == b, "{a} {b}");
    crate::chat::resumes_everywhere(chained());
}

#[test]
fn what_the_server_behind_refuses_is_refused_here() {
    block_on(async {
        let words = json!({"model": "emoji-captioner", "messages": [{"role": "user", "content": "hi"}]});
        let answer = post(chained(), "/v1/chat/completions", &words).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "picture_missing"));
        let beyond = post(chained(), "/v1/embeddings", &json!({"model": "emoji-clip", "input": [[9999999]]})).await;
        assert_eq!((beyond.status, beyond.code().as_str()), (StatusCode::BAD_REQUEST, "kernel"));
    });
}

#[test]
fn a_server_behind_that_goes_away_is_told() {
    block_on(async {
        let behind = start(config(&["emoji-clip"])).await;
        let front = start(in_front_of(behind.address(), &["emoji-clip"])).await;
        assert!(behind.drain().await);
        let answer = post(front.address(), "/v1/embeddings", &json!({"model": "emoji-clip", "input": "x"})).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "remote_unreachable"));
        assert_eq!(get(front.address(), "/v2/health/live").await.status, StatusCode::OK);
    });
}

#[test]
fn a_start_in_front_of_nothing_fails() {
    block_on(async {
        let nothing = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = Server::start(in_front_of(nothing, &["emoji-clip"])).await.err().unwrap();
        let StartError::Load(error) = error else { panic!("{error}") };
        assert_eq!(error.code, "remote_unreachable");
        let mut other = in_front_of(shared(), &["emoji-clip"]);
        other.models[0].name = Some("unheard-of".into());
        let error = Server::start(other).await.err().unwrap().to_string();
        assert!(error.contains("has no model unheard-of"), "{error}");
    });
}
