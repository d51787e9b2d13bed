use axum::http::{Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lenslet::SessionOptions;
use lenslet::tasks::image::decode;
use lenslet_models::dual::{DualModel, Need};
use lenslet_models::folder::{ModelFolder, Precision};
use lenslet_server::config::ModelConfig;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::{Answer, get, post, send};
use crate::setup::{block_on, config, cosine, data_url, model, picture, shared, start, zoo};

const PATH: &str = "/v1/embeddings";

/// The vectors of an answer, in its order.
pub(crate) fn vectors(answer: &Answer) -> Vec<Vec<f32>> {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let json = answer.json();
    let numbers = |item: &Value| match &item["embedding"] {
        Value::String(text) => {
            let bytes = STANDARD.decode(text).unwrap();
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        }
        list => serde_json::from_value(list.clone()).unwrap(),
    };
    json["data"].as_array().unwrap().iter().map(numbers).collect()
}

fn directly(name: &str, files: &[Vec<u8>], texts: &[&str]) -> Vec<Vec<f32>> {
    let folder = ModelFolder::locate(name).unwrap();
    let mut loaded = DualModel::load(&folder, Precision::Auto, Need::Both, &SessionOptions::default()).unwrap();
    let pictures: Vec<_> = files.iter().map(|file| decode(file).unwrap()).collect();
    pollster::block_on(async {
        loaded.tower.settle_padding().await.unwrap();
        let mut all = match pictures.is_empty() {
            true => vec![],
            false => loaded.tower.encode_images(&pictures).await.unwrap(),
        };
        all.extend(loaded.tower.encode_texts(texts).await.unwrap());
        all
    })
}

#[test]
fn vectors_are_those_of_the_runtime() {
    for (name, file) in [("emoji-clip", "emoji/1F34E.png"), ("photo-search", PHOTO)] {
        let file = picture(file);
        let texts = ["a red apple", "two dogs on a beach, seen from above"];
        let wanted = directly(name, std::slice::from_ref(&file), &texts);
        block_on(async {
            let input = json!([data_url(&file), texts[0], {"type": "text", "text": texts[1]}]);
            let answer = post(shared(), PATH, &json!({"model": name, "input": input})).await;
            let got = vectors(&answer);
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!(cosine(got, wanted) >= 0.9999, "{name}: {}", cosine(got, wanted));
            }
            assert_eq!(got.len(), 3);
            assert!(answer.json()["usage"]["prompt_tokens"].as_u64().unwrap() > 6);
            assert_eq!(answer.json()["lenslet"]["fingerprint"].as_str().unwrap().len(), 32);
        });
    }
}

const PHOTO: &str = "photos/astronaut.jpg";

#[test]
fn texts_of_several_lengths_share_batches_and_change_nothing() {
    let Some(folder) = zoo("all-MiniLM-L6-v2/tiny") else { return };
    let folder = folder.to_str().unwrap();
    let texts = ["a cat", "a photo of a cat", "two dogs run over the green grass behind the house", "x"];
    let wanted = directly(folder, &[], &texts);
    block_on(async {
        let mut settings = config(&[]);
        settings.models = vec![ModelConfig { name: Some("texts".into()), ..model(folder) }];
        let server = start(settings).await;
        let metadata = get(server.address(), "/v2/models/texts").await.json();
        assert_eq!(metadata["parameters"]["joinable"], true, "{metadata}");
        let answer = post(server.address(), PATH, &json!({"model": "texts", "input": texts})).await;
        for (got, wanted) in vectors(&answer).iter().zip(&wanted) {
            assert!(cosine(got, wanted) >= 0.9999, "{}", cosine(got, wanted));
        }
        // Three of the four are of at most eight tokens: with one shape, they may be one batch.
        let hosted = server.app().models().unwrap().get("texts").unwrap();
        assert_eq!(hosted.bucket, Some(8));
    });
}

#[test]
fn base64_and_numbers_say_the_same() {
    block_on(async {
        let ask = |format| async move {
            let body = json!({"model": "emoji-clip", "input": ["a cat", "a dog"], "encoding_format": format});
            vectors(&post(shared(), PATH, &body).await)
        };
        assert_eq!(ask("base64").await, ask("float").await);
    });
}

#[test]
fn fewer_dimensions_are_the_first_ones_at_unit_length() {
    block_on(async {
        let whole = vectors(&post(shared(), PATH, &json!({"model": "emoji-clip", "input": "a cat"})).await).remove(0);
        let body = json!({"model": "emoji-clip", "input": "a cat", "dimensions": 64});
        let part = vectors(&post(shared(), PATH, &body).await).remove(0);
        assert_eq!(part.len(), 64);
        assert!(cosine(&part, &whole[..64]) > 0.999999);
        let length: f32 = part.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        for dimensions in [json!(0), json!(193), json!(-1), json!("64")] {
            let body = json!({"model": "emoji-clip", "input": "a cat", "dimensions": dimensions});
            let answer = post(shared(), PATH, &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST);
            assert_eq!(answer.json()["error"]["param"], "dimensions");
        }
    });
}

