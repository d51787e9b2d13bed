//! What an embeddings request asks for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::body::{optional, string};
use super::picture;
use crate::embed::Input;
use crate::error::{Reason, ServeError};

/// How numbers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// As JSON numbers.
    #[default]
    Float,
    /// As base64 of little-endian 32-bit floats.
    Base64,
}

/// An embeddings request.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) model: String,
    pub(super) inputs: Vec<Input>,
    pub(super) encoding: Encoding,
    pub(super) dimensions: Option<usize>,
}

impl Encoding {
    pub(super) fn parse(text: &str) -> Result<Encoding, ServeError> {
        match text {
            "float" => Ok(Encoding::Float),
            "base64" => Ok(Encoding::Base64),
            _ => {
                let what = "encoding_format must be float or base64";
                Err(ServeError::bad_request("invalid_value", what).at("encoding_format"))
            }
        }
    }
}

/// The bounds of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) inputs: usize,
    pub(super) text_bytes: usize,
}

impl Bounds {
    pub(super) fn count(&self, inputs: usize) -> Result<(), ServeError> {
        if inputs == 0 {
            return Err(ServeError::bad_request("empty_input", "input is empty").at("input"));
        }
        if inputs > self.inputs {
            let what = format!("{inputs} inputs are more than the limit of {}; send them in parts", self.inputs);
            return Err(ServeError::new(Reason::TooLarge, "too_many_inputs", what).at("input"));
        }
        Ok(())
    }

    /// A text, or a picture in a data URL.
    pub(super) fn text(&self, text: &str) -> Result<Input, ServeError> {
        if picture::is_data_url(text) {
            return Ok(Input::Picture(picture::from_url(text)?));
        }
        if text.len() > self.text_bytes {
            let what = format!("a text of {} bytes is longer than the limit of {}", text.len(), self.text_bytes);
            return Err(ServeError::new(Reason::TooLarge, "text_too_long", what));
        }
        Ok(Input::Text(text.to_owned()))
    }
}

impl Request {
    /// Reads a JSON request.
    pub(super) fn parse(object: &Map<String, Value>, bounds: Bounds) -> Result<Request, ServeError> {
        let model = string(object, "model")?.to_owned();
        let encoding = optional(object, "encoding_format", "a string", Value::as_str)?;
        let dimensions = optional(object, "dimensions", "a whole number", Value::as_u64)?;
        let input = object.get("input").filter(|input| !input.is_null());
        let input = input.ok_or_else(|| ServeError::bad_request("missing_field", "input is missing").at("input"))?;
        Ok(Request {
            model,
            inputs: inputs(input, bounds)?,
            encoding: encoding.map_or(Ok(Encoding::Float), Encoding::parse)?,
            dimensions: dimensions.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        })
    }
}

