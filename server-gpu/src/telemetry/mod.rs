//! Logs, traces and metrics of the process.

#[cfg(feature = "otlp")]
mod otlp;
pub(crate) mod spans;

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::runtime::Handle;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
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

/// What the process tells about itself.
#[derive(Default)]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    traces: Option<otlp::Export>,
}

impl Telemetry {
    /// Sends what has not been sent, within two seconds. `runtime` of [`start`] must still run.
    pub fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            traces.end();
        }
    }
}

/// Writes logs to standard error from now on, and sends traces to where the settings say. Where something logs already, that stays.
///
/// # Errors
/// What the exporter of traces says about its settings.
pub fn start(config: &Config, runtime: &Handle) -> Result<Telemetry, String> {
    let levels: Targets = config.log.parse().unwrap_or_default();
    // Spans are for traces.
    let events = filter_fn(|metadata| metadata.is_event()).with_max_level_hint(LevelFilter::TRACE);
    let logged = levels.and(events);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match config.log_format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_filter(logged).boxed(),
        LogFormat::Text => layer.with_ansi(false).with_filter(logged).boxed(),
    };
    let registry = tracing_subscriber::registry().with(layer);
    #[cfg(feature = "otlp")]
    let (registry, traces) = {
        let start = |endpoint: &String| otlp::Export::start(endpoint, runtime);
        let traces = config.otlp_endpoint.as_ref().map(start).transpose()?;
        (registry.with(traces.as_ref().map(otlp::Export::layer)), traces)
    };
    #[cfg(not(feature = "otlp"))]
    let _ = runtime;
    // Where a test or another program has set up logging, its way is kept.
    let _ = registry.try_init();
    // A panic is a fault of this program; what it was doing may hold a user's words, so only the place is told.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a thread panicked");
    }));
    Ok(Telemetry {
        #[cfg(feature = "otlp")]
        traces,
    })
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
