//! Where a model runs, and how long it is there.

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::Object;
use lenslet::SessionOptions;
use lenslet::gpu::{Gpu, GpuOptions};
use wasm_bindgen::JsCast as _;

use crate::convert;
use crate::error::WebError;

/// `webgpu` or `wasm`.
pub(crate) struct Device {
    gpu: Option<Gpu>,
}

impl Device {
    /// Opens the device of that name.
    pub(crate) async fn open(name: &str) -> Result<Self, WebError> {
        let gpu = match name {
            "wasm" => None,
            "webgpu" => Some(Gpu::new(&GpuOptions::default()).await?),
            other => {
                let message = format!("no device {other:?}: webgpu or wasm");
                return Err(WebError::run("bad_call", message));
            }
        };
        Ok(Self { gpu })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        if self.is_gpu() { "webgpu" } else { "wasm" }
    }

    /// Whether it is a GPU, whose shaders have to be compiled.
    pub(crate) fn is_gpu(&self) -> bool {
        self.gpu.is_some()
    }

    /// The GPU's name; empty on WASM.
    pub(crate) fn adapter(&self) -> String {
        self.gpu.as_ref().map(|gpu| gpu.report().name.clone()).unwrap_or_default()
    }

    /// For sessions on this device.
    pub(crate) fn options(&self) -> SessionOptions {
        SessionOptions { gpu: self.gpu.clone(), ..SessionOptions::default() }
    }

    /// How much memory is held: `{host, device}` in bytes.
    pub(crate) fn bytes(&self) -> Object {
        let device = self.gpu.as_ref().map_or(0, |gpu| gpu.memory().allocated);
        convert::object([("host", heap_bytes().into()), ("device", (device as f64).into())])
    }

    /// Gives buffers that nothing uses back to the driver.
    pub(crate) fn free_unused(&self) {
        if let Some(gpu) = &self.gpu {
            gpu.clear_pool();
        }
    }

    /// An error of a run; a lost device is named as such, because it can be opened again.
    pub(crate) fn explain(&self, error: impl Into<WebError>) -> WebError {
        match self.gpu.as_ref().and_then(Gpu::lost) {
            Some(reason) => WebError::run("device_lost", format!("the GPU was lost: {reason}")),
            None => error.into(),
        }
    }
}

/// The size of the module's memory.
pub(crate) fn heap_bytes() -> f64 {
    let memory = wasm_bindgen::memory();
    let buffer = memory.dyn_ref::<js_sys::WebAssembly::Memory>().map(js_sys::WebAssembly::Memory::buffer);
    // Shared memory has a buffer of another class.
    let length = buffer.and_then(|buffer| js_sys::Reflect::get(&buffer, &"byteLength".into()).ok());
    length.and_then(|length| length.as_f64()).unwrap_or_default()
}

/// A model until it is disposed of. A call that is under way keeps it until it ends.
pub(crate) struct Held<M>(RefCell<Option<Rc<M>>>);

impl<M> Held<M> {
    pub(crate) fn new(model: M) -> Self {
        Self(RefCell::new(Some(Rc::new(model))))
    }

    /// The model, if it is still there.
    pub(crate) fn get(&self) -> Result<Rc<M>, WebError> {
        let held = self.0.borrow();
        held.clone().ok_or_else(|| WebError::run("disposed", "this model has been disposed of"))
    }

    /// Lets go of it.
    pub(crate) fn dispose(&self) {
        self.0.borrow_mut().take();
    }
}
