//! Records, answers and large pictures: entries of the index, and blobs.

use std::time::Instant;

use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::FutureRecord;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::{Arc, PoisonError};

use super::index::{Entry, Known, PARTITION, Place, Value};
use super::{Kafka, MESSAGE, PATIENCE, Shared};
use crate::engine::Task;
use crate::error::{Reason, ServeError};
use crate::jobs::{Shelf, Store, unavailable};

/// What names of pictures begin with in the index.
pub(super) const PICTURES: &str = "p/";

/// Values of so many bytes stand in the index: it is in every process' memory.
const SMALL: usize = 256;

/// Bytes of blobs that are kept because they came along.
const KEPT: u64 = 32 << 20;

/// Blobs that are taken along at most.
const ALONG: usize = 256;

fn name_of(shelf: Shelf, name: &str) -> String {
    let shelf = match shelf {
        Shelf::Jobs => "j/",
        Shelf::Results => "r/",
    };
    format!("{shelf}{name}")
}

/// Reads blobs by their places. What Kafka sends along is kept for a while: answers of a job lie near each other.
pub(super) struct Blobs {
    topic: String,
    consumer: Arc<std::sync::Mutex<BaseConsumer>>,
    kept: moka::future::Cache<Place, Bytes>,
}

impl Blobs {
    pub(super) fn open(config: &ClientConfig, topic: &str) -> Result<Blobs, ServeError> {
        let consumer = config.create().map_err(unavailable)?;
        let weigh = |_: &Place, blob: &Bytes| u32::try_from(blob.len() + 64).unwrap_or(u32::MAX);
        let kept = moka::future::Cache::builder().weigher(weigh).max_capacity(KEPT).build();
        Ok(Blobs { topic: topic.to_owned(), consumer: Arc::new(std::sync::Mutex::new(consumer)), kept })
    }

    /// A blob, if it was not deleted.
    async fn get(&self, place: Place) -> Result<Option<Bytes>, ServeError> {
        if let Some(blob) = self.kept.get(&place).await {
            return Ok(Some(blob));
        }
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        let read = move || {
            // A panic elsewhere leaves an assignment behind, which the next one replaces.
            let consumer = consumer.lock().unwrap_or_else(PoisonError::into_inner);
            let read = read(&consumer, &topic, place);
            let _ = consumer.unassign();
            read
        };
        let blobs = tokio::task::spawn_blocking(read).await.map_err(unavailable)?.map_err(unavailable)?;
        let mut found = None;
        for (at, blob) in blobs {
            if at == place {
                found = Some(blob.clone());
            }
            self.kept.insert(at, blob).await;
        }
        Ok(found)
    }
}

/// A blob, and others behind it; nothing if it was deleted.
fn read(consumer: &BaseConsumer, topic: &str, (partition, offset): Place) -> KafkaResult<Vec<(Place, Bytes)>> {
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&from)?;
    let (until, mut blobs) = (Instant::now() + PATIENCE, vec![]);
    while blobs.len() < ALONG {
        let wait = if blobs.is_empty() { until.saturating_duration_since(Instant::now()) } else { Default::default() };
        match consumer.poll(wait) {
            Some(Ok(message)) if message.partition() != partition || message.offset() < offset => {}
            Some(Ok(message)) => {
                let blob = Bytes::copy_from_slice(message.payload().unwrap_or_default());
                blobs.push(((partition, message.offset()), blob));
            }
            Some(Err(error)) if is_deleted(&error) => break,
            Some(Err(_)) if Instant::now() < until && blobs.is_empty() => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Some(Err(error)) if blobs.is_empty() => return Err(error),
            None if blobs.is_empty() => return Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut)),
            _ => break,
        }
    }
    Ok(blobs)
}

fn is_deleted(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
    error.rdkafka_error_code().is_some_and(|code| matches!(code, AutoOffsetReset | OffsetOutOfRange))
}

impl Shared {
    /// Writes a value; in blobs, if it is large.
    async fn put(&self, value: &[u8]) -> Result<Value, ServeError> {
        if value.len() <= SMALL {
            return Ok(Value::here(value));
        }
        let (topic, mut places) = (self.name("blobs"), vec![]);
        for chunk in value.chunks(MESSAGE) {
            places.push(self.send(FutureRecord::to(&topic).payload(chunk)).await?);
        }
        Ok(Value::Blobs(places, value.len()))
    }

