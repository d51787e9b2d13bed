//! Threads of a WebAssembly module: workers that share its memory, which whoever loaded it starts.

use std::sync::atomic::{AtomicUsize, Ordering};

static EXPECTED: AtomicUsize = AtomicUsize::new(0);

/// Says how many workers will come to help, before anything is computed: sessions made afterwards use as many threads and one more.
pub fn expect(workers: usize) {
    EXPECTED.store(workers, Ordering::Relaxed);
}

pub(super) fn expected() -> usize {
    EXPECTED.load(Ordering::Relaxed)
}

/// How many have come.
pub fn there() -> usize {
    super::crew().there()
}

/// Makes the calling worker helper `i`, counted from 0. It does not return unless there is a helper `i` already.
pub fn serve(i: usize) {
    super::crew().serve(i);
}

/// Says that the worker of helper `i` trapped. A product that waits for it panics then, instead of waiting for ever.
pub fn bury(i: usize) {
    super::crew().bury(i);
}
