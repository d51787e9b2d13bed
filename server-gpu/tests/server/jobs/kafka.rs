//! Jobs in Kafka: librdkafka's mock brokers, which live in the test's process and speak Kafka's protocol on a port.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use lenslet_server::config::{Config, JobsConfig};
use lenslet_server::jobs::kafka::Kafka;
use lenslet_server::jobs::worker::Worker;
use lenslet_server::jobs::{Address, Depth, Queue as _, Queued, Shelf, Store as _};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::nats::{Folder, Program};
use super::{PATH, ended, submit, until};
use crate::embeddings::vectors;
use crate::http::{Answer, get, post};
use crate::setup::{block_on, config, cosine, data_url, picture, shared, start};

/// Partitions of the topic of parts.
const PARTITIONS: i32 = 6;

/// A mock broker lets new members wait for three seconds, in which it hears nothing of them.
const ACK_WAIT_S: f64 = 4.0;

/// Mock brokers with all topics, which they cannot be told to make.
struct Brokers {
    cluster: MockCluster<'static, DefaultProducerContext>,
    fingerprint: String,
}

impl Brokers {
    async fn start() -> Brokers {
        let body = json!({"model": "emoji-clip", "input": "x"});
        let answer = post(shared(), "/v1/embeddings", &body).await.json();
        let fingerprint = answer["lenslet"]["fingerprint"].as_str().unwrap().to_owned();
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in [("index", 1), ("blobs", 3), ("dead", 1)] {
            cluster.create_topic(&format!("lenslet-{topic}"), partitions, 1).unwrap();
        }
        cluster.create_topic(&format!("lenslet-parts-{fingerprint}"), PARTITIONS, 1).unwrap();
        Brokers { cluster, fingerprint }
    }

    fn jobs(&self) -> JobsConfig {
        let kafka_brokers = Some(self.cluster.bootstrap_servers());
        JobsConfig { kafka_brokers, retry_delay_s: 0.0, ack_wait_s: ACK_WAIT_S, ..JobsConfig::default() }
    }

    fn config(&self) -> Config {
        Config { jobs: self.jobs(), ..config(&["emoji-clip"]) }
    }

    async fn connect(&self, jobs: &JobsConfig) -> Kafka {
        Kafka::connect(jobs).await.unwrap()
    }

    /// Parts with these payloads, of one job.
    async fn publish(&self, kafka: &Kafka, run: &str, payloads: &[String]) {
        let queued = payloads.iter().enumerate().map(|(part, payload)| Queued {
            address: Address { run: run.to_owned(), part: part as u32 },
            payload: payload.clone().into(),
        });
        kafka.publish(&self.fingerprint, queued.collect()).await.unwrap();
    }

    /// Writes a message that no server of ours would write.
    async fn write(&self, key: &str, payload: &str) {
        let client: FutureProducer = self.client().create().unwrap();
        let topic = format!("lenslet-parts-{}", self.fingerprint);
        client.send(FutureRecord::to(&topic).key(key).payload(payload), Duration::from_secs(5)).await.unwrap();
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // Who reads without a group needs the name of one all the same.
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "tests");
        config
    }

    /// All messages of a topic of one partition.
    fn messages(&self, topic: &str) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let (low, high) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(5)).unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        let (mut messages, started) = (vec![], Instant::now());
        while (messages.len() as i64) < high - low {
            assert!(started.elapsed() < Duration::from_secs(20), "{topic} cannot be read");
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                messages.push(message.detach());
            }
        }
        messages
    }

    /// The header of each dead letter.
    fn dead(&self, header: &str) -> Vec<String> {
        let value = |message: &OwnedMessage| {
            let headers = message.headers().unwrap();
            let found = headers.iter().find(|one| one.key == header).unwrap();
            String::from_utf8(found.value.unwrap().to_vec()).unwrap()
        };
        self.messages("lenslet-dead").iter().map(value).collect()
    }
}

fn payload(text: &str) -> String {
    json!({"inputs": [{"text": text}]}).to_string()
}

