//! Logs and metrics of the process.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, LogFormat};

/// From a tenth of a millisecond to a minute.
const SECONDS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// From a hundredth of a second to a day: how long parts of jobs wait for a worker.
const WAITS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

/// Rows of a batch.
const ROWS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Writes logs to standard error from now on. Where something logs already, that stays.
pub fn log(config: &Config) {
    let levels: Targets = config.log.parse().unwrap_or_default();
    let registry = tracing_subscriber::registry().with(levels);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // Where a test or another program has set up logging, its way is kept.
    let _ = match config.log_format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
    };
    // A panic is a fault of this program; what it was doing may hold a user's words, so only the place is told.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a thread panicked");
    }));
}

/// Counts from now on. There is one counter a process, however many servers it has.
pub fn count() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_rows".into()), &ROWS))
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full("lenslet_job_queue_seconds".into()), &WAITS)
            });
        let recorder = builder.ok()?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        crate::metrics::describe();
        Some(handle)
    };
    HANDLE.get_or_init(install).clone()
}
