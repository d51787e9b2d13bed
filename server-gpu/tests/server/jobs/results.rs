//! What comes of jobs that nothing happens to.

use std::io::Cursor;

use axum::http::{Method, StatusCode};
use lenslet_server::jobs::worker::Worker;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::nats::Nats;
use super::{PATH, ended, submit};
use crate::embeddings::vectors;
use crate::http::{get, post, send};
use crate::setup::{block_on, cosine, data_url, picture, start};

/// A picture of so many pixels a side, larger than a message as a file.
fn large_picture(side: u32) -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * 255 / side) as u8, (y % 251) as u8, 90]));
    let mut file = Cursor::new(vec![]);
    picture.write_to(&mut file, image::ImageFormat::Bmp).unwrap();
    file.into_inner()
}

#[test]
fn a_job_gives_the_vectors_of_a_request_that_waits() {
    let Some(nats) = Nats::start("results") else { return };
    block_on(async {
        let mut config = nats.config();
        config.jobs.part_inputs = 2;
        let server = start(config).await;
        let at = server.address();
        let (apple, large) = (picture("emoji/1F34E.png"), large_picture(800));
        assert!(large.len() > 1 << 20);
        let known = post(at, "/v1/embeddings", &json!({"model": "emoji-clip", "input": data_url(&apple)})).await;
        assert_eq!(known.status, StatusCode::OK);
        let hash: String = Sha256::digest(&apple).iter().map(|byte| format!("{byte:02x}")).collect();
        let input = json!([
            "a red apple",
            data_url(&apple),
            {"type": "image_url", "image_url": {"url": data_url(&large)}},
            {"type": "image_sha256", "sha256": hash},
            {"type": "text", "text": "line\nbreak and \"quotes\""},
            [3, 4, 5],
            "twice", "twice",
        ]);
        let id = submit(at, input.clone()).await;
        // Nobody works yet.
        let job = get(at, &format!("{PATH}/{id}")).await.json();
        assert_eq!(
            (&job["status"], &job["object"], &job["model"]),
            (&json!("queued"), &json!("job"), &json!("emoji-clip"))
        );
        assert_eq!(job["request_counts"], json!({"total": 8, "completed": 0, "failed": 0}));
        let early = get(at, &format!("{PATH}/{id}/result")).await;
        assert_eq!((early.status, early.code().as_str()), (StatusCode::CONFLICT, "job_not_finished"));
        assert!(early.headers.contains_key("retry-after"));

        let worker = Worker::start(server.app().clone()).unwrap();
        let job = ended(at, &id).await;
        assert_eq!(job["status"], "succeeded", "{job}");
        assert_eq!(job["request_counts"], json!({"total": 8, "completed": 8, "failed": 0}));
        assert_eq!(job["lenslet"]["parts"], json!({"total": 4, "done": 4, "dead": 0}));
        let times = ["created_at", "finished_at", "expires_at"].map(|name| job[name].as_u64().unwrap());
        assert!(times.is_sorted() && times[0] + 7 * 86_400 == times[2], "{times:?}");

        let result = get(at, &format!("{PATH}/{id}/result")).await;
        let direct = post(at, "/v1/embeddings", &json!({"model": "emoji-clip", "input": input})).await;
        let (got, wanted) = (vectors(&result), vectors(&direct));
        assert_eq!(got.len(), 8);
        for (got, wanted) in got.iter().zip(&wanted) {
            assert!(cosine(got, wanted) >= 0.9999, "{}", cosine(got, wanted));
        }
        let (result, direct) = (result.json(), direct.json());
        assert_eq!(result["lenslet"]["fingerprint"], direct["lenslet"]["fingerprint"]);
        assert_eq!((&result["usage"], &result["object"]), (&direct["usage"], &direct["object"]));
        let places: Vec<Value> = result["data"].as_array().unwrap().iter().map(|item| item["index"].clone()).collect();
        assert_eq!(places, (0..8).map(Value::from).collect::<Vec<_>>());

        // Nothing is left of it but records and answers.
        assert_eq!(nats.count("lenslet-parts").await.0, 0);
        assert_eq!(nats.count("KV_lenslet-results").await, (4, 4));
        assert_eq!(nats.count("lenslet-dead").await.1, 0);
        // Of the large picture, only the note that it was there.
        assert_eq!(nats.count("OBJ_lenslet-pictures").await.0, 1);
        assert!(worker.drain().await);
    });
}

