//! The test suite's entry points: the cases of `lenslet-tests` in a browser. Not part of the package.
//!
//! Files come from the page; every entry answers with text, or throws what is wrong as text.

use std::cell::RefCell;
use std::collections::BTreeMap;

use js_sys::Array;
use lenslet::gpu::{Gpu, GpuOptions};
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tasks::dual_tower::DualTower;
use lenslet::tasks::image::decode;
use lenslet::tasks::tower::SessionTower;
use lenslet::{Session, SessionOptions};
use lenslet_tests::backend::{Backend, ignored};
use lenslet_tests::bundled::{self, Golden, Precision};
use lenslet_tests::full_size::Check;
use lenslet_tests::ranking::Ranking;
use lenslet_tests::{integers, skeleton, zoo};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert;
use crate::error::WebError;

/// The suite on one device.
#[wasm_bindgen]
pub struct Suite {
    backend: Backend,
    options: SessionOptions,
    integers: RefCell<Vec<integers::Case>>,
}

fn fail(reason: impl ToString) -> JsValue {
    JsValue::from_str(&reason.to_string())
}

#[wasm_bindgen]
impl Suite {
    /// Opens the device, `wasm` or `webgpu`.
    pub async fn open(device: String) -> Result<Suite, JsValue> {
        let backend = Backend::named(&device).ok_or_else(|| fail(format!("there is no device {device}")))?;
        let mut options = SessionOptions::default();
        if backend == Backend::WebGpu {
            options.gpu = Some(Gpu::new(&GpuOptions::default()).await.map_err(fail)?);
        }
        Ok(Suite { backend, options, integers: RefCell::default() })
    }

    /// The GPU's name; empty on WASM.
    pub fn adapter(&self) -> String {
        self.options.gpu.as_ref().map(|gpu| gpu.report().name.clone()).unwrap_or_default()
    }

    /// Why a graph is known to miss here, if it is.
    pub fn ignored(&self, name: &str) -> Option<String> {
        ignored(self.backend, name).map(str::to_owned)
    }

    /// Compares a graph of the zoo with its golden.
    pub async fn graph(&self, name: String, model: Vec<u8>, golden: Vec<u8>) -> Result<String, JsValue> {
        let outcome = zoo::run(&name, &model, &golden, &self.options).await;
        match outcome.reason() {
            None => Ok(format!("cosine {:.6}", outcome.cosine().unwrap_or(1.0))),
            Some(reason) => Err(fail(reason)),
        }
    }

    /// Makes the cases of 8-bit products and names them.
    #[wasm_bindgen(js_name = makeIntegers)]
    pub fn make_integers(&self, rounds: usize) -> Vec<String> {
        let cases = integers::cases(rounds);
        let names = cases.iter().map(|case| case.name.clone()).collect();
        *self.integers.borrow_mut() = cases;
        names
    }

    /// Runs the next of these cases, the last named first.
    #[wasm_bindgen(js_name = nextInteger)]
    pub async fn next_integer(&self) -> Result<String, JsValue> {
        let case = self.integers.borrow_mut().pop().ok_or_else(|| fail("there is no case left"))?;
        let on_gpu = case.run(&self.options).await.map_err(fail)?;
        Ok(if on_gpu { "exact, by a GPU kernel" } else { "exact" }.to_owned())
    }

    /// Loads a dual tower of its configuration files (`{name, bytes}[]`) and its graphs.
    pub fn tower(&self, files: Array, image: Vec<u8>, text: Vec<u8>) -> Result<SuiteTower, JsValue> {
        let files: Result<BTreeMap<String, Vec<u8>>, WebError> =
            files.iter().map(|item| convert::file(&item).map(|(name, bytes)| (name, bytes.to_vec()))).collect();
        let tower = bundled::load(&files?, Some(&image), Some(&text), &self.options).map_err(fail)?;
        Ok(SuiteTower { tower, pictures: RefCell::default() })
    }

    /// Fills a skeleton, runs the graph and compares with a `check.json`.
    #[wasm_bindgen(js_name = fullSize)]
    pub async fn full_size(&self, graph: String, skeleton: Vec<u8>, check: Vec<u8>) -> Result<String, JsValue> {
        let check = Check::parse(&check, &graph).map_err(fail)?;
        let model = skeleton::fill(&skeleton).map_err(fail)?;
        let session = Session::from_onnx(&model, &NoExternalData, &ImportOptions::default(), self.options.clone());
        drop(model);
        let session = session.map_err(fail)?;
        let worst = check.run(&session).await.map_err(fail)?;
        Ok(format!("within {worst:.1e} of the mean magnitude"))
    }
}

/// A dual tower under test.
#[wasm_bindgen]
pub struct SuiteTower {
    tower: DualTower<SessionTower>,
    pictures: RefCell<Vec<Vec<f32>>>,
}

#[wasm_bindgen]
impl SuiteTower {
    /// Names of the files that [`Suite::tower`] wants, where they exist.
    #[wasm_bindgen(js_name = configFiles)]
    pub fn config_files() -> Vec<String> {
        bundled::config_files().map(str::to_owned).collect()
    }

    /// Compares picture `n` of a golden of the bundled models.
    pub async fn picture(
        &self,
        listing: Vec<u8>,
        tensors: Vec<u8>,
        n: usize,
        file: Vec<u8>,
    ) -> Result<String, JsValue> {
        let golden = Golden::parse(&listing, tensors).map_err(fail)?;
        let cosine = golden.check_picture(&self.tower, n, &file, Precision::Bundled).await.map_err(fail)?;
        Ok(format!("cosine {cosine:.6}"))
    }

    /// Compares text `n` of a golden of the bundled models.
    pub async fn text(&self, listing: Vec<u8>, tensors: Vec<u8>, n: usize) -> Result<String, JsValue> {
        let golden = Golden::parse(&listing, tensors).map_err(fail)?;
        let cosine = golden.check_text(&self.tower, n, Precision::Bundled).await.map_err(fail)?;
        Ok(format!("cosine {cosine:.6}"))
    }

    /// Embeds a picture for [`SuiteTower::ranking`].
    pub async fn add(&self, file: Vec<u8>) -> Result<(), JsValue> {
        let pixels = decode(&file).map_err(fail)?;
        let vectors = self.tower.encode_images(&[pixels]).await.map_err(fail)?;
        self.pictures.borrow_mut().extend(vectors);
        Ok(())
    }

    /// Compares the best of the pictures that were added, in the order of the list, with ONNX Runtime's.
    pub async fn ranking(&self, json: Vec<u8>) -> Result<String, JsValue> {
        let ranking = Ranking::parse(&json).map_err(fail)?;
        let mut queries = Vec::new();
        for query in &ranking.queries {
            queries.extend(self.tower.encode_texts(&[query.as_str()]).await.map_err(fail)?);
        }
        let worst = ranking.check(&self.pictures.borrow(), &queries).map_err(fail)?;
        Ok(format!("the same ten best for {} queries, similarities within {worst:.1e}", queries.len()))
    }
}
