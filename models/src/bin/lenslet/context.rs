//! What all commands share: device, threads, form of the output, model.

use std::path::Path;

use clap::{Args, ValueEnum};
use lenslet::gpu::{Gpu, GpuOptions};
use lenslet::tasks::image::{Pixels, decode};
use lenslet::{CpuKernels, SessionOptions};
use lenslet_models::catalog;
use lenslet_models::client::Client;
use lenslet_models::dual::{DualModel, Need};
use lenslet_models::folder::{ModelFolder, Precision};

use crate::encoder::{Encoder, Remote};
use crate::failure::Failure;

/// Options of every command.
#[derive(Args)]
pub(crate) struct GlobalArgs {
    /// Where to run: auto, cpu, gpu or server:URL. auto takes a real GPU if there is one, and no server
    #[arg(long, global = true, default_value = "auto", value_parser = parse_device, value_name = "DEVICE")]
    device: Device,
    /// CPU threads; 0 means all cores
    #[arg(long, global = true, default_value_t = 0, value_name = "N", hide_default_value = true)]
    threads: usize,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    json: bool,
}

/// Where to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    Auto,
    Cpu,
    Gpu,
    /// Its address.
    Server(String),
}

fn parse_device(text: &str) -> Result<Device, String> {
    match text {
        "auto" => Ok(Device::Auto),
        "cpu" => Ok(Device::Cpu),
        "gpu" => Ok(Device::Gpu),
        _ => match text.strip_prefix("server:") {
            Some(url) => Client::new(url, None).map(|_| Device::Server(url.into())).map_err(|e| e.to_string()),
            None => Err("expected auto, cpu, gpu or server:URL".into()),
        },
    }
}

/// Where the key for a server is found: not on the command line, which others on this machine can read.
const API_KEY: &str = "LENSLET_API_KEY";

/// The model of a command.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A known name (photo-search, emoji-clip) or a model's folder
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Which of the folder's graph files: auto takes the most exact
    #[arg(long, default_value = "auto", value_name = "PRECISION")]
    pub(crate) precision: PrecisionArg,
}

/// [`Precision`] as an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    Auto,
    Fp32,
    Fp16,
    Int8,
    Q4,
}

impl PrecisionArg {
    /// A server has each of its models in one precision.
    pub(crate) fn check_remote(self) -> Result<(), Failure> {
        if self == PrecisionArg::Auto {
            return Ok(());
        }
        let what = "a server's models have the precision that it was started with";
        Err(Failure::input("server_precision", what, "leave out --precision, or name another of its models"))
    }
}

impl From<PrecisionArg> for Precision {
    fn from(argument: PrecisionArg) -> Self {
        match argument {
            PrecisionArg::Auto => Precision::Auto,
            PrecisionArg::Fp32 => Precision::Fp32,
            PrecisionArg::Fp16 => Precision::Fp16,
            PrecisionArg::Int8 => Precision::Int8,
            PrecisionArg::Q4 => Precision::Q4,
        }
    }
}

impl ModelArgs {
    /// The folder asked for, or the catalog's first model.
    pub(crate) fn folder(&self) -> Result<ModelFolder, Failure> {
        let default = || catalog::entries().first().map_or("", |entry| entry.name.as_str());
        Ok(ModelFolder::locate(self.model.as_deref().unwrap_or_else(default))?)
    }

    /// Finds and loads the model, or finds it on the server.
    pub(crate) fn load(&self, context: &Context, need: Need) -> Result<Encoder, Failure> {
        if let Some(client) = context.client()? {
            return Ok(Encoder::There(self.remote(client)?));
        }
        let model = DualModel::load(&self.folder()?, self.precision.into(), need, &context.options()?)?;
        Ok(Encoder::Here(Box::new(model)))
    }

    /// The model on a server.
    pub(crate) fn remote(&self, client: Client) -> Result<Remote, Failure> {
        self.precision.check_remote()?;
        let default = || catalog::entries().first().map_or("", |entry| entry.name.as_str());
        let tower = client.tower(self.model.as_deref().unwrap_or_else(default))?;
        Ok(Remote { client, tower })
    }
}

/// What all commands need.
pub(crate) struct Context {
    device: Device,
    threads: usize,
    /// Print JSON.
    pub(crate) json: bool,
}

impl Context {
    pub(crate) fn new(args: GlobalArgs) -> Self {
        Context { device: args.device, threads: args.threads, json: args.json }
    }

    /// The server that is to run models, if there is one.
    pub(crate) fn client(&self) -> Result<Option<Client>, Failure> {
        let Device::Server(url) = &self.device else { return Ok(None) };
        let key = std::env::var(API_KEY).ok().filter(|key| !key.is_empty());
        Ok(Some(Client::new(url, key)?))
    }

    /// How sessions run: opens the GPU if one is to be used.
    pub(crate) fn options(&self) -> Result<SessionOptions, Failure> {
        let open = |reject_software| {
            let options = GpuOptions { reject_software, ..GpuOptions::default() };
            pollster::block_on(Gpu::new(&options))
        };
        let gpu = match &self.device {
            Device::Cpu => None,
            Device::Gpu => Some(open(false)?),
            Device::Auto => open(true).ok(),
            Device::Server(_) => {
                let what = "this command runs on this machine only";
                return Err(Failure::input("server_command", what, "use --device auto, cpu or gpu"));
            }
        };
        Ok(SessionOptions { threads: self.threads, gpu, kernels: kernels()? })
    }

    /// Threads for work beside the model.
    pub(crate) fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        }
    }
}

/// The instructions that products on the CPU use: the best, or those that `LENSLET_KERNELS` names.
fn kernels() -> Result<CpuKernels, Failure> {
    const KERNELS: &str = "LENSLET_KERNELS";
    let Some(name) = std::env::var_os(KERNELS) else { return Ok(CpuKernels::default()) };
    name.to_str().and_then(CpuKernels::named).ok_or_else(|| {
        let known: Vec<&str> = CpuKernels::available().map(|kernels| kernels.name()).collect();
        let what = format!("{KERNELS} is {}, which this machine does not have", name.display());
        Failure::input("kernels", what, format!("it has {}", known.join(", ")))
    })
}

/// `gpu` or `cpu`, as reports say it.
pub(crate) fn device_name(options: &SessionOptions) -> &'static str {
    if options.gpu.is_some() { "gpu" } else { "cpu" }
}

/// Reads a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::io(path, &source))
}

/// Reads and decodes a picture file.
pub(crate) fn read_picture(path: &Path) -> Result<Pixels, Failure> {
    decode(&read_file(path)?).map_err(|source| Failure::picture(path, &source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed() {
        assert_eq!(parse_device("gpu"), Ok(Device::Gpu));
        let server = parse_device("server:http://localhost:8080");
        assert_eq!(server, Ok(Device::Server("http://localhost:8080".into())));
        assert!(parse_device("server:localhost").unwrap_err().contains("http://"));
        assert!(parse_device("tpu").is_err());
    }
}
