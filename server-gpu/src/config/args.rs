//! Flags and environment, and how they go over the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{Config, ConfigError, Device, EngineKind, LogFormat, ModelConfig, TlsConfig};

/// Serves models: embeddings and chat as OpenAI's interface has them, and the Open Inference Protocol.
///
/// Flags go before variables of the environment, these before the file.
#[derive(Debug, Parser)]
#[command(name = "lenslet-server", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Action>,
    /// The settings of the server.
    #[command(flatten)]
    pub args: Args,
}

/// What the program does instead of serving.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Works on the parts of asynchronous jobs, which it takes from the queue of --nats-url or --kafka-brokers
    ///
    /// Takes the settings of the server. On --listen it answers for its health and its metrics alone.
    Worker(Args),
}

/// The settings that flags and environment give.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// A TOML file with any of the settings
    #[arg(long, env = "LENSLET_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A model to serve: a catalog name or a folder, NAME=DIR to give it a name (repeatable)
    #[arg(long = "model", env = "LENSLET_MODEL", value_name = "[NAME=]MODEL", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Address to listen on
    #[arg(long, env = "LENSLET_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address to speak gRPC on (needs the feature grpc)
    #[arg(long, env = "LENSLET_GRPC_LISTEN", value_name = "ADDRESS:PORT")]
    pub grpc_listen: Option<SocketAddr>,
    /// What runs the models
    #[arg(long, env = "LENSLET_ENGINE", value_enum)]
    pub engine: Option<EngineKind>,
    /// Where it computes
    #[arg(long, env = "LENSLET_DEVICE", value_enum)]
    pub device: Option<Device>,
    /// CPU threads of an engine, 0 for all cores
    #[arg(long, env = "LENSLET_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Keys that clients must send one of; in a file, or in the environment, they are not seen in the list of processes
    #[arg(
        long = "api-key",
        env = "LENSLET_API_KEYS",
        hide_env_values = true,
        value_name = "KEY",
        value_delimiter = ','
    )]
    pub api_keys: Vec<String>,
    /// A file with one such key a line
    #[arg(long, env = "LENSLET_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
    /// An origin whose pages may call (repeatable)
    #[arg(long = "cors-origin", env = "LENSLET_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
    /// Bytes of answers that are kept, 0 for none
    #[arg(long, env = "LENSLET_CACHE_BYTES", value_name = "BYTES")]
    pub cache_bytes: Option<u64>,
    /// Seconds that requests under way have to finish when the server is told to end
    #[arg(long, env = "LENSLET_DRAIN_LIMIT_S", value_name = "SECONDS")]
    pub drain_limit_s: Option<f64>,
    /// Seconds that it goes on refusing requests before that, until load balancers have noticed
    #[arg(long, env = "LENSLET_DRAIN_GRACE_S", value_name = "SECONDS")]
    pub drain_grace_s: Option<f64>,
    /// Runs that may wait before requests are refused with 429
    #[arg(long, env = "LENSLET_MAX_QUEUE", value_name = "N")]
    pub max_queue: Option<usize>,
    /// Pictures of a batch
    #[arg(long, env = "LENSLET_MAX_BATCH_IMAGES", value_name = "N")]
    pub max_batch_images: Option<usize>,
    /// Tokens of a batch of texts, padding included
    #[arg(long, env = "LENSLET_MAX_BATCH_TOKENS", value_name = "N")]
    pub max_batch_tokens: Option<usize>,
    /// Microseconds that a batch which is not full waits for more
    #[arg(long, env = "LENSLET_MAX_QUEUE_DELAY_US", value_name = "MICROSECONDS")]
    pub max_queue_delay_us: Option<u64>,
    /// ONNX Runtime's library for the ort engine
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
    /// The server behind the remote engine
    #[arg(long, env = "LENSLET_REMOTE_URL", value_name = "URL")]
    pub remote_url: Option<String>,
    /// The key that the server behind wants
    #[arg(long, env = "LENSLET_REMOTE_KEY", hide_env_values = true, value_name = "KEY")]
    pub remote_key: Option<String>,
    /// NATS servers whose JetStream queues asynchronous jobs: nats://host:4222, several separated by commas
    #[arg(long, env = "LENSLET_NATS_URL", hide_env_values = true, value_name = "URL")]
    pub nats_url: Option<String>,
    /// Kafka brokers that queue asynchronous jobs in place of NATS: host:9092, several separated by commas
    #[arg(long, env = "LENSLET_KAFKA_BROKERS", value_name = "BROKERS")]
    pub kafka_brokers: Option<String>,
    /// Certificate for HTTPS (PEM)
    #[arg(long, env = "LENSLET_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "LENSLET_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, env = "LENSLET_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
    /// How logs are written
    #[arg(long, env = "LENSLET_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// An OpenTelemetry collector that traces are sent to (needs the feature otlp)
    // Others set this variable for all programs of a machine: one that has no use for it is not to stumble over it.
    #[cfg_attr(feature = "otlp", arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL"))]
    #[cfg_attr(not(feature = "otlp"), arg(long, value_name = "URL"))]
    pub otlp_endpoint: Option<String>,
}

