//! Parts as messages of a work queue.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::message::{AckKind, PublishMessage};
use async_nats::jetstream::{self, Message};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{HEAD, Nats, full, is_full};
use crate::engine::Task;
use crate::error::ServeError;
use crate::jobs::{Address, Delivery, Depth, Failure, Queue, Queued, unavailable};

/// Messages that are on their way into the queue at once.
const ON_THE_WAY: usize = 64;

impl Queue for Nats {
    fn reachable(&self) -> bool {
        self.check().is_ok()
    }

    fn max_payload(&self) -> Result<usize, ServeError> {
        self.check()?;
        Ok(self.client.server_info().max_payload.saturating_sub(HEAD))
    }

    fn publish<'a>(&'a self, fingerprint: &'a str, parts: Vec<Queued>) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            // Where it is known beforehand that not all will fit, none is queued.
            let state = match opened.parts.get_info().await {
                Ok(info) => info.state,
                Err(error) => return Err(self.failed(error).await),
            };
            let bytes: u64 = parts.iter().map(|part| part.payload.len() as u64).sum();
            let (messages, limits) = (parts.len() as u64, &self.settings);
            if state.messages + messages > limits.max_queued_parts || state.bytes + bytes > limits.max_queued_bytes {
                return Err(full());
            }
            let one = |part: Queued| async move {
                let subject = self.subject("parts", &format!("{fingerprint}.{}", part.address));
                let message = PublishMessage::build().payload(part.payload).message_id(part.address.to_string());
                self.context.send_publish(subject, message).await?.await
            };
            let sent = stream::iter(parts).map(one).buffer_unordered(ON_THE_WAY);
            match sent.try_for_each(async |_| Ok(())).await {
                Ok(()) => Ok(()),
                Err(error) if is_full(&error) => Err(full()),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn pull<'a>(
        &'a self,
        fingerprint: &'a str,
        most: usize,
        patience: Duration,
    ) -> Task<'a, Result<Vec<Box<dyn Delivery>>, ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            let consumer = self.consumer(&opened, fingerprint).await?;
            // Ends as soon as there is something, or after that time.
            let some = consumer.fetch().max_messages(most).expires(patience).messages().await;
            let messages = self.collect(some).await?;
            Ok(messages.into_iter().map(|message| self.delivery(message)).collect())
        })
    }

    fn depth(&self) -> Task<'_, Result<Depth, ServeError>> {
        Box::pin(async move {
            let opened = self.opened().await?;
            match tokio::try_join!(opened.parts.get_info(), opened.dead.get_info()) {
                Ok((parts, dead)) => Ok(Depth { parts: parts.state.messages, dead: dead.state.messages }),
                Err(error) => Err(self.failed(error).await),
            }
        })
    }

    fn flush(&self) -> Task<'_, Result<(), ServeError>> {
        Box::pin(async move { self.client.flush().await.map_err(unavailable) })
    }
}

impl Nats {
    /// The messages of a request for some, until it ends.
    async fn collect(&self, batch: Result<Batch, impl std::fmt::Display>) -> Result<Vec<Message>, ServeError> {
        let mut messages = vec![];
        let mut batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Err(self.failed(error).await),
        };
        while let Some(message) = batch.next().await {
            match message {
                Ok(message) => messages.push(message),
                // What came before it is held by this worker.
                Err(error) if messages.is_empty() => return Err(self.failed(error).await),
                Err(_) => break,
            }
        }
        Ok(messages)
    }

    fn delivery(&self, message: Message) -> Box<dyn Delivery> {
        let start = self.subject("parts", "");
        let rest = message.subject.strip_prefix(&start).unwrap_or_default().to_owned();
        let mut tokens = rest.split('.').skip(1);
        let address = match (tokens.next(), tokens.next(), tokens.next()) {
            (Some(run), Some(part), None) => Address::parse(run, part),
            _ => None,
        };
        let (mut deliveries, mut waited, mut sequence) = (1, Duration::ZERO, 0);
        if let Ok(info) = message.info() {
            let queued =
                UNIX_EPOCH + Duration::from_nanos(u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(0));
            deliveries = usize::try_from(info.delivered).unwrap_or(1).max(1);
            waited = SystemTime::now().duration_since(queued).unwrap_or_default();
            sequence = info.stream_sequence;
        }
        let dead = self.subject("dead", &rest);
        Box::new(NatsDelivery { message, context: self.context.clone(), address, deliveries, waited, dead, sequence })
    }
}

struct NatsDelivery {
    message: Message,
    context: jetstream::Context,
    address: Option<Address>,
    deliveries: usize,
    waited: Duration,
    /// The subject among the dead letters.
    dead: String,
    /// The message's number in its stream.
    sequence: u64,
}

impl NatsDelivery {
    fn tell(&self, kind: AckKind) -> Task<'_, Result<(), ServeError>> {
        Box::pin(async move { self.message.ack_with(kind).await.map_err(unavailable) })
    }
}

/// A text that a header can hold.
fn header(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

impl Delivery for NatsDelivery {
    fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    fn deliveries(&self) -> usize {
        self.deliveries
    }

    fn waited(&self) -> Duration {
        self.waited
    }

    fn done(&self) -> Task<'_, Result<(), ServeError>> {
        self.tell(AckKind::Ack)
    }

    fn again(&self, after: Duration) -> Task<'_, Result<(), ServeError>> {
        self.tell(AckKind::Nak((!after.is_zero()).then_some(after)))
    }

    fn working(&self) -> Task<'_, Result<(), ServeError>> {
        self.tell(AckKind::Progress)
    }

    fn dead<'a>(&'a self, why: &'a Failure) -> Task<'a, Result<(), ServeError>> {
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert("Lenslet-Code", header(&why.code));
            headers.insert("Lenslet-Reason", header(&why.message));
            headers.insert("Lenslet-Deliveries", self.deliveries.to_string());
            headers.insert("Lenslet-Subject", header(&self.message.subject));
            let message = PublishMessage::build()
                .payload(self.message.payload.clone())
                .headers(headers)
                .message_id(format!("{}-{}", self.sequence, self.message.subject));
            let sent = self.context.send_publish(self.dead.clone(), message).await.map_err(unavailable)?;
            sent.await.map(|_| ()).map_err(unavailable)
        })
    }
}
