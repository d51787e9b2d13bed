//! This process' part in the group of workers that share the parts of a model.
//!
//! A thread polls, for Kafka takes a consumer that does not for dead; what it gets waits here until somebody asks. Where enough
//! waits, partitions are paused. Before parts are given out, it is committed how often each of them was: a worker that dies with
//! a part in its hands has left word of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;

use super::PATIENCE;
use super::window::Window;
use crate::error::ServeError;
use crate::jobs::unavailable;

/// Parts that wait here. Each may have a megabyte.
const WAITING: usize = 32;

/// How long a poll waits; what was said of parts is committed as often.
const POLL: Duration = Duration::from_millis(100);

/// A part of a topic.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Which of this process' turns with the partition it is of.
    turn: u64,
    pub(super) key: Option<String>,
    pub(super) payload: Bytes,
    pub(super) queued: SystemTime,
    /// Times that it was given out, this one included.
    pub(super) given: usize,
}

/// A member of the group.
pub(super) struct Group {
    topic: String,
    consumer: Arc<BaseConsumer<Share>>,
    share: Share,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and those who ask share.
#[derive(Clone)]
struct Share(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    /// Held from reading what is to be committed until it is on its way, so that the older never replaces the newer.
    committing: Mutex<()>,
}

#[derive(Default)]
struct State {
    partitions: HashMap<i32, Partition>,
    turns: u64,
    waiting: VecDeque<Taken>,
    /// Parts that are to be given out again, and when.
    later: Vec<(Instant, Taken)>,
    paused: HashSet<i32>,
}

struct Partition {
    turn: u64,
    window: Window,
    /// Whether there is something to commit.
    changed: bool,
}

impl State {
    /// The partition of a part, if this process still has it.
    fn partition(&mut self, part: &Taken) -> Option<&mut Partition> {
        self.partitions.get_mut(&part.partition).filter(|partition| partition.turn == part.turn)
    }

    /// Parts whose time has come, those that failed before first.
    fn next(&mut self, most: usize) -> Vec<Taken> {
        let now = Instant::now();
        let mut taken = vec![];
        while taken.len() < most {
            let due = self.later.iter().position(|(when, _)| *when <= now);
            let next = due.map(|at| self.later.swap_remove(at).1).or_else(|| self.waiting.pop_front());
            let Some(mut part) = next else { break };
            let Some(partition) = self.partition(&part) else { continue };
            part.given = partition.window.given(part.offset);
            partition.changed = true;
            if part.given > 0 {
                taken.push(part);
            }
        }
        taken
    }

    /// Parts that nobody got, those of them that are still this process'.
    fn put_back(&mut self, taken: Vec<Taken>) {
        for part in taken.into_iter().rev() {
            if let Some(partition) = self.partition(&part) {
                partition.window.not_given(part.offset);
                partition.changed = true;
                self.waiting.push_front(part);
            }
        }
    }

    /// What is to be committed, of those partitions whose state has changed.
    fn changes(&mut self, topic: &str) -> TopicPartitionList {
        let changed = self.partitions.iter_mut().filter(|(_, partition)| partition.changed);
        list(
            topic,
            changed.map(|(number, partition)| {
                partition.changed = false;
                (*number, partition.window.write())
            }),
        )
    }
}

fn list(topic: &str, partitions: impl Iterator<Item = (i32, (i64, String))>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (number, (offset, text)) in partitions {
        let mut element = list.add_partition(topic, number);
        // An offset that is none would be one of our own making.
        let _ = element.set_offset(Offset::Offset(offset));
        element.set_metadata(text);
    }
    list
}

impl Share {
    /// A panic elsewhere leaves nothing half done in there.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Share {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
    }
}

