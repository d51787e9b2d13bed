//! Values across the border.

use js_sys::{Array, Object, Reflect, Uint8Array, Uint8ClampedArray};
use lenslet::generate::Message;
use lenslet::tasks::image::Pixels;
use wasm_bindgen::{JsCast, JsValue};

use crate::error::WebError;

/// The property `name` of `object`, if it is there.
fn optional(object: &JsValue, name: &str) -> Option<JsValue> {
    Reflect::get(object, &name.into()).ok().filter(|value| !value.is_undefined())
}

/// The property `name` of `object`.
fn property(object: &JsValue, name: &str) -> Result<JsValue, WebError> {
    optional(object, name).ok_or_else(|| WebError::run("bad_call", format!("an object without {name:?}")))
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

/// A number under that name, if there is one.
pub(crate) fn number(object: &JsValue, name: &str) -> Result<Option<f64>, WebError> {
    match optional(object, name) {
        None => Ok(None),
        Some(value) => {
            let number = value.as_f64();
            number.map(Some).ok_or_else(|| WebError::run("bad_call", format!("{name} must be a number")))
        }
    }
}

/// A whole number under that name, not negative, if there is one.
pub(crate) fn whole_number(object: &JsValue, name: &str) -> Result<Option<u64>, WebError> {
    match number(object, name)? {
        None => Ok(None),
        Some(number) if number.fract() == 0.0 && (0.0..=MAX_SAFE_INTEGER).contains(&number) => Ok(Some(number as u64)),
        Some(number) => Err(WebError::run("bad_call", format!("{name} is {number}; it must be a whole number"))),
    }
}

/// Beyond this, numbers do not hold every integer.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// A list of token ids under that name, if there is one.
pub(crate) fn optional_tokens(object: &JsValue, name: &str) -> Result<Option<Vec<u32>>, WebError> {
    let Some(value) = optional(object, name) else { return Ok(None) };
    let wrong = || WebError::run("bad_call", format!("{name} must be a list of token ids"));
    let list = value.dyn_into::<Array>().map_err(|_| wrong())?;
    let id = |value: JsValue| value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(n));
    list.iter().map(|value| id(value).map(|n| n as u32).ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
}

/// A string under that name, if there is one.
pub(crate) fn optional_string(object: &JsValue, name: &str) -> Result<Option<String>, WebError> {
    let Some(value) = optional(object, name) else { return Ok(None) };
    value.as_string().map(Some).ok_or_else(|| WebError::run("bad_call", format!("{name} must be a string")))
}

/// A list of strings under that name; empty if there is none.
pub(crate) fn optional_strings(object: &JsValue, name: &str) -> Result<Vec<String>, WebError> {
    match optional(object, name) {
        None => Ok(Vec::new()),
        Some(value) => {
            let list = value.dyn_into::<Array>();
            strings(&list.map_err(|_| WebError::run("bad_call", format!("{name} must be a list of strings")))?)
        }
    }
}

/// A list of `{role, content}`.
pub(crate) fn messages(list: &Array) -> Result<Vec<Message>, WebError> {
    let text = |message: &JsValue, name| {
        property(message, name)?
            .as_string()
            .ok_or_else(|| WebError::run("bad_call", format!("a message's {name} must be a string")))
    };
    list.iter().map(|message| Ok(Message::text(text(&message, "role")?, text(&message, "content")?))).collect()
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
