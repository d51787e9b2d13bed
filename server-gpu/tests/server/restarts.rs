//! The program itself: it is told to end while it is asked, and started again, five times over.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use crate::http::try_send;
use crate::program::{Program, wait_for};
use crate::setup::block_on;

/// A free port that no system gives out by itself. Of those that it does, a client may get the very one that it connects to while no
/// server has it, and be connected to itself.
fn port() -> SocketAddr {
    let first = 20_000 + (std::process::id() % 8_000) as u16;
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    (first..30_000).map(address).find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

#[test]
fn every_accepted_request_is_answered_once_through_restarts() {
    let address = port();
    let stop = Arc::new(AtomicBool::new(false));
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
    for _ in 0..5 {
        let address = address.to_string();
        let program = Program::start(&["--model", "emoji-clip", "--cache-bytes", "0", "--listen", &address], &[]);
        program.wait_until_ready();
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
