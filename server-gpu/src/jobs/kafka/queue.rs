//! Parts as messages of topics.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use rdkafka::{Offset, TopicPartitionList};

use super::group::{Group, Taken};
use super::window::Window;
use super::{Kafka, MESSAGE, PATIENCE, Shared, member};
use crate::engine::Task;
use crate::error::ServeError;
use crate::jobs::{Address, Delivery, Depth, Failure, Queue, Queued, full, unavailable};

/// Messages that are on their way at once.
const ON_THE_WAY: usize = 1000;

impl Queue for Kafka {
    fn reachable(&self) -> bool {
        self.0.opened().is_ok()
    }

    fn max_payload(&self) -> Result<usize, ServeError> {
        self.0.opened()?;
        Ok(MESSAGE)
    }

    fn publish<'a>(&'a self, fingerprint: &'a str, parts: Vec<Queued>) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            self.0.opened()?;
            let topic = self.0.topic_of(fingerprint).await?;
            let waiting = self.0.waiting(vec![topic.clone()]).await?;
            if waiting + parts.len() as u64 > self.0.settings.max_queued_parts {
                return Err(full());
            }
            let one = |part: Queued| {
                let topic = &topic;
                async move {
                    let key = part.address.to_string();
                    self.0.send(FutureRecord::to(topic).key(&*key).payload(&part.payload[..])).await
                }
            };
            stream::iter(parts).map(one).buffer_unordered(ON_THE_WAY).try_for_each(async |_| Ok(())).await
        })
    }

    fn pull<'a>(
        &'a self,
        fingerprint: &'a str,
        most: usize,
        patience: Duration,
    ) -> Task<'a, Result<Vec<Box<dyn Delivery>>, ServeError>> {
        Box::pin(async move {
            self.0.opened()?;
            let group = self.0.group(fingerprint).await?;
            let taken = group.take(most, patience).await?;
            let delivery = |part: Taken| -> Box<dyn Delivery> {
                let address = part.key.as_deref().and_then(|key| key.split_once('.'));
                let address = address.and_then(|(run, part)| Address::parse(run, part));
                Box::new(KafkaDelivery { shared: self.0.clone(), group: group.clone(), address, part })
            };
            Ok(taken.into_iter().map(delivery).collect())
        })
    }

    fn depth(&self) -> Task<'_, Result<Depth, ServeError>> {
        Box::pin(async move {
            self.0.opened()?;
            let (probe, start, dead) = (self.0.probe.clone(), self.0.parts(""), self.0.name("dead"));
            let topics = move || {
                let all = probe.fetch_metadata(None, PATIENCE)?;
                let names = all.topics().iter().map(|topic| topic.name().to_owned());
                let dead = ends(&probe, &[dead])?.iter().map(|(_, _, low, high)| high - low).sum::<i64>();
                Ok((names.filter(|name| name.starts_with(&start)).collect(), dead))
            };
            let topics = tokio::task::spawn_blocking(topics).await.map_err(unavailable)?;
            let (topics, dead): (Vec<String>, i64) = topics.map_err(|e: rdkafka::error::KafkaError| unavailable(e))?;
            Ok(Depth { parts: self.0.waiting(topics).await?, dead: u64::try_from(dead).unwrap_or(0) })
        })
    }

    fn flush(&self) -> Task<'_, Result<(), ServeError>> {
        Box::pin(async move {
            let groups: Vec<Arc<Group>> = self.0.groups.lock().await.values().cloned().collect();
            for group in groups {
                group.flush().await?;
            }
            Ok(())
        })
    }
}

/// Topic, partition, first offset and the one behind the last, of all partitions of some topics.
fn ends(probe: &BaseConsumer, topics: &[String]) -> KafkaResult<Vec<(String, i32, i64, i64)>> {
    let mut ends = vec![];
    for topic in topics {
        let found = probe.fetch_metadata(Some(topic), PATIENCE)?;
        for partition in found.topics().iter().flat_map(|topic| topic.partitions()) {
            let (low, high) = probe.fetch_watermarks(topic, partition.id(), PATIENCE)?;
            ends.push((topic.clone(), partition.id(), low, high));
        }
    }
    Ok(ends)
}