const RUN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn of_400_parts_none_is_lost_and_none_counts_twice_though_workers_are_killed() {
    const PARTS: usize = 200;
    const KILLS: usize = 3;
    let folder = Folder::new("kafka-worker");
    block_on(async {
        let brokers = Brokers::start().await;
        let mut config = brokers.config();
        config.jobs.part_inputs = 1;
        let server = start(config).await;
        let at = server.address();
        let text = |job: usize, place: usize| format!("picture {} of a cat", (job * 31 + place * 7) % 50);
        let mut ids = vec![];
        for job in 0..2 {
            let texts: Vec<String> = (0..PARTS).map(|place| text(job, place)).collect();
            ids.push(submit(at, json!(texts)).await);
        }
        let settings = format!(
            "kafka_brokers = \"{}\"\nconcurrency = 8\nack_wait_s = {ACK_WAIT_S:.1}\n",
            brokers.cluster.bootstrap_servers()
        );
        let mut workers: Vec<Program> = (0..2).map(|_| Program::start_with(&folder, &settings)).collect();
        let kafka = server.app().jobs().unwrap().store.clone();
        let answered = async || {
            let mut answered = 0;
            for id in &ids {
                let job = get(at, &format!("{PATH}/{id}")).await.json();
                answered += job["request_counts"]["completed"].as_u64().unwrap() as usize;
            }
            answered
        };
        for kill in 0..KILLS {
            until("the workers work", async || answered().await > 20 + kill * 2 * PARTS / (KILLS + 1)).await;
            drop(workers.swap_remove(kill % 2));
            workers.push(Program::start_with(&folder, &settings));
        }
        let mut wanted: HashMap<String, Vec<f32>> = HashMap::new();
        for (job, id) in ids.iter().enumerate() {
            let done = ended(at, id).await;
            assert_eq!(done["status"], "succeeded", "{done}");
            assert_eq!(done["request_counts"], json!({"total": PARTS, "completed": PARTS, "failed": 0}));
            let result = vectors(&get(at, &format!("{PATH}/{id}/result")).await);
            assert_eq!(result.len(), PARTS);
            for (place, got) in result.iter().enumerate() {
                let text = text(job, place);
                if !wanted.contains_key(&text) {
                    let direct = post(at, "/v1/embeddings", &json!({"model": "emoji-clip", "input": text})).await;
                    wanted.insert(text.clone(), vectors(&direct).remove(0));
                }
                assert!(cosine(got, &wanted[&text]) >= 0.9999, "job {job}, input {place}");
            }
            let record = server.app().jobs().unwrap().record(id).await.unwrap().unwrap();
            assert_eq!(kafka.list(Shelf::Results, &record.run).await.unwrap().len(), PARTS);
        }
        // In the log itself: whatever was written twice, the first entry is what everybody reads.
        let index = brokers.messages("lenslet-index");
        let mut first: HashMap<Vec<u8>, Value> = HashMap::new();
        for entry in index.iter().filter(|entry| entry.key().unwrap().starts_with(b"r/")) {
            let value = serde_json::from_slice(entry.payload().unwrap()).unwrap();
            first.entry(entry.key().unwrap().to_vec()).or_insert(value);
        }
        assert_eq!(first.len(), 2 * PARTS);
        let queue = server.app().jobs().unwrap().queue.clone();
        let empty = Depth { parts: 0, dead: 0 };
        until("the queue is empty", async || queue.depth().await.unwrap() == empty).await;
        for worker in workers {
            let (good, log) = tokio::task::spawn_blocking(move || worker.end()).await.unwrap();
            assert!(good, "{log:?}");
        }
    });
}

#[test]
fn a_part_that_no_worker_survives_and_poisoned_ones_go_to_the_dead_letters() {
    block_on(async {
        let brokers = Brokers::start().await;
        let mut config = brokers.config();
        config.jobs.max_deliver = 2;
        let server = start(config).await;
        let at = server.address();
        let id = submit(at, json!(["a", "b"])).await;
        for delivery in 1..=2 {
            let dies = brokers.connect(&server.app().config.jobs).await;
            let mut taken = vec![];
            while taken.is_empty() {
                taken = dies.pull(&brokers.fingerprint, 1, Duration::from_secs(1)).await.unwrap();
            }
            assert_eq!(taken[0].deliveries(), delivery);
        }
        let worker = Worker::start(server.app().clone()).unwrap();
        let job = ended(at, &id).await;
        assert_eq!((&job["status"], &job["request_counts"]["failed"]), (&json!("dead"), &json!(2)));
        let result = get(at, &format!("{PATH}/{id}/result")).await.json();
        assert_eq!(result["data"][0]["error"]["code"], "max_deliver_exceeded");
        assert_eq!(brokers.dead("Lenslet-Deliveries"), ["3"]);

        brokers.write("nobody", "{}").await;
        brokers.write(&format!("{RUN}.0"), "no part").await;
        until("both are given up", async || brokers.messages("lenslet-dead").len() == 3).await;
        let codes = brokers.dead("Lenslet-Code");
        assert_eq!(codes[0], "max_deliver_exceeded");
        assert_eq!(codes[1..], ["malformed_part", "malformed_part"]);
        // What is behind them is done.
        let next = submit(at, json!(["c"])).await;
        assert_eq!(ended(at, &next).await["status"], "succeeded");
        let queue = server.app().jobs().unwrap().queue.clone();
        let left = Depth { parts: 0, dead: 3 };
        until("the queue is empty", async || queue.depth().await.unwrap() == left).await;
        assert!(worker.drain().await);
    });
}

