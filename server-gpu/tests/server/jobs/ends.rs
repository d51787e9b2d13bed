//! Workers that end, and parts that nobody can answer.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use axum::http::StatusCode;
use futures_util::StreamExt;
use lenslet_server::jobs::worker::Worker;
use serde_json::json;

use super::nats::{Folder, Nats, Program};
use super::{PATH, ended, submit, until};
use crate::http::get;
use crate::setup::{block_on, config, data_url, picture, start};

/// A picture that is larger than a message.
fn large_file() -> Vec<u8> {
    // What follows a PNG's end is not read.
    let mut file = picture("emoji/1F34E.png");
    file.resize(2 << 20, 0);
    file
}

#[test]
fn a_part_that_fails_again_and_again_goes_to_the_dead_letters() {
    let Some(nats) = Nats::start("dead") else { return };
    block_on(async {
        let mut config = nats.config();
        (config.jobs.part_inputs, config.jobs.max_deliver) = (2, 3);
        let server = start(config).await;
        let at = server.address();
        let id = submit(at, json!(["a", data_url(&large_file()), "c", "d"])).await;
        // Somebody takes the picture away.
        let pictures = nats.client().await.get_object_store("lenslet-pictures").await.unwrap();
        let name = pictures.list().await.unwrap().next().await.unwrap().unwrap().name;
        pictures.delete(&name).await.unwrap();
        let worker = Worker::start(server.app().clone()).unwrap();
        let job = ended(at, &id).await;
        assert_eq!(
            (&job["status"], &job["lenslet"]["parts"]),
            (&json!("dead"), &json!({"total": 2, "done": 2, "dead": 1}))
        );
        assert_eq!(job["request_counts"], json!({"total": 4, "completed": 3, "failed": 1}));
        let result = get(at, &format!("{PATH}/{id}/result")).await;
        assert_eq!(result.status, StatusCode::OK);
        let result = result.json();
        let kinds: Vec<&str> = (0..4).map(|at| result["data"][at]["object"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["embedding", "error", "embedding", "embedding"]);
        assert_eq!(result["data"][1]["error"]["code"], "picture_lost");
        assert_eq!(result["lenslet"]["status"], "dead");
        let letter = nats.stream("lenslet-dead").await.get_raw_message(1).await.unwrap();
        assert_eq!(letter.headers.get("Lenslet-Code").unwrap().as_str(), "picture_lost");
        assert_eq!(letter.headers.get("Lenslet-Deliveries").unwrap().as_str(), "3");
        until("the queue is empty", async || nats.count("lenslet-parts").await.0 == 0).await;
        assert_eq!(nats.count("lenslet-dead").await, (1, 1));
        worker.drain().await;
    });
}

#[test]
fn a_part_that_no_worker_survives_goes_to_the_dead_letters() {
    let Some(nats) = Nats::start("survive") else { return };
    block_on(async {
        let mut config = nats.config();
        (config.jobs.max_deliver, config.jobs.ack_wait_s) = (2, 1.0);
        let server = start(config).await;
        let at = server.address();
        let first = Worker::start(server.app().clone()).unwrap();
        // The first worker makes the consumer.
        let early = submit(at, json!("early")).await;
        assert_eq!(ended(at, &early).await["status"], "succeeded");
        assert!(first.drain().await);
        let id = submit(at, json!(["a", "b"])).await;
        let parts = nats.stream("lenslet-parts").await;
        let name = parts.consumers().next().await.unwrap().unwrap().name;
        let consumer: PullConsumer = parts.get_consumer(&name).await.unwrap();
        for delivery in 1..=2 {
            let mut batch = consumer.batch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
            let message = batch.next().await.unwrap().unwrap();
            assert_eq!(message.info().unwrap().delivered, delivery);
            // One that gives no sign of life, and one that says so.
            if delivery == 2 {
                message.ack_with(AckKind::Nak(None)).await.unwrap();
            }
        }
        let worker = Worker::start(server.app().clone()).unwrap();
        let job = ended(at, &id).await;
        assert_eq!(job["status"], "dead", "{job}");
        assert_eq!(job["request_counts"], json!({"total": 2, "completed": 0, "failed": 2}));
        let result = get(at, &format!("{PATH}/{id}/result")).await.json();
        for place in 0..2 {
            assert_eq!(result["data"][place]["error"]["code"], "max_deliver_exceeded");
        }
        assert_eq!(nats.count("lenslet-dead").await, (1, 1));
        worker.drain().await;
    });
}

#[test]
fn a_part_that_takes_long_is_not_given_to_another_worker() {
    let Some(nats) = Nats::start("long") else { return };
    block_on(async {
        let mut config = nats.config();
        (config.jobs.part_inputs, config.jobs.ack_wait_s, config.cache_bytes) = (1000, 1.0, 0);
        let server = start(config).await;
        let at = server.address();
        let texts: Vec<String> = (0..1000).map(|n| format!("{n} {}", "green hills and ".repeat(10))).collect();
        let id = submit(at, json!(texts)).await;
        let workers = [0, 1].map(|_| Worker::start(server.app().clone()).unwrap());
        let job = ended(at, &id).await;
        assert_eq!(job["status"], "succeeded");
        let consumer = nats.stream("lenslet-parts").await.consumers().next().await.unwrap().unwrap();
        assert_eq!(job["lenslet"]["parts"]["total"], consumer.delivered.consumer_sequence);
        for worker in workers {
            worker.drain().await;
        }
    });
}

#[test]
fn parts_are_not_given_to_workers_of_another_model() {
    let Some(nats) = Nats::start("models") else { return };
    block_on(async {
        let server = start(nats.config()).await;
        let other = start(lenslet_server::Config { jobs: nats.config().jobs, ..config(&["photo-search"]) }).await;
        let worker = Worker::start(other.app().clone()).unwrap();
        let (first, second) =
            (submit(server.address(), json!(["a"])).await, submit(server.address(), json!(["b"])).await);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        // Any server of the namespace says where a job stands, whichever models it has.
        let job = get(other.address(), &format!("{PATH}/{first}")).await.json();
        assert_eq!(job["status"], "queued");
        let own = Worker::start(server.app().clone()).unwrap();
        for id in [first, second] {
            assert_eq!(ended(other.address(), &id).await["status"], "succeeded");
        }
        worker.drain().await;
        own.drain().await;
    });
}

#[test]
fn a_worker_that_is_told_to_end_leaves_nothing_in_its_hands() {
    let Some(nats) = Nats::start("drain") else { return };
    let folder = Folder::new("drain-worker");
    block_on(async {
        let mut config = nats.config();
        config.jobs.part_inputs = 1;
        let server = start(config).await;
        let at = server.address();
        // A part that a worker took along would come again after ten minutes, which nobody waits for here.
        let settings = "ack_wait_s = 600.0\nconcurrency = 64\n";
        let texts: Vec<String> = (0..3000).map(|n| format!("text {n}")).collect();
        let id = submit(at, json!(texts)).await;
        let done =
            async || get(at, &format!("{PATH}/{id}")).await.json()["request_counts"]["completed"].as_u64().unwrap();
        for _ in 0..3 {
            let before = done().await;
            let worker = Program::start(&nats, &folder, settings);
            until("the worker works", async || done().await > before + 50).await;
            let (good, log) = tokio::task::spawn_blocking(move || worker.end()).await.unwrap();
            assert!(good, "{log:?}");
            assert!(!log.iter().any(|line| line.to_string().contains("text 1")), "a job's words are in the log");
        }
        let worker = Worker::start(server.app().clone()).unwrap();
        let job = ended(at, &id).await;
        assert_eq!((&job["status"], &job["request_counts"]["completed"]), (&json!("succeeded"), &json!(3000)));
        assert_eq!(nats.count("KV_lenslet-results").await, (3000, 3000));
        worker.drain().await;
    });
}
