//! The test suite's entry points: the cases of `lenslet-tests` in a browser. Not part of the package.
//!
//! Files come from the page; every entry answers with text, or throws what is wrong as text.

use std::cell::RefCell;
use std::collections::BTreeMap;

use js_sys::{Array, Uint8Array};
use lenslet::generate::Decoder;
use lenslet::gpu::{Gpu, GpuOptions};
use lenslet::onnx::{ImportOptions, NoExternalData};
use lenslet::tasks::dual_tower::DualTower;
use lenslet::tasks::image::decode;
use lenslet::tasks::tower::SessionTower;
use lenslet::tasks::writing::Captioner;
use lenslet::{CpuKernels, Session, SessionOptions};
use lenslet_tests::backend::{Backend, ignored};
use lenslet_tests::bundled::{self, Golden, Precision};
use lenslet_tests::continuation::{Continuations, Tolerance};
use lenslet_tests::full_size::Check;
use lenslet_tests::greedy::{self, Continued, Greedy};
use lenslet_tests::ranking::Ranking;
use lenslet_tests::{captions, integers, skeleton, zoo};
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

/// A list of `{name, bytes}` as files by name.
fn by_name(files: &Array) -> Result<BTreeMap<String, Vec<u8>>, WebError> {
    files.iter().map(|item| convert::file(&item).map(|(name, bytes)| (name, bytes.to_vec()))).collect()
}

