//! From settings to models that are ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lenslet::SessionOptions;
use lenslet::gpu::{Gpu, GpuOptions};
use lenslet_models::folder::ModelFolder;

use crate::config::{Config, Device, EngineKind, ModelConfig};
use crate::engine::Engine;
use crate::engine::lenslet::LensletEngine;
use crate::error::ServeError;
use crate::hosted::{Form, Hosted, Models};
use crate::schedule::{Limits, Scheduler};

/// Loads and warms up all models.
///
/// # Errors
/// The first that cannot be loaded, by name.
pub async fn load(config: &Config) -> Result<Models, ServeError> {
    let schedule = &config.schedule;
    let limits = Limits {
        max_queue: schedule.max_queue,
        max_batch_images: schedule.max_batch_images,
        max_batch_tokens: schedule.max_batch_tokens,
        max_queue_delay: Duration::from_micros(schedule.max_queue_delay_us),
    };
    let local = Scheduler::start(limits, schedule.concurrency);
    let options = session_options(config).await?;
    let mut models = Models::default();
    for model in &config.models {
        let started = Instant::now();
        let hosted = load_one(config, model, &options, &local).await.map_err(|error| {
            let message = format!("model {}: {}", model.model, error.message);
            ServeError { message, ..error }
        })?;
        tracing::info!(
            model = hosted.name,
            engine = hosted.engine.name(),
            device = hosted.engine.device(),
            fingerprint = hosted.fingerprint,
            seconds = started.elapsed().as_secs_f64(),
            "model loaded and warmed up"
        );
        models.add(hosted)?;
    }
    Ok(models)
}

async fn load_one(
    config: &Config,
    model: &ModelConfig,
    options: &SessionOptions,
    local: &Arc<Scheduler>,
) -> Result<Hosted, ServeError> {
    let folder = ModelFolder::locate(&model.model)
        .map_err(|e| ServeError::internal(e.kind(), format!("{e}; {}", e.advice())))?;
    let precision = model.precision().map_err(|e| ServeError::internal("config", e.to_string()))?;
    let form = Form::of(&folder, precision)?;
    let fingerprint = match form {
        Form::Towers => {
            let files = folder.graphs(precision).map_err(|e| ServeError::internal(e.kind(), e.to_string()))?;
            let fingerprint = lenslet_models::dual::fingerprint(&folder, &files);
            fingerprint.map_err(|e| ServeError::internal(e.kind(), e.to_string()))?.to_string()
        }
        // Text is not compared between models.
        _ => String::new(),
    };
    let (engine, scheduler): (Arc<dyn Engine>, _) = match config.engine {
        EngineKind::Auto | EngineKind::Lenslet => {
            let (at, options) = (folder.clone(), options.clone());
            let load = move || LensletEngine::load(&at, form, precision, &options);
            (Arc::new(blocking(load).await?), local.clone())
        }
        EngineKind::Ort | EngineKind::Remote => {
            return Err(ServeError::internal("engine", "this engine is not built yet"));
        }
    };
    let (rows, slots) = (config.schedule.max_batch_images, config.schedule.slots);
    Hosted::new(&folder, model.served_name(), fingerprint, engine, scheduler, rows, slots).await
}

/// Does what takes long on a thread that may be blocked.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
) -> Result<T, ServeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ServeError::internal("load_panic", "loading failed in an unforeseen way")))
}

/// Devices for the Lenslet runtime.
async fn session_options(config: &Config) -> Result<SessionOptions, ServeError> {
    let open = |reject_software| {
        let options = GpuOptions { reject_software, ..GpuOptions::default() };
        async move { Gpu::new(&options).await }
    };
    let gpu = match config.device {
        Device::Gpu => {
            let gpu = open(false).await;
            Some(gpu.map_err(|e| ServeError::internal(e.kind(), format!("{e}; or use --device cpu")))?)
        }
        Device::Auto if config.engine != EngineKind::Remote => open(true).await.ok(),
        _ => None,
    };
    Ok(SessionOptions { threads: config.threads, gpu })
}
