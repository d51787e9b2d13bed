//! 10,000 parts, while workers are killed.

use std::collections::HashMap;

use axum::http::StatusCode;
use futures_util::StreamExt;
use serde_json::json;

use super::nats::{Folder, Nats, Program};
use super::{PATH, ended, until};
use crate::embeddings::vectors;
use crate::http::{get, post};
use crate::setup::{block_on, cosine, start};

const PARTS: usize = 10_000;
const JOBS: usize = 8;
const WORKERS: usize = 3;
const KILLS: usize = 12;
/// Different texts among all: most are found in a worker's cache.
const TEXTS: usize = 250;

/// Numbers that look random and are the same in each run (Numerical Recipes' generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

fn text(job: usize, place: usize) -> String {
    format!("picture {} of a cat", (job * 31 + place * 7) % TEXTS)
}

#[test]
fn of_10_000_parts_none_is_lost_and_none_counts_twice_though_workers_are_killed() {
    let Some(nats) = Nats::start("kills") else { return };
    let folder = Folder::new("kills-worker");
    block_on(async {
        let mut config = nats.config();
        config.jobs.part_inputs = 1;
        let server = start(config).await;
        let at = server.address();
        let mut ids = vec![];
        for job in 0..JOBS {
            let texts: Vec<String> = (0..PARTS / JOBS).map(|place| text(job, place)).collect();
            let body = json!({"model": "emoji-clip", "input": texts, "encoding_format": "base64"});
            let answer = post(at, PATH, &body).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
            ids.push(answer.json()["id"].as_str().unwrap().to_owned());
        }
        assert_eq!(nats.count("lenslet-parts").await, (PARTS as u64, PARTS as u64));

        // Few parts in hand make a worker slow enough to be hit, and short waits bring back soon what it held.
        let settings = "concurrency = 24\nack_wait_s = 2.0\n";
        let mut chance = Chance(7);
        let mut workers: Vec<Program> = (0..WORKERS).map(|_| Program::start(&nats, &folder, settings)).collect();
        let results = nats.stream("KV_lenslet-results").await;
        let answered = async || results.get_info().await.unwrap().state.messages as usize;
        for kill in 0..KILLS {
            // At some moment of each of as many stretches of the way.
            let stretch = PARTS / (KILLS + 1);
            let moment = kill * stretch + 50 + chance.below(stretch);
            until("the workers work", async || answered().await >= moment).await;
            // Dropped is killed.
            drop(workers.swap_remove(chance.below(WORKERS)));
            workers.push(Program::start(&nats, &folder, settings));
        }
        for id in &ids {
            let job = ended(at, id).await;
            assert_eq!(job["status"], "succeeded", "{job}");
            assert_eq!(job["request_counts"], json!({"total": PARTS / JOBS, "completed": PARTS / JOBS, "failed": 0}));
        }
        // Each part has one answer, and none was ever written twice.
        assert_eq!(nats.count("KV_lenslet-results").await, (PARTS as u64, PARTS as u64));
        until("the queue is empty", async || nats.count("lenslet-parts").await.0 == 0).await;
        assert_eq!(nats.count("lenslet-dead").await, (0, 0));
        // The kills hit: parts had to be given out again.
        let consumer = nats.stream("lenslet-parts").await.consumers().next().await.unwrap().unwrap();
        let given = consumer.delivered.consumer_sequence;
        assert!(given > PARTS as u64, "{given}");

        let mut wanted: HashMap<String, Vec<f32>> = HashMap::new();
        let mut checked = 0;
        for (job, id) in ids.iter().enumerate() {
            let result = vectors(&get(at, &format!("{PATH}/{id}/result")).await);
            assert_eq!(result.len(), PARTS / JOBS);
            for (place, got) in result.iter().enumerate() {
                let text = text(job, place);
                if !wanted.contains_key(&text) {
                    let direct = post(at, "/v1/embeddings", &json!({"model": "emoji-clip", "input": text})).await;
                    wanted.insert(text.clone(), vectors(&direct).remove(0));
                }
                assert!(cosine(got, &wanted[&text]) >= 0.9999, "job {job}, input {place}");
                checked += 1;
            }
        }
        assert_eq!((checked, wanted.len()), (PARTS, TEXTS));
        // Those that are left end as they are told to.
        for worker in workers {
            let (good, log) = tokio::task::spawn_blocking(move || worker.end()).await.unwrap();
            assert!(good, "{log:?}");
        }
    });
}
