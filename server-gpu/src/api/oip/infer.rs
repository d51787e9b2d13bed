//! `/v2/models/{model}/infer`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use lenslet::tensor::Tensor;
use serde_json::{Value, json};

use super::request::{self, Request, Wanted};
use super::tensor::to_json;
use super::{ModelPath, VERSION, find};
use crate::api::answer::OipError;
use crate::api::body;
use crate::app::App;
use crate::context::Context;
use crate::error::ServeError;
use crate::oip::{HEADER_LENGTH, datatype};

/// Runs a tower.
pub(super) async fn infer(
    State(app): State<Arc<App>>,
    ModelPath(name): ModelPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, OipError> {
    let target = find(app.models()?, &name)?;
    request::check_encoding(&headers)?;
    let read = body::read(&app, &headers, body).await?;
    target.model.scheduler.admit()?;
    let context = Context::current();
    let (spec, held, mut read) = (target.spec.clone(), app.clone(), read);
    let parse = move || {
        let (json, binary) = request::split(&headers, &read.bytes)?;
        let object = body::json_object(&held, &mut read.share, json)?;
        Request::parse(&object, binary, &spec, context)
    };
    // Numbers in JSON take longer to read than most towers to run.
    let request = app.pool.run(parse).await?;
    let tensors = target.run(request.context, request.inputs, &request.outputs).await?;
    Ok(answer(&name, request.id, &request.outputs, &tensors)?)
}

fn answer(name: &str, id: Option<String>, wanted: &[Wanted], tensors: &[Tensor]) -> Result<Response, ServeError> {
    let mut binary: Vec<u8> = vec![];
    let output = |(wanted, tensor): (&Wanted, &Tensor)| {
        let mut output = json!({
            "name": wanted.name,
            "datatype": datatype(tensor.dtype()),
            "shape": tensor.shape(),
        });
        if wanted.binary {
            output["parameters"] = json!({ "binary_data_size": tensor.bytes().len() });
            binary.extend_from_slice(tensor.bytes());
        } else {
            output["data"] = to_json(tensor);
        }
        output
    };
    let outputs: Vec<Value> = wanted.iter().zip(tensors).map(output).collect();
    let mut object = json!({ "model_name": name, "model_version": VERSION, "outputs": outputs });
    if let Some(id) = id {
        object["id"] = id.into();
    }
    let mut bytes = object.to_string().into_bytes();
    let any_binary = wanted.iter().any(|wanted| wanted.binary);
    if !any_binary {
        return Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response());
    }
    let length = HeaderValue::from(bytes.len());
    bytes.extend_from_slice(&binary);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static(HEADER_LENGTH), length),
    ];
    Ok((headers, bytes).into_response())
}
