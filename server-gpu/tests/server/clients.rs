//! Clients that others wrote.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::python::{python, run_script, schemathesis};
use crate::setup::{block_on, config, data_url, picture, picture_path, shared, start};

/// The calls that README.md shows, where there is curl.
#[test]
fn curl_is_served() {
    let base = format!("http://{}", shared());
    // A body may be longer than a command line: it comes through standard input.
    let curl = |arguments: &[&str], body: Option<serde_json::Value>| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("left out: curl: {error}");
                return None;
            }
        };
        let mut input = child.stdin.take().unwrap();
        body.map_or(Ok(()), |body| input.write_all(body.to_string().as_bytes())).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
        Some(text(&output.stdout))
    };
    let (embeddings, chat) = (format!("{base}/v1/embeddings"), format!("{base}/v1/chat/completions"));
    let send =
        |url: &str, body| curl(&[url, "-H", "content-type: application/json", "--data-binary", "@-"], Some(body));
    let apple = picture_path("emoji/1F34E.png");
    let url = data_url(&picture("emoji/1F34E.png"));
    let body = serde_json::json!({ "model": "emoji-clip", "input": ["a red apple", url] });
    let Some(answer) = send(&embeddings, body) else { return };
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let vector = |i: usize| answer["data"][i]["embedding"].as_array().unwrap().len();
    assert!(vector(0) > 0 && vector(0) == vector(1));
    let form =
        curl(&[&embeddings, "-F", "model=emoji-clip", "-F", &format!("image=@{}", apple.display())], None).unwrap();
    let form: serde_json::Value = serde_json::from_str(&form).unwrap();
    assert_eq!(form["data"][0]["embedding"], answer["data"][1]["embedding"]);
    let content = serde_json::json!([{ "type": "image_url", "image_url": { "url": url } }]);
    let messages = serde_json::json!([{ "role": "user", "content": content }]);
    let body = serde_json::json!({ "model": "emoji-captioner", "stream": true, "messages": messages });
    let stream = send(&chat, body).unwrap();
    assert!(stream.starts_with("data: {") && stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    let tower: serde_json::Value =
        serde_json::from_str(&curl(&[&format!("{base}/v2/models/emoji-clip.image")], None).unwrap()).unwrap();
    assert_eq!(tower["name"], "emoji-clip.image");
}

#[test]
fn openais_client_is_served() {
    let Some(python) = python() else { return };
    let mut config = config(&["emoji-clip", "emoji-captioner"]);
    config.api_keys = vec!["a-key-of-ours".into()];
    let server = block_on(start(config));
    let base = format!("http://{}", server.address());
    let picture = data_url(&picture("emoji/1F34E.png"));
    let script = include_str!("../clients/openai_client.py");
    assert!(!run_script(python, script, &[&base, "a-key-of-ours", &picture]).trim().is_empty());
}

#[test]
fn tritons_client_is_served() {
    let Some(python) = python() else { return };
    run_script(python, include_str!("../clients/triton_client.py"), &[&shared().to_string()]);
}

#[test]
fn what_schemathesis_makes_up_gets_no_5xx() {
    let Some(python) = python() else { return };
    schemathesis(python, shared(), &[]);
}
