//! From settings to models that are ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lenslet::SessionOptions;
use lenslet::gpu::{Gpu, GpuOptions};
use lenslet_models::folder::{ModelFolder, Precision};

use crate::config::{Config, Device, EngineKind, ModelConfig};
use crate::engine::Engine;
use crate::engine::lenslet::LensletEngine;
#[cfg(feature = "ort")]
use crate::engine::ort::OrtEngine;
use crate::engine::remote::RemoteEngine;
use crate::error::ServeError;
use crate::hosted::{Form, Hosted, Models};
use crate::schedule::{Limits, Scheduler};

/// Loads and warms up all models.
///
/// # Errors
/// The first that cannot be loaded, by name.
pub async fn load(config: &Config) -> Result<Models, ServeError> {
    let local = Scheduler::start(limits(config), config.schedule.concurrency);
    #[cfg(feature = "ort")]
    if config.engine == EngineKind::Ort || (config.engine == EngineKind::Auto && wants_ort(config)) {
        crate::engine::ort::load_library(config.ort.library.as_deref())?;
    }
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

/// `auto` takes ONNX Runtime where the settings name its library or a device of its own, which nobody does by accident.
fn wants_ort(config: &Config) -> bool {
    config.ort.library.is_some() || matches!(config.device, Device::Cuda | Device::Tensorrt)
}

/// The engine of a model.
fn kind(config: &Config, form: Form) -> EngineKind {
    match config.engine {
        EngineKind::Auto if cfg!(feature = "ort") && wants_ort(config) && form != Form::Answerer => EngineKind::Ort,
        EngineKind::Auto => EngineKind::Lenslet,
        asked => asked,
    }
}

async fn load_one(
    config: &Config,
    model: &ModelConfig,
    options: &SessionOptions,
    local: &Arc<Scheduler>,
) -> Result<Hosted, ServeError> {
    if config.engine == EngineKind::Remote {
        return load_remote(config, model).await;
    }
    let folder = locate(model)?;
    let precision = model.precision().map_err(|e| ServeError::internal("config", e.to_string()))?;
    let form = Form::of(&folder, precision)?;
    let fingerprint = fingerprint(&folder, form, precision)?;
    let engine: Arc<dyn Engine> = match kind(config, form) {
        #[cfg(feature = "ort")]
        EngineKind::Ort => {
            let (at, config) = (folder.clone(), config.clone());
            Arc::new(blocking(move || OrtEngine::load(&at, form, precision, &config)).await?)
        }
        _ => {
            let (at, options) = (folder.clone(), options.clone());
            Arc::new(blocking(move || LensletEngine::load(&at, form, precision, &options)).await?)
        }
    };
    let (rows, slots) = (config.schedule.max_batch_images, config.schedule.slots);
    Hosted::new(Some(&folder), model.served_name(), fingerprint, engine, local.clone(), rows, slots).await
}

/// A model on another server. Its folder, if it is here too, says how pictures and texts become tensors; without it the other
/// server is asked for texts only.
async fn load_remote(config: &Config, model: &ModelConfig) -> Result<Hosted, ServeError> {
    let folder = locate(model).ok();
    let precision = model.precision().map_err(|e| ServeError::internal("config", e.to_string()))?;
    let mut print = String::new();
    if let Some(folder) = &folder {
        print = fingerprint(folder, Form::of(folder, precision)?, precision)?;
    }
    let name = model.served_name();
    let expected = Some(print.as_str()).filter(|print| !print.is_empty());
    let engine = RemoteEngine::connect(config, &name, expected).await?;
    if folder.is_none() && !engine.specs().towers.is_empty() {
        let what =
            "the other server has its towers, and its folder (configuration and tokenizer) is needed here to use them";
        return Err(ServeError::internal("model_unknown", what));
    }
    let concurrency = config.remote.concurrency.unwrap_or(REMOTE_CONCURRENCY);
    let scheduler = Scheduler::start(limits(config), concurrency);
    Hosted::new(folder.as_ref(), name, print, Arc::new(engine), scheduler, 1, concurrency).await
}

/// Calls to another server at once, if nobody says how many.
const REMOTE_CONCURRENCY: usize = 16;

fn limits(config: &Config) -> Limits {
    let schedule = &config.schedule;
    Limits {
        max_queue: schedule.max_queue,
        max_batch_images: schedule.max_batch_images,
        max_batch_tokens: schedule.max_batch_tokens,
        max_queue_delay: Duration::from_micros(schedule.max_queue_delay_us),
    }
}

fn locate(model: &ModelConfig) -> Result<ModelFolder, ServeError> {
    ModelFolder::locate(&model.model).map_err(|e| ServeError::internal(e.kind(), format!("{e}; {}", e.advice())))
}

/// What identifies the vectors of a model. Text is not compared between models, so those that write have none.
fn fingerprint(folder: &ModelFolder, form: Form, precision: Precision) -> Result<String, ServeError> {
    if form != Form::Towers {
        return Ok(String::new());
    }
    let files = folder.graphs(precision).map_err(|e| ServeError::internal(e.kind(), e.to_string()))?;
    let fingerprint = lenslet_models::dual::fingerprint(folder, &files);
    Ok(fingerprint.map_err(|e| ServeError::internal(e.kind(), e.to_string()))?.to_string())
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
    Ok(SessionOptions { threads: config.threads, gpu, ..SessionOptions::default() })
}