    /// Writes an entry, and waits until it is read. Says what it is known by.
    async fn enter(&self, name: &str, value: Value) -> Result<u64, ServeError> {
        let mut by = [0; 8];
        getrandom::fill(&mut by).map_err(|e| {
            ServeError::internal("no_random_numbers", format!("the system gives no random numbers: {e}"))
        })?;
        let by = u64::from_le_bytes(by);
        let entry = serde_json::to_vec(&Entry { by, value });
        let entry = entry.map_err(|e| ServeError::internal("malformed_entry", e.to_string()))?;
        let topic = self.name("index");
        let record = FutureRecord::to(&topic).partition(PARTITION).key(name).payload(&entry[..]);
        let (_, offset) = self.send(record).await?;
        self.opened()?.index.read_to(offset + 1).await?;
        Ok(by)
    }

    /// What an entry stands for, if it was not deleted.
    async fn value(&self, known: Option<Known>) -> Result<Option<Bytes>, ServeError> {
        match known.map(|known| known.entry.value) {
            None | Some(Value::Gone) => Ok(None),
            Some(Value::Here(text)) => Value::bytes(&text).map(Some),
            Some(Value::Blobs(places, length)) => {
                let mut value = Vec::with_capacity(length.min(places.len().saturating_mul(MESSAGE)));
                for place in places {
                    let Some(blob) = self.opened()?.blobs.get(place).await? else { return Ok(None) };
                    value.extend_from_slice(&blob);
                }
                Ok(Some(value.into()))
            }
        }
    }
}

impl Store for Kafka {
    fn create<'a>(&'a self, shelf: Shelf, name: &'a str, value: Bytes) -> Task<'a, Result<bool, ServeError>> {
        Box::pin(async move {
            let (index, name) = (&self.0.opened()?.index, name_of(shelf, name));
            if index.get(&name).is_some() {
                return Ok(false);
            }
            let by = self.0.enter(&name, self.0.put(&value).await?).await?;
            Ok(index.get(&name).is_some_and(|known| known.entry.by == by))
        })
    }

    fn get<'a>(&'a self, shelf: Shelf, name: &'a str) -> Task<'a, Result<Option<Bytes>, ServeError>> {
        Box::pin(async move {
            let index = &self.0.opened()?.index;
            index.caught_up().await?;
            self.0.value(index.get(&name_of(shelf, name))).await
        })
    }

    fn list<'a>(&'a self, shelf: Shelf, prefix: &'a str) -> Task<'a, Result<Vec<String>, ServeError>> {
        Box::pin(async move {
            let index = &self.0.opened()?.index;
            index.caught_up().await?;
            let names = index.beginning(&name_of(shelf, &format!("{prefix}.")), |rest, _| rest.to_owned());
            Ok(names.into_iter().filter(|rest| !rest.contains('.')).collect())
        })
    }

    fn newest<'a>(&'a self, shelf: Shelf, prefix: &'a str) -> Task<'a, Result<Option<u64>, ServeError>> {
        Box::pin(async move {
            let index = &self.0.opened()?.index;
            index.caught_up().await?;
            let written = index.beginning(&name_of(shelf, &format!("{prefix}.")), |_, known| known.written / 1000);
            Ok(written.into_iter().max().and_then(|seconds| u64::try_from(seconds).ok()))
        })
    }

    fn put_picture<'a>(&'a self, name: &'a str, file: Bytes) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            self.0.opened()?;
            self.0.enter(&format!("{PICTURES}{name}"), self.0.put(&file).await?).await.map(|_| ())
        })
    }

    fn picture<'a>(&'a self, name: &'a str, most: usize) -> Task<'a, Result<Bytes, ServeError>> {
        Box::pin(async move {
            let index = &self.0.opened()?.index;
            index.caught_up().await?;
            let known = index.get(&format!("{PICTURES}{name}"));
            if let Some(Known { entry: Entry { value: Value::Blobs(_, size), .. }, .. }) = known
                && size > most
            {
                let what = format!("a picture of {size} bytes is larger than this worker's limit of {most}");
                return Err(ServeError::new(Reason::TooLarge, "image_too_large", what));
            }
            self.0.value(known).await?.ok_or_else(|| {
                ServeError::new(Reason::NotFound, "picture_lost", "the picture is not in the store any more")
            })
        })
    }

    fn remove_picture<'a>(&'a self, name: &'a str) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            self.0.opened()?;
            self.0.enter(&format!("{PICTURES}{name}"), Value::Gone).await.map(|_| ())
        })
    }
}
