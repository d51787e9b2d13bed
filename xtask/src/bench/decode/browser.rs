//! The npm package beside transformers.js, both on WASM in headless Chromium, each in a browser of its own.
//!
//! The page is `tests/browser/decode/index.html`. It finds the package under `/package/`, the peer's `node_modules` under
//! `/peer/`, and the model under `/models/`, laid out as both look for it.

use serde_json::{Value, json};

use super::super::measured;
use super::super::npm::Package;
use super::{Case, Model, NEW_TOKENS, Pair, Turn};
use crate::error::Error;
use crate::process;
use crate::serve::{Server, Site};
use crate::setup::{self, Component};
use crate::workspace::Workspace;
use crate::{browser, build_web};

/// The model's name in addresses.
const MODEL: &str = "smollm2";
const PEER: Package = Package { name: "transformers.js", package: "@huggingface/transformers", version: "4.3.1" };

/// What transformers.js wants beside the graph.
const BESIDE: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

/// A page that measures either.
pub(super) struct Browser {
    workspace: Workspace,
    site: String,
}

impl Browser {
    pub(super) fn prepare(workspace: &Workspace, model: &Model) -> Result<Self, Error> {
        if let Some(name) = BESIDE.iter().find(|name| !model.folder.join(name).is_file()) {
            return Err(Error::Missing {
                what: "a file of SmolLM2-135M-Instruct",
                why: format!("{} has no {name}, which transformers.js wants", model.folder.display()),
                remedy: "copy it from shared/smollm2-135m-instruct".to_owned(),
            });
        }
        eprintln!("Checking what the rows in the browser need:");
        setup::run(workspace, &[Component::Wasm, Component::Node, Component::NodePackages, Component::Chromium])?;
        let peer = PEER.ensure(workspace)?;
        build_web::run(workspace, &build_web::Options::default())?;
        process::run("building the npm package", workspace.npm().args(["run", "--silent", "build"]))?;
        // Not cross-origin isolated, as most pages are not: neither runtime has threads then.
        let site = Site::new(false)
            .mount("/", &workspace.path("tests/browser"))?
            .mount("/package/", &workspace.path("web"))?
            .mount("/peer/", &peer)?
            .mount(&format!("/models/{MODEL}/"), &model.folder)?
            // Where transformers.js looks for graphs.
            .mount(&format!("/models/{MODEL}/onnx/"), &model.folder)?;
        Ok(Self { workspace: workspace.clone(), site: Server::bind(site, 0)?.spawn() })
    }

    /// What the page finds out about a runtime.
    fn measure(&self, runtime: &str, prompt: &str) -> Result<Value, Error> {
        let url = format!(
            "{}/decode/index.html?runtime={runtime}&model={MODEL}&tokens={NEW_TOKENS}&prompt={}",
            self.site,
            prompt.replace(' ', "+")
        );
        let mut command = browser::script(&self.workspace, "bench-page.mjs", ["--url", &url])?;
        let found = measured(runtime, &mut command)?;
        eprintln!("  {runtime}: {found}");
        Ok(found)
    }
}

impl Pair for Browser {
    fn turn(&self, _: &Model, case: &Case, _: usize) -> Result<Turn, Error> {
        let prompt = case.prompt();
        let (product, peer) = (self.measure("lenslet", &prompt)?, self.measure(PEER.name, &prompt)?);
        if product["prompt_tokens"] != peer["prompt_tokens"] {
            return Err(Error::Failed(format!("the two do not have the same prompt: {product}, {peer}")));
        }
        // A near-tie may part them; then they still did the same work.
        if product["text"] != peer["text"] {
            eprintln!("  the two wrote different texts");
        }
        let facts = json!({
            "device": "wasm",
            "module": product["module"],
            "peer": PEER.name,
            "peer_version": PEER.version,
        });
        Ok(Turn { product: rate(&product)?, peer: rate(&peer)?, facts })
    }
}

fn rate(found: &Value) -> Result<f64, Error> {
    let rate = found["tokens_per_second"].as_f64();
    rate.ok_or_else(|| Error::Failed(format!("the page gave no tokens a second: {found}")))
}
