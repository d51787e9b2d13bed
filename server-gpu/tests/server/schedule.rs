//! The queue, in front of an engine that computes when the test lets it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lenslet::tensor::{DType, Tensor};
use lenslet_server::chat::{ChatPrompt, Turn};
use lenslet_server::context::{Context, Priority};
use lenslet_server::engine::{Engine, Slot, Specs, Step, Task, TensorSpec, TowerCall, TowerSpec, WriterKind};
use lenslet_server::error::{Reason, ServeError};
use lenslet_server::schedule::decode::DecodeLoop;
use lenslet_server::schedule::{Limits, Scheduler, TowerJob};
use tokio::sync::Semaphore;

use crate::setup::block_on;

/// Doubles numbers. Each call waits for a permit and is recorded; a negative number fails its batch.
struct Doubler {
    specs: Specs,
    permits: Semaphore,
    calls: Mutex<Vec<Vec<f32>>>,
    /// Steps that each text took, by its name.
    steps: Mutex<HashMap<String, usize>>,
    /// Names of the texts of each step.
    together: Mutex<Vec<Vec<String>>>,
}

impl Doubler {
    fn new(joinable: bool) -> Arc<Doubler> {
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: DType::F32, shape: vec![None, None] };
        let mut tower = TowerSpec::new("model", vec![spec("x")], vec![spec("y")], false);
        assert!(tower.joinable);
        tower.joinable = joinable;
        Arc::new(Doubler {
            specs: Specs { towers: vec![tower], writer: Some(WriterKind::Text), ..Specs::default() },
            permits: Semaphore::new(0),
            calls: Mutex::default(),
            steps: Mutex::default(),
            together: Mutex::default(),
        })
    }

    fn calls(&self) -> Vec<Vec<f32>> {
        self.calls.lock().unwrap().clone()
    }
}

impl Engine for Doubler {
    fn name(&self) -> &'static str {
        "doubler"
    }

    fn device(&self) -> String {
        "none".into()
    }

    fn specs(&self) -> &Specs {
        &self.specs
    }

    fn run(&self, call: TowerCall) -> Task<'_, Result<Vec<Tensor>, ServeError>> {
        Box::pin(async move {
            let input = &call.inputs[0].1;
            let values = input.as_slice::<f32>().unwrap();
            self.calls.lock().unwrap().push(values.to_vec());
            self.permits.acquire().await.unwrap().forget();
            if values.iter().any(|x| *x < 0.0) {
                return Err(ServeError::bad_request("negative", "a negative number"));
            }
            let doubled: Vec<f32> = values.iter().map(|x| x * 2.0).collect();
            Ok(vec![Tensor::from_slice(input.shape(), &doubled).unwrap()])
        })
    }

    fn begin(&self, prompt: Arc<ChatPrompt>) -> Task<'_, Result<Slot, ServeError>> {
        Box::pin(async move { Ok(Slot(Box::new(prompt.question()))) })
    }

    /// A text called `a3` has three steps.
    fn decode_step<'a>(&'a self, slots: &'a mut [Slot]) -> Task<'a, Vec<Option<Result<Step, ServeError>>>> {
        Box::pin(async move {
            self.permits.acquire().await.unwrap().forget();
            let names: Vec<String> = slots.iter().map(|s| s.0.downcast_ref::<String>().unwrap().clone()).collect();
            self.together.lock().unwrap().push(names.clone());
            let mut steps = self.steps.lock().unwrap();
            let step = |name: String| {
                let taken = steps.entry(name.clone()).or_insert(0);
                *taken += 1;
                let last = name[1..].parse::<usize>().unwrap() == *taken;
                Some(Ok(Step { text: name, tokens: vec![1], finish: last.then_some("stop"), ..Step::default() }))
            };
            names.into_iter().map(step).collect()
        })
    }
}

fn row(value: f32) -> Tensor {
    Tensor::from_slice(&[1, 1], &[value]).unwrap()
}

type Pending = tokio::task::JoinHandle<Result<f32, ServeError>>;