#[test]
fn parts_wait_for_a_worker_without_room_and_a_part_that_failed_comes_again() {
    block_on(async {
        let brokers = Brokers::start().await;
        let kafka = brokers.connect(&brokers.jobs()).await;
        let payloads: Vec<String> = (0..300).map(|n| payload(&n.to_string())).collect();
        brokers.publish(&kafka, RUN, &payloads).await;
        let pull = async |most| kafka.pull(&brokers.fingerprint, most, Duration::from_secs(5)).await.unwrap();
        until("a part comes", async || !pull(1).await.is_empty()).await;
        // Nobody asks for longer than the group waits for a sign of life.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (mut seen, mut again) = (HashMap::new(), 0);
        loop {
            let parts = pull(7).await;
            if parts.is_empty() {
                break;
            }
            for part in parts {
                let address = part.address().unwrap().part;
                *seen.entry(address).or_insert(0usize) += 1;
                if seen[&address] == 1 && address % 10 == 3 {
                    assert_eq!(part.deliveries(), 1);
                    part.again(Duration::from_millis(200)).await.unwrap();
                    again += 1;
                } else {
                    assert_eq!(part.deliveries(), seen[&address]);
                    part.done().await.unwrap();
                }
            }
        }
        // The one that was taken and forgotten is still in somebody's hands.
        assert_eq!((seen.len(), seen.values().sum::<usize>()), (299, 299 + again));
        kafka.flush().await.unwrap();
        assert_eq!(kafka.depth().await.unwrap(), Depth { parts: 1, dead: 0 });
        drop(kafka);
        let next = brokers.connect(&brokers.jobs()).await;
        let mut left = vec![];
        while left.is_empty() {
            left = next.pull(&brokers.fingerprint, 10, Duration::from_secs(5)).await.unwrap();
        }
        assert_eq!(left.iter().map(|part| part.deliveries()).collect::<Vec<_>>(), [2]);
    });
}

#[test]
fn all_servers_and_workers_agree_on_which_value_came_first() {
    block_on(async {
        let brokers = Brokers::start().await;
        let jobs = brokers.jobs();
        let stores = [brokers.connect(&jobs).await, brokers.connect(&jobs).await];
        let values = ["small".repeat(10), "large".repeat(500_000)];
        for (round, value) in values.iter().enumerate() {
            let name = format!("{RUN}.{round}");
            let one = |at: usize| {
                let (store, value) = (&stores[at], format!("{at}{value}"));
                let name = &name;
                async move { store.create(Shelf::Results, name, value.into()).await.unwrap() }
            };
            let (first, second) = tokio::join!(one(0), one(1));
            assert_ne!(first, second, "one of them is first");
            let winner = if first { '0' } else { '1' };
            for store in &stores {
                let got = store.get(Shelf::Results, &name).await.unwrap().unwrap();
                assert!(got == format!("{winner}{value}"), "round {round}");
                assert!(!store.create(Shelf::Results, &name, "late".into()).await.unwrap());
            }
        }
        let late = brokers.connect(&jobs).await;
        assert_eq!(late.list(Shelf::Results, RUN).await.unwrap(), ["0", "1"]);
        assert_eq!(late.list(Shelf::Jobs, RUN).await.unwrap(), [""; 0]);
        assert!(late.newest(Shelf::Results, RUN).await.unwrap().is_some());
        assert_eq!(late.get(Shelf::Jobs, &format!("{RUN}.0")).await.unwrap(), None);

        let file = vec![7u8; 2_000_000];
        stores[0].put_picture("x.0.1", file.clone().into()).await.unwrap();
        assert!(stores[1].picture("x.0.1", 2_000_000).await.unwrap() == file);
        assert_eq!(stores[1].picture("x.0.1", 1_999_999).await.unwrap_err().code, "image_too_large");
        stores[1].remove_picture("x.0.1").await.unwrap();
        assert_eq!(stores[0].picture("x.0.1", 2_000_000).await.unwrap_err().code, "picture_lost");
    });
}

