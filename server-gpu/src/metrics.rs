//! What is counted. Names follow Prometheus' conventions: seconds, `_total`.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

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

/// A run of a decoder, which so many texts shared.
pub fn decoder_run(texts: usize) {
    histogram!("lenslet_decode_rows").record(texts as f64);
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

/// What the cache holds.
pub fn cache_size(entries: u64, bytes: u64) {
    gauge!("lenslet_cache_entries").set(entries as f64);
    gauge!("lenslet_cache_bytes").set(bytes as f64);
}

/// Requests whose answer has not ended.
pub fn under_way(requests: usize) {
    gauge!("lenslet_requests_under_way").set(requests as f64);
}

/// Memory of a model's device, where that is not the host's.
pub fn device_memory(model: &str, bytes: u64) {
    gauge!("lenslet_device_memory_bytes", "model" => model.to_owned()).set(bytes as f64);
}

/// Memory of the process, where the system tells (Linux).
pub fn resident_memory() {
    // Pages: size, resident, and so on.
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    if let Some(pages) = pages {
        gauge!("process_resident_memory_bytes").set((pages * 4096) as f64);
    }
}

/// A job that was taken, with so many inputs.
pub fn job_accepted(inputs: u64) {
    counter!("lenslet_jobs_accepted_total").increment(1);
    counter!("lenslet_jobs_accepted_inputs_total").increment(inputs);
}

/// What waits in the queue of jobs, and what was given up.
pub fn job_queue(parts: u64, dead: u64) {
    gauge!("lenslet_job_queue_depth").set(parts as f64);
    gauge!("lenslet_job_dead_letters").set(dead as f64);
}

/// Whether the queue of jobs can be reached.
pub fn job_queue_reachable(reachable: bool) {
    gauge!("lenslet_job_queue_reachable").set(f64::from(u8::from(reachable)));
}

/// A part that this worker took, after it had waited so long.
pub fn job_part_taken(waited: Duration) {
    histogram!("lenslet_job_queue_seconds").record(waited.as_secs_f64());
    gauge!("lenslet_job_parts_in_hand").increment(1.0);
}

/// A part that left this worker's hands.
pub fn job_part_left(outcome: &'static str, time: Duration) {
    gauge!("lenslet_job_parts_in_hand").decrement(1.0);
    counter!("lenslet_job_parts_total", "outcome" => outcome).increment(1);
    histogram!("lenslet_job_part_seconds").record(time.as_secs_f64());
}

/// Inputs of parts that this worker answered.
pub fn job_inputs(embedded: usize, refused: usize) {
    counter!("lenslet_job_inputs_total", "result" => "embedded").increment(embedded as u64);
    counter!("lenslet_job_inputs_total", "result" => "refused").increment(refused as u64);
}

/// Says what the names mean.
pub fn describe() {
    describe_gauge!("lenslet_queue_depth", "Runs of towers that wait");
    describe_histogram!("lenslet_queue_seconds", "Time that a run or a text waited");
    describe_histogram!("lenslet_batch_rows", "Rows of a batch");
    describe_histogram!("lenslet_compute_seconds", "Time that a batch computed");
    describe_counter!("lenslet_dropped_total", "Runs and texts given up before they computed");
    describe_gauge!("lenslet_decode_slots", "Texts in the last step");
    describe_counter!("lenslet_tokens_total", "Tokens written");
    describe_histogram!("lenslet_decode_rows", "Texts that one run of a decoder served, where texts share runs");
    describe_histogram!("lenslet_decode_step_seconds", "Time of a step of all texts under way");
    describe_counter!("lenslet_requests_total", "Answered requests by route and status");
    describe_histogram!("lenslet_request_seconds", "Time from a request's head to the end of its answer");
    describe_counter!("lenslet_refused_total", "Refused requests by reason");
    describe_counter!("lenslet_cache_total", "Looks into the cache by result");
    describe_gauge!("lenslet_cache_entries", "Vectors in the cache");
    describe_gauge!("lenslet_cache_bytes", "Bytes of the cache");
    describe_gauge!("lenslet_requests_under_way", "Requests whose answer has not ended");
    describe_counter!("lenslet_jobs_accepted_total", "Asynchronous jobs that were accepted");
    describe_counter!("lenslet_jobs_accepted_inputs_total", "Inputs of these jobs");
    describe_gauge!("lenslet_job_queue_depth", "Parts of jobs that nobody has answered yet");
    describe_gauge!("lenslet_job_dead_letters", "Parts of jobs that were given up and not forgotten yet");
    describe_gauge!("lenslet_job_queue_reachable", "Whether the queue of jobs can be reached");
    describe_histogram!("lenslet_job_queue_seconds", "Time that a part waited for a worker");
    describe_gauge!("lenslet_job_parts_in_hand", "Parts that this worker holds");
    describe_counter!("lenslet_job_parts_total", "Parts that left this worker's hands by outcome");
    describe_histogram!("lenslet_job_part_seconds", "Time that this worker held a part");
    describe_counter!("lenslet_job_inputs_total", "Inputs of parts that this worker answered by result");
    describe_gauge!("lenslet_device_memory_bytes", "Memory of a model's GPU");
    describe_gauge!("process_resident_memory_bytes", "Memory of the process");
}
