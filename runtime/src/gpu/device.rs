//! Finding a device, its abilities, and its failures.

use std::sync::{Arc, Mutex, MutexGuard};

use super::pipeline::Pipelines;
use super::pool::{Pool, PoolStats, PooledBuffer};
use super::recorder::Recorder;
use crate::error::KernelError;

/// Which adapter to open.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Only adapters whose name holds this text (case aside). `None`: the environment variable `LENSLET_GPU`, if set.
    pub adapter: Option<String>,
    /// Refuse adapters that are emulated on the CPU.
    pub reject_software: bool,
    /// Act as if the device had no optional feature: for tests of the plain paths.
    pub plain: bool,
}

/// Why no device could be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeviceError {
    /// No adapter at all, or none that fits the options.
    #[error("no usable GPU was found{}", if .seen.is_empty() { String::new() } else { format!("; passed over: {}", .seen.join(", ")) })]
    NoAdapter {
        /// Adapters that the options ruled out.
        seen: Vec<String>,
    },
    /// The adapter would not open.
    #[error("the GPU {adapter} could not be opened: {message}")]
    Refused {
        /// The adapter's name.
        adapter: String,
        /// What the driver said.
        message: String,
    },
    /// The adapter cannot run compute shaders of the size all kernels assume.
    #[error("the GPU {adapter} is below what kernels need: {reason}")]
    TooSmall {
        /// The adapter's name.
        adapter: String,
        /// The limit that is too low.
        reason: String,
    },
}

impl DeviceError {
    /// A stable word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            DeviceError::NoAdapter { .. } => "no_adapter",
            DeviceError::Refused { .. } => "device_refused",
            DeviceError::TooSmall { .. } => "device_too_small",
        }
    }
}

/// What a device can do: all that kernel choice looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Shaders may compute in f16.
    pub f16: bool,
    /// Shaders may convert between f32 and packed f16. Part of WGSL, but some of Mesa's drivers without `f16` lack it;
    /// there no kernel takes f16 tensors, so weights must be widened before they are uploaded.
    pub packed_f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Smallest subgroup, 0 if unknown.
    pub subgroup_min: u32,
    /// Largest subgroup, 0 if unknown.
    pub subgroup_max: u32,
    /// `dot4I8Packed` and `dot4U8Packed` compile.
    pub dot4: bool,
    /// Timestamps at pass boundaries.
    pub timestamps: bool,
    /// The adapter is emulated on the CPU.
    pub software: bool,
    /// Invocations in a workgroup.
    pub max_workgroup_invocations: u32,
    /// Bytes of workgroup memory.
    pub max_workgroup_storage: u32,
    /// Workgroups along one dimension of a dispatch.
    pub max_workgroups_per_dimension: u32,
    /// Bytes of a buffer that a shader sees.
    pub max_storage_buffer_binding_size: u64,
    /// Bytes of a buffer.
    pub max_buffer_size: u64,
    /// Storage buffers of one shader.
    pub max_storage_buffers: u32,
    /// Alignment of the parameter blocks.
    pub uniform_alignment: u32,
}

impl Caps {
    /// The least that WebGPU promises: no optional feature, default limits. Every kernel must run on it.
    pub const fn minimal() -> Self {
        Caps {
            f16: false,
            packed_f16: true,
            subgroups: false,
            subgroup_min: 0,
            subgroup_max: 0,
            dot4: false,
            timestamps: false,
            software: false,
            max_workgroup_invocations: 256,
            max_workgroup_storage: 16 << 10,
            max_workgroups_per_dimension: 65535,
            max_storage_buffer_binding_size: 128 << 20,
            max_buffer_size: 256 << 20,
            max_storage_buffers: 8,
            uniform_alignment: 256,
        }
    }

    /// A good discrete device: for tests of kernel choice without one.
    pub const fn typical() -> Self {
        Caps {
            f16: true,
            subgroups: true,
            subgroup_min: 32,
            subgroup_max: 32,
            dot4: true,
            timestamps: true,
            max_workgroup_storage: 32 << 10,
            max_workgroup_invocations: 1024,
            max_storage_buffer_binding_size: 2 << 30,
            max_buffer_size: 4 << 30,
            ..Self::minimal()
        }
    }
}

/// The adapter in use, for reports and for caches that are kept per adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterReport {
    /// The adapter's name, empty where a browser hides it.
    pub name: String,
    /// The driver, as far as known.
    pub driver: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: &'static str,
    /// Emulated on the CPU.
    pub software: bool,
}

