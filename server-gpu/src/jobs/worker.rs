//! A worker: takes parts from the queue, embeds their inputs through the queues of the towers, and writes what came out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::record::{begun_name, refused_name};
use super::submit::picture_name;
use super::{Address, Answer, Delivery, Failure, Jobs, Part, PartAnswer, PartInput, Shelf};
use crate::app::App;
use crate::context::{Context, Priority};
use crate::embed::{Input, embed};
use crate::engine::Task;
use crate::error::{Reason, ServeError};
use crate::hosted::Hosted;
use crate::metrics;

/// How long a look for work takes where there is none, and so how long a worker that is told to end may go on looking.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries to reach a queue that has gone away: at first, and at most.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// A wait of [`BACKOFF`].
fn backoff(tries: u32) -> Duration {
    (BACKOFF[0] * 2u32.saturating_pow(tries.min(16))).min(BACKOFF[1])
}

/// Waits until it is true.
async fn raised(flag: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could raise it, because the worker is gone.
    let _ = flag.wait_for(|raised| *raised).await;
}

/// A worker that runs.
pub struct Worker {
    shared: Arc<Shared>,
    loops: JoinSet<()>,
    /// For each model, one for each part in hand: a model that has no work does not hold up one that has.
    places: Vec<Arc<Semaphore>>,
    stop: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

struct Shared {
    app: Arc<App>,
    jobs: Arc<Jobs>,
    /// One for each input that is being embedded, over all parts: as many as keep the towers' batches full.
    turns: Semaphore,
    /// Jobs whose beginning was written.
    begun: moka::future::Cache<String, ()>,
    /// Parts in hand are to be given back.
    cut: watch::Receiver<bool>,
}

/// How a part left this worker's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is answered.
    Done,
    /// Another worker had answered it.
    Duplicate,
    /// It will come again.
    Again,
    /// It was given up.
    Dead,
    /// This worker ends before it could answer.
    HandedBack,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Duplicate => "duplicate",
            Outcome::Again => "again",
            Outcome::Dead => "dead",
            Outcome::HandedBack => "handed_back",
        }
    }
}

impl Worker {
    /// Begins to work for all models of this server that give vectors.
    ///
    /// # Errors
    /// Its models are not loaded, none of them gives vectors, or no queue is named.
    pub fn start(app: Arc<App>) -> Result<Worker, ServeError> {
        let jobs = app.jobs()?.clone();
        let mut models: Vec<Arc<Hosted>> = vec![];
        for model in app.models()?.all() {
            // One model under two names is one kind of work.
            let known = models.iter().any(|other| other.fingerprint == model.fingerprint);
            if model.dual.is_some() && !model.fingerprint.is_empty() && !known {
                models.push(model.clone());
            }
        }
        if models.is_empty() {
            let what =
                "a worker needs a model that gives vectors, with its folder on this machine; give it with --model";
            return Err(ServeError::internal("model_task", what));
        }
        // Twice as many as a batch holds: while one batch computes, the next one gathers.
        let schedule = &app.config.schedule;
        let turns = (2 * schedule.max_batch_images).min(schedule.max_queue).max(1);
        let ((stop, stopped), (cut, is_cut)) = (watch::channel(false), watch::channel(false));
        let shared = Arc::new(Shared {
            jobs,
            turns: Semaphore::new(turns),
            begun: moka::future::Cache::new(1000),
            cut: is_cut,
            app: app.clone(),
        });
        let (mut loops, mut all) = (JoinSet::new(), vec![]);
        for model in models {
            let places = Arc::new(Semaphore::new(app.config.jobs.concurrency));
            all.push(places.clone());
            loops.spawn(shared.clone().take(model, places, stopped.clone()));
        }
        Ok(Worker { shared, loops, places: all, stop, cut })
    }

    /// Takes no more parts, finishes those in hand within the limit of the settings, gives back the rest, and ends. Says whether
    /// nothing had to be given back.
    pub async fn drain(mut self) -> bool {
        let _ = self.stop.send(true);
        let limit = Duration::from_secs_f64(self.shared.app.config.drain_limit_s);
        let loops = &mut self.loops;
        let empty = empty_hands(&self.places, self.shared.app.config.jobs.concurrency);
        let finish = async move {
            while loops.join_next().await.is_some() {}
            empty.await;
        };
        let finished = tokio::time::timeout(limit, finish).await.is_ok();
        let _ = self.cut.send(true);
        let rest = empty_hands(&self.places, self.shared.app.config.jobs.concurrency);
        let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.shared.jobs.queue.flush()).await;
        finished
    }
}

/// Waits until no part is in hand.
async fn empty_hands(places: &[Arc<Semaphore>], concurrency: usize) {
    for places in places {
        let _ = places.acquire_many(u32::try_from(concurrency).unwrap_or(u32::MAX)).await;
    }
}

