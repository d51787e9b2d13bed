//! Asynchronous jobs, through NATS servers that the tests start, and through mock brokers of Kafka.

mod ends;
#[cfg(feature = "kafka")]
mod kafka;
mod kills;
mod nats;
mod outages;
mod refused;
mod results;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::http::{get, post};

pub(crate) const PATH: &str = "/v1/jobs";

/// Submits texts; the job's id.
pub(crate) async fn submit(address: SocketAddr, input: Value) -> String {
    let answer = post(address, PATH, &json!({"model": "emoji-clip", "input": input})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.headers["location"], format!("{PATH}/{id}"));
    id
}

/// What a job becomes in the end.
pub(crate) async fn ended(address: SocketAddr, id: &str) -> Value {
    let started = Instant::now();
    loop {
        let answer = get(address, &format!("{PATH}/{id}")).await;
        let job = answer.json();
        if answer.status == StatusCode::OK && !matches!(job["status"].as_str(), Some("queued" | "running")) {
            return job;
        }
        assert!(started.elapsed() < Duration::from_secs(100), "{} {job}", answer.status);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
