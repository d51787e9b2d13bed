//! NATS servers for tests, each on a port and in a folder of its own, and workers as programs of their own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream::Stream};
use lenslet_server::config::{Config, JobsConfig};
use serde_json::Value;

use crate::setup::config;

/// The program; `None`, with the reason on standard error, where there is none.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join("nats-server")).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("left out: no nats-server");
    }
    found
}

/// A free port that no system gives out by itself, so that a server that was ended can have it again.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 9_000) as u16;
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ports = || first + NEXT.fetch_add(1, Ordering::SeqCst) % 1000;
    std::iter::repeat_with(ports).map(address).find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// A folder below `target` that is removed in the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A NATS server with JetStream. What it stores outlives it until this is dropped.
pub(crate) struct Nats {
    program: PathBuf,
    address: SocketAddr,
    folder: Folder,
    child: Option<Child>,
}

impl Nats {
    /// One that does not run yet.
    pub(crate) fn prepare(name: &str) -> Option<Nats> {
        let program = program()?;
        Some(Nats { program, address: free_address(), folder: Folder::new(&format!("nats-{name}")), child: None })
    }

    pub(crate) fn start(name: &str) -> Option<Nats> {
        let mut nats = Nats::prepare(name)?;
        nats.run();
        Some(nats)
    }

    pub(crate) fn run(&mut self) {
        self.run_with(&["--jetstream"]);
    }

    pub(crate) fn run_with(&mut self, args: &[&str]) {
        let mut command = Command::new(&self.program);
        command.args(["--addr", "127.0.0.1", "--port", &self.address.port().to_string()]).args(args);
        command.arg("--store_dir").arg(self.folder.path());
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "nats-server does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as a supervisor does.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(&child, "TERM");
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Settings of a server that queues jobs here.
    pub(crate) fn config(&self) -> Config {
        let jobs = JobsConfig { nats_url: Some(self.url()), retry_delay_s: 0.0, ..JobsConfig::default() };
        Config { jobs, ..config(&["emoji-clip"]) }
    }

    /// A client of its own, to look behind the scenes.
    pub(crate) async fn client(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    pub(crate) async fn stream(&self, name: &str) -> Stream {
        self.client().await.get_stream(name).await.unwrap()
    }

    /// Messages of a stream now, and all that it ever took.
    pub(crate) async fn count(&self, name: &str) -> (u64, u64) {
        let info = self.stream(name).await.get_info().await.unwrap();
        (info.state.messages, info.state.last_sequence)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
}

/// `lenslet-server worker`, with its log. It is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    log: Option<std::thread::JoinHandle<Vec<Value>>>,
}

impl Program {
    /// With these lines below `[jobs]`, written to a file in a folder: the same for all workers of the folder.
    pub(crate) fn start(nats: &Nats, folder: &Folder, jobs: &str) -> Program {
        Program::start_with(folder, &format!("nats_url = \"{}\"\n{jobs}", nats.url()))
    }

    /// The same, the queue among the lines.
    pub(crate) fn start_with(folder: &Folder, jobs: &str) -> Program {
        let file = folder.path().join("worker.toml");
        let settings = format!(
            "models = [{{ model = \"emoji-clip\" }}]\nengine = \"lenslet\"\ndevice = \"cpu\"\nthreads = 1\n\
             listen = \"127.0.0.1:0\"\n[schedule]\nmax_batch_images = 8\n[jobs]\n{jobs}"
        );
        // Another worker may be reading it.
        if !file.exists() {
            std::fs::write(&file, settings).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_lenslet-server"));
        command.arg("worker").arg("--config").arg(&file).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = std::thread::spawn(move || {
            lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).collect()
        });
        Program { child, log: Some(log) }
    }

    /// Tells it to end; says whether it ended well, and gives its log.
    pub(crate) fn end(mut self) -> (bool, Vec<Value>) {
        signal(&self.child, "TERM");
        let good = self.child.wait().unwrap().success();
        (good, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Program {
    /// Ends it between two instructions.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