impl Shared {
    /// Takes parts for a model until it is told to stop.
    async fn take(self: Arc<Self>, model: Arc<Hosted>, places: Arc<Semaphore>, mut stop: watch::Receiver<bool>) {
        let mut failures = 0;
        loop {
            let place = tokio::select! {
                place = places.clone().acquire_owned() => place,
                () = raised(&mut stop) => return,
            };
            let Ok(place) = place else { return };
            let mut free = vec![place];
            while let Ok(place) = places.clone().try_acquire_owned() {
                free.push(place);
            }
            let pulled = self.jobs.queue.pull(&model.fingerprint, free.len(), PATIENCE).await;
            let stopping = *stop.borrow();
            match pulled {
                Ok(deliveries) => {
                    if failures > 0 {
                        tracing::info!(model = model.name, "the queue is there again");
                        failures = 0;
                    }
                    for delivery in deliveries {
                        if stopping {
                            give_back(&*delivery).await;
                        } else {
                            tokio::spawn(self.clone().handle(model.clone(), delivery, free.pop()));
                        }
                    }
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(model = model.name, error = error.message, "no parts can be taken");
                    }
                    let wait = tokio::time::sleep(backoff(failures));
                    failures += 1;
                    tokio::select! {
                        () = wait => {}
                        () = raised(&mut stop) => return,
                    }
                }
            }
            if stopping {
                return;
            }
        }
    }

    async fn handle(
        self: Arc<Self>,
        model: Arc<Hosted>,
        delivery: Box<dyn Delivery>,
        _place: Option<OwnedSemaphorePermit>,
    ) {
        let started = Instant::now();
        metrics::job_part_taken(delivery.waited());
        let mut cut = self.cut.clone();
        let outcome = tokio::select! {
            outcome = self.work(&model, &*delivery) => outcome,
            () = self.keep(&*delivery) => Outcome::HandedBack,
            () = raised(&mut cut) => {
                give_back(&*delivery).await;
                Outcome::HandedBack
            }
        };
        metrics::job_part_left(outcome.label(), started.elapsed());
        let (address, deliveries) = (delivery.address().map(Address::to_string), delivery.deliveries());
        tracing::debug!(model = model.name, part = address, deliveries, outcome = outcome.label());
    }

    /// Tells the queue again and again that somebody is at it.
    async fn keep(&self, delivery: &dyn Delivery) {
        let interval = Duration::from_secs_f64(self.app.config.jobs.ack_wait_s / 3.0);
        loop {
            tokio::time::sleep(interval).await;
            // What is lost on the way is said again soon enough.
            let _ = delivery.working().await;
        }
    }

    async fn work(self: &Arc<Self>, model: &Arc<Hosted>, delivery: &dyn Delivery) -> Outcome {
        let settings = &self.app.config.jobs;
        let Some(address) = delivery.address() else {
            let why = Failure {
                code: "malformed_part".into(),
                message: "the message's subject names no part of a job".into(),
            };
            tracing::warn!(code = why.code, "a message that is no part goes to the dead letters");
            until_done(|| delivery.dead(&why)).await;
            return finish(delivery, Outcome::Dead).await;
        };
        let name = address.to_string();
        let again = delivery.deliveries() > 1;
        if again && until_done(|| self.jobs.store.get(Shelf::Results, &name)).await.is_some() {
            return finish(delivery, Outcome::Duplicate).await;
        }
        if delivery.deliveries() > settings.max_deliver {
            let message = format!("{} workers took this part, and none of them answered", settings.max_deliver);
            let why = Failure { code: "max_deliver_exceeded".into(), message };
            return self.write(address, delivery, PartAnswer { answers: vec![], dead: Some(why) }).await;
        }
        let part = match Part::read(delivery.payload(), self.app.config.limits.max_text_bytes) {
            Ok(part) => part,
            Err(error) => {
                let dead = Some(Failure::from(&error));
                return self.write(address, delivery, PartAnswer { answers: vec![], dead }).await;
            }
        };
        self.begin(&address.run).await;
        let stored: Vec<usize> = places_of_stored(&part).collect();
        let (answers, failed) = self.embed_all(model, address, part).await;
        if let Some(error) = &failed
            && delivery.deliveries() < settings.max_deliver
        {
            tracing::info!(part = name, code = %error.code, deliveries = delivery.deliveries(), "a part failed; it will come again");
            let doublings = (delivery.deliveries() as u32 - 1).min(16);
            let wait = Duration::from_secs_f64((settings.retry_delay_s * f64::from(1 << doublings)).min(300.0));
            let _ = delivery.again(wait).await;
            return Outcome::Again;
        }
        let dead = failed.map(|error| Failure::from(&error));
        let outcome = self.write(address, delivery, PartAnswer { answers, dead }).await;
        if outcome == Outcome::Done {
            for place in stored {
                let _ = self.jobs.store.remove_picture(&picture_name(&address.run, address.part, place)).await;
            }
        }
        outcome
    }

    /// Says that somebody works on a job, once.
    async fn begin(&self, run: &str) {
        if self.begun.get(run).await.is_none() {
            let written = self.jobs.store.create(Shelf::Jobs, &begun_name(run), Bytes::from_static(b"{}")).await;
            if written.is_ok() {
                self.begun.insert(run.to_owned(), ()).await;
            }
        }
    }

    /// What became of each input, and the first failure that is not the input's own.
    async fn embed_all(
        self: &Arc<Self>,
        model: &Arc<Hosted>,
        address: &Address,
        part: Part,
    ) -> (Vec<Answer>, Option<ServeError>) {
        let limit = Duration::from_secs_f64(self.app.config.jobs.part_timeout_s);
        let context = Context { priority: Priority::Low, deadline: Some(Instant::now() + limit) };
        let one = |(place, input): (usize, PartInput)| -> Task<'_, Result<Answer, ServeError>> {
            Box::pin(async move {
                let Ok(_turn) = self.turns.acquire().await else { return Err(ServeError::draining()) };
                let embedded = tokio::time::timeout(limit, self.embed_one(model, address, place, input)).await;
                embedded.unwrap_or_else(|_| Err(ServeError::deadline()))
            })
        };
        let inputs = part.inputs.into_iter().enumerate();
        let all = stream::iter(inputs).map(one).buffered(self.app.config.schedule.max_batch_images.max(1));
        let results: Vec<Result<Answer, ServeError>> = context.scope(all.collect()).await;
        let mut failed = None;
        let answer = |result| match result {
            Ok(answer) => answer,
            Err(error) => {
                let refused = Answer::Refused(Failure::from(&error));
                if !matches!(error.reason, Reason::BadRequest | Reason::TooLarge) {
                    failed.get_or_insert(error);
                }
                refused
            }
        };
        (results.into_iter().map(answer).collect(), failed)
    }

    async fn embed_one(
        &self,
        model: &Arc<Hosted>,
        address: &Address,
        place: usize,
        input: PartInput,
    ) -> Result<Answer, ServeError> {
        let input = match input {
            PartInput::Known(vector) if Some(vector.embedding.len()) == model.dimensions => {
                return Ok(Answer::Vector(vector));
            }
            PartInput::Known(_) => {
                return Err(ServeError::bad_request("malformed_part", "a vector of another length than the model's"));
            }
            PartInput::Text(text) => Input::Text(text),
            PartInput::Tokens(ids) => Input::Tokens(ids),
            PartInput::Image(file) => Input::Picture(file),
            PartInput::StoredImage(_) => {
                let name = picture_name(&address.run, address.part, place);
                Input::Picture(self.jobs.store.picture(&name, self.app.config.limits.max_body_bytes).await?)
            }
        };
        Ok(Answer::Vector((&*embed(&self.app, model, input).await?).into()))
    }

    /// Writes what became of a part, and takes it off the queue.
    async fn write(&self, address: &Address, delivery: &dyn Delivery, answer: PartAnswer) -> Outcome {
        let store = &self.jobs.store;
        if let Some(why) = &answer.dead {
            tracing::warn!(part = %address, code = why.code, "a part goes to the dead letters");
            until_done(|| delivery.dead(why)).await;
        }
        if answer.refuses() {
            let note = refused_name(address);
            until_done(|| store.create(Shelf::Jobs, &note, Bytes::from_static(b"{}"))).await;
        }
        let bytes = match serde_json::to_vec(&answer) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => {
                tracing::error!(part = %address, %error, "an answer cannot be written");
                let _ = delivery.again(Duration::from_secs(60)).await;
                return Outcome::Again;
            }
        };
        let name = address.to_string();
        let first = until_done(|| store.create(Shelf::Results, &name, bytes.clone())).await;
        let outcome = match (first, answer.dead) {
            (false, _) => Outcome::Duplicate,
            (true, Some(_)) => Outcome::Dead,
            (true, None) => Outcome::Done,
        };
        if first {
            let refused = answer.answers.iter().filter(|answer| matches!(answer, Answer::Refused(_))).count();
            metrics::job_inputs(answer.answers.len() - refused, refused);
        }
        finish(delivery, outcome).await
    }
}

/// Takes a part off the queue. If that does not get through, it comes again, and whoever gets it finds the answer.
async fn finish(delivery: &dyn Delivery, outcome: Outcome) -> Outcome {
    if let Err(error) = delivery.done().await {
        tracing::debug!(error = error.message, "a part that is done will come again");
    }
    outcome
}

async fn give_back(delivery: &dyn Delivery) {
    // What is not told now, the queue finds out by itself.
    let _ = tokio::time::timeout(Duration::from_secs(1), delivery.again(Duration::ZERO)).await;
}

/// Tries until it works: what was computed is not thrown away because the queue is away for a while.
async fn until_done<'a, T>(attempt: impl Fn() -> Task<'a, Result<T, ServeError>>) -> T {
    let mut tries = 0;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                if tries == 0 {
                    tracing::warn!(error = error.message, "the store cannot be reached; trying again");
                }
                tokio::time::sleep(backoff(tries)).await;
                tries += 1;
            }
        }
    }
}

fn places_of_stored(part: &Part) -> impl Iterator<Item = usize> + '_ {
    let stored = |(place, input): (usize, &PartInput)| matches!(input, PartInput::StoredImage(_)).then_some(place);
    part.inputs.iter().enumerate().filter_map(stored)
}
