//! What is refused before it is queued, and messages that no server of ours wrote.

use std::process::Command;

use async_nats::HeaderMap;
use async_nats::jetstream::stream;
use axum::http::{Method, StatusCode};
use futures_util::StreamExt;
use lenslet_server::jobs::worker::Worker;
use serde_json::{Value, json};

use super::nats::Nats;
use super::{PATH, ended, submit, until};
use crate::http::{get, post, send};
use crate::python::{python, schemathesis};
use crate::setup::{block_on, data_url, picture, shared, start};

#[test]
fn without_a_queue_there_are_no_jobs() {
    block_on(async {
        let body = json!({"model": "emoji-clip", "input": "x"});
        let id = format!("{PATH}/job_{}", "0".repeat(32));
        for answer in [post(shared(), PATH, &body).await, get(shared(), &id).await] {
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "jobs_off"));
        }
        let document = get(shared(), "/openapi.json").await.json();
        assert!(document["paths"].get(PATH).is_none());
    });
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_lenslet-server")).args(args).output().unwrap();
    for (args, code, says) in [
        (&["worker", "--model", "emoji-clip"][..], 2, "jobs.nats_url: a worker needs a queue"),
        (&["worker", "--model", "emoji-clip", "--nats-url", "http://x"], 2, "jobs.nats_url: is no address"),
        (&["--model", "emoji-clip", "worker"], 2, "cannot be used with"),
        // A captioner has nothing to embed with; that it is not the queue's fault shows before it is looked for.
        (
            &["worker", "--model", "emoji-captioner", "--nats-url", "nats://127.0.0.1:1", "--listen", "127.0.0.1:0"],
            1,
            "a model that gives vectors",
        ),
    ] {
        let output = run(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_queued() {
    let Some(nats) = Nats::start("refused") else { return };
    block_on(async {
        let mut config = nats.config();
        config.models.push(crate::setup::model("emoji-captioner"));
        (config.jobs.max_inputs, config.jobs.part_inputs, config.jobs.max_queued_parts) = (8, 1, 5);
        let server = start(config).await;
        let at = server.address();
        let many = vec!["x"; 9];
        let job = |fields: Value| {
            let mut body = json!({"model": "emoji-clip", "input": "x"});
            fields.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
            body
        };
        for (body, status, code, param) in [
            (json!({"model": "emoji-clip"}), 400, "missing_field", "input"),
            (job(json!({"model": "none"})), 404, "model_not_found", "model"),
            (job(json!({"model": "emoji-captioner"})), 400, "model_task", "model"),
            (job(json!({"input": []})), 400, "empty_input", "input"),
            (job(json!({"input": many})), 413, "too_many_inputs", "input"),
            (job(json!({"input": ["x", {"type": "video"}]})), 400, "invalid_value", "input[1]"),
            (job(json!({"input": ["x", "data:image/png;base64,*"]})), 400, "invalid_image_url", "input[1]"),
            (
                job(json!({"input": [{"type": "image_sha256", "sha256": "0a".repeat(32)}]})),
                404,
                "content_not_cached",
                "input",
            ),
            (job(json!({"dimensions": 100_000})), 400, "invalid_value", "dimensions"),
            (job(json!({"endpoint": "/v1/chat/completions"})), 400, "invalid_value", "endpoint"),
            (job(json!({"idempotency_key": ""})), 400, "invalid_type", "idempotency_key"),
            (job(json!({"idempotency_key": "a\nb"})), 400, "invalid_type", "idempotency_key"),
        ] {
            let answer = post(at, PATH, &body).await;
            let error = answer.json()["error"].clone();
            assert_eq!((answer.status.as_u16(), error["code"].as_str()), (status, Some(code)), "{body}: {error}");
            assert_eq!(error["param"], param, "{body}");
        }
        let bytes = send(at, Method::POST, PATH, &[("content-type", "application/json")], "[1").await;
        assert_eq!(bytes.code(), "body_not_json");
        assert_eq!(nats.count("lenslet-parts").await, (0, 0));
        // Six parts where five may wait: none of them is queued.
        let full = post(at, PATH, &job(json!({"input": ["1", "2", "3", "4", "5", "6"]}))).await;
        assert_eq!((full.status, full.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "queue_full"));
        assert!(full.headers.contains_key("retry-after"));
        assert_eq!(nats.count("lenslet-parts").await, (0, 0));
        submit(at, json!(["1", "2", "3", "4"])).await;
        assert_eq!(post(at, PATH, &job(json!({"input": ["5", "6"]}))).await.code(), "queue_full");
        submit(at, json!("5")).await;

        for id in ["x", "job_", "job_*", "job_%2e%2e", "*", "%3E", "job.*", "%00", &"x".repeat(10_000)] {
            for path in [format!("{PATH}/{id}"), format!("{PATH}/{id}/result")] {
                let answer = get(at, &path).await;
                assert!(answer.status == StatusCode::NOT_FOUND || answer.status == StatusCode::BAD_REQUEST, "{path}");
                assert!(answer.body.len() < 1000, "{path}");
            }
        }
    });
}

#[test]
fn a_stream_that_somebody_made_smaller_is_full_sooner() {
    let Some(nats) = Nats::start("smaller") else { return };
    block_on(async {
        let stream = stream::Config {
            name: "lenslet-parts".into(),
            subjects: vec!["lenslet.jobs.parts.>".into()],
            retention: stream::RetentionPolicy::WorkQueue,
            discard: stream::DiscardPolicy::New,
            max_messages: 2,
            ..stream::Config::default()
        };
        nats.client().await.create_stream(stream).await.unwrap();
        let mut config = nats.config();
        config.jobs.part_inputs = 1;
        let server = start(config).await;
        let ask = async |input: Value| {
            post(server.address(), PATH, &json!({"model": "emoji-clip", "input": input, "idempotency_key": "k"})).await
        };
        let full = ask(json!(["1", "2", "3"])).await;
        assert_eq!((full.status, full.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "queue_full"));
        // What was queued belongs to no job: the key is free for a smaller one, once there is room.
        nats.stream("lenslet-parts").await.purge().await.unwrap();
        let worker = Worker::start(server.app().clone()).unwrap();
        let answer = ask(json!(["1", "2"])).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
        assert_eq!(ended(server.address(), answer.json()["id"].as_str().unwrap()).await["status"], "succeeded");
        worker.drain().await;
    });
}

#[test]
fn an_input_that_cannot_be_embedded_has_its_error_in_its_place() {
    let Some(nats) = Nats::start("inputs") else { return };
    block_on(async {
        let mut config = nats.config();
        config.jobs.part_inputs = 3;
        let server = start(config).await;
        let at = server.address();
        let worker = Worker::start(server.app().clone()).unwrap();
        let (file, long) = (picture("emoji/1F34E.png"), "word ".repeat(5000));
        let id =
            submit(at, json!(["a cat", data_url(&file[..60]), data_url(&file), "a dog", vec![1; 10_000], long])).await;
        let job = ended(at, &id).await;
        // Nothing was given up: these inputs would fail again.
        assert_eq!((&job["status"], &job["lenslet"]["parts"]["dead"]), (&json!("failed"), &json!(0)), "{job}");
        let result = get(at, &format!("{PATH}/{id}/result")).await.json();
        let data = result["data"].as_array().unwrap();
        assert_eq!(data.len(), 6);
        let failed: Vec<usize> = (0..6).filter(|&at| data[at]["object"] == "error").collect();
        assert_eq!(job["request_counts"], json!({"total": 6, "completed": 6 - failed.len(), "failed": failed.len()}));
        assert!(
            failed.contains(&1) && failed.contains(&4) && !failed.contains(&0) && !failed.contains(&2),
            "{failed:?}"
        );
        for at in failed {
            assert!(data[at]["error"]["code"].is_string() && data[at]["index"] == at, "{}", data[at]);
        }
        // What the interface says of them at once is what the job says.
        let direct = post(at, "/v1/embeddings", &json!({"model": "emoji-clip", "input": data_url(&file[..60])})).await;
        assert_eq!(data[1]["error"]["code"], direct.code());
        assert_eq!(nats.count("lenslet-dead").await.1, 0);
        worker.drain().await;
    });
}

#[test]
fn messages_that_are_no_parts_go_to_the_dead_letters() {
    let Some(nats) = Nats::start("poison") else { return };
    block_on(async {
        let server = start(nats.config()).await;
        let at = server.address();
        // Streams are made when they are first needed.
        let id = submit(at, json!("good")).await;
        let model = get(at, "/v1/models/emoji-clip").await.json();
        let fingerprint = model["lenslet"]["fingerprint"].as_str().unwrap();
        let (client, run) = (nats.client().await, "0123456789abcdef0123456789abcdef");
        let messages: [(&str, &[u8], &str); 8] = [
            ("x", b"", "malformed_part"),
            ("x.y.z", b"{}", "malformed_part"),
            (&format!("{run}.-1"), b"{}", "malformed_part"),
            (&format!("{run}.0"), b"\xff\xfe\x00", "malformed_part"),
            (&format!("{run}.1"), b"{\"inputs\":[]}", "malformed_part"),
            (&format!("{run}.2"), &[b'['; 100_000], "malformed_part"),
            (&format!("{run}.3"), b"{\"inputs\":[{\"text\":\"x\"}],\"more\":1}", "malformed_part"),
            (&format!("{run}.4"), b"{\"inputs\":[{\"tokens\":[]}]}", "text_too_long"),
        ];
        for (rest, payload, _) in &messages {
            let mut headers = HeaderMap::new();
            headers.insert("Any", "thing");
            let subject = format!("lenslet.jobs.parts.{fingerprint}.{rest}");
            client.publish_with_headers(subject, headers, payload.to_vec().into()).await.unwrap().await.unwrap();
        }
        // A picture of which only its size is there, and a vector of another model: what they are does not show before work begins.
        let strange = format!("lenslet.jobs.parts.{fingerprint}.{run}.5");
        let payload = b"{\"inputs\":[{\"known\":{\"embedding\":\"AACAPw==\",\"tokens\":0}},{\"text\":\"fine\"}]}";
        client.publish(strange, payload[..].into()).await.unwrap().await.unwrap();

        let worker = Worker::start(server.app().clone()).unwrap();
        assert_eq!(ended(at, &id).await["status"], "succeeded");
        until("the queue is empty", async || nats.count("lenslet-parts").await.0 == 0).await;
        assert_eq!(nats.count("lenslet-dead").await, (8, 8));
        let dead = nats.stream("lenslet-dead").await;
        let consumer = dead.create_consumer(async_nats::jetstream::consumer::pull::Config::default()).await.unwrap();
        let mut letters = consumer.fetch().max_messages(20).messages().await.unwrap();
        let mut seen = vec![];
        while let Some(Ok(letter)) = letters.next().await {
            let headers = letter.headers.as_ref().unwrap();
            let rest = letter.subject.strip_prefix(&format!("lenslet.jobs.dead.{fingerprint}.")).unwrap().to_owned();
            assert_eq!(
                headers.get("Lenslet-Subject").unwrap().as_str(),
                format!("lenslet.jobs.parts.{fingerprint}.{rest}")
            );
            assert!(!headers.get("Lenslet-Reason").unwrap().as_str().is_empty());
            let (_, payload, code) = messages.iter().find(|(at, ..)| *at == rest).unwrap();
            assert_eq!(
                (headers.get("Lenslet-Code").unwrap().as_str(), &letter.payload[..]),
                (*code, *payload),
                "{rest}"
            );
            seen.push(rest);
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
        worker.drain().await;
    });
}

#[test]
fn what_schemathesis_makes_up_of_jobs_gets_no_5xx() {
    let (Some(nats), Some(python)) = (Nats::start("schemathesis"), python()) else { return };
    let server = block_on(start(nats.config()));
    let worker = block_on(async { Worker::start(server.app().clone()).unwrap() });
    schemathesis(python, server.address(), &["--include-path-regex", "^/v1/jobs"]);
    block_on(worker.drain());
}
