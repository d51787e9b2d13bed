//! A graph by itself, for `cargo xtask bench web`. Not part of the package.

use js_sys::{Array, Float32Array, Object, Uint8Array};
use lenslet::onnx::{ImportOptions, ModelFile, NoExternalData};
use lenslet::tensor::{DType, Tensor};
use lenslet::{Session, SessionOptions};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert;
use crate::error::WebError;
use crate::files::InPage;

/// A loaded graph and its inputs.
#[wasm_bindgen]
pub struct BenchGraph {
    session: Session,
    inputs: Vec<(String, Tensor)>,
}

#[wasm_bindgen]
impl BenchGraph {
    /// Reads a graph, as the package does with a model's.
    pub fn load(file: Uint8Array) -> Result<BenchGraph, JsValue> {
        let options = SessionOptions::default();
        let file = ModelFile::new(InPage(file), NoExternalData).map_err(|error| JsValue::from(error.to_string()))?;
        let session = Session::from_onnx(file.graph(), &file, &ImportOptions::default(), options);
        Ok(BenchGraph { session: session.map_err(WebError::from)?, inputs: Vec::new() })
    }

    /// What it takes: `{name, type, shape: (number | string)[]}[]`.
    pub fn inputs(&self) -> Array {
        let describe = |info: &lenslet::TensorInfo| -> Object {
            let size = |dim: &lenslet::graph::Dim| match dim.as_const() {
                Some(size) => JsValue::from(size as f64),
                None => JsValue::from(format!("{dim:?}")),
            };
            let shape: Array = info.shape.iter().map(size).collect();
            convert::object([
                ("name", (&*info.name).into()),
                ("type", info.dtype.name().into()),
                ("shape", shape.into()),
            ])
        };
        self.session.inputs().iter().map(describe).collect()
    }

    /// Sets an input of type f32 or i64 from its bytes.
    pub fn feed(&mut self, name: String, shape: Vec<usize>, bytes: Vec<u8>) -> Result<(), JsValue> {
        let info = self.session.inputs().iter().find(|info| *info.name == *name);
        let dtype = info.map_or(DType::F32, |info| info.dtype);
        let tensor = Tensor::from_bytes(dtype, &shape, &bytes);
        let tensor = tensor.map_err(|error| WebError::run("bad_call", error.to_string()))?;
        self.inputs.push((name, tensor));
        Ok(())
    }

    /// Runs it. Returns the elements of the first output.
    pub async fn run(&self) -> Result<Float32Array, JsValue> {
        let inputs: Vec<(&str, Tensor)> = self.inputs.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
        let outputs =
            self.session.run_async(&inputs).await.map_err(|error| WebError::from(lenslet::Error::from(error)))?;
        let elements = outputs.first().and_then(|(_, tensor)| tensor.as_slice::<f32>().ok());
        Ok(Float32Array::from(elements.unwrap_or_default()))
    }
}
