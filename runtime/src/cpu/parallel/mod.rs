//! Splits a kernel's work over the threads of one fixed crew.
//!
//! The crew is made once in a process and shared by all sessions, so no thread is spawned while a model runs. The
//! calling thread works too: `threads` workers take tasks from one counter until none is left, which balances tasks of
//! different lengths and keeps a session to the number of threads it was given. Without the feature `threads`, with
//! one thread, or where threads cannot be made, it is a plain loop.

#[cfg(feature = "threads")]
mod crew;
#[cfg(all(feature = "threads", target_arch = "wasm32"))]
pub mod workers;

/// How often a worker comes for tasks at least, if there are so many: who is slower comes less often.
#[cfg(feature = "threads")]
const TURNS: usize = 12;

/// Calls `task(i)` for each `i` of `0..tasks`, on up to `threads` threads.
pub(crate) fn for_each(threads: usize, tasks: usize, task: impl Fn(usize) + Sync) {
    for_each_with(threads, tasks, || (), |(), i| task(i));
}

/// The same with a state that each worker makes once, for scratch memory.
pub(crate) fn for_each_with<S>(
    threads: usize,
    tasks: usize,
    init: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, usize) + Sync,
) {
    let workers = threads.min(tasks);
    #[cfg(feature = "threads")]
    if workers > 1 {
        let next = std::sync::atomic::AtomicUsize::new(0);
        // Of many tasks several at a time: a counter that two cores want takes as long as a small task.
        let several = (tasks / (workers * TURNS)).max(1);
        crew().run(workers - 1, &|| {
            let mut state = None;
            loop {
                let first = next.fetch_add(several, std::sync::atomic::Ordering::Relaxed);
                if first >= tasks {
                    return;
                }
                let state = state.get_or_insert_with(&init);
                (first..(first + several).min(tasks)).for_each(|i| task(state, i));
            }
        });
        return;
    }
    if workers > 0 {
        let mut state = init();
        (0..tasks).for_each(|i| task(&mut state, i));
    }
}

/// The size of chunks of `len` things such that each thread gets as many chunks as the others, of at least `least` things each:
/// of three chunks two threads would be at work for as long as on four.
pub(crate) fn even_chunks(threads: usize, len: usize, least: usize) -> usize {
    let (threads, chunks) = (threads.max(1), (len / least.max(1)).max(1));
    let chunks = if chunks > threads { chunks / threads * threads } else { chunks };
    len.div_ceil(chunks).max(1)
}

/// Calls `task(i, chunk)` for each chunk of `size` elements (the last may be shorter), on up to `threads` threads.
pub(crate) fn for_each_chunk<T: Send>(
    threads: usize,
    data: &mut [T],
    size: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    let (len, size) = (data.len(), size.max(1));
    let shared = SharedMut::new(data);
    for_each(threads, len.div_ceil(size), |i| {
        let at = i * size;
        // SAFETY: chunk i is [i * size, (i + 1) * size), which no other task touches.
        task(i, unsafe { shared.slice(at, size.min(len - at)) });
    });
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    #[cfg(all(feature = "threads", target_arch = "wasm32"))]
    return workers::expected() + 1;
    #[allow(unreachable_code, reason = "everywhere else")]
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// The crew: one thread fewer than there are cores, because the caller works as well.
#[cfg(feature = "threads")]
fn crew() -> &'static crew::Crew {
    static CREW: std::sync::OnceLock<crew::Crew> = std::sync::OnceLock::new();
    CREW.get_or_init(|| {
        let helpers = cores().saturating_sub(1).max(1);
        #[cfg(target_arch = "wasm32")]
        return crew::Crew::of_posts(helpers);
        #[cfg(not(target_arch = "wasm32"))]
        crew::Crew::new(helpers)
    })
}

/// A slice that tasks write disjoint parts of.
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it only gives out parts through `slice`, whose contract forbids that two threads hold overlapping parts.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above; it is a mutable slice that can be copied around.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Takes the exclusive borrow of `data` for as long as parts are given out.
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        SharedMut { start: data.as_mut_ptr(), len: data.len(), borrow: std::marker::PhantomData }
    }

    /// The elements from `at` on. Panics if they reach past the end.
    ///
    /// # Safety
    /// No other part given out that is still in use may overlap this one.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "a part reaches past the end");
        // SAFETY: the range lies inside the slice borrowed by `new`; the caller rules out overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_runs_once() {
        for threads in [1, 2, 5] {
            let mut hits = vec![0u32; 1001];
            for_each_chunk(threads, &mut hits, 7, |i, chunk| chunk.iter_mut().for_each(|h| *h += 1 + i as u32));
            assert!(hits.iter().enumerate().all(|(i, &h)| h == 1 + (i / 7) as u32));
            for_each_chunk(threads, &mut [0u8; 0], 7, |_, _| unreachable!());
        }
    }

    #[test]
    fn chunks_are_even() {
        for (threads, len, least, expected) in [
            (2, 39_424, 8192, 9856),
            (2, 39_424, 16_384, 19_712),
            (1, 10, 16, 10),
            (4, 0, 8, 1),
            (3, 100, 1, 2),
            (2, 24, 8, 12),
        ] {
            let size = even_chunks(threads, len, least);
            assert_eq!(size, expected, "{len} things, {threads} threads");
        }
    }

    #[test]
    fn nests() {
        let sum = std::sync::atomic::AtomicUsize::new(0);
        for_each(4, 10, |i| {
            for_each(4, 10, |j| {
                sum.fetch_add(i * 10 + j, std::sync::atomic::Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}