/// Errors that arrive outside any call: from the uncaptured-error handler and the device-lost callback.
#[derive(Default)]
pub(crate) struct Faults {
    lost: Mutex<Option<String>>,
    error: Mutex<Option<String>>,
}

/// A lock whose holder never panics on purpose; a poisoned one is still usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Faults {
    /// The standing error, if any. A lost device stays lost; other errors are reported once.
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        if let Some(reason) = lock(&self.lost).as_ref() {
            return Err(KernelError::Device(format!("device lost: {reason}")));
        }
        match lock(&self.error).take() {
            Some(message) => Err(KernelError::Device(message)),
            None => Ok(()),
        }
    }

    fn set_lost(&self, reason: String) {
        lock(&self.lost).get_or_insert(reason);
    }

    /// Keeps the first error: later ones are mostly its consequences.
    pub(crate) fn set_error(&self, message: String) {
        lock(&self.error).get_or_insert(message);
    }
}

/// An open device with its queue, memory pool, pipelines and the commands being gathered. Clones share all of it.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    // Dropped first to last: commands, then memory, then the device.
    pub(crate) recorder: Mutex<Recorder>,
    pub(crate) pipelines: Pipelines,
    pub(crate) pool: Pool,
    /// Zeros, bound where an optional input is absent.
    pub(crate) zeros: Arc<PooledBuffer>,
    /// Bound where an optional output is absent; two, since no buffer may be bound for writing twice.
    pub(crate) sinks: [Arc<PooledBuffer>; 2],
    pub(crate) caps: Caps,
    pub(crate) report: AdapterReport,
    pub(crate) faults: Arc<Faults>,
    pub(crate) queue: wgpu::Queue,
    pub(crate) device: wgpu::Device,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({}, {})", self.shared.report.name, self.shared.report.backend)
    }
}

impl Gpu {
    /// Opens the best adapter that fits `options`.
    pub async fn new(options: &GpuOptions) -> Result<Gpu, DeviceError> {
        // Checked first: wgpu panics when no backend was compiled in.
        if wgpu::Instance::enabled_backend_features().is_empty() {
            return Err(DeviceError::NoAdapter { seen: Vec::new() });
        }
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = choose_adapter(&instance, options).await?;
        let info = adapter.get_info();
        let limits = adapter.limits();
        let report = AdapterReport {
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            backend: info.backend.to_str(),
            software: is_software(&info),
        };
        if limits.max_compute_invocations_per_workgroup < 256 || limits.max_compute_workgroup_storage_size < 16 << 10 {
            let reason = "fewer than 256 invocations or 16 KiB of memory in a workgroup".to_string();
            return Err(DeviceError::TooSmall { adapter: report.name, reason });
        }
        let wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let features = if options.plain { wgpu::Features::empty() } else { adapter.features() & wanted };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("lenslet"),
                required_features: features,
                required_limits: limits.clone(),
                ..Default::default()
            })
            .await
            .map_err(|e| DeviceError::Refused { adapter: report.name.clone(), message: e.to_string() })?;
        let dot4 = !options.plain
            && instance.wgsl_language_features().contains(wgpu::WgslLanguageFeatures::Packed4x8IntegerDotProduct);
        let caps = Caps {
            f16: features.contains(wgpu::Features::SHADER_F16),
            packed_f16: adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_min: info.subgroup_min_size,
            subgroup_max: info.subgroup_max_size,
            dot4,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            software: report.software,
            max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_storage: limits.max_compute_workgroup_storage_size,
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
            max_buffer_size: limits.max_buffer_size,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            uniform_alignment: limits.min_uniform_buffer_offset_alignment,
        };
        let faults = Arc::new(Faults::default());
        let on_error = faults.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| on_error.set_error(e.to_string())));
        let on_lost = faults.clone();
        device.set_device_lost_callback(move |_, reason| on_lost.set_lost(reason));

        let pool = Pool::new(&device, &caps);
        let failed = |e: KernelError| DeviceError::Refused { adapter: report.name.clone(), message: e.to_string() };
        let fixed = || pool.take_exact(256).map(Arc::new).map_err(failed);
        let (zeros, sinks) = (fixed()?, [fixed()?, fixed()?]);
        queue.write_buffer(&zeros.buffer, 0, &[0; 256]);
        let recorder = Mutex::new(Recorder::new(&device, &caps));
        let pipelines = Pipelines::default();
        let shared = Shared { recorder, pipelines, pool, zeros, sinks, caps, report, faults, queue, device };
        shared
            .faults
            .check()
            .map_err(|e| DeviceError::Refused { adapter: shared.report.name.clone(), message: e.to_string() })?;
        #[allow(clippy::arc_with_non_send_sync)] // In browsers wgpu's handles stay on one thread.
        Ok(Gpu { shared: Arc::new(shared) })
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.shared.caps
    }

    /// Which adapter this is.
    pub fn report(&self) -> &AdapterReport {
        &self.shared.report
    }

    /// Why the device is gone, if it is. It never comes back: open another.
    pub fn lost(&self) -> Option<String> {
        lock(&self.shared.faults.lost).clone()
    }

    /// Fails if the device is lost, or once after an error that no call has reported yet.
    pub fn check(&self) -> Result<(), KernelError> {
        self.shared.faults.check()
    }

    /// Device memory: allocated, in use, and the highest in use so far.
    pub fn memory(&self) -> PoolStats {
        self.shared.pool.stats()
    }

    /// Gives buffers that nothing uses back to the driver. Call it after a model was dropped: until then, or until the next
    /// kernel is recorded, the driver may keep its memory.
    pub fn clear_pool(&self) {
        self.shared.pool.clear();
        lock(&self.shared.recorder).forget();
    }
}

