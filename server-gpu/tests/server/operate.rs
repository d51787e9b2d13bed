//! Keys, origins, paces, and what the server tells about itself.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::http::{get, post, send};
use crate::setup::{block_on, config, shared, start};

const KEY: &str = "test-key-1";
const ORIGIN: &str = "https://app.example";

#[test]
fn a_page_of_a_listed_origin_may_call_with_a_key_and_others_may_not() {
    block_on(async {
        let mut config = config(&["emoji-clip"]);
        config.api_keys = vec![KEY.into(), "another-key".into()];
        config.cors_origins = vec![ORIGIN.into()];
        let server = start(config).await;
        let at = server.address();
        let preflight = async |origin: &str| {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization,content-type"),
            ];
            send(at, Method::OPTIONS, "/v1/embeddings", &headers, "").await
        };
        let allowed = preflight(ORIGIN).await;
        assert!(allowed.status.is_success());
        assert_eq!(allowed.headers["access-control-allow-origin"], ORIGIN);
        let named = allowed.headers["access-control-allow-headers"].to_str().unwrap().to_owned();
        assert!(named.contains("authorization") && named.contains("content-type"), "{named}");
        assert!(!preflight("https://evil.example").await.headers.contains_key("access-control-allow-origin"));

        let bearer = format!("Bearer {KEY}");
        let body = json!({"model": "emoji-clip", "input": "x"}).to_string();
        let ask =
            async |headers: &[(&str, &str)]| send(at, Method::POST, "/v1/embeddings", headers, body.clone()).await;
        let answer = ask(&[("origin", ORIGIN), ("authorization", &bearer)]).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN);
        // The page sees the refusal too, or its author would look for the fault in CORS.
        let refused = ask(&[("origin", ORIGIN)]).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "missing_api_key"));
        assert_eq!(refused.headers["access-control-allow-origin"], ORIGIN);
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        assert_eq!(ask(&[("authorization", "Bearer wrong-key")]).await.code(), "invalid_api_key");
        for path in ["/v1/models", "/v2/models/emoji-clip.image", "/metrics", "/nothing"] {
            assert_eq!(get(at, path).await.status, StatusCode::UNAUTHORIZED, "{path}");
        }
        for path in ["/v2/health/live", "/v2/health/ready", "/openapi.json"] {
            assert_eq!(get(at, path).await.status, StatusCode::OK, "{path}");
        }
    });
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back() {
    block_on(async {
        let mut config = config(&["emoji-clip"]);
        config.api_keys = vec![KEY.into(), "another-key".into()];
        (config.limits.requests_per_second, config.limits.burst) = (0.01, 2);
        let server = start(config).await;
        let ask = async |key: &str| {
            let bearer = format!("Bearer {key}");
            send(server.address(), Method::GET, "/v1/models", &[("authorization", &bearer)], "").await
        };
        assert_eq!([ask(KEY).await.status, ask(KEY).await.status], [StatusCode::OK; 2]);
        let refused = ask(KEY).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"));
        let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((90..=100).contains(&wait), "{wait}");
        assert_eq!(ask("another-key").await.status, StatusCode::OK);
    });
}

#[test]
fn requests_are_counted() {
    block_on(async {
        for _ in 0..2 {
            post(shared(), "/v1/embeddings", &json!({"model": "emoji-clip", "input": "counted twice"})).await;
        }
        post(shared(), "/v1/embeddings", &json!({"model": "none", "input": "x"})).await;
        let text = String::from_utf8(get(shared(), "/metrics").await.body.to_vec()).unwrap();
        for name in [
            "lenslet_queue_depth",
            "lenslet_queue_seconds_bucket",
            "lenslet_compute_seconds_bucket{engine=\"lenslet\"",
            "lenslet_batch_rows_bucket{engine=\"lenslet\"",
            "lenslet_requests_total{route=\"/v1/embeddings\",status=\"200\"}",
            "lenslet_refused_total{reason=\"not_found\"}",
            "lenslet_cache_total{result=\"hit\"}",
            "lenslet_cache_total{result=\"miss\"}",
            "lenslet_cache_bytes",
            "lenslet_requests_under_way",
        ] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
        assert!(!text.contains("counted twice"));
    });
}

#[test]
fn every_documented_path_exists() {
    block_on(async {
        let document = get(shared(), "/openapi.json").await.json();
        let models = &document["components"]["schemas"]["ModelName"]["enum"];
        assert_eq!(*models, json!(["emoji-clip", "emoji-captioner", "photo-search"]));
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, _) in operations.as_object().unwrap() {
                let method: Method = method.to_uppercase().parse().unwrap();
                let answer =
                    send(shared(), method.clone(), &path.replace("{model}", "emoji-clip.image"), &[], "").await;
                let code = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
                let code = code["error"]["code"].as_str().or(code["code"].as_str()).unwrap_or_default().to_owned();
                assert!(!matches!(code.as_str(), "path_not_found" | "method_not_allowed"), "{method} {path}");
            }
        }
        let text = document.to_string();
        for (at, _) in text.match_indices("#/components/schemas/") {
            let name: String = text[at + 21..].chars().take_while(|c| *c != '"').collect();
            assert!(document["components"]["schemas"][&name].is_object(), "{name}");
        }
    });
}

#[test]
fn a_deadline_and_a_name_may_come_with_a_request() {
    block_on(async {
        let body = json!({"model": "emoji-clip", "input": "x"}).to_string();
        let ask = async |headers: &[(&str, &str)]| {
            send(shared(), Method::POST, "/v1/embeddings", headers, body.clone()).await
        };
        let named =
            ask(&[("x-request-id", "abc-1"), ("x-lenslet-timeout-ms", "60000"), ("x-lenslet-priority", "low")]).await;
        assert_eq!((named.status, &named.headers["x-request-id"]), (StatusCode::OK, &"abc-1".parse().unwrap()));
        let unnamed = ask(&[("x-request-id", "{\"forged\": \"log\"}")]).await;
        assert!(!unnamed.headers["x-request-id"].to_str().unwrap().contains("forged"));
        for wrong in [("x-lenslet-timeout-ms", "0"), ("x-lenslet-timeout-ms", "soon"), ("x-lenslet-priority", "urgent")]
        {
            assert_eq!(ask(&[wrong]).await.code(), "invalid_header");
        }
    });
}