#[test]
fn jobs_with_a_key_are_made_once_and_take_large_pictures() {
    block_on(async {
        let brokers = Brokers::start().await;
        let (server, other) = (start(brokers.config()).await, start(brokers.config()).await);
        // What follows a PNG's end is not read.
        let mut file = picture("emoji/1F34E.png");
        file.resize(2 << 20, 0);
        let body =
            |text: &str| json!({"model": "emoji-clip", "input": [text, data_url(&file)], "idempotency_key": "k"});
        let send = async |at, text: &str| post(at, PATH, &body(text)).await;
        let id = |answer: &Answer| answer.json()["id"].as_str().unwrap().to_owned();
        let (first, second) = (send(server.address(), "a").await, send(other.address(), "a").await);
        assert_eq!([first.status, second.status], [StatusCode::ACCEPTED; 2], "{:?}", first.body);
        assert_eq!(id(&first), id(&second));
        assert_eq!(send(other.address(), "b").await.code(), "idempotency_key_reused");
        let worker = Worker::start(other.app().clone()).unwrap();
        let job = ended(server.address(), &id(&first)).await;
        assert_eq!((&job["status"], &job["request_counts"]["completed"]), (&json!("succeeded"), &json!(2)));
        let result = vectors(&get(server.address(), &format!("{PATH}/{}/result", id(&first))).await);
        let both = json!({"model": "emoji-clip", "input": ["a", data_url(&file)]});
        let direct = post(server.address(), "/v1/embeddings", &both).await;
        for (got, wanted) in result.iter().zip(vectors(&direct)) {
            assert!(cosine(got, &wanted) >= 0.9999);
        }
        assert!(worker.drain().await);
    });
}

#[test]
fn brokers_that_are_not_there_or_go_away_cost_jobs_nothing_but_time() {
    block_on(async {
        let nowhere = JobsConfig { kafka_brokers: Some("127.0.0.1:1".into()), ..JobsConfig::default() };
        let server = start(Config { jobs: nowhere.clone(), ..config(&["emoji-clip"]) }).await;
        let body = json!({"model": "emoji-clip", "input": "x"});
        assert_eq!(post(server.address(), "/v1/embeddings", &body).await.status, StatusCode::OK);
        let started = Instant::now();
        let refused = post(server.address(), PATH, &body).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::SERVICE_UNAVAILABLE, "queue_unavailable".into()));
        assert!(refused.headers.contains_key("retry-after") && started.elapsed() < Duration::from_secs(2));
        let wrong = JobsConfig { kafka_properties: [("no.such.property".into(), "1".into())].into(), ..nowhere };
        assert_eq!(Kafka::connect(&wrong).await.err().unwrap().code, "queue_refused");

        let brokers = Brokers::start().await;
        let server = start(brokers.config()).await;
        let at = server.address();
        let worker = Worker::start(server.app().clone()).unwrap();
        let early = submit(at, json!(["a"])).await;
        assert_eq!(ended(at, &early).await["status"], "succeeded");
        let accepted = submit(at, json!((0..200).map(|n| n.to_string()).collect::<Vec<_>>())).await;
        brokers.cluster.broker_down(1).unwrap();
        until("the server notices", async || post(at, PATH, &body).await.code() == "queue_unavailable").await;
        assert_eq!(post(at, "/v1/embeddings", &body).await.status, StatusCode::OK);
        brokers.cluster.broker_up(1).unwrap();
        let job = ended(at, &accepted).await;
        assert_eq!((&job["status"], &job["request_counts"]["completed"]), (&json!("succeeded"), &json!(200)));
        until("jobs are taken again", async || post(at, PATH, &body).await.status == StatusCode::ACCEPTED).await;
        assert!(worker.drain().await);
    });
}