#[test]
fn a_job_may_ask_for_short_vectors_in_base64_and_come_as_a_form() {
    let Some(nats) = Nats::start("form") else { return };
    block_on(async {
        let server = start(nats.config()).await;
        let at = server.address();
        let worker = Worker::start(server.app().clone()).unwrap();
        let apple = picture("emoji/1F34E.png");
        let mut form = vec![];
        for (name, value) in
            [("model", "emoji-clip"), ("input", "a cat"), ("encoding_format", "base64"), ("dimensions", "64")]
        {
            let head = format!("--x\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
            form.extend(head.bytes());
        }
        form.extend(b"--x\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n");
        form.extend(&apple);
        form.extend(b"\r\n--x--\r\n");
        let headers = [("content-type", "multipart/form-data; boundary=x")];
        let answer = send(at, Method::POST, PATH, &headers, form).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(ended(at, &id).await["status"], "succeeded");
        let result = get(at, &format!("{PATH}/{id}/result")).await;
        assert!(result.json()["data"][0]["embedding"].is_string());
        let body = json!({"model": "emoji-clip", "input": ["a cat", data_url(&apple)], "dimensions": 64});
        for (got, wanted) in vectors(&result).iter().zip(&vectors(&post(at, "/v1/embeddings", &body).await)) {
            assert!(got.len() == 64 && cosine(got, wanted) >= 0.9999);
        }
        worker.drain().await;
    });
}

#[test]
fn a_request_that_is_sent_again_makes_no_second_job() {
    let Some(nats) = Nats::start("again") else { return };
    block_on(async {
        let (first, second) = ("the-first-key", "the-second-key");
        let mut config = nats.config();
        config.jobs.part_inputs = 1;
        config.api_keys = vec![first.into(), second.into()];
        let server = start(config).await;
        let at = server.address();
        let ask = async |key: &str, body: &Value, idempotency_key: Option<&str>| {
            let bearer = format!("Bearer {key}");
            let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
            headers.extend(idempotency_key.map(|key| ("idempotency-key", key)));
            let method = if body.is_null() { Method::GET } else { Method::POST };
            let path = body["path"].as_str().unwrap_or(PATH).to_owned();
            send(at, method, &path, &headers, body.to_string()).await
        };
        let id = async |key, body: &Value, idempotency_key| {
            let answer = ask(key, body, idempotency_key).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
            answer.json()["id"].as_str().unwrap().to_owned()
        };
        let body = json!({"model": "emoji-clip", "input": ["a", "b", "c"]});
        let job = id(first, &body, Some("k")).await;
        assert_eq!(nats.count("lenslet-parts").await, (3, 3));
        // Many at once, and one after the other.
        let again = futures_util::future::join_all((0..8).map(|_| id(first, &body, Some("k")))).await;
        assert!(again.iter().all(|again| *again == job));
        assert_eq!(nats.count("lenslet-parts").await, (3, 3));
        // As if the server had ended before it wrote the record.
        let records = nats.client().await.get_key_value("lenslet-jobs").await.unwrap();
        records.purge(format!("job.{}", job.strip_prefix("job_").unwrap())).await.unwrap();
        assert_eq!(id(first, &body, Some("k")).await, job);
        assert_eq!(nats.count("lenslet-parts").await, (3, 3));
        let with_field = json!({"model": "emoji-clip", "input": ["x"], "idempotency_key": "f"});
        let race = futures_util::future::join_all((0..8).map(|_| id(first, &with_field, None))).await;
        assert!(race.iter().all(|other| *other == race[0] && *other != job));
        assert_eq!(nats.count("lenslet-parts").await, (4, 4));

        let other = json!({"model": "emoji-clip", "input": ["a", "b", "d"]});
        let refused = ask(first, &other, Some("k")).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
        );
        assert_eq!(nats.count("lenslet-parts").await, (4, 4));
        assert_eq!(ask(first, &with_field, Some("g")).await.code(), "invalid_value");
        assert_eq!(ask(first, &body, Some(&"k".repeat(256))).await.code(), "invalid_header");
        // Without a key each request is a job, and so is the same request of somebody else.
        assert_ne!(id(first, &body, None).await, id(first, &body, None).await);
        assert_ne!(id(second, &body, Some("k")).await, job);

        // Whose it is not, does not see it.
        for path in [format!("{PATH}/{job}"), format!("{PATH}/{job}/result")] {
            let bearer = |key: &str| format!("Bearer {key}");
            let theirs = send(at, Method::GET, &path, &[("authorization", &bearer(second))], "").await;
            assert_eq!((theirs.status, theirs.code().as_str()), (StatusCode::NOT_FOUND, "job_not_found"), "{path}");
            let own = send(at, Method::GET, &path, &[("authorization", &bearer(first))], "").await;
            assert_ne!(own.status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(get(at, &path).await.status, StatusCode::UNAUTHORIZED);
        }
    });
}

#[test]
fn jobs_are_counted() {
    let Some(nats) = Nats::start("counted") else { return };
    block_on(async {
        let server = start(nats.config()).await;
        let at = server.address();
        let worker = Worker::start(server.app().clone()).unwrap();
        let id = submit(at, json!(["secret words", "data:image/png;base64,AAAA"])).await;
        assert_eq!(ended(at, &id).await["status"], "failed");
        super::until("the queue is looked at", async || {
            String::from_utf8_lossy(&get(at, "/metrics").await.body).contains("lenslet_job_queue_depth")
        })
        .await;
        let text = String::from_utf8(get(at, "/metrics").await.body.to_vec()).unwrap();
        for name in [
            "lenslet_jobs_accepted_total",
            "lenslet_job_dead_letters",
            "lenslet_job_queue_reachable",
            "lenslet_job_queue_seconds_bucket{le=\"86400\"}",
            "lenslet_job_parts_in_hand",
            "lenslet_job_parts_total{outcome=\"done\"}",
            "lenslet_job_part_seconds_bucket",
            "lenslet_job_inputs_total{result=\"embedded\"}",
            "lenslet_job_inputs_total{result=\"refused\"}",
            "lenslet_requests_total{route=\"/v1/jobs\",status=\"202\"}",
        ] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
        assert!(!text.contains("secret words"));
        worker.drain().await;
    });
}
