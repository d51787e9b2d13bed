//! What there is in the store, and where: the topic of the index, read from its beginning and followed.
//!
//! All processes read the same entries in the same order, so all agree on which of several of one name came first. Values that are
//! small stand in the entry; of others it says where among the blobs they are. A process knows that its own entry counts when it
//! has read it back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::PATIENCE;
use crate::error::ServeError;
use crate::jobs::unavailable;

/// All entries stand in one partition: they have one order.
pub(super) const PARTITION: i32 = 0;

/// How often it is asked whether the brokers are there.
const PING: Duration = Duration::from_secs(1);

/// How often what has expired is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// A place among the blobs.
pub(super) type Place = (i32, i64);

/// An entry of the index, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Of whoever wrote it: tells this entry from others of its name.
    pub(super) by: u64,
    #[serde(flatten)]
    pub(super) value: Value,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Value {
    /// The value itself, in base64.
    Here(String),
    /// Blobs that make it up, and its length.
    Blobs(Vec<Place>, usize),
    /// There is none any more.
    Gone,
}

impl Value {
    pub(super) fn here(value: &[u8]) -> Value {
        Value::Here(STANDARD.encode(value))
    }

    pub(super) fn bytes(text: &str) -> Result<Bytes, ServeError> {
        let broken =
            |e| ServeError::internal("malformed_entry", format!("an entry of the index of jobs is damaged: {e}"));
        STANDARD.decode(text).map(Bytes::from).map_err(broken)
    }
}

/// An entry, and when it was written, in milliseconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) entry: Entry,
    pub(super) written: i64,
}

type Entries = BTreeMap<String, Known>;

/// The index, as far as it was read.
pub(super) struct Index {
    topic: String,
    shared: Arc<Shared>,
    /// The offset of the next entry.
    read: watch::Receiver<i64>,
    consumer: Arc<BaseConsumer>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    entries: Mutex<Entries>,
    stop: AtomicBool,
    reachable: Arc<AtomicBool>,
    retention: Duration,
}

impl Shared {
    /// A panic elsewhere leaves nothing half done in there.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    /// Begins to read. `reachable` is kept true while the brokers answer.
    pub(super) fn open(
        config: &ClientConfig,
        topic: &str,
        retention: Duration,
        reachable: Arc<AtomicBool>,
    ) -> Result<Index, ServeError> {
        let consumer: Arc<BaseConsumer> = Arc::new(config.create().map_err(unavailable)?);
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, PARTITION, Offset::Beginning).map_err(unavailable)?;
        consumer.assign(&from).map_err(unavailable)?;
        let shared = Arc::new(Shared { entries: Mutex::default(), stop: AtomicBool::new(false), reachable, retention });
        let (progress, read) = watch::channel(0);
        let thread = std::thread::Builder::new().name("kafka-index".into()).spawn({
            let (consumer, shared, topic) = (consumer.clone(), shared.clone(), topic.to_owned());
            move || follow(&consumer, &shared, &topic, &progress)
        });
        let thread = thread.map_err(unavailable)?;
        Ok(Index { topic: topic.to_owned(), shared, read, consumer, thread: Some(thread) })
    }

    /// Waits until all was read that was written before this call.
    pub(super) async fn caught_up(&self) -> Result<(), ServeError> {
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        let end = move || consumer.fetch_watermarks(&topic, PARTITION, PATIENCE).map(|(_, end)| end);
        let end = tokio::task::spawn_blocking(end).await.map_err(unavailable)?.map_err(unavailable)?;
        self.read_to(end).await
    }

    /// Waits until all was read before this offset.
    pub(super) async fn read_to(&self, end: i64) -> Result<(), ServeError> {
        let mut read = self.read.clone();
        match tokio::time::timeout(PATIENCE, read.wait_for(|&read| read >= end)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(unavailable("the index is closed")),
            Err(_) => Err(unavailable("the index is not read up to its end yet")),
        }
    }

    /// An entry, as far as was read.
    pub(super) fn get(&self, name: &str) -> Option<Known> {
        let known = self.shared.entries().get(name).cloned();
        known.filter(|known| known.written > oldest(self.shared.retention))
    }

    /// What `read` makes of all entries whose names begin so, with what follows.
    pub(super) fn beginning<T>(&self, prefix: &str, mut read: impl FnMut(&str, &Known) -> T) -> Vec<T> {
        let (entries, oldest) = (self.shared.entries(), oldest(self.shared.retention));
        let named =
            entries.range(prefix.to_owned()..).map_while(|(name, known)| Some((name.strip_prefix(prefix)?, known)));
        named.filter(|(_, known)| known.written > oldest).map(|(rest, known)| read(rest, known)).collect()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(consumer: &BaseConsumer, shared: &Shared, topic: &str, progress: &watch::Sender<i64>) {
    let (mut pinged, mut swept): (Option<Instant>, Instant) = (None, Instant::now());
    while !shared.stop.load(Ordering::Relaxed) {
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => {
                note(shared, &message);
                let _ = progress.send_replace(message.offset() + 1);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "Kafka");
                std::thread::sleep(Duration::from_millis(10));
            }
            None => {}
        }
        if pinged.is_none_or(|pinged| pinged.elapsed() >= PING) {
            let answered = consumer.fetch_watermarks(topic, PARTITION, PING);
            let was = shared.reachable.swap(answered.is_ok(), Ordering::Relaxed);
            match &answered {
                Ok(_) if !was => tracing::info!("Kafka is there"),
                Err(error) if was => tracing::warn!(%error, "Kafka cannot be reached; trying again"),
                _ => {}
            }
            // Where the beginning was deleted there may be nothing left to read.
            if let Ok((low, high)) = answered
                && low == high
            {
                progress.send_if_modified(|read| std::mem::replace(read, high.max(*read)) < high);
            }
            pinged = Some(Instant::now());
        }
        if swept.elapsed() >= SWEEP {
            let oldest = oldest(shared.retention);
            shared.entries().retain(|_, known| known.written > oldest);
            swept = Instant::now();
        }
    }
}

