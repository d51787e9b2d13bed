//! Jobs in NATS JetStream, of servers from 2.9 on.
//!
//! | what | where, for the namespace `lenslet` |
//! |---|---|
//! | parts that wait | stream `lenslet-parts`, subjects `lenslet.jobs.parts.FINGERPRINT.RUN.PART`, a work queue |
//! | who holds what | one durable consumer a fingerprint, which all workers with that model share |
//! | dead letters | stream `lenslet-dead`, subjects `lenslet.jobs.dead.FINGERPRINT.RUN.PART` |
//! | records, answers | key-value buckets `lenslet-jobs`, `lenslet-results` |
//! | large pictures | object store `lenslet-pictures` |
//!
//! What exists already is taken as it is, so that an operator may set it up otherwise.

mod queue;
mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, kv, object_store};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use tokio::sync::Mutex;

use super::{full, unavailable};
use crate::config::JobsConfig;
use crate::error::ServeError;

/// Within this time a part of the same name is not queued twice.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// How long an answer of the servers is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a message besides its payload: subject and headers.
const HEAD: usize = 1024;

/// A queue and a store in JetStream.
pub struct Nats {
    client: Client,
    context: jetstream::Context,
    settings: JobsConfig,
    found: Mutex<Found>,
}

/// What came of the last look for streams and buckets.
#[derive(Default)]
struct Found {
    opened: Option<Arc<Opened>>,
    failure: Option<(Instant, ServeError)>,
}

/// Streams and buckets that were there when they were looked for.
struct Opened {
    parts: Stream,
    dead: Stream,
    jobs: kv::Store,
    results: kv::Store,
    pictures: object_store::ObjectStore,
    consumers: Mutex<HashMap<String, PullConsumer>>,
}

