//! Threads that take part in work of some tens of microseconds.
//!
//! A model is a long row of such pieces of work with little between them. A pool that sleeps between two of them, or whose
//! caller sleeps until the last thread is done, spends as long on waking as on the work. So helpers look for the next
//! piece for a moment before they sleep, the caller waits for them by looking too, and a helper that has not begun when
//! the work is through is let off: nobody waits for a thread that has yet to wake up.
//!
//! On WebAssembly nobody can start a thread: whoever loads the module starts workers, and each takes a post.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
#[cfg(not(target_arch = "wasm32"))]
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps: about the longest stretch between two pieces of work of one run, and
/// little beside what a run takes.
#[cfg(not(target_arch = "wasm32"))]
const LOOK: Duration = Duration::from_micros(100);
/// The same in rounds of [`LOOKS`], where there is no clock.
#[cfg(target_arch = "wasm32")]
const LOOK: usize = 1000;
/// Looks between two readings of the clock.
const LOOKS: usize = 64;
/// Looks of a caller before it offers its core to others, among them perhaps the helper it waits for.
const PATIENCE: usize = 4096;

// What a helper is at. From CLAIMED until it is IDLE again it belongs to one caller.
/// Nothing: it looks for work, or sleeps.
const IDLE: u8 = 0;
/// A caller has chosen it and is writing down the job.
const CLAIMED: u8 = 1;
/// The job is written down. The caller may still take it back.
const OFFERED: u8 = 2;
/// It is at the job.
const WORKING: u8 = 3;
/// It is through and will not touch the job again; its caller lets it go.
const DONE: u8 = 4;
/// It died at the job, where panics end the thread.
const DEAD: u8 = 5;

/// Helpers for any number of callers: each takes those that are idle.
pub(super) struct Crew {
    posts: Arc<[Post]>,
}

/// A helper's place.
struct Post {
    helper: Helper,
    /// Who took it.
    thread: OnceLock<Thread>,
}

/// One helper's post: cache lines of its own, since a helper looks at it without pause.
#[repr(align(128))]
struct Helper {
    state: AtomicU8,
    /// The job, while it belongs to a caller, and null otherwise.
    job: AtomicPtr<Job<'static>>,
}

/// What a caller wants done.
struct Job<'a> {
    work: &'a (dyn Fn() + Sync),
    /// What a helper's share ended with, if it panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Crew {
    /// Starts up to `helpers` threads; fewer if the system has no more.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn new(helpers: usize) -> Self {
        let crew = Self::of_posts(helpers);
        for (i, post) in crew.posts.iter().enumerate() {
            let posts = Arc::clone(&crew.posts);
            let named = thread::Builder::new().name(format!("lenslet-{i}"));
            let Ok(helper) = named.spawn(move || posts[i].helper.serve()) else { break };
            post.thread.get_or_init(|| helper.thread().clone());
        }
        crew
    }

    /// A crew of which nobody has come yet.
    pub(super) fn of_posts(count: usize) -> Self {
        let post = |_| Post {
            helper: Helper { state: AtomicU8::new(IDLE), job: AtomicPtr::new(ptr::null_mut()) },
            thread: OnceLock::new(),
        };
        Crew { posts: (0..count).map(post).collect() }
    }

    /// Makes the calling thread the helper at post `i` for the rest of its life. Returns at once if there is no such post or
    /// somebody has it.
    #[cfg(target_arch = "wasm32")]
    pub(super) fn serve(&self, i: usize) {
        if let Some(post) = self.posts.get(i)
            && post.thread.set(thread::current()).is_ok()
        {
            post.helper.serve();
        }
    }

    /// How many posts are taken.
    #[cfg(target_arch = "wasm32")]
    pub(super) fn there(&self) -> usize {
        self.posts.iter().filter(|post| post.thread.get().is_some()).count()
    }

    /// Tells whoever waits for the helper at post `i` that it has died.
    #[cfg(any(target_arch = "wasm32", test))]
    pub(super) fn bury(&self, i: usize) {
        if let Some(post) = self.posts.get(i) {
            post.helper.state.store(DEAD, Ordering::Release);
        }
    }

    /// Calls `work` here and, at the same time, in up to `others` helpers that are idle. It must be of use however many of
    /// them come. A panic in a helper goes on here, once all are through.
    pub(super) fn run(&self, others: usize, work: &(dyn Fn() + Sync)) {
        // SAFETY: only the lifetime changes. Helpers follow the reference while they are WORKING, and `Recall` keeps this
        // frame alive until none is.
        let work: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(work) };
        let job = Job { work, panic: Mutex::new(None) };
        let mut recall = Recall { crew: self, job: &job, offered: 0 };
        for post in &*self.posts {
            if recall.offered == others {
                break;
            }
            if let Some(thread) = post.thread.get()
                && post.helper.offer(&job)
            {
                recall.offered += 1;
                thread.unpark();
            }
        }
        work();
        drop(recall);
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

/// Takes the job back from all that were offered it: lets off who has not begun, waits for who has. It does so too when
/// the caller's own share panics.
struct Recall<'a> {
    crew: &'a Crew,
    job: &'a Job<'static>,
    offered: usize,
}