#[test]
fn token_ids_are_as_good_as_their_text() {
    let folder = ModelFolder::locate("emoji-clip").unwrap();
    let encoder = lenslet::tasks::text::TextEncoder::new(&folder.tokenizer().unwrap(), folder.config()).unwrap();
    let ids = encoder.ids("a red apple").unwrap();
    block_on(async {
        let text = post(shared(), PATH, &json!({"model": "emoji-clip", "input": "a red apple"})).await;
        let tokens = post(shared(), PATH, &json!({"model": "emoji-clip", "input": ids})).await;
        assert_eq!(vectors(&text), vectors(&tokens));
        assert_eq!(text.json()["usage"]["prompt_tokens"], ids.len());
        let beyond = post(shared(), PATH, &json!({"model": "emoji-clip", "input": [[9999999]]})).await;
        assert_eq!(beyond.status, StatusCode::BAD_REQUEST, "{:?}", beyond.body);
    });
}

#[test]
fn a_form_carries_files_as_they_are() {
    let file = picture("emoji/1F34E.png");
    let mut form = Vec::new();
    let mut field = |disposition: &str, bytes: &[u8]| {
        form.extend_from_slice(format!("--XYZ\r\nContent-Disposition: form-data; {disposition}\r\n\r\n").as_bytes());
        form.extend_from_slice(bytes);
        form.extend_from_slice(b"\r\n");
    };
    field("name=\"model\"", b"emoji-clip");
    field("name=\"image\"; filename=\"../../apple.png\"", &file);
    field("name=\"input\"", b"a red apple");
    form.extend_from_slice(b"--XYZ--\r\n");
    block_on(async {
        let kind = [("content-type", "multipart/form-data; boundary=XYZ")];
        let answer = send(shared(), Method::POST, PATH, &kind, form.clone()).await;
        let json = json!({"model": "emoji-clip", "input": [data_url(&file), "a red apple"]});
        assert_eq!(vectors(&answer), vectors(&post(shared(), PATH, &json).await));
        let half = form[..form.len() / 2].to_vec();
        let answer = send(shared(), Method::POST, PATH, &kind, half).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "form_broken"));
    });
}

#[test]
fn a_picture_that_was_seen_is_known_by_its_hash() {
    let file = picture("emoji/1F436.png");
    let hash: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    block_on(async {
        let by_hash = json!({"model": "emoji-clip", "input": ["a dog", {"type": "image_sha256", "sha256": hash}]});
        let unknown = post(shared(), PATH, &by_hash).await;
        assert_eq!((unknown.status, unknown.code().as_str()), (StatusCode::NOT_FOUND, "content_not_cached"));
        assert_eq!(unknown.json()["error"]["details"]["missing"], json!([1]));
        let whole = post(shared(), PATH, &json!({"model": "emoji-clip", "input": data_url(&file)})).await;
        let known = post(shared(), PATH, &by_hash).await;
        assert_eq!(vectors(&known)[1], vectors(&whole)[0]);
        // Another model has not seen it.
        let other = json!({"model": "photo-search", "input": [{"type": "image_sha256", "sha256": hash}]});
        assert_eq!(post(shared(), PATH, &other).await.code(), "content_not_cached");
    });
}

#[test]
fn a_model_that_writes_gives_no_vectors() {
    block_on(async {
        let answer = post(shared(), PATH, &json!({"model": "emoji-captioner", "input": "x"})).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "model_task"));
    });
}

#[test]
fn what_is_wrong_with_a_body_is_said() {
    block_on(async {
        let cases: [(&str, &str); 8] = [
            ("", "body_not_json"),
            ("{", "body_not_json"),
            ("[]", "body_not_object"),
            ("{}", "missing_field"),
            (r#"{"model": 3, "input": "x"}"#, "invalid_type"),
            (r#"{"model": "emoji-clip"}"#, "missing_field"),
            (r#"{"model": "emoji-clip", "input": "x", "encoding_format": "hex"}"#, "invalid_value"),
            (r#"{"model": "emoji-clip", "input": "https://example.com/a.png", "dimensions": 1.5}"#, "invalid_type"),
        ];
        for (body, code) in cases {
            let answer = send(shared(), Method::POST, PATH, &[], body).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, code), "{body}");
        }
    });
}