fn note(shared: &Shared, message: &BorrowedMessage<'_>) {
    let name = message.key().and_then(|key| std::str::from_utf8(key).ok());
    let entry = message.payload().and_then(|payload| serde_json::from_slice::<Entry>(payload).ok());
    let (Some(name), Some(entry)) = (name, entry) else {
        return tracing::warn!(
            offset = message.offset(),
            "a message in the index of jobs is no entry; it is passed over"
        );
    };
    let known = Known { entry, written: message.timestamp().to_millis().unwrap_or(i64::MAX) };
    apply(&mut shared.entries(), name, known, oldest(shared.retention));
}

/// The first entry of a name counts, except of pictures, whose names begin with `p/`: there it is the last one.
fn apply(entries: &mut Entries, name: &str, known: Known, oldest: i64) {
    if known.written <= oldest {
        return;
    }
    if known.entry.value == Value::Gone {
        entries.remove(name);
    } else if name.starts_with(super::store::PICTURES) || entries.get(name).is_none_or(|old| old.written <= oldest) {
        entries.insert(name.to_owned(), known);
    }
}

/// What was written by then has expired, in milliseconds since 1970.
fn oldest(retention: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(retention).as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(by: u64, value: Value, written: i64) -> Known {
        Known { entry: Entry { by, value }, written }
    }

    #[test]
    fn the_first_entry_counts_until_it_expires_and_pictures_are_replaced() {
        let mut entries = Entries::new();
        let here = Value::here(b"x");
        for (name, by, written, oldest) in [
            ("r/a", 1, 10, 5),
            ("r/a", 2, 11, 5),
            ("p/a", 3, 12, 5),
            ("p/a", 4, 13, 5),
            ("r/old", 5, 4, 5),
            ("r/b", 6, 10, 5),
            ("r/b", 7, 20, 15),
        ] {
            apply(&mut entries, name, known(by, here.clone(), written), oldest);
        }
        let by = |name: &str| entries.get(name).map(|known| known.entry.by);
        assert_eq!([by("r/a"), by("p/a"), by("r/old"), by("r/b")], [Some(1), Some(4), None, Some(7)]);
        apply(&mut entries, "p/a", known(8, Value::Gone, 30), 5);
        assert!(!entries.contains_key("p/a"));
    }

    #[test]
    fn entries_are_read_as_they_are_written() {
        for value in [Value::here(&[0, 255]), Value::Blobs(vec![(3, 12), (3, 13)], 1_000_000), Value::Gone] {
            let entry = Entry { by: u64::MAX, value };
            assert_eq!(serde_json::from_slice::<Entry>(&serde_json::to_vec(&entry).unwrap()).unwrap(), entry);
        }
        assert!(Value::bytes("?").is_err());
        assert_eq!(Value::bytes("AP8=").unwrap()[..], [0, 255]);
    }
}