impl ConsumerContext for Share {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                // What cannot be read is begun without: parts are given out all the same, only not counted.
                let committed = consumer.committed_offsets((*partitions).clone(), PATIENCE).ok();
                let mut state = self.state();
                for element in committed.as_ref().unwrap_or(partitions).elements() {
                    let window = match element.offset() {
                        Offset::Offset(offset) => Window::read(offset, element.metadata()),
                        _ => Window::default(),
                    };
                    state.turns += 1;
                    let turn = state.turns;
                    state.partitions.insert(element.partition(), Partition { turn, window, changed: false });
                }
            }
            Rebalance::Revoke(partitions) => {
                let lost: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
                let mut state = self.state();
                let given = lost.iter().filter_map(|number| Some((*number, state.partitions.remove(number)?)));
                let given: Vec<_> = given.filter(|(_, partition)| partition.changed).collect();
                let elements = partitions.elements();
                let topic = elements.first().map_or("", |element| element.topic());
                let last = list(topic, given.iter().map(|(number, partition)| (*number, partition.window.write())));
                state.waiting.retain(|part| !lost.contains(&part.partition));
                state.later.retain(|(_, part)| !lost.contains(&part.partition));
                state.paused.retain(|number| !lost.contains(number));
                drop(state);
                // If that is too late, the next one does again what was done here, and finds the answers.
                if last.count() > 0 && !consumer.assignment_lost() {
                    let _ = consumer.commit(&last, CommitMode::Sync);
                }
            }
            Rebalance::Error(error) => tracing::debug!(%error, "the group of workers"),
        }
    }
}