impl Shared {
    /// A model's topic, which is there.
    async fn topic_of(&self, fingerprint: &str) -> Result<String, ServeError> {
        let topic = self.parts(fingerprint);
        let mut topics = self.topics.lock().await;
        if !topics.contains(&topic) {
            self.ensure(&topic, self.settings.kafka_partitions as i32).await?;
            topics.insert(topic.clone());
        }
        Ok(topic)
    }

    async fn group(&self, fingerprint: &str) -> Result<Arc<Group>, ServeError> {
        let topic = self.topic_of(fingerprint).await?;
        let mut groups = self.groups.lock().await;
        if let Some(group) = groups.get(&topic) {
            return Ok(group.clone());
        }
        let group = Arc::new(Group::join(&member(&self.settings), &topic)?);
        groups.insert(topic, group.clone());
        Ok(group)
    }

    /// Parts of these topics that are not done.
    async fn waiting(&self, topics: Vec<String>) -> Result<u64, ServeError> {
        let probe = self.probe.clone();
        let waiting = move || {
            let ends = ends(&probe, &topics)?;
            if ends.is_empty() {
                return Ok(0);
            }
            let mut asked = TopicPartitionList::new();
            for (topic, partition, ..) in &ends {
                asked.add_partition(topic, *partition);
            }
            let committed = probe.committed_offsets(asked, PATIENCE)?;
            let open = ends.iter().map(|(topic, partition, low, high)| {
                let known = committed.find_partition(topic, *partition);
                let window = known.and_then(|known| match known.offset() {
                    Offset::Offset(offset) => Some(Window::read(offset, known.metadata())),
                    _ => None,
                });
                let none = Window::read(*low, "");
                // What was deleted before it was done waits no more.
                window.unwrap_or(none.clone()).open(*high).min(none.open(*high))
            });
            Ok(open.sum())
        };
        let waiting = tokio::task::spawn_blocking(waiting).await.map_err(unavailable)?;
        waiting.map_err(|error: rdkafka::error::KafkaError| unavailable(error))
    }
}

struct KafkaDelivery {
    shared: Arc<Shared>,
    group: Arc<Group>,
    address: Option<Address>,
    part: Taken,
}

impl Delivery for KafkaDelivery {
    fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    fn payload(&self) -> &Bytes {
        &self.part.payload
    }

    fn deliveries(&self) -> usize {
        self.part.given
    }

    fn waited(&self) -> Duration {
        SystemTime::now().duration_since(self.part.queued).unwrap_or_default()
    }

    fn done(&self) -> Task<'_, Result<(), ServeError>> {
        self.group.done(&self.part);
        Box::pin(async { Ok(()) })
    }

    fn again(&self, after: Duration) -> Task<'_, Result<(), ServeError>> {
        self.group.again(&self.part, after);
        Box::pin(async { Ok(()) })
    }

    /// The group's heartbeats say so for all parts at once.
    fn working(&self) -> Task<'_, Result<(), ServeError>> {
        Box::pin(async { Ok(()) })
    }

    fn dead<'a>(&'a self, why: &'a Failure) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            let deliveries = self.part.given.to_string();
            let place = format!("{}:{}", self.part.partition, self.part.offset);
            let headers = [
                ("Lenslet-Code", &why.code),
                ("Lenslet-Reason", &why.message),
                ("Lenslet-Deliveries", &deliveries),
                ("Lenslet-Place", &place),
            ];
            let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value.as_bytes()) })
            });
            let (topic, key) = (self.shared.name("dead"), self.part.key.as_deref().unwrap_or_default());
            let record = FutureRecord::to(&topic).key(key).payload(&self.part.payload[..]).headers(headers);
            self.shared.send(record).await.map(|_| ())
        })
    }
}
