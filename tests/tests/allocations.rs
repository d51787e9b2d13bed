//! What a run asks the allocator for once buffers and packed weights are there: bookkeeping, but no memory for tensors. What a text
//! holds is given back when it is dropped.
//!
//! A program of its own, since an allocator that counts belongs to the whole program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Waker};

use lenslet::Session;
use lenslet::generate::{Decoder, GenerateOptions, Generation, Prompt, SharedSteps};
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tensor::Tensor;
use lenslet_models::shapes::sample;
use lenslet_tests::backend::Backend;
use lenslet_tests::native::{options, read, repository, say, shared};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGE: AtomicUsize = AtomicUsize::new(0);
/// Bytes that were asked for and not given back.
static HELD: AtomicIsize = AtomicIsize::new(0);

/// One test counts at a time.
static TURN: Mutex<()> = Mutex::new(());

fn note(size: usize) {
    COUNT.fetch_add(1, Relaxed);
    BYTES.fetch_add(size, Relaxed);
    LARGE.fetch_add(usize::from(size > BOOKKEEPING), Relaxed);
}

// SAFETY: all work is the system's allocator's; the counters are atomic and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        HELD.fetch_add(layout.size() as isize, Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        HELD.fetch_add(size as isize - layout.size() as isize, Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that bookkeeping may ask for at once: lists of shapes, offsets of a window, places along a dimension. Few tensors between
/// the layers of the models below are as small.
const BOOKKEEPING: usize = 16 << 10;
/// Requests that may be larger: the executor's table, with a place for each value of the graph.
const TABLES: usize = 1;

#[test]
fn a_steady_run_asks_for_no_tensor_memory() {
    let _turn = TURN.lock().unwrap();
    let options = options(Backend::Cpu).expect("there is always a CPU");
    let bundled = [
        ("emoji-clip/onnx/vision_model_fp16.onnx", [1, 3, 112, 112].as_slice()),
        ("photo-search/onnx/vision_model_fp16.onnx", &[1, 3, 224, 224]),
        ("photo-search/onnx/text_model_quantized.onnx", &[1, 16]),
    ];
    for (file, shape) in bundled {
        let path = repository("models/bundled").join(file);
        let session = Session::from_file(&path, &ImportOptions::default(), options.clone()).unwrap();
        let inputs: Vec<(&str, Tensor)> =
            session.inputs().iter().map(|input| (&*input.name, sample(input.dtype, shape).unwrap())).collect();
        // The first run plans and packs, the second finds out which buffers are needed.
        for _ in 0..3 {
            session.run(&inputs).unwrap();
        }
        let before = (COUNT.load(Relaxed), BYTES.load(Relaxed));
        LARGE.store(0, Relaxed);
        session.run(&inputs).unwrap();
        let (count, bytes) = (COUNT.load(Relaxed) - before.0, BYTES.load(Relaxed) - before.1);
        let large = LARGE.load(Relaxed);
        say(&format!("{file}: {count} allocations, {bytes} bytes, {large} of more than {BOOKKEEPING}"));
        assert!(large <= TABLES, "{file}: a run asked {large} times for more than {BOOKKEEPING} bytes");
    }
}

/// A text that shares its steps holds its caches, and nothing of it is left when it is dropped between two steps or while one waits.
#[test]
fn a_dropped_text_gives_its_caches_back() {
    const POSITIONS: usize = 8000;
    let _turn = TURN.lock().unwrap();
    let (Some(zoo), Some(options)) = (shared("zoo"), options(Backend::Cpu)) else { return };
    let file = read(zoo.join("smollm2-135m/tiny/onnx/model.onnx"));
    let decoder = Decoder::from_onnx(&file, &NoExternalData, options).unwrap();
    let steps = SharedSteps::new();
    let begin = |tokens: Vec<u32>| {
        let options = GenerateOptions { max_new_tokens: POSITIONS - tokens.len(), ..GenerateOptions::default() };
        let state = decoder.start(1, POSITIONS, vec![]);
        let mut text = pollster::block_on(Generation::begin(&decoder, state, Prompt::from(tokens), options)).unwrap();
        text.share(&steps);
        text
    };
    // Texts are polled on: the first token comes with the prompt, then each leaves a step.
    let poll = |text: &mut Generation<'_>| {
        let next = std::pin::pin!(text.next());
        next.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    let both = || {
        let (mut one, mut other) = (begin(vec![1, 2, 3]), begin(vec![4]));
        let bytes = one.state().bytes() as isize;
        assert!(poll(&mut one) && poll(&mut other) && !poll(&mut one) && !poll(&mut other));
        assert_eq!(pollster::block_on(steps.run(&decoder)), [2]);
        assert!(poll(&mut one) && poll(&mut other) && !poll(&mut other));
        (one, other, bytes)
    };
    // The first round plans, packs and fills pools.
    drop(both());
    let before = HELD.load(Relaxed);
    let (one, other, bytes) = both();
    let held = HELD.load(Relaxed) - before;
    assert!(held >= 2 * bytes && bytes > 1 << 20, "{held} bytes for two caches of {bytes}");
    drop(one);
    assert!(HELD.load(Relaxed) - before <= held - bytes);
    drop(other);
    let left = HELD.load(Relaxed) - before;
    say(&format!("{left} of {held} bytes are held after two texts were dropped"));
    assert!(left.unsigned_abs() <= 4 * BOOKKEEPING, "{left} bytes of {held} are left");
    assert_eq!(steps.waiting(), 0);
}
