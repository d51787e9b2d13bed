//! What the server is told: by a file, by the environment, by flags; later ones win. All of it is checked before anything starts.

pub mod args;
mod check;
mod jobs;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

pub use check::ConfigError;
pub use jobs::{JobsConfig, MAX_PART_INPUTS};

/// Which engine runs the models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// ONNX Runtime where its library is found, else the Lenslet runtime.
    #[default]
    Auto,
    /// ONNX Runtime, loaded while running.
    Ort,
    /// The Lenslet runtime.
    Lenslet,
    /// Another server.
    Remote,
}

/// Where an engine of this machine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// The best there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The `lenslet` engine through Vulkan, Metal or DirectX.
    Gpu,
    /// The `ort` engine on CUDA.
    Cuda,
    /// The `ort` engine with TensorRT, which falls back to CUDA for what it does not take.
    Tensorrt,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// A model to serve.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The name that requests ask for it by; that of the catalog or of the folder if left out.
    pub name: Option<String>,
    /// A catalog name or the path of a folder.
    pub model: String,
    /// `fp32`, `fp16`, `int8` or `q4`; the most exact that the folder has if left out.
    pub precision: Option<String>,
}

/// What a client may take of this server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Bytes of all bodies that are held at once.
    pub max_total_body_bytes: u64,
    /// Pixels of a picture, looked up in its header before it is decoded.
    pub max_pixels: u64,
    /// Inputs of one embeddings request.
    pub max_inputs: usize,
    /// Bytes of one text.
    pub max_text_bytes: usize,
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// Requests at once; more are refused with 429.
    pub max_requests: usize,
    /// Tokens of one answer.
    pub max_tokens: usize,
    /// Seconds until a request is given up, if it does not say so itself; it may not ask for more.
    pub request_timeout_s: f64,
    /// Seconds that a client may take for the head of a request, and between two pieces of its body.
    pub read_timeout_s: f64,
    /// Requests a second for each key (or address, where there are no keys); 0 is no limit.
    pub requests_per_second: f64,
    /// Requests that may come at once beyond that pace.
    pub burst: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig {
            max_body_bytes: 32 << 20,
            max_total_body_bytes: 512 << 20,
            max_pixels: 50_000_000,
            max_inputs: 256,
            max_text_bytes: 64 << 10,
            max_connections: 1024,
            max_requests: 512,
            max_tokens: 4096,
            request_timeout_s: 120.0,
            read_timeout_s: 15.0,
            requests_per_second: 0.0,
            burst: 20,
        }
    }
}

/// Queues and batches.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Runs that may wait; more are refused with 429.
    pub max_queue: usize,
    /// Pictures of a batch.
    pub max_batch_images: usize,
    /// Tokens of a batch, padding included.
    pub max_batch_tokens: usize,
    /// Microseconds that a batch which is not full waits for more.
    pub max_queue_delay_us: u64,
    /// Texts that are written at once.
    pub slots: usize,
    /// Threads that decode and resize pictures and tokenize texts; 0 is half of the cores.
    pub preprocessing_threads: usize,
    /// Runs that an engine of this machine computes at once.
    pub concurrency: usize,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig {
            max_queue: 512,
            max_batch_images: 32,
            max_batch_tokens: 4096,
            max_queue_delay_us: 0,
            slots: 8,
            preprocessing_threads: 0,
            concurrency: 1,
        }
    }
}

/// ONNX Runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OrtConfig {
    /// The library's file; `ORT_DYLIB_PATH` if left out.
    pub library: Option<PathBuf>,
    /// The GPU's number.
    pub device_id: i32,
    /// Bytes of GPU memory at most; 0 is no limit.
    pub gpu_memory_bytes: usize,
    /// Where TensorRT keeps the engines that it builds.
    pub tensorrt_cache: Option<PathBuf>,
    /// TensorRT computes in half precision where it is faster.
    pub tensorrt_fp16: bool,
    /// TensorRT computes in INT8 where the graph is quantized.
    pub tensorrt_int8: bool,
}

/// The server behind the `remote` engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemoteConfig {
    /// Its address, `http://host:port`.
    pub url: Option<String>,
    /// The bearer key that it wants.
    pub key: Option<String>,
    /// Calls at once.
    pub concurrency: Option<usize>,
}

/// Certificates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the certificate and those that it is signed by.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Models to serve.
    pub models: Vec<ModelConfig>,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address to speak gRPC on, in plain text or TLS as HTTP is; none if left out.
    pub grpc_listen: Option<SocketAddr>,
    /// Which engine runs the models.
    pub engine: EngineKind,
    /// Where it computes.
    pub device: Device,
    /// CPU threads of an engine; 0 is all cores.
    pub threads: usize,
    /// Keys that clients send as `Authorization: Bearer KEY`; without any, everybody is served.
    pub api_keys: Vec<String>,
    /// A file with one key a line.
    pub api_keys_file: Option<PathBuf>,
    /// Origins whose pages may call, `https://app.example`, or `*`.
    pub cors_origins: Vec<String>,
    /// Bytes of answers that are kept; 0 keeps none.
    pub cache_bytes: u64,
    /// Seconds that requests under way have to finish when the server is told to end.
    pub drain_limit_s: f64,
    /// Seconds that it goes on taking connections then, to refuse them with 503 until the load balancer looks elsewhere.
    pub drain_grace_s: f64,
    /// `error`, `warn`, `info`, `debug`, `trace`, or `module=level` separated by commas.
    pub log: String,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Address of an OpenTelemetry collector that traces are sent to, `http://host:4318`; none are made if left out.
    pub otlp_endpoint: Option<String>,
    /// See [`LimitsConfig`].
    pub limits: LimitsConfig,
    /// See [`ScheduleConfig`].
    pub schedule: ScheduleConfig,
    /// See [`OrtConfig`].
    pub ort: OrtConfig,
    /// See [`RemoteConfig`].
    pub remote: RemoteConfig,
    /// See [`JobsConfig`].
    pub jobs: JobsConfig,
    /// HTTPS instead of HTTP.
    pub tls: Option<TlsConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            models: vec![],
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            grpc_listen: None,
            engine: EngineKind::Auto,
            device: Device::Auto,
            threads: 0,
            api_keys: vec![],
            api_keys_file: None,
            cors_origins: vec![],
            cache_bytes: 256 << 20,
            drain_limit_s: 25.0,
            drain_grace_s: 0.0,
            log: "info".into(),
            log_format: LogFormat::Json,
            otlp_endpoint: None,
            limits: LimitsConfig::default(),
            schedule: ScheduleConfig::default(),
            ort: OrtConfig::default(),
            remote: RemoteConfig::default(),
            jobs: JobsConfig::default(),
            tls: None,
        }
    }
}
