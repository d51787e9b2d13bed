//! Clients that others wrote.

use std::process::Command;

use crate::python::{python, run_script};
use crate::setup::{block_on, config, data_url, picture, shared, start};

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
    let mut command = Command::new(python.with_file_name("schemathesis"));
    command.args(["run", &format!("http://{}/openapi.json", shared())]);
    command.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--no-color"]);
    // Its reports and its examples stay below target.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
