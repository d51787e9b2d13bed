//! Jobs in Kafka, of brokers from 2.4 on.
//!
//! | what | topic, for the namespace `lenslet` |
//! |---|---|
//! | parts that wait | `lenslet-parts-FINGERPRINT`, keyed by their address |
//! | who holds what | offsets of the group `lenslet-workers`, which all workers join (`window.rs`) |
//! | dead letters | `lenslet-dead` |
//! | records, answers, large pictures | `lenslet-blobs`, and small ones in the index itself |
//! | which of them there are | `lenslet-index`, in one partition (`index.rs`) |
//!
//! Kafka has no values that are written where there is none only. Here the order of the index decides: each process follows it,
//! and the first entry of a name counts. Values lie beside it, so that following costs some hundred bytes a part.
//!
//! Topics that exist already are taken as they are, so that an operator may set them up otherwise.

mod group;
mod index;
mod queue;
mod store;
mod window;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use tokio::sync::Mutex;

use self::group::Group;
use self::index::{Index, Place};
use self::store::Blobs;
use super::unavailable;
use crate::config::JobsConfig;
use crate::error::ServeError;

/// How long an answer of the brokers is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries to reach brokers that were never there.
const RETRY: Duration = Duration::from_secs(1);

/// Bytes of a message: less than brokers take if nobody changed it (`message.max.bytes`, 1,048,588) with what stands around it.
const MESSAGE: usize = 900_000;

/// A queue and a store in Kafka.
pub struct Kafka(Arc<Shared>);

struct Shared {
    settings: JobsConfig,
    producer: FutureProducer,
    /// Asks, and joins nothing.
    probe: Arc<BaseConsumer>,
    reachable: Arc<AtomicBool>,
    opened: OnceLock<Opened>,
    /// Topics of parts that are known to be there.
    topics: Mutex<HashSet<String>>,
    groups: Mutex<HashMap<String, Arc<Group>>>,
}

/// What there is once the brokers were reached.
struct Opened {
    index: Index,
    blobs: Blobs,
}

impl Kafka {
    /// Connects. Brokers that cannot be reached are tried again and again.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub async fn connect(settings: &JobsConfig) -> Result<Kafka, ServeError> {
        let refused = |error| {
            let what = format!("Kafka: {error}; check jobs.kafka_brokers and jobs.kafka_properties");
            ServeError::internal("queue_refused", what)
        };
        let shared = Shared {
            producer: producer(settings).create().map_err(refused)?,
            probe: Arc::new(consumer(settings).create().map_err(refused)?),
            settings: settings.clone(),
            reachable: Arc::default(),
            opened: OnceLock::new(),
            topics: Mutex::default(),
            groups: Mutex::default(),
        };
        let shared = Arc::new(shared);
        if let Err(error) = shared.open().await {
            tracing::warn!(error = error.message, "Kafka cannot be reached; jobs wait for it");
            tokio::spawn(keep_trying(Arc::downgrade(&shared)));
        }
        Ok(Kafka(shared))
    }
}

async fn keep_trying(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(RETRY).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.open().await.is_ok() {
            return tracing::info!("connected to Kafka");
        }
    }
}

fn client(settings: &JobsConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", settings.kafka_brokers.as_deref().unwrap_or_default())
        .set("client.id", "lenslet-server")
        .set("socket.connection.setup.timeout.ms", "5000")
        .set("reconnect.backoff.max.ms", "2000");
    config.extend(settings.kafka_properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    config
}

fn producer(settings: &JobsConfig) -> ClientConfig {
    let mut config = client(settings);
    // What is written twice for a lost confirmation does not matter: of one name, the first counts.
    config.set("acks", "all").set("message.timeout.ms", PATIENCE.as_millis().to_string()).set("linger.ms", "2");
    config
}

fn consumer(settings: &JobsConfig) -> ClientConfig {
    let mut config = client(settings);
    config
        .set("group.id", format!("{}-workers", settings.namespace))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "100")
        .set("queued.min.messages", "64")
        .set("queued.max.messages.kbytes", "16384");
    config
}

/// A member of the group of workers.
fn member(settings: &JobsConfig) -> ClientConfig {
    let session = (settings.ack_wait_s * 1000.0) as u64;
    let mut config = consumer(settings);
    config
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session.to_string())
        .set("heartbeat.interval.ms", (session / 3).min(3000).to_string())
        .set("max.poll.interval.ms", session.max(300_000).to_string());
    config
}

impl Shared {
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.settings.namespace)
    }

    /// The topic of a model's parts.
    fn parts(&self, fingerprint: &str) -> String {
        self.name(&format!("parts-{fingerprint}"))
    }

    /// Fails at once where a request would only wait for its time to run out.
    fn opened(&self) -> Result<&Opened, ServeError> {
        let reachable = self.reachable.load(Ordering::Relaxed);
        self.opened.get().filter(|_| reachable).ok_or_else(|| unavailable("no Kafka broker answers"))
    }

    async fn open(&self) -> Result<(), ServeError> {
        let partitions = self.settings.kafka_partitions as i32;
        for (what, partitions) in [("index", 1), ("blobs", partitions), ("dead", 1)] {
            self.ensure(&self.name(what), partitions).await?;
        }
        self.reachable.store(true, Ordering::Relaxed);
        let retention = Duration::from_secs_f64(self.settings.retention_s);
        let config = consumer(&self.settings);
        let mut whole = config.clone();
        // Where its beginning is deleted while somebody reads there, what is left is what there is.
        whole.set("auto.offset.reset", "earliest");
        let index = Index::open(&whole, &self.name("index"), retention, self.reachable.clone())?;
        let blobs = Blobs::open(&config, &self.name("blobs"))?;
        let _ = self.opened.set(Opened { index, blobs });
        Ok(())
    }

    /// Makes a topic unless it is there.
    async fn ensure(&self, topic: &str, partitions: i32) -> Result<(), ServeError> {
        let (probe, name) = (self.probe.clone(), topic.to_owned());
        let exists = move || {
            let found = probe.fetch_metadata(Some(&name), PATIENCE)?;
            Ok(found.topics().iter().any(|topic| topic.error().is_none() && !topic.partitions().is_empty()))
        };
        let exists = tokio::task::spawn_blocking(exists).await.map_err(unavailable)?;
        if exists.map_err(|error: rdkafka::error::KafkaError| unavailable(error))? {
            return Ok(());
        }
        let retention = ((self.settings.retention_s * 1000.0) as u64).to_string();
        // Segments that are never closed are never deleted either.
        let segment = ((self.settings.retention_s * 1000.0) as u64).min(86_400_000).to_string();
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(self.settings.replicas as i32))
            .set("cleanup.policy", "delete")
            .set("retention.ms", &retention)
            .set("segment.ms", &segment)
            .set("message.timestamp.type", "LogAppendTime");
        let admin: AdminClient<DefaultClientContext> = client(&self.settings).create().map_err(unavailable)?;
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let made = admin.create_topics([&new], &options).await.map_err(unavailable)?;
        match made.into_iter().next() {
            Some(Err((name, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(unavailable(format!("the topic {name} is missing and cannot be made: {code}")))
            }
            _ => Ok(()),
        }
    }

    /// Writes a message, and says where it is.
    async fn send(&self, record: FutureRecord<'_, str, [u8]>) -> Result<Place, ServeError> {
        match self.producer.send(record, Timeout::After(PATIENCE)).await {
            Ok(delivery) => Ok((delivery.partition, delivery.offset)),
            Err((error, _)) => Err(unavailable(error)),
        }
    }
}
