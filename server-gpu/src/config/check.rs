//! Settings that cannot work are found before anything starts.

use std::path::{Path, PathBuf};

use axum::http::{HeaderValue, Uri};
use lenslet_models::folder::Precision;
use tracing_subscriber::filter::Targets;

use super::{Config, Device, EngineKind, ModelConfig};

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a setting that does not exist.
    #[error("{path}: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        detail: String,
    },
    /// A setting has a value that cannot work.
    #[error("{name}: {detail}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What is wrong, and what would do.
        detail: String,
    },
}

pub(super) fn setting<T>(name: &'static str, detail: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Setting { name, detail: detail.into() })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}

impl ModelConfig {
    /// `MODEL` or `NAME=MODEL`.
    pub fn parse(text: &str) -> ModelConfig {
        let (name, model) = match text.split_once('=') {
            Some((name, model)) => (Some(name.to_owned()), model),
            None => (None, text),
        };
        ModelConfig { name, model: model.to_owned(), precision: None }
    }

    /// The precision of [`ModelConfig::precision`].
    ///
    /// # Errors
    /// There is none of this name.
    pub fn precision(&self) -> Result<Precision, ConfigError> {
        let Some(text) = &self.precision else { return Ok(Precision::Auto) };
        match Precision::NAMED.iter().find(|precision| precision.to_string() == *text) {
            Some(precision) => Ok(*precision),
            None => setting("models.precision", format!("{text:?} is none of fp32, fp16, int8, q4")),
        }
    }

    /// The name that requests ask for it by.
    pub fn served_name(&self) -> String {
        let folder = || Path::new(&self.model).file_name().map(|name| name.to_string_lossy().into_owned());
        self.name.clone().or_else(folder).unwrap_or_else(|| self.model.clone())
    }
}

impl Config {
    /// Reads a TOML file, without checking what it says.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Parse`].
    pub fn from_file(path: &Path) -> Result<Config, ConfigError> {
        let text = read(path)?;
        toml::from_str(&text).map_err(|e| ConfigError::Parse { path: path.into(), detail: e.to_string() })
    }

    /// Reads the keys' file, and makes sure that all settings can work.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting.
    pub fn checked(mut self) -> Result<Config, ConfigError> {
        if let Some(path) = &self.api_keys_file {
            let text = read(path)?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            self.api_keys.extend(lines.map(str::to_owned));
            if self.api_keys.is_empty() {
                return setting("api_keys_file", "the file holds no key; everybody would be served");
            }
        }
        if self.models.is_empty() {
            return setting("models", "there is nothing to serve; give --model NAME or --model DIR");
        }
        for model in &self.models {
            model.precision()?;
            check_name(&model.served_name())?;
        }
        if let Some(key) = self.api_keys.iter().find(|key| key.len() < 8 || !key.is_ascii() || key.contains(' ')) {
            return setting(
                "api_keys",
                format!("a key of {} bytes: at least 8 ASCII characters without spaces", key.len()),
            );
        }
        for origin in &self.cors_origins {
            check_origin(origin)?;
        }
        self.check_numbers()?;
        self.check_engine()?;
        self.jobs.check()?;
        if self.log.parse::<Targets>().is_err() {
            return setting("log", format!("{:?} is no level; try info, or lenslet_server=debug", self.log));
        }
        if self.grpc_listen.is_some() && !cfg!(feature = "grpc") {
            return setting("grpc_listen", "this server was built without the feature grpc");
        }
        if let Some(url) = &self.otlp_endpoint {
            if !cfg!(feature = "otlp") {
                return setting("otlp_endpoint", "this server was built without the feature otlp");
            }
            check_url("otlp_endpoint", url)?;
        }
        if let Some(tls) = &self.tls {
            if !cfg!(feature = "tls") {
                return setting("tls", "this server was built without the feature tls");
            }
            read(&tls.certificate)?;
            read(&tls.key)?;
        }
        Ok(self)
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let (limits, schedule) = (&self.limits, &self.schedule);
        let positive = [
            ("limits.max_body_bytes", limits.max_body_bytes),
            ("limits.max_pixels", limits.max_pixels as usize),
            ("limits.max_inputs", limits.max_inputs),
            ("limits.max_text_bytes", limits.max_text_bytes),
            ("limits.max_connections", limits.max_connections),
            ("limits.max_requests", limits.max_requests),
            ("limits.max_tokens", limits.max_tokens),
            ("limits.burst", limits.burst as usize),
            ("schedule.max_queue", schedule.max_queue),
            ("schedule.max_batch_images", schedule.max_batch_images),
            ("schedule.max_batch_tokens", schedule.max_batch_tokens),
            ("schedule.slots", schedule.slots),
            ("schedule.concurrency", schedule.concurrency),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return setting(name, "is 0; at least 1 is needed");
        }
        let seconds = [
            ("limits.request_timeout_s", limits.request_timeout_s, 0.001),
            ("limits.read_timeout_s", limits.read_timeout_s, 0.001),
            ("limits.requests_per_second", limits.requests_per_second, 0.0),
            ("drain_limit_s", self.drain_limit_s, 0.0),
            ("drain_grace_s", self.drain_grace_s, 0.0),
        ];
        match seconds.iter().find(|(_, value, least)| !(*least..=1e6).contains(value)) {
            Some((name, value, least)) => setting(name, format!("is {value}; it must be {least} to 1000000")),
            None => Ok(()),
        }
    }

    fn check_engine(&self) -> Result<(), ConfigError> {
        match (self.engine, self.device) {
            (EngineKind::Ort, _) if !cfg!(feature = "ort") => {
                return setting("engine", "this server was built without the feature ort");
            }
            (EngineKind::Ort, Device::Gpu) => {
                return setting(
                    "device",
                    "the ort engine computes on cpu, cuda or tensorrt; gpu is the lenslet engine's",
                );
            }
            (EngineKind::Lenslet, Device::Cuda | Device::Tensorrt) => {
                return setting(
                    "device",
                    "cuda and tensorrt are the ort engine's; the lenslet engine computes on cpu or gpu",
                );
            }
            _ => {}
        }
        if self.engine == EngineKind::Remote {
            let Some(url) = &self.remote.url else {
                return setting("remote.url", "the remote engine needs the address of a server, http://host:port");
            };
            check_url("remote.url", url)?;
        }
        Ok(())
    }
}

/// The address of another server.
fn check_url(name: &'static str, url: &str) -> Result<(), ConfigError> {
    let scheme = url.parse::<Uri>().ok().and_then(|uri| uri.host().and(uri.scheme_str()).map(str::to_owned));
    match scheme.as_deref() {
        Some("http") => Ok(()),
        Some("https") if cfg!(feature = "tls") => Ok(()),
        Some("https") => setting(name, "https needs a server built with the feature tls"),
        _ => setting(name, format!("{url:?} is no address; http://host:port is one")),
    }
}

/// A name stands in paths and in metrics.
fn check_name(name: &str) -> Result<(), ConfigError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 100 && name.chars().all(fine) && !name.starts_with('.') {
        return Ok(());
    }
    setting("models.name", format!("{name:?}: up to 100 letters, digits, '-', '_' and '.' name a model (NAME=DIR)"))
}

