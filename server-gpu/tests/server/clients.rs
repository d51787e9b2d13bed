//! Clients that others wrote.

use crate::python::{python, run_script, schemathesis};
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
    schemathesis(python, shared(), &[]);
}