impl Group {
    /// Joins the workers of a topic.
    pub(super) fn join(config: &ClientConfig, topic: &str) -> Result<Group, ServeError> {
        let share = Share(Arc::default());
        let consumer: BaseConsumer<Share> = config.create_with_context(share.clone()).map_err(unavailable)?;
        consumer.subscribe(&[topic]).map_err(unavailable)?;
        let (consumer, stop) = (Arc::new(consumer), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::Builder::new().name("kafka-parts".into()).spawn({
            let (consumer, share, stop, topic) = (consumer.clone(), share.clone(), stop.clone(), topic.to_owned());
            move || poll(&consumer, &share, &stop, &topic)
        });
        let thread = thread.map_err(unavailable)?;
        Ok(Group { topic: topic.to_owned(), consumer, share, stop, thread: Some(thread) })
    }

    /// Parts, as soon as there are some; none if there are none within `patience`.
    pub(super) async fn take(&self, most: usize, patience: Duration) -> Result<Vec<Taken>, ServeError> {
        let until = Instant::now() + patience;
        loop {
            let changed = self.share.0.changed.notified();
            let (taken, next) = {
                let mut state = self.share.state();
                let taken = state.next(most);
                (taken, state.later.iter().map(|(when, _)| *when).min())
            };
            if !taken.is_empty() {
                let taken = self.note(taken).await?;
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
            let wake = next.map_or(until, |next| next.min(until));
            let _ = tokio::time::timeout_at(wake.into(), changed).await;
            if Instant::now() >= until {
                return Ok(vec![]);
            }
        }
    }

    /// Commits that these parts are given out; those that are.
    async fn note(&self, taken: Vec<Taken>) -> Result<Vec<Taken>, ServeError> {
        match self.commit().await {
            Ok(()) => {
                let mut state = self.share.state();
                Ok(taken.into_iter().filter(|part| state.partition(part).is_some()).collect())
            }
            Err(error) => {
                self.share.state().put_back(taken);
                if !is_rebalance(&error) {
                    return Err(unavailable(error));
                }
                // The group shares the partitions anew: what this process keeps, it gives out afterwards.
                tokio::time::sleep(POLL).await;
                Ok(vec![])
            }
        }
    }

    async fn commit(&self) -> KafkaResult<()> {
        let (consumer, share, topic) = (self.consumer.clone(), self.share.clone(), self.topic.clone());
        // librdkafka waits on this thread.
        let commit = move || commit(&consumer, &share, &topic, CommitMode::Sync);
        tokio::task::spawn_blocking(commit).await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// A part is done. Whoever has its partition now finds that out by its answer.
    pub(super) fn done(&self, part: &Taken) {
        if let Some(partition) = self.share.state().partition(part) {
            partition.window.done(part.offset);
            partition.changed = true;
        }
    }

    /// A part is to be given out again. It stays in front of all behind it: if this process ends, it comes to another one.
    pub(super) fn again(&self, part: &Taken, after: Duration) {
        let mut state = self.share.state();
        if state.partition(part).is_some() {
            state.later.push((Instant::now() + after, part.clone()));
            drop(state);
            self.share.0.changed.notify_waiters();
        }
    }

    /// Commits what was said of parts.
    pub(super) async fn flush(&self) -> Result<(), ServeError> {
        match self.commit().await {
            Err(error) if !is_rebalance(&error) => Err(unavailable(error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Group {
    /// Leaves the group, so that others need not wait until it is noticed.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn poll(consumer: &BaseConsumer<Share>, share: &Share, stop: &AtomicBool, topic: &str) {
    let mut committed = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        match consumer.poll(POLL) {
            Some(Ok(message)) => arrived(share, &message),
            Some(Err(error)) => {
                tracing::debug!(%error, "Kafka");
                // Errors that do not go away come at once, again and again.
                std::thread::sleep(Duration::from_millis(10));
            }
            None => {}
        }
        pause(consumer, share, topic);
        if committed.elapsed() >= POLL {
            // What does not get through now is said with the next change, and if nobody is left to say it, the part comes again.
            let _ = commit(consumer, share, topic, CommitMode::Async);
            committed = Instant::now();
        }
    }
}

fn arrived(share: &Share, message: &BorrowedMessage<'_>) {
    let (partition, offset) = (message.partition(), message.offset());
    let mut state = share.state();
    let Some(known) = state.partitions.get_mut(&partition) else { return };
    let turn = known.turn;
    if !known.window.arrived(offset) {
        return;
    }
    let queued = message.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok());
    state.waiting.push_back(Taken {
        partition,
        offset,
        turn,
        key: message.key().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
        payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        queued: UNIX_EPOCH + Duration::from_millis(queued.unwrap_or(0)),
        given: 0,
    });
    drop(state);
    share.0.changed.notify_waiters();
}

/// Pauses where enough waits, and goes on where there is room again.
fn pause(consumer: &BaseConsumer<Share>, share: &Share, topic: &str) {
    let (mut stop, mut go) = (TopicPartitionList::new(), TopicPartitionList::new());
    {
        let mut state = share.state();
        // Not at each part: what was fetched ahead is thrown away by a pause.
        let (full, room) = (state.waiting.len() >= WAITING, state.waiting.len() <= WAITING / 4);
        let State { partitions, paused, .. } = &mut *state;
        for (&number, partition) in partitions.iter() {
            if full || partition.window.is_full() {
                if paused.insert(number) {
                    stop.add_partition(topic, number);
                }
            } else if room && paused.remove(&number) {
                go.add_partition(topic, number);
            }
        }
    }
    // Partitions that went away meanwhile are nobody's trouble.
    if stop.count() > 0 {
        let _ = consumer.pause(&stop);
    }
    if go.count() > 0 {
        let _ = consumer.resume(&go);
    }
}

fn commit(consumer: &BaseConsumer<Share>, share: &Share, topic: &str, mode: CommitMode) -> KafkaResult<()> {
    // The thread that polls must not wait for somebody who waits for the group.
    let committing = match mode {
        CommitMode::Sync => Some(share.0.committing.lock().unwrap_or_else(PoisonError::into_inner)),
        CommitMode::Async => share.0.committing.try_lock().ok(),
    };
    if committing.is_none() {
        return Ok(());
    }
    let changes = share.state().changes(topic);
    if changes.count() == 0 {
        return Ok(());
    }
    let done = consumer.commit(&changes, mode);
    if done.is_err() {
        let mut state = share.state();
        for element in changes.elements() {
            if let Some(partition) = state.partitions.get_mut(&element.partition()) {
                partition.changed = true;
            }
        }
    }
    done
}

/// Whether the group is about to share its partitions anew, or has done so without this process.
fn is_rebalance(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AssignmentLost, IllegalGeneration, NoOffset, RebalanceInProgress, UnknownMemberId};
    let codes = [AssignmentLost, IllegalGeneration, NoOffset, RebalanceInProgress, UnknownMemberId];
    error.rdkafka_error_code().is_some_and(|code| codes.contains(&code))
}
