//! NATS that is not there, goes away and comes back.

use std::time::Duration;

use axum::http::StatusCode;
use lenslet_server::jobs::worker::Worker;
use lenslet_server::{App, Server};
use serde_json::{Value, json};

use super::nats::Nats;
use super::{PATH, ended, submit, until};
use crate::http::{get, post};
use crate::setup::{block_on, start};

#[test]
fn a_server_starts_without_nats_and_takes_jobs_once_it_is_there() {
    let Some(mut nats) = Nats::prepare("late") else { return };
    block_on(async {
        let server = start(nats.config()).await;
        let at = server.address();
        let worker = Worker::start(server.app().clone()).unwrap();
        let body = json!({"model": "emoji-clip", "input": ["a", "b"]});
        assert_eq!(post(at, "/v1/embeddings", &body).await.status, StatusCode::OK);
        assert_eq!(get(at, "/v2/health/ready").await.status, StatusCode::OK);
        let id = format!("{PATH}/job_{}", "0".repeat(32));
        for refused in [post(at, PATH, &body).await, get(at, &id).await] {
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable")
            );
            assert!(refused.headers.contains_key("retry-after"));
        }
        nats.run();
        until("the server finds NATS", async || post(at, PATH, &body).await.status == StatusCode::ACCEPTED).await;
        let id = submit(at, json!(["c"])).await;
        assert_eq!(ended(at, &id).await["status"], "succeeded");
        assert!(worker.drain().await);
    });
}

#[test]
fn no_accepted_job_is_lost_when_nats_is_restarted_under_way() {
    let Some(mut nats) = Nats::start("restart") else { return };
    block_on(async {
        let mut config = nats.config();
        (config.jobs.part_inputs, config.jobs.ack_wait_s, config.cache_bytes) = (4, 2.0, 0);
        let server = start(config).await;
        let at = server.address();
        let worker = Worker::start(server.app().clone()).unwrap();
        let (mut jobs, mut refused): (Vec<(String, usize)>, usize) = (vec![], 0);
        for round in 0..3 {
            // Some before it ends, some while it is away.
            for number in 0..12 {
                if number == 8 {
                    nats.stop();
                }
                let size = 40 + 10 * number;
                let texts: Vec<String> = (0..size).map(|n| format!("round {round} job {number} text {n}")).collect();
                let answer = post(at, PATH, &json!({"model": "emoji-clip", "input": texts})).await;
                match answer.status {
                    StatusCode::ACCEPTED => jobs.push((answer.json()["id"].as_str().unwrap().to_owned(), size)),
                    status => {
                        assert_eq!(
                            (status, answer.code().as_str()),
                            (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable")
                        );
                        refused += 1;
                    }
                }
            }
            nats.run();
            let body = json!({"model": "emoji-clip", "input": "x"});
            until("the server finds NATS again", async || post(at, PATH, &body).await.status == StatusCode::ACCEPTED)
                .await;
        }
        assert!(jobs.len() >= 24 && refused > 0, "{} accepted, {refused} refused", jobs.len());
        for (id, size) in jobs {
            let job = ended(at, &id).await;
            assert_eq!(
                (&job["status"], &job["request_counts"]["completed"]),
                (&json!("succeeded"), &json!(size)),
                "{job}"
            );
            let result = get(at, &format!("{PATH}/{id}/result")).await.json();
            let vectors = result["data"].as_array().unwrap().iter().filter(|item| item["embedding"].is_array()).count();
            assert_eq!(vectors, size);
        }
        assert!(worker.drain().await);
    });
}

#[test]
fn a_worker_waits_for_a_queue_that_is_away_and_ends_when_it_is_told_to() {
    let Some(mut nats) = Nats::start("away") else { return };
    block_on(async {
        let mut config = nats.config();
        config.drain_limit_s = 1.0;
        let server = start(config).await;
        let worker = Worker::start(server.app().clone()).unwrap();
        let id = submit(server.address(), json!("x")).await;
        assert_eq!(ended(server.address(), &id).await["status"], "succeeded");
        nats.stop();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let answer = get(server.address(), &format!("{PATH}/{id}")).await;
        let code: Value = answer.json()["error"]["code"].clone();
        assert_eq!((answer.status, code), (StatusCode::SERVICE_UNAVAILABLE, json!("queue_unavailable")));
        let drained = tokio::time::timeout(Duration::from_secs(15), worker.drain()).await;
        assert!(drained.is_ok(), "the worker does not end");
    });
}

#[test]
fn a_worker_answers_for_its_health_alone() {
    let Some(mut nats) = Nats::start("health") else { return };
    block_on(async {
        let app = App::new(nats.config(), lenslet_server::telemetry::count());
        let server = Server::bind_worker(app).await.unwrap();
        let at = server.address();
        let ready = async || get(at, "/v2/health/ready").await.status;
        assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE);
        server.load().await.unwrap();
        let worker = Worker::start(server.app().clone()).unwrap();
        until("the worker is ready", async || ready().await == StatusCode::OK).await;
        for path in ["/v2/health/live", "/metrics"] {
            assert_eq!(get(at, path).await.status, StatusCode::OK, "{path}");
        }
        for path in ["/v1/models", PATH, "/openapi.json"] {
            assert_eq!(get(at, path).await.code(), "path_not_found", "{path}");
        }
        nats.stop();
        until("the worker notices", async || ready().await == StatusCode::SERVICE_UNAVAILABLE).await;
        assert_eq!(get(at, "/v2/health/live").await.status, StatusCode::OK);
        nats.run();
        until("the worker is ready again", async || ready().await == StatusCode::OK).await;
        assert!(worker.drain().await);
    });
}

#[test]
fn servers_that_refuse_or_have_no_jetstream_are_named() {
    let Some(mut nats) = Nats::prepare("password") else { return };
    nats.run_with(&["--jetstream", "--user", "lenslet", "--pass", "right@one"]);
    block_on(async {
        let at = |password: &str| Some(format!("nats://lenslet:{password}@{}", nats.address()));
        let mut config = nats.config();
        config.jobs.nats_url = at("wrong-one");
        let error = Server::start(config.clone()).await.err().unwrap().to_string();
        assert!(error.contains("NATS") && error.contains("jobs.nats_url") && !error.contains("wrong-one"), "{error}");
        config.jobs.nats_url = at("right%40one");
        let server = start(config).await;
        submit(server.address(), json!("x")).await;
    });
    let Some(mut nats) = Nats::prepare("token") else { return };
    nats.run_with(&["--jetstream", "--auth", "a-token"]);
    block_on(async {
        let mut config = nats.config();
        config.jobs.nats_url = Some(format!("nats://a-token@{}", nats.address()));
        submit(start(config).await.address(), json!("x")).await;
    });
    let Some(mut nats) = Nats::prepare("plain") else { return };
    nats.run_with(&[]);
    block_on(async {
        let server = start(nats.config()).await;
        let answer = post(server.address(), PATH, &json!({"model": "emoji-clip", "input": "x"})).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable"));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_lowercase();
        assert!(message.contains("jetstream"), "{message}");
    });
}
