//! `cargo xtask bench web`: graphs on WASM in headless Chromium, in turns with onnxruntime-web.
//!
//! The page is `tests/browser/graphs/index.html`. It finds Lenslet's module under `/pkg-bench/`, the peer's `node_modules`
//! under `/peer/`, and the graphs under `/models/`.

use std::fs;

use serde_json::{Value, json};

use super::cases::Case;
use super::npm::Package;
use super::row::{self, Measured, Outcome, Subject};
use super::{Options, Peer, measured, models, python};
use crate::browser;
use crate::build_web::{self, Exports};
use crate::error::Error;
use crate::serve::{Server, Site};
use crate::setup::{self, Component};
use crate::workspace::Workspace;

const PEER: Package = Package { name: "onnxruntime-web", package: "onnxruntime-web", version: "1.30.0" };

/// Fresh browsers for each row, which share its rounds: loading is measured once in each.
const BROWSERS: usize = 3;

/// Threads of a row unless the caller says: most pages are not cross-origin isolated, and have one.
const THREADS: usize = 1;

/// The rows.
pub(super) fn rows(
    workspace: &Workspace,
    options: &Options,
    mut done: impl FnMut(&Value),
) -> Result<Vec<Value>, Error> {
    let cases = options.cases()?;
    options.peers(&[Peer::OnnxRuntimeWeb])?;
    eprintln!("Checking what the rows in the browser need:");
    setup::run(workspace, &[Component::Wasm, Component::Node, Component::NodePackages, Component::Chromium])?;
    let python = python::ensure(workspace)?;
    let peer = PEER.ensure(workspace)?;
    build_web::run(workspace, &build_web::Options { exports: Exports::Bench, no_wasm_opt: false })?;
    let models = models::folder(workspace);
    fs::create_dir_all(&models).map_err(Error::io("create", &models))?;
    let threads = options.threads_or(&[THREADS]);
    // Isolated only for rows with threads: neither runtime has any elsewhere.
    let site = Site::new(threads.iter().any(|&threads| threads > 1))
        .mount("/", &workspace.path("tests/browser"))?
        .mount("/pkg-bench/", &workspace.path("web/pkg-bench"))?
        .mount("/peer/", &peer)?
        .mount("/models/", &models)?;
    let site = Server::bind(site, 0)?.spawn();
    let mut rows = Vec::new();
    for case in &cases {
        let model = models::filled(workspace, &python, case.graph, case.precision)?;
        let model_bytes = fs::metadata(&model).map_err(Error::io("read", &model))?.len();
        for &threads in &threads {
            let row = measure(workspace, &site, case, threads, model_bytes, options.rounds_or(super::ROUNDS))?;
            done(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// One row, from several browsers.
fn measure(
    workspace: &Workspace,
    site: &str,
    case: &Case,
    threads: usize,
    model_bytes: u64,
    rounds: usize,
) -> Result<Value, Error> {
    let (mut product, mut peer, mut cosine) = (Side::default(), Side::default(), f64::INFINITY);
    let shares = shares(rounds, BROWSERS);
    for (index, rounds) in shares.iter().enumerate() {
        eprintln!("{} on {threads} threads in browser {} of {} ...", case.name(), index + 1, shares.len());
        let url = format!(
            "{site}/graphs/index.html?model={}&sizes={}&threads={threads}&rounds={rounds}&first={}",
            case.graph.file(case.precision),
            case.sizes().join(","),
            if index % 2 == 0 { "lenslet" } else { PEER.name },
        );
        let found = measured("the page", &mut browser::script(workspace, "bench-page.mjs", ["--url", &url])?)?;
        product.add(&found["lenslet"])?;
        peer.add(&found[PEER.name])?;
        cosine = cosine.min(found["cosine"].as_f64().unwrap_or(f64::NAN));
    }
    let subject = Subject { case, device: "wasm", threads, model_bytes, limit: &Value::Null };
    let mut product = product.measured();
    env!("CARGO_PKG_VERSION").clone_into(&mut product.version);
    let mut row = row::row(subject, &product, PEER.name, &Outcome::Measured(peer.measured()));
    // Of the two runtimes' outputs: both have done the same work.
    row["cosine"] = json!(cosine);
    Ok(row)
}

/// `rounds` spread over up to `count` browsers.
fn shares(rounds: usize, count: usize) -> Vec<usize> {
    let count = count.min(rounds);
    (0..count).map(|index| (rounds + index) / count).collect()
}

/// What pages found out about a runtime.
#[derive(Debug, Default)]
struct Side {
    loads: Vec<f64>,
    firsts: Vec<f64>,
    found: Measured,
}

impl Side {
    /// Adds what one page found.
    fn add(&mut self, page: &Value) -> Result<(), Error> {
        let strange = || Error::Failed(format!("the page's figures are not as expected: {page}"));
        let turns: Option<Vec<f64>> =
            page["turns"].as_array().and_then(|turns| turns.iter().map(Value::as_f64).collect());
        self.found.turns.extend(turns.ok_or_else(strange)?);
        self.loads.push(page["load_ms"].as_f64().ok_or_else(strange)?);
        self.firsts.push(page["first_ms"].as_f64().ok_or_else(strange)?);
        self.found.peak_bytes = self.found.peak_bytes.max(page["peak_bytes"].as_u64());
        self.found.module = page["module"].as_str().map(str::to_owned);
        page["version"].as_str().unwrap_or_default().clone_into(&mut self.found.version);
        Ok(())
    }

    fn measured(self) -> Measured {
        Measured { load_ms: row::median(&self.loads), first_ms: row::median(&self.firsts), ..self.found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_spread_over_browsers() {
        assert_eq!(shares(20, 3), [6, 7, 7]);
        assert_eq!(shares(2, 3), [1, 1]);
        assert_eq!(shares(1, 3), [1]);
    }

    #[test]
    fn pages_add_up() {
        let page = |load: f64, bytes: u64| {
            json!({
                "load_ms": load, "first_ms": 7, "turns": [2.0, 3.0], "peak_bytes": bytes, "module": "relaxed",
                "version": "1.2",
            })
        };
        let mut side = Side::default();
        for (load, bytes) in [(30.0, 5), (10.0, 9), (20.0, 7)] {
            side.add(&page(load, bytes)).unwrap();
        }
        let wanted = Measured {
            version: "1.2".into(),
            module: Some("relaxed".into()),
            load_ms: 20.0,
            first_ms: 7.0,
            peak_bytes: Some(9),
            turns: [2.0, 3.0].repeat(3),
        };
        assert_eq!(side.measured(), wanted);
        assert!(Side::default().add(&json!({ "load_ms": 1 })).is_err());
    }
}
