use axum::http::{Method, StatusCode};
use half::f16;
use lenslet::tasks::image::{Preprocessor, decode};
use lenslet_models::folder::ModelFolder;
use serde_json::{Value, json};

use crate::embeddings::vectors;
use crate::http::{Answer, get, post, send};
use crate::setup::{block_on, cosine, data_url, picture, shared};

const IMAGE: &str = "/v2/models/emoji-clip.image/infer";

/// JSON and the tensors behind it, with the header that says where the one ends.
async fn infer(path: &str, json: &Value, binary: &[u8]) -> Answer {
    let json = json.to_string();
    let length = json.len().to_string();
    let body = [json.as_bytes(), binary].concat();
    send(shared(), Method::POST, path, &[("inference-header-content-length", &length)], body).await
}

/// Outputs of an answer with their floats, wherever these are.
fn outputs(answer: &Answer) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let length = answer.headers.get("inference-header-content-length");
    let length = length.map_or(answer.body.len(), |n| n.to_str().unwrap().parse().unwrap());
    let (json, mut binary) = answer.body.split_at(length);
    let json: Value = serde_json::from_slice(json).unwrap();
    let mut read = |output: &Value| {
        assert_eq!(output["datatype"], "FP32");
        let values = match output["parameters"]["binary_data_size"].as_u64() {
            Some(size) => {
                let (own, rest) = binary.split_at(size as usize);
                binary = rest;
                own.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            None => serde_json::from_value(output["data"].clone()).unwrap(),
        };
        let shape = serde_json::from_value(output["shape"].clone()).unwrap();
        (output["name"].as_str().unwrap().to_owned(), shape, values)
    };
    json["outputs"].as_array().unwrap().iter().map(&mut read).collect()
}

pub(crate) fn pixels(file: &[u8]) -> (Vec<f32>, [usize; 4]) {
    let folder = ModelFolder::locate("emoji-clip").unwrap();
    let preprocessor = Preprocessor::from_config(folder.config().preprocessor.as_ref().unwrap()).unwrap();
    let batch = preprocessor.process(&decode(file).unwrap()).unwrap();
    (batch.data, batch.shape)
}

fn bytes<const N: usize>(values: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    values.flatten().collect()
}

#[test]
fn a_tower_takes_tensors_of_all_widths() {
    let file = picture("emoji/1F680.png");
    let (values, shape) = pixels(&file);
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let scale = (values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least) / 255.0;
    let zero = -least / scale;
    let quantized = |x: &f32| (x / scale + zero).round().clamp(0.0, 255.0) as u8;
    let forms = [
        ("FP32", bytes(values.iter().map(|x| x.to_le_bytes())), json!({}), 0.99999),
        ("FP16", bytes(values.iter().map(|x| f16::from_f32(*x).to_le_bytes())), json!({}), 0.9999),
        ("UINT8", values.iter().map(quantized).collect(), json!({"scale": scale, "zero_point": zero}), 0.999),
        (
            "INT8",
            bytes(values.iter().map(|x| (i16::from(quantized(x)) - 128) as i8).map(i8::to_le_bytes)),
            json!({"scale": scale, "zero_point": zero - 128.0}),
            0.999,
        ),
    ];
    block_on(async {
        let body = json!({"model": "emoji-clip", "input": data_url(&file)});
        let wanted = vectors(&post(shared(), "/v1/embeddings", &body).await).remove(0);
        for (datatype, binary, mut parameters, least) in forms {
            parameters["binary_data_size"] = binary.len().into();
            let input = json!({"name": "pixel_values", "datatype": datatype, "shape": shape, "parameters": parameters});
            for binary_output in [false, true] {
                let output = json!({"name": "image_embeds", "parameters": {"binary_data": binary_output}});
                let answer = infer(IMAGE, &json!({"id": "x", "inputs": [input], "outputs": [output]}), &binary).await;
                let outputs = outputs(&answer);
                let [(name, shape, vector)] = outputs.as_slice() else { panic!("{outputs:?}") };
                assert_eq!((name.as_str(), shape.as_slice()), ("image_embeds", &[1, 192][..]));
                assert!(cosine(vector, &wanted) >= least, "{datatype}: {}", cosine(vector, &wanted));
            }
        }
    });
}

#[test]
fn a_batch_gives_what_its_rows_give() {
    let files = [picture("emoji/1F680.png"), picture("emoji/1F34E.png")];
    let all: Vec<_> = files.iter().map(|file| pixels(file)).collect();
    block_on(async {
        let ask = |values: Vec<f32>, rows: usize| async move {
            let shape = json!([rows, 3, 112, 112]);
            let input = json!({"name": "pixel_values", "datatype": "FP32", "shape": shape, "data": values});
            outputs(&post(shared(), IMAGE, &json!({"inputs": [input]})).await).remove(0).2
        };
        let both = ask([all[0].0.clone(), all[1].0.clone()].concat(), 2).await;
        let (a, b) = (ask(all[0].0.clone(), 1).await, ask(all[1].0.clone(), 1).await);
        assert!(cosine(&both[..192], &a) > 0.99999 && cosine(&both[192..], &b) > 0.99999);
    });
}

