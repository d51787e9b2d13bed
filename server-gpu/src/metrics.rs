//! What is counted. Names follow Prometheus' conventions: seconds, `_total`.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// Runs that wait.
pub fn queue_depth(depth: usize) {
    gauge!("lenslet_queue_depth").set(depth as f64);
}

/// How long a run waited.
pub fn queue_time(time: Duration) {
    histogram!("lenslet_queue_seconds").record(time.as_secs_f64());
}

/// A batch that ran.
pub fn batch(engine: &'static str, rows: usize, time: Duration) {
    histogram!("lenslet_batch_rows", "engine" => engine).record(rows as f64);
    histogram!("lenslet_compute_seconds", "engine" => engine).record(time.as_secs_f64());
}

/// A run that was given up before it computed: its client went away, or its deadline passed.
pub fn dropped(gone: bool) {
    counter!("lenslet_dropped_total", "reason" => if gone { "disconnected" } else { "deadline" }).increment(1);
}

/// A step of texts under way.
pub fn decode_step(texts: usize, tokens: usize, time: Duration) {
    gauge!("lenslet_decode_slots").set(texts as f64);
    counter!("lenslet_tokens_total").increment(tokens as u64);
    histogram!("lenslet_decode_step_seconds").record(time.as_secs_f64());
}

/// An answered request.
pub fn request(route: &str, status: u16, time: Duration) {
    counter!("lenslet_requests_total", "route" => route.to_owned(), "status" => status.to_string()).increment(1);
    histogram!("lenslet_request_seconds", "route" => route.to_owned()).record(time.as_secs_f64());
}

/// A refused request.
pub fn refused(reason: &'static str) {
    counter!("lenslet_refused_total", "reason" => reason).increment(1);
}

/// A look into the cache.
pub fn cache(hit: bool) {
    counter!("lenslet_cache_total", "result" => if hit { "hit" } else { "miss" }).increment(1);
}