async fn choose_adapter(instance: &wgpu::Instance, options: &GpuOptions) -> Result<wgpu::Adapter, DeviceError> {
    let filter = options.adapter.clone().or_else(|| std::env::var("LENSLET_GPU").ok()).filter(|f| !f.is_empty());
    let filter = filter.map(|f| f.to_lowercase());
    let candidates = if cfg!(target_arch = "wasm32") {
        let wish = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        instance.request_adapter(&wish).await.into_iter().collect()
    } else {
        instance.enumerate_adapters(wgpu::Backends::all()).await
    };
    let mut seen = Vec::new();
    let mut best: Option<(u32, wgpu::Adapter)> = None;
    for adapter in candidates {
        let info = adapter.get_info();
        let hidden = filter.as_ref().is_some_and(|f| !info.name.to_lowercase().contains(f.as_str()));
        if hidden || (options.reject_software && is_software(&info)) {
            seen.push(info.name);
            continue;
        }
        let rank = match info.device_type {
            _ if is_software(&info) => 0,
            wgpu::DeviceType::DiscreteGpu => 4,
            wgpu::DeviceType::IntegratedGpu => 3,
            wgpu::DeviceType::VirtualGpu => 2,
            _ => 1,
        };
        // The first of equals: drivers list the preferred one first.
        if best.as_ref().is_none_or(|(r, _)| rank > *r) {
            best = Some((rank, adapter));
        }
    }
    best.map(|(_, adapter)| adapter).ok_or(DeviceError::NoAdapter { seen })
}

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let text = format!("{} {} {}", info.name, info.driver, info.driver_info).to_lowercase();
    let known = ["llvmpipe", "lavapipe", "swiftshader", "basic render driver", "softpipe"];
    info.device_type == wgpu::DeviceType::Cpu || known.iter().any(|k| text.contains(k))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{gpu, plain_gpu};

    #[test]
    fn an_unknown_adapter_is_an_error_that_lists_the_others() {
        let options = GpuOptions { adapter: Some("no such adapter".into()), ..Default::default() };
        let error = pollster::block_on(Gpu::new(&options)).unwrap_err();
        assert_eq!(error.kind(), "no_adapter");
    }

    #[test]
    fn a_plain_device_has_nothing_optional() {
        let Some(gpu) = plain_gpu() else { return };
        let caps = gpu.caps();
        assert!(!caps.f16 && !caps.subgroups && !caps.dot4 && !caps.timestamps);
    }

    #[test]
    fn a_validation_error_is_reported_once_and_does_not_panic() {
        let Some(gpu) = gpu() else { return };
        // A buffer larger than any limit.
        let _ = gpu.shared.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::MAX / 2,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        assert!(matches!(gpu.check(), Err(KernelError::Device(_))));
        assert!(gpu.check().is_ok());
    }

    #[test]
    fn a_lost_device_stays_lost() {
        let Some(gpu) = gpu() else { return };
        gpu.shared.device.destroy();
        let _ = gpu.shared.device.poll(wgpu::PollType::wait_indefinitely());
        assert!(gpu.lost().is_some());
        assert!(gpu.check().is_err());
        assert!(gpu.check().is_err());
    }
}