impl Nats {
    /// Connects. Servers that cannot be reached are tried again and again, now and whenever the connection breaks.
    ///
    /// # Errors
    /// The servers refuse this client, or an address is none.
    pub async fn connect(settings: &JobsConfig) -> Result<Nats, ServeError> {
        let refused = |what: &dyn std::fmt::Display| {
            let what = format!("NATS: {what}; check jobs.nats_url and the user and password in it");
            ServeError::internal("queue_refused", what)
        };
        let addresses = settings.nats_url.as_deref().unwrap_or_default().split(',');
        let addresses: Result<Vec<ServerAddr>, _> = addresses.map(|address| address.trim().parse()).collect();
        let addresses = addresses.map_err(|e: std::io::Error| refused(&e))?;
        let options = || {
            identity(&addresses)
                .name("lenslet-server")
                .connection_timeout(PATIENCE)
                .request_timeout(Some(PATIENCE))
                .reconnect_delay_callback(|tries| Duration::from_millis(100 << tries.min(5)))
                .event_callback(|event| async move { log(&event) })
        };
        let client = match options().connect(addresses.clone()).await {
            Ok(client) => client,
            Err(error) => match error.kind() {
                ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::Io => {
                    tracing::warn!(%error, "NATS cannot be reached; jobs wait for it");
                    let waiting = options().retry_on_initial_connect().connect(addresses.clone()).await;
                    waiting.map_err(|e| refused(&e))?
                }
                _ => return Err(refused(&error)),
            },
        };
        let mut context = jetstream::new(client.clone());
        context.set_timeout(PATIENCE);
        Ok(Nats { client, context, settings: settings.clone(), found: Mutex::default() })
    }

    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.settings.namespace)
    }

    fn subject(&self, what: &str, rest: &str) -> String {
        format!("{}.jobs.{what}.{rest}", self.settings.namespace)
    }

    /// Fails at once where a request would only wait for its time to run out.
    fn check(&self) -> Result<(), ServeError> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(unavailable("there is no connection to NATS")),
        }
    }

    /// Streams and buckets, made where they are missing.
    async fn opened(&self) -> Result<Arc<Opened>, ServeError> {
        self.check()?;
        let asked = Instant::now();
        let mut found = self.found.lock().await;
        if let Some(opened) = &found.opened {
            return Ok(opened.clone());
        }
        // Who waited while somebody else looked in vain does not look too: behind a server that does not answer, each look
        // would add its patience to the wait of all others.
        if let Some((when, error)) = &found.failure
            && *when > asked
        {
            return Err(error.clone());
        }
        match self.open().await {
            Ok(opened) => {
                let opened = Arc::new(opened);
                *found = Found { opened: Some(opened.clone()), failure: None };
                Ok(opened)
            }
            Err(error) => {
                found.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Looks for everything anew next time: a server may have lost it.
    async fn failed(&self, what: impl std::fmt::Display) -> ServeError {
        self.found.lock().await.opened = None;
        unavailable(what)
    }

    async fn open(&self) -> Result<Opened, ServeError> {
        let JobsConfig { retention_s, max_queued_parts, max_queued_bytes, replicas, .. } = self.settings;
        let (max_age, bytes) = (Duration::from_secs_f64(retention_s), max_queued_bytes as i64);
        let parts = StreamConfig {
            name: self.name("parts"),
            subjects: vec![self.subject("parts", ">")],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages: max_queued_parts as i64,
            max_bytes: bytes,
            max_age,
            duplicate_window: DUPLICATE_WINDOW.min(max_age),
            storage: StorageType::File,
            num_replicas: replicas,
            description: Some("Parts of jobs that wait for a worker".into()),
            ..StreamConfig::default()
        };
        let dead = StreamConfig {
            name: self.name("dead"),
            subjects: vec![self.subject("dead", ">")],
            max_age,
            duplicate_window: DUPLICATE_WINDOW.min(max_age),
            storage: StorageType::File,
            num_replicas: replicas,
            description: Some("Parts of jobs that were given up".into()),
            ..StreamConfig::default()
        };
        let parts = self.context.get_or_create_stream(parts).await.map_err(unavailable)?;
        let dead = self.context.get_or_create_stream(dead).await.map_err(unavailable)?;
        let (jobs, results) = (self.bucket("jobs", max_age).await?, self.bucket("results", max_age).await?);
        let name = self.name("pictures");
        let pictures = match self.context.get_object_store(&name).await {
            Ok(store) => store,
            Err(_) => {
                let config = object_store::Config {
                    bucket: name,
                    description: Some("Pictures that are too large for a message".into()),
                    max_age,
                    max_bytes: bytes,
                    storage: StorageType::File,
                    num_replicas: replicas,
                    ..object_store::Config::default()
                };
                self.context.create_object_store(config).await.map_err(unavailable)?
            }
        };
        Ok(Opened { parts, dead, jobs, results, pictures, consumers: Mutex::default() })
    }

    /// A key-value bucket. The library's own way to make one asks the account for numbers that servers before 2.10 do not tell,
    /// so its stream is made here, as NATS lays it down (ADR-8).
    async fn bucket(&self, what: &str, max_age: Duration) -> Result<kv::Store, ServeError> {
        let name = self.name(what);
        let stream = StreamConfig {
            name: format!("KV_{name}"),
            subjects: vec![format!("$KV.{name}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            max_age,
            duplicate_window: DUPLICATE_WINDOW.min(max_age),
            storage: StorageType::File,
            num_replicas: self.settings.replicas,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..StreamConfig::default()
        };
        self.context.get_or_create_stream(stream).await.map_err(unavailable)?;
        self.context.get_key_value(&name).await.map_err(unavailable)
    }

    /// The consumer of a model, with this worker's settings.
    async fn consumer(&self, opened: &Opened, fingerprint: &str) -> Result<PullConsumer, ServeError> {
        let mut consumers = opened.consumers.lock().await;
        if let Some(consumer) = consumers.get(fingerprint) {
            return Ok(consumer.clone());
        }
        let config = pull::Config {
            durable_name: Some(format!("embed-{fingerprint}")),
            filter_subject: self.subject("parts", &format!("{fingerprint}.>")),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs_f64(self.settings.ack_wait_s),
            // Workers count themselves, and see a part that was given out too often once more: a consumer with a limit would
            // leave it on the queue, where nobody ever sees it again.
            max_deliver: -1,
            max_ack_pending: self.settings.max_ack_pending as i64,
            ..pull::Config::default()
        };
        let consumer = opened.parts.create_consumer(config).await.map_err(unavailable)?;
        consumers.insert(fingerprint.to_owned(), consumer.clone());
        Ok(consumer)
    }
}

/// User and password, or a token, of the first address that has them: the library leaves them to its caller.
fn identity(addresses: &[ServerAddr]) -> ConnectOptions {
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let found = addresses.iter().find_map(|address| Some((plain(address.username()?), address.password().map(plain))));
    match found {
        Some((user, Some(password))) => ConnectOptions::with_user_and_password(user, password),
        Some((token, None)) => ConnectOptions::with_token(token),
        None => ConnectOptions::new(),
    }
}

fn log(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("the connection to NATS is lost; trying again"),
        event => tracing::warn!(%event, "NATS"),
    }
}

/// Whether JetStream refused a message because there is no room for it.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use jetstream::ErrorCode;
    let mut error = Some(error);
    while let Some(at) = error {
        if let Some(error) = at.downcast_ref::<jetstream::Error>() {
            let full = [
                ErrorCode::STREAM_STORE_FAILED,
                ErrorCode::INSUFFICIENT_RESOURCES,
                ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ];
            return full.contains(&error.error_code());
        }
        error = at.source();
    }
    false
}