/// Submits a row, and returns once it is queued.
async fn submit(scheduler: &Arc<Scheduler>, engine: &Arc<Doubler>, input: Tensor, context: Context) -> Pending {
    let (before, calls) = (scheduler.queued(), engine.calls().len());
    let job =
        TowerJob { engine: engine.clone(), tower: 0, inputs: vec![("x".into(), input)], outputs: vec!["y".into()] };
    let (at, started) = (scheduler.clone(), Instant::now());
    let run = async move { at.submit(job).await.map(|outputs| outputs[0].as_slice::<f32>().unwrap()[0]) };
    let pending = tokio::spawn(context.scope(run));
    while scheduler.queued() == before && engine.calls().len() == calls && !pending.is_finished() {
        assert!(started.elapsed() < Duration::from_secs(10), "it is never queued");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pending
}

async fn submit_value(scheduler: &Arc<Scheduler>, engine: &Arc<Doubler>, value: f32) -> Pending {
    submit(scheduler, engine, row(value), Context::default()).await
}

/// Waits until the engine has seen so many calls.
async fn called(engine: &Doubler, calls: usize) {
    let started = Instant::now();
    while engine.calls().len() < calls {
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", engine.calls());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn limits(images: usize) -> Limits {
    Limits { max_batch_images: images, max_queue: 8, ..Limits::default() }
}

/// A scheduler whose only place is taken by the row 0.
async fn busy(limits: Limits, engine: &Arc<Doubler>) -> (Arc<Scheduler>, Pending) {
    let scheduler = Scheduler::start(limits, 1);
    let first = submit_value(&scheduler, engine, 0.0).await;
    called(engine, 1).await;
    (scheduler, first)
}

#[test]
fn what_waits_runs_together_up_to_the_cost_of_a_batch() {
    block_on(async {
        let engine = Doubler::new(true);
        let (scheduler, first) = busy(limits(3), &engine).await;
        let mut pending = vec![first];
        for value in 1..=4 {
            pending.push(submit_value(&scheduler, &engine, value as f32).await);
        }
        engine.permits.add_permits(10);
        for (value, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.await.unwrap().unwrap(), 2.0 * value as f32);
        }
        assert_eq!(engine.calls(), [vec![0.0], vec![1.0, 2.0, 3.0], vec![4.0]]);
    });
}

#[test]
fn other_shapes_and_towers_that_cannot_share_run_apart() {
    block_on(async {
        let engine = Doubler::new(true);
        let (scheduler, first) = busy(limits(8), &engine).await;
        let one = submit_value(&scheduler, &engine, 1.0).await;
        let wide = Tensor::from_slice(&[1, 2], &[5.0f32, 6.0]).unwrap();
        let wide = submit(&scheduler, &engine, wide, Context::default()).await;
        engine.permits.add_permits(10);
        futures_util::future::join_all([first, one, wide]).await;
        assert_eq!(engine.calls(), [vec![0.0], vec![1.0], vec![5.0, 6.0]]);

        let engine = Doubler::new(false);
        let (scheduler, first) = busy(limits(8), &engine).await;
        let both = [submit_value(&scheduler, &engine, 1.0).await, submit_value(&scheduler, &engine, 2.0).await];
        engine.permits.add_permits(10);
        first.await.unwrap().unwrap();
        futures_util::future::join_all(both).await;
        assert_eq!(engine.calls(), [[0.0], [1.0], [2.0]]);
    });
}

#[test]
fn the_urgent_goes_first_and_nothing_waits_for_ever() {
    block_on(async {
        let engine = Doubler::new(true);
        let (scheduler, first) = busy(limits(1), &engine).await;
        let with = |priority| Context { priority, deadline: None };
        let mut all = vec![first];
        for (value, priority) in [(1.0, Priority::Low), (2.0, Priority::Normal), (3.0, Priority::High)] {
            all.push(submit(&scheduler, &engine, row(value), with(priority)).await);
        }
        engine.permits.add_permits(10);
        futures_util::future::join_all(all).await;
        assert_eq!(engine.calls(), [[0.0], [3.0], [2.0], [1.0]]);
        // A low priority is a handicap in time, not a place behind all others for ever.
        assert!(Priority::Low.handicap() < Duration::from_secs(60));
    });
}

#[test]
fn who_is_gone_or_too_late_is_not_computed() {
    block_on(async {
        let engine = Doubler::new(true);
        let (scheduler, first) = busy(limits(8), &engine).await;
        let soon = Context { deadline: Some(Instant::now() + Duration::from_millis(30)), ..Context::default() };
        let late = submit(&scheduler, &engine, row(1.0), soon).await;
        let gone = submit_value(&scheduler, &engine, 2.0).await;
        let stays = submit_value(&scheduler, &engine, 3.0).await;
        gone.abort();
        assert_eq!(late.await.unwrap().unwrap_err().reason, Reason::Deadline);
        engine.permits.add_permits(10);
        first.await.unwrap().unwrap();
        assert_eq!(stays.await.unwrap().unwrap(), 6.0);
        assert_eq!(engine.calls(), [[0.0], [3.0]]);
        assert_eq!(scheduler.queued(), 0);
        let past = Context { deadline: Some(Instant::now()), ..Context::default() };
        let error = submit(&scheduler, &engine, row(1.0), past).await.await.unwrap().unwrap_err();
        assert_eq!(error.reason, Reason::Deadline);
    });
}

#[test]
fn a_full_queue_refuses_with_a_time_to_wait() {
    block_on(async {
        let engine = Doubler::new(true);
        let (scheduler, first) = busy(limits(1), &engine).await;
        let mut all = vec![first];
        for value in 0..8 {
            all.push(submit_value(&scheduler, &engine, value as f32).await);
        }
        let refused = submit_value(&scheduler, &engine, 9.0).await.await.unwrap().unwrap_err();
        assert_eq!(refused.reason, Reason::Overloaded);
        assert!(refused.retry_after.unwrap() >= Duration::from_secs(1));
        assert!(scheduler.admit().is_err());
        engine.permits.add_permits(20);
        for answer in futures_util::future::join_all(all).await {
            answer.unwrap().unwrap();
        }
        assert!(scheduler.admit().is_ok());
        let many = Tensor::from_slice(&[2, 1], &[1f32, 2.0]).unwrap();
        let error = submit(&scheduler, &engine, many, Context::default()).await.await.unwrap().unwrap_err();
        assert_eq!((error.reason, &*error.code), (Reason::TooLarge, "batch_too_large"));
    });
}

#[test]
fn one_bad_row_does_not_fail_the_others() {
    block_on(async {
        let engine = Doubler::new(true);
        let (scheduler, first) = busy(limits(8), &engine).await;
        let (good, bad) = (submit_value(&scheduler, &engine, 1.0).await, submit_value(&scheduler, &engine, -1.0).await);
        engine.permits.add_permits(10);
        first.await.unwrap().unwrap();
        assert_eq!(good.await.unwrap().unwrap(), 2.0);
        assert_eq!(bad.await.unwrap().unwrap_err().code, "negative");
    });
}

#[test]
fn a_batch_waits_for_more_only_as_long_as_it_is_told() {
    block_on(async {
        let engine = Doubler::new(true);
        engine.permits.add_permits(100);
        let patient = Limits { max_queue_delay: Duration::from_secs(30), ..limits(2) };
        let scheduler = Scheduler::start(patient, 1);
        let first = submit_value(&scheduler, &engine, 1.0).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(engine.calls().is_empty());
        let second = submit_value(&scheduler, &engine, 2.0).await;
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        assert_eq!(engine.calls(), [[1.0, 2.0]]);
        let hasty = Limits { max_queue_delay: Duration::from_millis(5), ..limits(2) };
        let scheduler = Scheduler::start(hasty, 1);
        assert_eq!(submit_value(&scheduler, &engine, 3.0).await.await.unwrap().unwrap(), 6.0);
    });
}

fn prompt(name: &str) -> ChatPrompt {
    let turn = Turn { role: "user".into(), text: name.into(), pictures: 0 };
    ChatPrompt { turns: vec![turn], ..ChatPrompt::default() }
}

#[test]
fn texts_join_and_leave_at_each_step() {
    block_on(async {
        let engine = Doubler::new(true);
        let scheduler = Scheduler::start(limits(8), 1);
        let texts = DecodeLoop::start(engine.clone(), scheduler, 2);
        let mut long = texts.submit(prompt("a5")).unwrap();
        engine.permits.add_permits(1);
        assert_eq!(long.next().await.unwrap().unwrap().text, "a5");
        let mut short = texts.submit(prompt("b2")).unwrap();
        let mut third = texts.submit(prompt("c2")).unwrap();
        engine.permits.add_permits(100);
        for text in [&mut long, &mut short, &mut third] {
            let mut last = None;
            while let Some(step) = text.next().await {
                last = step.unwrap().finish;
            }
            assert_eq!(last, Some("stop"));
        }
        let together = engine.together.lock().unwrap().clone();
        assert_eq!(together[0], ["a5"]);
        assert!(together.iter().any(|names| names.contains(&"a5".into()) && names.contains(&"b2".into())));
        assert!(together.iter().any(|names| names.contains(&"a5".into()) && names.contains(&"c2".into())));
        assert!(together.iter().all(|names| names.len() <= 2), "{together:?}");
    });
}

#[test]
fn a_text_that_nobody_reads_makes_room() {
    block_on(async {
        let engine = Doubler::new(true);
        let scheduler = Scheduler::start(limits(8), 1);
        let texts = DecodeLoop::start(engine.clone(), scheduler, 1);
        let mut endless = texts.submit(prompt("a1000000")).unwrap();
        engine.permits.add_permits(1);
        endless.next().await.unwrap().unwrap();
        let mut next = texts.submit(prompt("b1")).unwrap();
        drop(endless);
        engine.permits.add_permits(1000);
        assert_eq!(next.next().await.unwrap().unwrap().text, "b1");
        // A reader that does not read holds up its own text only.
        let mut slow = texts.submit(prompt("c200")).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(*engine.steps.lock().unwrap().get("c200").unwrap() < 200);
        let mut steps = 0;
        while let Some(step) = slow.next().await {
            step.unwrap();
            steps += 1;
        }
        assert_eq!(steps, 200);
    });
}