#[test]
fn towers_describe_themselves() {
    block_on(async {
        let server = get(shared(), "/v2").await.json();
        assert_eq!(server["extensions"], json!(["binary_tensor_data"]));
        for path in ["/v2/models/emoji-clip.text", "/v2/models/emoji-clip.text/versions/1"] {
            let tower = get(shared(), path).await.json();
            let names: Vec<_> = tower["inputs"].as_array().unwrap().iter().map(|i| i["name"].clone()).collect();
            assert_eq!(
                (names, &tower["name"]),
                (vec![json!("input_ids"), json!("attention_mask")], &json!("emoji-clip.text"))
            );
            assert_eq!(tower["inputs"][0]["shape"], json!([-1, -1]));
        }
        assert_eq!(get(shared(), "/v2/models/emoji-clip.image/ready").await.status, StatusCode::OK);
        for path in
            ["/v2/models/emoji-clip", "/v2/models/emoji-clip.sound/ready", "/v2/models/emoji-clip.text/versions/2"]
        {
            let answer = get(shared(), path).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
            assert!(answer.json()["error"].is_string());
        }
    });
}

#[test]
fn malformed_requests_are_refused_with_a_reason() {
    let ids =
        |shape: Value, data: Value| json!({"name": "input_ids", "datatype": "INT64", "shape": shape, "data": data});
    let mask = json!({"name": "attention_mask", "datatype": "INT64", "shape": [1, 2], "data": [1, 1]});
    let good = ids(json!([1, 2]), json!([8190, 8191]));
    let binary = |size: usize| json!({"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "parameters": {"binary_data_size": size}});
    let path = "/v2/models/emoji-clip.text/infer";
    block_on(async {
        assert_eq!(post(shared(), path, &json!({"inputs": [mask, good]})).await.status, StatusCode::OK);
        let cases = [
            (json!({}), "missing_field"),
            (json!({"inputs": []}), "missing_input"),
            (json!({"inputs": [good]}), "missing_input"),
            (json!({"inputs": [good, good, mask]}), "invalid_request"),
            (json!({"inputs": [mask, ids(json!([1, 3]), json!([1, 2]))]}), "invalid_tensor"),
            (json!({"inputs": [mask, ids(json!([1, -2]), json!([1, 2]))]}), "invalid_type"),
            (json!({"inputs": [mask, ids(json!([1u64 << 62, 1u64 << 62]), json!([1, 2]))]}), "invalid_tensor"),
            (json!({"inputs": [mask, ids(json!([1, 2]), json!([1, "x"]))]}), "invalid_tensor"),
            (json!({"inputs": [mask, ids(json!([2]), json!([1, 2]))]}), "input_mismatch"),
            (json!({"inputs": [mask, ids(json!([2, 1]), json!([1, 2]))]}), "input_mismatch"),
            (json!({"inputs": [mask, ids(json!([1, 2]), json!([1, 99_999_999]))]}), "kernel"),
            (json!({"inputs": [mask, ids(json!([0, 2]), json!([]))]}), "input_mismatch"),
            (json!({"inputs": [mask, binary(16)]}), "invalid_tensor"),
            (json!({"inputs": [mask, good], "outputs": [{"name": "none"}]}), "unknown_output"),
            (
                json!({"inputs": [mask, good, {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}),
                "unknown_input",
            ),
            (json!({"inputs": [mask, good], "parameters": {"timeout": -1}}), "invalid_type"),
        ];
        for (body, code) in cases {
            let answer = post(shared(), path, &body).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, code), "{body}");
        }
        let long = vec![1; 5000];
        let many = json!({"name": "attention_mask", "datatype": "INT64", "shape": [1, 5000], "data": long});
        let answer = post(shared(), path, &json!({"inputs": [many, ids(json!([1, 5000]), json!(long))]})).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large"));
        let answer = infer(path, &json!({"inputs": [mask, binary(16)]}), &[0; 20]).await;
        assert_eq!(answer.code(), "invalid_request");
        let answer = send(shared(), Method::POST, path, &[("inference-header-content-length", "999")], "{}").await;
        assert_eq!(answer.code(), "invalid_request");
        let answer = send(shared(), Method::POST, path, &[("content-encoding", "gzip")], "{}").await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    });
}
