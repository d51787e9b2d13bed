//! Servers for tests.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lenslet_server::config::{Config, EngineKind, ModelConfig};
use lenslet_server::{App, Server};
use tokio::runtime::Runtime;

pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap())
}

/// Runs a test on the threads that servers run on too.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

pub(crate) fn model(name: &str) -> ModelConfig {
    ModelConfig { name: None, model: name.into(), precision: None }
}

/// Settings for these models on a free port.
pub(crate) fn config(models: &[&str]) -> Config {
    Config {
        models: models.iter().map(|name| model(name)).collect(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        engine: EngineKind::Lenslet,
        device: lenslet_server::config::Device::Cpu,
        ..Config::default()
    }
}

pub(crate) async fn start(config: Config) -> Server {
    Server::start(config).await.unwrap()
}

/// A server that loads nothing yet.
pub(crate) async fn bind(config: Config) -> Server {
    Server::bind(App::new(config, None)).await.unwrap()
}

/// The bundled models on a server that many tests use.
pub(crate) fn shared() -> SocketAddr {
    static SERVER: OnceLock<Server> = OnceLock::new();
    // On a thread of its own: tests ask for it where they may not wait for other tasks.
    let start = || block_on(start(config(&["emoji-clip", "emoji-captioner", "photo-search"])));
    SERVER.get_or_init(|| std::thread::spawn(start).join().unwrap()).address()
}

pub(crate) fn picture_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/gallery").join(name)
}

pub(crate) fn picture(name: &str) -> Vec<u8> {
    let path = picture_path(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn data_url(file: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(file))
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    lenslet::tasks::similarity::cosine(a, b)
}

/// A folder of the zoo of test graphs: beside the checkout, or below `LENSLET_SHARED`.
pub(crate) fn zoo(path: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("LENSLET_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("zoo").join(path);
    if !folder.is_dir() {
        eprintln!("left out: no {}", folder.display());
    }
    Some(folder).filter(|folder| folder.is_dir())
}
