//! A page of another origin, in a browser. Left out where there is no Chromium.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use serde_json::{Value, json};

use crate::setup::{block_on, config, start};

const KEY: &str = "the-pages-key";

/// Asks with a key and without one, and writes down what the page may see of it.
const PAGE: &str = r#"<!doctype html><pre id="out"></pre><script type="module">
const ask = async (headers) => {
  try {
    const body = JSON.stringify({ model: "emoji-clip", input: "a red apple" });
    const type = { "content-type": "application/json" };
    const answer = await fetch("http://SERVER/v1/embeddings", { method: "POST", headers: { ...type, ...headers }, body });
    const json = await answer.json();
    return { status: answer.status, id: answer.headers.get("x-request-id"), length: json.data?.[0].embedding.length, code: json.error?.code };
  } catch (error) {
    return { blocked: error.name };
  }
};
const key = { authorization: "Bearer KEY", "x-request-id": "from-a-page" };
document.getElementById("out").textContent = JSON.stringify([await ask(key), await ask({})]);
</script>"#;

/// Serves the page from an origin of its own, to whoever asks, until the test ends.
fn origin(listener: TcpListener, server: SocketAddr) {
    let page = PAGE.replace("SERVER", &server.to_string()).replace("KEY", KEY);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The head of a request is short; a browser sends it in one piece.
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n", page.len());
            let _ = stream.write_all(format!("{head}connection: close\r\n\r\n{page}").as_bytes());
        }
    });
}

/// What the page at this address wrote; `None` without Chromium.
fn visit(address: SocketAddr) -> Option<Value> {
    let profile = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}", address.port()));
    let program = std::env::var_os("LENSLET_CHROMIUM").unwrap_or_else(|| "chromium".into());
    let mut command = Command::new(program);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--virtual-time-budget=20000", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(format!("http://{address}/"));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("left out: no chromium: {error}");
            return None;
        }
    };
    let _ = std::fs::remove_dir_all(profile);
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = dom.split_once("<pre id=\"out\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let text = text.unwrap_or_else(|| panic!("{dom}\n{}", String::from_utf8_lossy(&output.stderr))).0;
    Some(serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {dom}")))
}

#[test]
fn a_page_on_the_list_is_served_with_a_key_and_any_other_is_not() {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (listed, other) = (bind(), bind());
    let (at, elsewhere) = (listed.local_addr().unwrap(), other.local_addr().unwrap());
    let mut settings = config(&["emoji-clip"]);
    settings.api_keys = vec![KEY.into()];
    settings.cors_origins = vec![format!("http://{at}")];
    let server = block_on(start(settings));
    origin(listed, server.address());
    origin(other, server.address());
    let Some(seen) = visit(at) else { return };
    let served = json!({"status": 200, "id": "from-a-page", "length": 192});
    assert_eq!(seen[0], served, "{seen}");
    assert_eq!((&seen[1]["status"], &seen[1]["code"]), (&json!(401), &json!("missing_api_key")), "{seen}");
    let seen = visit(elsewhere).unwrap();
    assert_eq!(seen, json!([{"blocked": "TypeError"}, {"blocked": "TypeError"}]));
}