/// Takes the place of a setting, if it was given.
fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *setting = given;
    }
}

impl Args {
    /// The settings of a worker, checked.
    ///
    /// # Errors
    /// As [`Args::into_config`], and if no queue is named.
    pub fn into_worker_config(self) -> Result<Config, ConfigError> {
        let config = self.into_config()?;
        if !config.jobs.enabled() {
            let detail = "a worker needs a queue to take parts from; give --nats-url nats://host:4222 or --kafka-brokers host:9092";
            return Err(ConfigError::Setting { name: "jobs.nats_url", detail: detail.into() });
        }
        Ok(config)
    }

    /// The settings, checked.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is wrong.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::from_file(path)?,
            None => Config::default(),
        };
        if !self.models.is_empty() {
            config.models = self.models.iter().map(|text| ModelConfig::parse(text)).collect();
        }
        if !self.api_keys.is_empty() {
            config.api_keys = self.api_keys;
        }
        if !self.cors_origins.is_empty() {
            config.cors_origins = self.cors_origins;
        }
        set(&mut config.listen, self.listen);
        set(&mut config.engine, self.engine);
        set(&mut config.device, self.device);
        set(&mut config.threads, self.threads);
        set(&mut config.cache_bytes, self.cache_bytes);
        set(&mut config.drain_limit_s, self.drain_limit_s);
        set(&mut config.drain_grace_s, self.drain_grace_s);
        set(&mut config.schedule.max_queue, self.max_queue);
        set(&mut config.schedule.max_batch_images, self.max_batch_images);
        set(&mut config.schedule.max_batch_tokens, self.max_batch_tokens);
        set(&mut config.schedule.max_queue_delay_us, self.max_queue_delay_us);
        set(&mut config.log, self.log);
        set(&mut config.log_format, self.log_format);
        config.otlp_endpoint = self.otlp_endpoint.or(config.otlp_endpoint);
        config.grpc_listen = self.grpc_listen.or(config.grpc_listen);
        config.api_keys_file = self.api_keys_file.or(config.api_keys_file);
        config.ort.library = self.ort_library.or(config.ort.library);
        config.remote.url = self.remote_url.or(config.remote.url);
        config.remote.key = self.remote_key.or(config.remote.key);
        config.jobs.nats_url = self.nats_url.or(config.jobs.nats_url);
        config.jobs.kafka_brokers = self.kafka_brokers.or(config.jobs.kafka_brokers);
        if let (Some(certificate), Some(key)) = (self.tls_certificate, self.tls_key) {
            config.tls = Some(TlsConfig { certificate, key });
        }
        config.checked()
    }
}
