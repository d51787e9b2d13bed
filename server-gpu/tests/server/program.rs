//! The program itself, as a supervisor runs it.

use std::io::{BufRead, BufReader};
#[cfg(feature = "otlp")]
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) struct Program {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Program {
    /// Starts it with the runtime on the CPU, these arguments and variables of the environment.
    pub(crate) fn start(args: &[&str], variables: &[(&str, &str)]) -> Program {
        Program::start_with(&[&["--engine", "lenslet", "--device", "cpu"], args].concat(), variables)
    }

    /// Starts it with these arguments and variables of the environment.
    pub(crate) fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lenslet-server"));
        command.args(args).stderr(Stdio::piped());
        command.envs(variables.iter().copied());
        let mut child = command.spawn().unwrap();
        let (lines, log) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::new(Mutex::new(vec![])));
        let written = log.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let entry: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                written.lock().unwrap().push(entry);
            }
        });
        Program { child, log, reader }
    }

    fn entry(&self, message: &str) -> Option<Value> {
        self.log.lock().unwrap().iter().find(|entry| entry["message"] == message).cloned()
    }

    pub(crate) fn wait_until_ready(&self) {
        wait_for("the server does not get ready", || self.said("ready"));
    }

    /// Whether its log has this message.
    pub(crate) fn said(&self, message: &str) -> bool {
        self.entry(message).is_some()
    }

    /// Where it listens.
    #[cfg(feature = "otlp")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.entry("listening").unwrap()["address"].as_str().unwrap().parse().unwrap()
    }

    /// Tells it to end, as a supervisor does, and returns its log.
    pub(crate) fn end(mut self) -> Vec<Value> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let success = self.child.wait().unwrap().success();
        self.reader.join().unwrap();
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        assert!(success, "{log:?}");
        log
    }
}

pub(crate) fn wait_for(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