fn captioner_precision(name: &str) -> Result<captions::Precision, JsValue> {
    captions::Precision::named(name).ok_or_else(|| fail(format!("there is no precision {name}")))
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

    /// The levels of instructions that products on the CPU may be limited to, the one in use first.
    pub fn levels() -> Vec<String> {
        CpuKernels::available().map(|kernels| kernels.name().to_owned()).collect()
    }

    /// The same suite, limited to a level.
    pub fn limited(&self, level: &str) -> Result<Suite, JsValue> {
        let kernels = CpuKernels::named(level).ok_or_else(|| fail(format!("there is no level {level}")))?;
        let options = SessionOptions { kernels, ..self.options.clone() };
        Ok(Suite { backend: self.backend, options, integers: RefCell::default() })
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
    /// It runs up to `batch` pictures or texts at once.
    pub fn tower(&self, files: Array, image: Vec<u8>, text: Vec<u8>, batch: usize) -> Result<SuiteTower, JsValue> {
        let tower = bundled::load(&by_name(&files)?, Some(&image), Some(&text), &self.options).map_err(fail)?;
        Ok(SuiteTower { tower: tower.with_batch(batch) })
    }

    /// Folders of the zoo with decoders whose greedy continuation is known.
    #[wasm_bindgen(js_name = greedyFolders)]
    pub fn greedy_folders() -> Vec<String> {
        greedy::FOLDERS.map(str::to_owned).to_vec()
    }

    /// Files that a decoder of a folder is continued with.
    #[wasm_bindgen(js_name = greedyFiles)]
    pub fn greedy_files(folder: &str) -> Vec<String> {
        greedy::beside(folder).iter().map(|name| (*name).to_owned()).collect()
    }

    /// Continues the prompt of a decoder of the zoo, with files (`{name, bytes}[]`) of its folder.
    pub async fn greedy(&self, file: String, json: Vec<u8>, files: Array) -> Result<String, JsValue> {
        let greedy = Greedy::parse(&json).map_err(fail)?;
        let files = by_name(&files)?;
        let read = |name: &str| files.get(name).cloned().ok_or_else(|| format!("{name} was not handed over"));
        let Continued { caches, growing, ties } = greedy.check(&file, &read, &self.options).await.map_err(fail)?;
        if growing != caches && greedy::copies(&file).is_none() {
            return Err(fail(format!("{growing} of {caches} caches grow in place")));
        }
        if self.backend == Backend::Wasm && !ties.is_empty() {
            // The CPU rounds as ONNX Runtime does; a GPU may be a step off.
            return Err(fail(ties.join("; ")));
        }
        Ok(format!("the same tokens; {growing} of {caches} caches grow in place. {}", ties.join("; ")))
    }

    /// Loads the emoji captioner, `fp32` or `int8`, of files (`{name, bytes}[]`) of its folder.
    pub fn captioner(&self, precision: String, files: Array) -> Result<SuiteCaptioner, JsValue> {
        let precision = captioner_precision(&precision)?;
        let captioner = captions::load(&by_name(&files)?, precision, &self.options).map_err(fail)?;
        Ok(SuiteCaptioner { captioner, precision, gpu: self.options.gpu.clone() })
    }

    /// Loads a language model.
    #[wasm_bindgen(js_name = languageModel)]
    pub fn language_model(&self, file: Vec<u8>) -> Result<SuiteLanguageModel, JsValue> {
        let decoder = Decoder::from_onnx(&file, &NoExternalData, self.options.clone()).map_err(fail)?;
        let (caches, growing) = decoder.caches();
        if growing != caches {
            return Err(fail(format!("{growing} of {caches} caches grow in place")));
        }
        Ok(SuiteLanguageModel { decoder, backend: self.backend })
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

    /// The pictures that [`SuiteTower::ranking`] wants for a list of which `count` pictures are asked.
    #[wasm_bindgen(js_name = rankingPictures)]
    pub fn ranking_pictures(json: Vec<u8>, count: usize) -> Result<Vec<String>, JsValue> {
        Ok(Ranking::parse(&json).map_err(fail)?.part(count).pictures)
    }

    /// Compares the best of these pictures (`Uint8Array[]`) for each query with ONNX Runtime's.
    pub async fn ranking(&self, json: Vec<u8>, count: usize, files: Array) -> Result<String, JsValue> {
        let ranking = Ranking::parse(&json).map_err(fail)?.part(count);
        let decoded: Result<Vec<_>, JsValue> =
            files.iter().map(|file| decode(&Uint8Array::new(&file).to_vec()).map_err(fail)).collect();
        let pictures = self.tower.encode_images(&decoded?).await.map_err(fail)?;
        let texts: Vec<&str> = ranking.queries.iter().map(String::as_str).collect();
        let queries = self.tower.encode_texts(&texts).await.map_err(fail)?;
        let worst = ranking.check(&pictures, &queries).map_err(fail)?;
        let (n, m) = (queries.len(), pictures.len());
        Ok(format!("the same ten best of {m} pictures for {n} queries, similarities within {worst:.1e}"))
    }
}

/// The emoji captioner under test.
#[wasm_bindgen]
pub struct SuiteCaptioner {
    captioner: Captioner,
    precision: captions::Precision,
    gpu: Option<Gpu>,
}

#[wasm_bindgen]
impl SuiteCaptioner {
    /// The files of the captioner's folder that [`Suite::captioner`] wants.
    pub fn files(precision: String) -> Result<Vec<String>, JsValue> {
        Ok(captioner_precision(&precision)?.files())
    }

    /// `count` of the pictures of `openmoji.json`.
    pub fn pictures(json: Vec<u8>, count: usize) -> Result<Vec<String>, JsValue> {
        Ok(captions::sample(&json, count).map_err(fail)?.into_iter().map(|emoji| emoji.file).collect())
    }

    /// Compares the captions of these pictures (`Uint8Array[]`) with ONNX Runtime's.
    pub async fn captions(&self, json: Vec<u8>, count: usize, files: Array) -> Result<String, JsValue> {
        let sample = captions::sample(&json, count).map_err(fail)?;
        let mut different = Vec::new();
        for (emoji, file) in sample.iter().zip(files.iter()) {
            let got = captions::caption(&self.captioner, &Uint8Array::new(&file).to_vec()).await.map_err(fail)?;
            let wanted = emoji.caption(self.precision);
            if got != wanted {
                different.push(format!("{}: {got:?}, ONNX Runtime {wanted:?}", emoji.file));
            }
        }
        let equal = sample.len() - different.len();
        let told = format!("{equal} of {} captions equal", sample.len());
        if equal as f64 >= self.precision.least() * sample.len() as f64 {
            Ok(told)
        } else {
            Err(fail(format!("{told}\n{}", different.join("\n"))))
        }
    }

    /// Drops captions in the middle and looks for memory that stays behind.
    pub async fn cancel(&self, file: Vec<u8>) -> Result<String, JsValue> {
        let held = || {
            let device = self.gpu.as_ref().map_or(0, |gpu| gpu.memory().in_use);
            device + crate::device::heap_bytes() as u64
        };
        captions::cancel(&self.captioner, &file, &held).await.map_err(fail)
    }
}

/// A language model under test.
#[wasm_bindgen]
pub struct SuiteLanguageModel {
    decoder: Decoder,
    backend: Backend,
}

#[wasm_bindgen]
impl SuiteLanguageModel {
    /// The names of the prompts for a graph.
    pub fn prompts(json: Vec<u8>, file: String) -> Result<Vec<String>, JsValue> {
        Ok(Continuations::parse(&json).and_then(|all| all.of(&file)).map_err(fail)?.into_keys().collect())
    }

    /// Continues a prompt with up to `most` tokens and compares with ONNX Runtime's.
    pub async fn follow(&self, json: Vec<u8>, file: String, prompt: String, most: usize) -> Result<String, JsValue> {
        let all = Continuations::parse(&json).and_then(|all| all.of(&file)).map_err(fail)?;
        let case = all.get(&prompt).ok_or_else(|| fail(format!("there is no prompt {prompt}")))?;
        let differences = case.follow(&self.decoder, most).await.map_err(fail)?;
        let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
        let count = most.min(case.len());
        let told = format!("{} of {count} tokens the same. {}", count - list.len(), list.join("; "));
        match Tolerance::of(&file, &prompt, self.backend).judge(&differences) {
            Ok(()) => Ok(told),
            Err(reason) => Err(fail(format!("{reason}\n{told}"))),
        }
    }
}
