//! The `lenslet` command with `--device server:URL`, beside the same command on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use lenslet_server::config::{Config, Device, EngineKind, ModelConfig};
use lenslet_server::{App, Server};
use serde_json::Value;

const KEY: &str = "the-commands-key";

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap())
}

fn config(models: &[(&str, &str)]) -> Config {
    let model =
        |&(name, model): &(&str, &str)| ModelConfig { name: Some(name.into()), model: model.into(), precision: None };
    Config {
        models: models.iter().map(model).collect(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        engine: EngineKind::Lenslet,
        device: Device::Cpu,
        api_keys: vec![KEY.into()],
        ..Config::default()
    }
}

/// A server with the bundled models, one of them by the name of another besides.
fn server() -> SocketAddr {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let models = [
        ("photo-search", "photo-search"),
        ("emoji-clip", "emoji-clip"),
        ("emoji-captioner", "emoji-captioner"),
        ("impostor", "photo-search"),
    ];
    SERVER.get_or_init(|| runtime().block_on(Server::start(config(&models))).unwrap()).address()
}

fn lenslet(arguments: &[&str], device: &str, key: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lenslet"));
    command.args(arguments).args(["--device", device]).env("LENSLET_API_KEY", key).output().unwrap()
}

fn json(arguments: &[&str], device: &str) -> Value {
    let output = lenslet(&[arguments, &["--json"]].concat(), device, KEY);
    assert!(output.status.success(), "{arguments:?} on {device}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the command says on this machine, and what on the server.
fn both(arguments: &[&str]) -> [Value; 2] {
    [json(arguments, "cpu"), json(arguments, &format!("server:http://{}", server()))]
}

/// The kind of the error with which a command ends.
fn refused(arguments: &[&str], device: &str, key: &str) -> String {
    let output = lenslet(arguments, device, key);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    let first = stderr.lines().next().unwrap_or_default();
    first.rsplit_once('[').map_or("", |(_, kind)| kind.trim_end_matches(']')).to_owned()
}

fn gallery(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("gallery").join(name).to_str().unwrap().to_owned()
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("lenslet-remote-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn vectors_are_those_of_this_machine() {
    let (photo, emoji) = (gallery("photos/astronaut.jpg"), gallery("emoji/1F34E.png"));
    let cases: [&[&str]; 4] = [
        &["embed", "--text", "a red bicycle"],
        &["embed", "--image", &photo],
        &["embed", "--text", "a red apple", "--model", "emoji-clip"],
        &["embed", "--image", &emoji, "--model", "emoji-clip"],
    ];
    for case in cases {
        let [here, there] = both(case);
        assert_eq!(
            (&here["fingerprint"], &here["model"], &here["dim"]),
            (&there["fingerprint"], &there["model"], &there["dim"])
        );
        let cosine = lenslet::tasks::similarity::cosine(&numbers(&here["embedding"]), &numbers(&there["embedding"]));
        assert!(cosine >= 0.9999, "{case:?}: {cosine}");
    }
    // A picture that the server has seen is known by its hash.
    let [_, again] = both(cases[1]);
    assert_eq!(again["dim"], 384);
}

#[test]
fn labels_are_scored_as_on_this_machine() {
    let picture = gallery("photos/tabby-cat.jpg");
    let [here, there] = both(&["classify", &picture, "--labels", "cat,dog,rocket"]);
    for (a, b) in here["labels"].as_array().unwrap().iter().zip(there["labels"].as_array().unwrap()) {
        assert_eq!(a["label"], b["label"]);
        assert!((a["score"].as_f64().unwrap() - b["score"].as_f64().unwrap()).abs() < 1e-3, "{a} {b}");
    }
}

#[test]
fn texts_have_the_tokens_of_this_machine() {
    let picture = gallery("emoji/1F32C.png");
    for more in [vec![], vec!["--max-tokens", "3"], vec!["--temperature", "1", "--seed", "7"]] {
        let [here, there] = both(&[&["caption", &picture], &more[..]].concat());
        for field in ["text", "tokens", "prompt_tokens", "finish_reason", "model"] {
            assert_eq!(here[field], there[field], "{field} with {more:?}");
        }
    }
    let device = format!("server:http://{}", server());
    let streamed = lenslet(&["caption", &picture, "--stream"], &device, KEY);
    let plain = lenslet(&["caption", &picture], &device, KEY);
    assert_eq!(streamed.stdout, plain.stdout);
    assert!(!plain.stdout.is_empty());
}

#[test]
fn an_index_can_be_made_here_and_searched_there_and_the_other_way_round() {
    let folder = folder("index");
    let pictures = folder.join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    for name in ["astronaut.jpg", "tabby-cat.jpg", "rocket.jpg"] {
        std::fs::copy(gallery(&format!("photos/{name}")), pictures.join(name)).unwrap();
    }
    std::fs::write(pictures.join("broken.png"), b"\x89PNG\r\n\x1a\nnothing").unwrap();
    let pictures = pictures.to_str().unwrap();
    let device = format!("server:http://{}", server());
    let files = ["here.idx", "there.idx"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    for (file, device) in files.iter().zip(["cpu", &device]) {
        let report = json(&["index", pictures, "-o", file], device);
        assert_eq!((&report["added"], &report["skipped"][0]["path"]), (&3.into(), &"broken.png".into()), "{report}");
    }
    for (file, device) in [(&files[1], "cpu"), (&files[0], device.as_str())] {
        let found = json(&["search", "a rocket launch", "--index", file, "-k", "1"], device);
        assert_eq!(found["hits"][0]["path"], "rocket.jpg");
        // Nothing changed, so nothing is sent.
        assert_eq!(json(&["index", pictures, "-o", file], device)["unchanged"], 3);
    }
    // A server's model of another fingerprint never sees this index.
    let emoji = folder.join("emoji.idx").to_str().unwrap().to_owned();
    json(&["index", pictures, "-o", &emoji, "--model", "emoji-clip"], &device);
    let wrong = ["search", "a rocket", "--index", &emoji, "--model", "impostor"];
    assert_eq!(refused(&wrong, &device, KEY), "index_fingerprint");
    assert_eq!(refused(&["index", pictures, "-o", &emoji, "--model", "impostor"], &device, KEY), "index_fingerprint");
    std::fs::remove_dir_all(folder).unwrap();
}

/// A server that gives every request this answer.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 65536]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("server:http://{address}")
}

#[test]
fn what_goes_wrong_with_a_server_has_a_name() {
    let text = ["embed", "--text", "x"];
    let there = format!("server:http://{}", server());
    // Bound and let go again: nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(refused(&text, &format!("server:http://{free}"), KEY), "server_unreachable");
    assert_eq!(refused(&text, &there, ""), "server_refused");
    assert_eq!(refused(&text, &there, "another"), "server_refused");
    assert_eq!(refused(&["embed", "--text", "x", "--model", "clip-vit-l14"], &there, KEY), "server_no_model");
    assert_eq!(refused(&["embed", "--text", "x", "--model", "emoji-captioner"], &there, KEY), "model_task");
    let picture = gallery("emoji/1F34E.png");
    assert_eq!(refused(&["caption", &picture, "--model", "absent"], &there, KEY), "server_no_model");
    assert_eq!(refused(&["caption", &picture, "--top-k", "3"], &there, KEY), "server_option");
    assert_eq!(refused(&["generate", "x", "--model", "m", "--raw"], &there, KEY), "server_option");
    assert_eq!(refused(&["embed", "--text", "x", "--precision", "int8"], &there, KEY), "server_precision");
    assert_eq!(refused(&["bench", "photo-search"], &there, KEY), "server_command");
    let busy = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let device = answering(busy);
    assert_eq!(refused(&text, &device, KEY), "server_overloaded");
    let output = lenslet(&text, &device, KEY);
    assert!(String::from_utf8_lossy(&output.stderr).contains("7 s"), "how long to wait is said");
    let ending = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    assert_eq!(refused(&text, &answering(ending), KEY), "server_unavailable");
    let strange = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    assert_eq!(refused(&text, &answering(strange), KEY), "server_failed");
    let cut = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    assert_eq!(refused(&["caption", &picture], &answering(cut), KEY), "server_unreachable");
    // A broken picture is the picture's fault.
    let folder = folder("broken");
    let broken = folder.join("broken.png");
    std::fs::write(&broken, b"\x89PNG\r\n\x1a\nnothing").unwrap();
    assert_eq!(refused(&["embed", "--image", broken.to_str().unwrap()], &there, KEY), "server_rejected");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_server_that_is_not_up_yet_is_told_from_one_that_is_dead() {
    let bound = runtime().block_on(Server::bind(App::new(config(&[("photo-search", "photo-search")]), None))).unwrap();
    let kind = refused(&["embed", "--text", "x"], &format!("server:http://{}", bound.address()), KEY);
    assert_eq!(kind, "server_unavailable");
}
