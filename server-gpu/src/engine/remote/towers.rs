//! Towers of a server that speaks the Open Inference Protocol.

use axum::http::{Method, header};
use bytes::Bytes;
use lenslet::tensor::Tensor;
use serde_json::{Value, json};

use super::http::{Http, not_understood};
use crate::engine::{TensorSpec, TowerCall, TowerSpec};
use crate::error::ServeError;
use crate::oip::{HEADER_LENGTH, datatype, dtype};

/// A tower there.
pub(super) struct Tower {
    /// The protocol's name for it.
    pub(super) name: String,
    pub(super) spec: TowerSpec,
    /// What identifies its vectors, if the server says so.
    pub(super) fingerprint: Option<String>,
}

/// Looks a tower up, under the names that servers give the parts of a model.
pub(super) async fn find(http: &Http, model: &str, tower: &str) -> Result<Option<Tower>, ServeError> {
    let mut names = vec![format!("{model}.{tower}"), format!("{model}_{tower}"), format!("{model}-{tower}")];
    if tower == "model" {
        names.push(model.to_owned());
    }
    for name in names {
        if let Some(metadata) = http.get_json(&format!("/v2/models/{name}")).await? {
            let parameters = &metadata["parameters"];
            // What rows of a batch do to each other is the other server's matter, unless it says so.
            let alone = parameters["joinable"] == json!(false);
            let spec = TowerSpec::new(tower, list(&metadata, "inputs")?, list(&metadata, "outputs")?, alone);
            let fingerprint = parameters["fingerprint"].as_str().map(str::to_owned);
            return Ok(Some(Tower { name, spec, fingerprint }));
        }
    }
    Ok(None)
}

fn list(metadata: &Value, which: &str) -> Result<Vec<TensorSpec>, ServeError> {
    let wrong = || not_understood(format!("its metadata has no usable {which}"));
    let one = |value: &Value| {
        let sizes = value["shape"].as_array()?.iter();
        Some(TensorSpec {
            name: value["name"].as_str()?.to_owned(),
            dtype: dtype(value["datatype"].as_str()?)?,
            shape: sizes.map(|size| size.as_u64().and_then(|n| usize::try_from(n).ok())).collect(),
        })
    };
    metadata[which].as_array().ok_or_else(wrong)?.iter().map(|value| one(value).ok_or_else(wrong)).collect()
}

/// Runs a tower there, with binary tensors both ways.
pub(super) async fn run(http: &Http, name: &str, call: &TowerCall) -> Result<Vec<Tensor>, ServeError> {
    let input = |(name, tensor): &(String, Tensor)| {
        json!({
            "name": name,
            "datatype": datatype(tensor.dtype()),
            "shape": tensor.shape(),
            "parameters": { "binary_data_size": tensor.bytes().len() },
        })
    };
    let output = |name: &String| json!({ "name": name, "parameters": { "binary_data": true } });
    let head = json!({
        "inputs": call.inputs.iter().map(input).collect::<Vec<_>>(),
        "outputs": call.outputs.iter().map(output).collect::<Vec<_>>(),
    });
    let mut body = head.to_string().into_bytes();
    let headers = [
        (HEADER_LENGTH, body.len().to_string()),
        (header::CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
    ];
    call.inputs.iter().for_each(|(_, tensor)| body.extend_from_slice(tensor.bytes()));
    let answer = http.send(Method::POST, &format!("/v2/models/{name}/infer"), &headers, body.into()).await?;
    let length = answer.headers.get(HEADER_LENGTH).and_then(|n| n.to_str().ok()?.parse::<usize>().ok());
    let bytes = http.collect(answer.body).await?;
    outputs(&bytes, length, &call.outputs)
}

/// The tensors of an answer, in the order of `wanted`.
fn outputs(bytes: &Bytes, length: Option<usize>, wanted: &[String]) -> Result<Vec<Tensor>, ServeError> {
    let wrong = |what: &str| not_understood(format!("its answer {what}"));
    let length = length.unwrap_or(bytes.len());
    if length > bytes.len() {
        return Err(wrong("is shorter than it says"));
    }
    let (json, mut binary) = bytes.split_at(length);
    let json: Value = serde_json::from_slice(json).map_err(|e| wrong(&format!("is not JSON: {e}")))?;
    let list = json["outputs"].as_array().ok_or_else(|| wrong("has no outputs"))?;
    let mut tensors = Vec::with_capacity(list.len());
    for output in list {
        let name = output["name"].as_str().unwrap_or_default();
        let dtype = output["datatype"].as_str().and_then(dtype).ok_or_else(|| wrong("has an unknown datatype"))?;
        let shape: Option<Vec<usize>> =
            output["shape"].as_array().and_then(|list| list.iter().map(|n| Some(n.as_u64()? as usize)).collect());
        let shape = shape.ok_or_else(|| wrong("has an output without a shape"))?;
        let size = output["parameters"]["binary_data_size"].as_u64().unwrap_or(u64::MAX);
        let size = usize::try_from(size).ok().filter(|size| *size <= binary.len());
        let size = size.ok_or_else(|| wrong("has no binary data of an output"))?;
        let (own, rest) = binary.split_at(size);
        binary = rest;
        tensors.push((name, Tensor::from_bytes(dtype, &shape, own).map_err(|e| wrong(&e.to_string()))?));
    }
    let one = |name: &String| {
        let found = tensors.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor.clone());
        found.ok_or_else(|| wrong(&format!("has no output {name}")))
    };
    wanted.iter().map(one).collect()
}
