//! What a run asks the allocator for once buffers and packed weights are there: bookkeeping, but no memory for tensors.
//!
//! A program of its own, since an allocator that counts belongs to the whole program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lenslet::Session;
use lenslet::onnx::ImportOptions;
use lenslet::tensor::Tensor;
use lenslet_models::shapes::sample;
use lenslet_tests::backend::Backend;
use lenslet_tests::native::{options, repository, say};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGE: AtomicUsize = AtomicUsize::new(0);

fn note(size: usize) {
    COUNT.fetch_add(1, Relaxed);
    BYTES.fetch_add(size, Relaxed);
    LARGE.fetch_add(usize::from(size > BOOKKEEPING), Relaxed);
}

// SAFETY: all work is the system's allocator's; the counters are atomic and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
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
