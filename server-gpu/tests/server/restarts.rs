//! The program itself: it is told to end while it is asked, and started again, five times over.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::{Value, json};

use crate::http::try_send;
use crate::setup::block_on;

struct Program {
    child: Child,
    log: std::thread::JoinHandle<Vec<Value>>,
}

impl Program {
    fn start(address: SocketAddr, ready: &Arc<AtomicUsize>) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lenslet-server"));
        command.args(["--model", "emoji-clip", "--engine", "lenslet", "--device", "cpu", "--cache-bytes", "0"]);
        command.args(["--listen", &address.to_string()]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, ready) = (BufReader::new(child.stderr.take().unwrap()).lines(), ready.clone());
        let log = std::thread::spawn(move || {
            let mut log = vec![];
            for line in lines.map_while(Result::ok) {
                let entry: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                if entry["message"] == "ready" {
                    ready.fetch_add(1, Ordering::SeqCst);
                }
                log.push(entry);
            }
            log
        });
        Program { child, log }
    }

    /// Tells it to end, as a supervisor does, and returns its log.
    fn end(mut self) -> Vec<Value> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        self.log.join().unwrap()
    }
}

/// A free port that no system gives out by itself. Of those that it does, a client may get the very one that it connects to while no
/// server has it, and be connected to itself.
fn port() -> SocketAddr {
    let first = 20_000 + (std::process::id() % 8_000) as u16;
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    (first..30_000).map(address).find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_accepted_request_is_answered_once_through_restarts() {
    let address = port();
    let (ready, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut seen: HashMap<String, Result<u16, String>> = HashMap::new();
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let id = format!("c{client}-{number}");
                    let body = json!({"model": "emoji-clip", "input": format!("text {client} {number}")}).to_string();
                    let headers = [("x-request-id", id.as_str())];
                    let ask = try_send(address, Method::POST, "/v1/embeddings", &headers, body);
                    let answer = block_on(ask).map(|answer| answer.status.as_u16());
                    match &answer {
                        Ok(200) => _ = served.fetch_add(1, Ordering::SeqCst),
                        // A little patience while there is no server.
                        _ => std::thread::sleep(Duration::from_millis(10)),
                    }
                    seen.insert(id, answer);
                }
                seen
            })
        })
        .collect();
    let mut log = vec![];
    for round in 1..=5 {
        let program = Program::start(address, &ready);
        wait_for("the server does not get ready", || ready.load(Ordering::SeqCst) == round);
        let before = served.load(Ordering::SeqCst);
        wait_for("no request is served", || served.load(Ordering::SeqCst) >= before + 40);
        log.extend(program.end());
    }
    stop.store(true, Ordering::SeqCst);
    let mut seen = HashMap::new();
    clients.into_iter().for_each(|client| seen.extend(client.join().unwrap()));

    let mut answered: HashMap<&str, u64> = HashMap::new();
    for entry in log.iter().filter(|entry| entry["target"] == "lenslet_server::request") {
        let (id, status) = (entry["id"].as_str().unwrap(), entry["status"].as_u64().unwrap());
        assert!(answered.insert(id, status).is_none(), "{id} was answered twice");
        assert_eq!(entry["complete"], true, "{entry}");
        assert_eq!(seen[id], Ok(status as u16), "what the client saw of {id}");
    }
    for (id, answer) in &seen {
        match answer {
            // What had no answer had not been taken.
            Err(error) => assert!(!answered.contains_key(id.as_str()), "{id}: {error}"),
            Ok(status) => {
                assert!(matches!(status, 200 | 503), "{id}: {status}");
                assert_eq!(answered[id.as_str()], u64::from(*status), "{id}");
            }
        }
    }
    assert!(seen.values().filter(|answer| **answer == Ok(200)).count() >= 200);
    let text = log.iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains("text 0 "), "a request's words are in the log");
}
