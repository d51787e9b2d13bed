//! Values across the border.

use js_sys::{Array, Object, Reflect, Uint8Array, Uint8ClampedArray};
use lenslet::tasks::image::Pixels;
use wasm_bindgen::{JsCast, JsValue};

use crate::error::WebError;

/// The property `name` of `object`.
fn property(object: &JsValue, name: &str) -> Result<JsValue, WebError> {
    Reflect::get(object, &name.into())
        .ok()
        .filter(|value| !value.is_undefined())
        .ok_or_else(|| WebError::run("bad_call", format!("an object without {name:?}")))
}

/// `{width, height, rgba}`.
pub(crate) fn pixels(object: &JsValue) -> Result<Pixels, WebError> {
    let side = |name| {
        let number = property(object, name)?.as_f64();
        number
            .filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n))
            .map(|n| n as u32)
            .ok_or_else(|| WebError::run("bad_call", format!("{name} must be a whole number")))
    };
    let rgba = property(object, "rgba")?
        .dyn_into::<Uint8ClampedArray>()
        .map_err(|_| WebError::run("bad_call", "rgba must be a Uint8ClampedArray"))?;
    Ok(Pixels::from_rgba(side("width")?, side("height")?, rgba.to_vec())?)
}

/// An element of the list of files: `{name, bytes}`.
pub(crate) fn file(object: &JsValue) -> Result<(String, Uint8Array), WebError> {
    let name =
        property(object, "name")?.as_string().ok_or_else(|| WebError::run("bad_call", "name must be a string"))?;
    let bytes = property(object, "bytes")?
        .dyn_into::<Uint8Array>()
        .map_err(|_| WebError::run("bad_call", "bytes must be a Uint8Array"))?;
    Ok((name, bytes))
}

/// A list of strings.
pub(crate) fn strings(list: &Array) -> Result<Vec<String>, WebError> {
    list.iter()
        .map(|value| value.as_string().ok_or_else(|| WebError::run("bad_call", "texts must be strings")))
        .collect()
}

/// An object from its properties.
pub(crate) fn object<const N: usize>(properties: [(&str, JsValue); N]) -> Object {
    let object = Object::new();
    for (name, value) in properties {
        // Setting a property of a fresh object cannot fail.
        let _ = Reflect::set(&object, &name.into(), &value);
    }
    object
}