/// A text, a list of token ids, or a list of any of these and of parts.
fn inputs(value: &Value, bounds: Bounds) -> Result<Vec<Input>, ServeError> {
    let list = match value {
        Value::Array(list) if list.first().is_some_and(Value::is_number) => {
            return Ok(vec![tokens(list, bounds).map_err(|e| e.at("input"))?]);
        }
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    bounds.count(list.len())?;
    let at = |index: usize| if value.is_array() { format!("input[{index}]") } else { "input".to_owned() };
    list.iter().enumerate().map(|(index, value)| input(value, bounds).map_err(|e| e.at(at(index)))).collect()
}

fn input(value: &Value, bounds: Bounds) -> Result<Input, ServeError> {
    match value {
        Value::String(text) => bounds.text(text),
        Value::Array(ids) => tokens(ids, bounds),
        Value::Object(part) => self::part(part, bounds),
        _ => Err(ServeError::bad_request(
            "invalid_type",
            "an input is a text, a list of token ids, or a part with a type (text, image_url, image_sha256)",
        )),
    }
}

fn part(part: &Map<String, Value>, bounds: Bounds) -> Result<Input, ServeError> {
    match string(part, "type")? {
        "text" => bounds.text(string(part, "text")?),
        "image_url" => Ok(Input::Picture(picture::from_url(image_url(part)?)?)),
        "image_sha256" => {
            let digest = hex(string(part, "sha256")?);
            let wrong = || ServeError::bad_request("invalid_value", "sha256 must be 64 hexadecimal digits");
            Ok(Input::PictureHash(digest.ok_or_else(wrong)?))
        }
        _ => Err(ServeError::bad_request("invalid_value", "type must be text, image_url or image_sha256")),
    }
}

/// The address in an `image_url` part: an object as OpenAI has it, or a plain string as some clients write.
pub(super) fn image_url(part: &Map<String, Value>) -> Result<&str, ServeError> {
    match part.get("image_url") {
        Some(Value::String(url)) => Ok(url),
        Some(Value::Object(object)) => string(object, "url"),
        _ => Err(ServeError::bad_request("missing_field", "image_url must be an object with a url")),
    }
}

fn tokens(ids: &[Value], bounds: Bounds) -> Result<Input, ServeError> {
    let wrong = || ServeError::bad_request("invalid_type", "token ids must be whole numbers from 0 up");
    if ids.is_empty() {
        return Err(ServeError::bad_request("empty_input", "a list of token ids is empty"));
    }
    if ids.len() > bounds.text_bytes {
        let what = format!("{} token ids are more than the limit of {}", ids.len(), bounds.text_bytes);
        return Err(ServeError::new(Reason::TooLarge, "text_too_long", what));
    }
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
    Ok(Input::Tokens(ids.iter().map(id).collect::<Result<_, _>>()?))
}

/// 32 bytes from 64 hexadecimal digits.
pub(super) fn hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BOUNDS: Bounds = Bounds { inputs: 3, text_bytes: 10 };

    fn parse(input: Value) -> Result<Vec<Input>, ServeError> {
        inputs(&input, BOUNDS)
    }

    #[test]
    fn all_forms_of_input_are_read() {
        let text = |text: &str| Input::Text(text.into());
        let picture = Input::Picture("hi".into());
        assert_eq!(parse(json!("a cat")).unwrap(), [text("a cat")]);
        assert_eq!(parse(json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(parse(json!([1, 2])).unwrap(), [Input::Tokens(vec![1, 2])]);
        assert_eq!(parse(json!([[1], [2]])).unwrap(), [Input::Tokens(vec![1]), Input::Tokens(vec![2])]);
        assert_eq!(parse(json!("data:image/png;base64,aGk=")).unwrap()[..], *std::slice::from_ref(&picture));
        let part = json!({"type": "image_url", "image_url": {"url": "data:;base64,aGk="}});
        assert_eq!(parse(json!([part, {"type": "text", "text": "x"}])).unwrap(), [picture, text("x")]);
        let hash = json!([{"type": "image_sha256", "sha256": "0a".repeat(32)}]);
        assert_eq!(parse(hash).unwrap(), [Input::PictureHash([10; 32])]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let cases = [
            (json!([]), "empty_input", "input"),
            (json!([[]]), "empty_input", "input[0]"),
            (json!(["a", "b", "c", "d"]), "too_many_inputs", "input"),
            (json!(["a", "much too long"]), "text_too_long", "input[1]"),
            (json!([1, -2]), "invalid_type", "input"),
            (json!([1, "a"]), "invalid_type", "input"),
            (json!(["a", 1]), "invalid_type", "input[1]"),
            (json!(7), "invalid_type", "input"),
            (json!([{"type": "video"}]), "invalid_value", "input[0]"),
            (json!([{"type": "image_sha256", "sha256": "xyz"}]), "invalid_value", "input[0]"),
            (json!([{"type": "image_url", "image_url": "http://10.0.0.1/"}]), "invalid_image_url", "input[0]"),
        ];
        for (input, code, param) in cases {
            let error = parse(input.clone()).unwrap_err();
            assert_eq!((&*error.code, error.param.as_deref()), (code, Some(param)), "{input}");
        }
    }
}
