//! ONNX Runtime's library: found and loaded while running, so that a server without it starts all the same.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::ep::{self, ExecutionProviderDispatch};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use crate::config::{Config, Device, OrtConfig};
use crate::error::ServeError;

/// What a library is called where nobody says where it is.
const NAME: &str = if cfg!(target_os = "windows") {
    "onnxruntime.dll"
} else if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else {
    "libonnxruntime.so"
};

/// Loads the library. It stays for the life of the process: a second one cannot be loaded beside it.
///
/// # Errors
/// `ort_library` if there is none, or one that is too old.
pub fn load(path: Option<&Path>) -> Result<(), ServeError> {
    static LOADED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let path = path.map_or_else(|| PathBuf::from(NAME), Path::to_path_buf);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.as_ref() == Some(&path) {
        return Ok(());
    }
    if let Some(other) = &*loaded {
        let what = format!("{} is loaded already; start another server for {}", other.display(), path.display());
        return Err(ServeError::internal("ort_library", what));
    }
    let environment = ort::init_from(&path).map_err(|e| {
        let what = format!(
            "ONNX Runtime cannot be loaded: {e}. Give the file of libonnxruntime 1.20 or newer (--ort-library FILE or \
             ORT_DYLIB_PATH; PyPI's onnxruntime has it in its folder capi), or use --engine lenslet"
        );
        ServeError::internal("ort_library", what)
    })?;
    environment.with_name("lenslet").with_telemetry(false).commit();
    *loaded = Some(path);
    Ok(())
}

/// The execution providers of a device, best first. What they cannot compute, the CPU does.
pub(super) fn providers(device: Device, config: &OrtConfig) -> Vec<ExecutionProviderDispatch> {
    let cuda = || {
        let mut cuda = ep::CUDA::default().with_device_id(config.device_id);
        if config.gpu_memory_bytes > 0 {
            cuda = cuda.with_memory_limit(config.gpu_memory_bytes);
        }
        // Without the provider's library a user who asked for a GPU must not get a CPU unawares.
        cuda.build().error_on_failure()
    };
    match device {
        Device::Cuda => vec![cuda()],
        Device::Tensorrt => {
            let mut tensorrt = ep::TensorRT::default()
                .with_device_id(config.device_id)
                .with_fp16(config.tensorrt_fp16)
                .with_int8(config.tensorrt_int8);
            if let Some(cache) = &config.tensorrt_cache {
                let cache = cache.display().to_string();
                tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(&cache).with_timing_cache(true);
                tensorrt = tensorrt.with_timing_cache_path(&cache);
            }
            vec![tensorrt.build().error_on_failure(), cuda()]
        }
        Device::Auto | Device::Cpu | Device::Gpu => vec![],
    }
}

/// Opens a graph.
///
/// # Errors
/// `ort_provider` if a provider's own libraries are missing, `ort_load` for what is wrong with the graph.
pub(super) fn open(path: &Path, config: &Config) -> Result<Session, ServeError> {
    let failed = |code: &'static str, e: String| ServeError::internal(code, format!("{}: {e}", path.display()));
    let build = || -> Result<_, ort::Error> {
        let builder = Session::builder()?.with_optimization_level(GraphOptimizationLevel::Level3)?;
        // Threads that spin between two runs take the cores that preprocessing needs.
        let builder = builder.with_intra_op_spinning(false)?;
        Ok(if config.threads > 0 { builder.with_intra_threads(config.threads)? } else { builder })
    };
    let builder = build().map_err(|e| failed("ort_load", e.to_string()))?;
    let mut builder = builder.with_execution_providers(providers(config.device, &config.ort)).map_err(|e| {
        let said = e.to_string();
        let said = said.trim_end_matches('.');
        let advice = "Use a libonnxruntime built for the device, with CUDA's libraries beside it, or --device cpu";
        failed("ort_provider", format!("{said}. {advice}"))
    })?;
    builder.commit_from_file(path).map_err(|e| failed("ort_load", e.to_string()))
}
