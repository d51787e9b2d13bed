use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::http::{get, post, send};
use crate::setup::{bind, block_on, config, shared};

#[test]
fn a_server_lives_before_it_is_ready() {
    block_on(async {
        let server = bind(config(&["emoji-captioner"])).await;
        let at = server.address();
        assert_eq!(get(at, "/v2/health/live").await.status, StatusCode::OK);
        assert_eq!(get(at, "/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
        let early = get(at, "/v1/models").await;
        assert_eq!((early.status, early.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "starting"));
        assert!(early.headers.contains_key("retry-after"));
        server.load().await.unwrap();
        assert_eq!(get(at, "/v2/health/ready").await.status, StatusCode::OK);
        assert!(server.drain().await);
    });
}

#[test]
fn models_are_described() {
    block_on(async {
        let list = get(shared(), "/v1/models").await.json();
        let names: Vec<&str> = list["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
        assert_eq!(names, ["emoji-clip", "emoji-captioner", "photo-search"]);
        let clip = get(shared(), "/v1/models/emoji-clip").await.json();
        assert_eq!((&clip["lenslet"]["task"], &clip["lenslet"]["dimensions"]), (&json!("embeddings"), &json!(192)));
        let captioner = get(shared(), "/v1/models/emoji-captioner").await.json();
        assert_eq!(
            (&captioner["lenslet"]["task"], &captioner["lenslet"]["inputs"]),
            (&json!("chat"), &json!(["image"]))
        );
    });
}

#[test]
fn what_does_not_exist_is_said() {
    block_on(async {
        for path in ["/v1/models/none", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/v1/models/%ff"] {
            let answer = get(shared(), path).await;
            assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
        }
        let answer = get(shared(), "/v1/nothing").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "path_not_found"));
        let answer = send(shared(), Method::DELETE, "/v1/embeddings", &[], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
        let answer = post(shared(), "/v1/embeddings", &json!({"model": "none", "input": "x"})).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "model_not_found"));
    });
}