fn check_origin(origin: &str) -> Result<(), ConfigError> {
    if origin == "*" {
        return Ok(());
    }
    let uri = origin.parse::<Uri>().ok();
    let plain = uri.is_some_and(|uri| uri.host().is_some() && uri.scheme().is_some() && uri.path() == "/");
    if !plain || origin.ends_with('/') || HeaderValue::from_str(origin).is_err() {
        return setting("cors_origins", format!("{origin:?} is no origin; https://app.example is one, without a path"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(toml).map_err(|e| e.to_string())?;
        config.checked().map_err(|e| e.to_string())
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let model = "models = [{ model = \"emoji-clip\" }]\n";
        assert!(config(model).is_ok());
        let cases = [
            ("", "models: "),
            ("models = [{ model = \"x\", precision = \"int7\" }]", "models.precision: "),
            ("models = [{ model = \"x\", name = \"a/b\" }]", "models.name: "),
            (&format!("api_keys = [\"short\"]\n{model}"), "api_keys: "),
            (&format!("cors_origins = [\"example.com/x\"]\n{model}"), "cors_origins: "),
            (&format!("{model}[limits]\nmax_inputs = 0"), "limits.max_inputs: "),
            (&format!("{model}[limits]\nread_timeout_s = -1.0"), "limits.read_timeout_s: "),
            (&format!("engine = \"remote\"\n{model}"), "remote.url: "),
            (&format!("engine = \"lenslet\"\ndevice = \"cuda\"\n{model}"), "device: "),
            (&format!("log = \"loud=very\"\n{model}"), "log: "),
            (&format!("max_inputs = 3\n{model}"), "unknown field"),
        ];
        for (toml, start) in cases {
            let error = config(toml).unwrap_err();
            assert!(error.contains(start), "{toml}: {error}");
        }
    }

    #[test]
    fn a_model_may_be_given_a_name() {
        let model = ModelConfig::parse("mine=/models/clip-vit-large");
        assert_eq!((model.served_name().as_str(), model.model.as_str()), ("mine", "/models/clip-vit-large"));
        assert_eq!(ModelConfig::parse("/models/clip-vit-large").served_name(), "clip-vit-large");
        assert_eq!(ModelConfig::parse("emoji-clip").served_name(), "emoji-clip");
    }
}