impl Drop for Recall<'_> {
    fn drop(&mut self) {
        let job = ptr::from_ref(self.job).cast_mut();
        // A helper of another caller has that one's job, and an idle one has none.
        let mine = self.crew.posts.iter().map(|post| &post.helper);
        let mine = mine.filter(|helper| ptr::eq(helper.job.load(Ordering::Relaxed), job));
        mine.take(self.offered).for_each(|helper| helper.recall());
    }
}

impl Helper {
    /// Gives it `job`, if it is idle.
    fn offer(&self, job: &Job<'static>) -> bool {
        if self.state.compare_exchange(IDLE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        self.job.store(ptr::from_ref(job).cast_mut(), Ordering::Relaxed);
        self.state.store(OFFERED, Ordering::Release);
        true
    }

    /// Ends what `offer` began; the helper does not know the job any more when this returns.
    fn recall(&self) {
        let begun = self.state.compare_exchange(OFFERED, CLAIMED, Ordering::Relaxed, Ordering::Relaxed).is_err();
        if begun {
            self.await_end();
        }
        self.job.store(ptr::null_mut(), Ordering::Relaxed);
        self.state.store(IDLE, Ordering::Release);
    }

    /// Looks until the helper is through.
    fn await_end(&self) {
        for looks in 0usize.. {
            match self.state.load(Ordering::Acquire) {
                DONE => return,
                DEAD => panic!("a thread that helped with a product has died"),
                _ if looks < PATIENCE => std::hint::spin_loop(),
                _ => thread::yield_now(),
            }
        }
    }

    /// A helper's life.
    fn serve(&self) {
        loop {
            self.await_offer();
            if self.state.compare_exchange(OFFERED, WORKING, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            let job = self.job.load(Ordering::Relaxed);
            // SAFETY: its caller wrote it down before OFFERED, and keeps it until this helper is DONE.
            let job = unsafe { &*job };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job.work)) {
                *job.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.state.store(DONE, Ordering::Release);
        }
    }

    /// Looks for an offer, and after a while sleeps until there is one.
    fn await_offer(&self) {
        let offered = || self.state.load(Ordering::Relaxed) == OFFERED;
        #[cfg(not(target_arch = "wasm32"))]
        let (since, goes_on) = (Instant::now(), |since: &Instant, _: usize| since.elapsed() < LOOK);
        #[cfg(target_arch = "wasm32")]
        let (since, goes_on) = ((), |(): &(), round: usize| round < LOOK);
        for _ in (0..).take_while(|round| goes_on(&since, *round)) {
            for _ in 0..LOOKS {
                if offered() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        // `unpark` after an offer that comes between the look and the sleep makes the sleep end at once.
        while !offered() {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn callers_share_helpers_and_see_what_these_did() {
        let crew = Crew::new(3);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for tasks in (0..2000).map(|i| i % 7) {
                        let (next, mut done) = (AtomicUsize::new(0), [0usize; 7]);
                        let shared = crate::cpu::parallel::SharedMut::new(&mut done);
                        crew.run(tasks % 4, &|| {
                            loop {
                                let task = next.fetch_add(1, Ordering::Relaxed);
                                if task >= tasks {
                                    return;
                                }
                                // SAFETY: the counter gives each place to one thread.
                                let place = unsafe { shared.slice(task, 1) };
                                place[0] += task + 1;
                            }
                        });
                        assert!(done.iter().enumerate().all(|(i, &d)| d == if i < tasks { i + 1 } else { 0 }));
                    }
                });
            }
        });
    }

    #[test]
    fn a_helper_comes_after_it_has_slept() {
        let crew = Crew::new(1);
        for _ in 0..20 {
            thread::sleep(LOOK * 5);
            let both = AtomicUsize::new(0);
            // Each waits for the other, so this ends only if the helper wakes up.
            crew.run(1, &|| {
                both.fetch_add(1, Ordering::Relaxed);
                while both.load(Ordering::Relaxed) < 2 {
                    thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn nobody_waits_for_a_helper_that_died() {
        let crew = Arc::new(Crew::of_posts(1));
        let own = Arc::clone(&crew);
        thread::spawn(move || {
            let Post { helper, thread: place } = &own.posts[0];
            place.set(thread::current()).expect("the post is free");
            helper.await_offer();
            while helper.state.compare_exchange(OFFERED, WORKING, Ordering::Acquire, Ordering::Relaxed).is_err() {
                helper.await_offer();
            }
            own.bury(0);
        });
        // Until the helper comes in time to begin.
        let died = catch_unwind(AssertUnwindSafe(|| {
            loop {
                crew.run(1, &thread::yield_now);
            }
        }));
        let message = *died.unwrap_err().downcast::<&str>().unwrap();
        assert!(message.contains("has died"), "{message}");
    }

    #[test]
    fn a_panic_anywhere_reaches_the_caller_and_the_crew_goes_on() {
        let crew = Crew::new(1);
        let main = thread::current().id();
        for in_helper in [true, false] {
            let begun = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                crew.run(1, &|| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    while begun.load(Ordering::Relaxed) < 2 {
                        thread::yield_now();
                    }
                    assert!((thread::current().id() == main) == in_helper, "as asked");
                });
            }));
            assert!(result.is_err());
        }
        let count = AtomicUsize::new(0);
        crew.run(1, &|| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert!(count.into_inner() >= 1);
    }
}
