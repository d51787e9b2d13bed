use axum::http::StatusCode;
use lenslet::SessionOptions;
use lenslet::tasks::image::decode;
use lenslet::tasks::writing::WritingOptions;
use lenslet_models::folder::{ModelFolder, Precision};
use lenslet_models::writing::load_captioner;
use serde_json::{Value, json};

use crate::http::post;
use crate::setup::{block_on, data_url, picture, shared};

const PATH: &str = "/v1/chat/completions";

pub(crate) fn caption_request(file: &[u8], more: &Value) -> Value {
    let picture = json!({"type": "image_url", "image_url": {"url": data_url(file)}});
    let content = json!([{"type": "text", "text": "What is this?"}, picture]);
    let mut request = json!({"model": "emoji-captioner", "messages": [{"role": "user", "content": content}]});
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

fn directly(file: &[u8]) -> (String, Vec<u32>) {
    let folder = ModelFolder::locate("emoji-captioner").unwrap();
    let captioner = load_captioner(&folder, Precision::Auto, &SessionOptions::default()).unwrap();
    pollster::block_on(async {
        let mut stream = captioner.caption(&decode(file).unwrap(), &WritingOptions::default()).await.unwrap();
        let text = stream.rest().await.unwrap();
        (text, stream.tokens().to_vec())
    })
}

#[test]
fn a_caption_is_that_of_the_runtime() {
    let file = picture("emoji/1F34E.png");
    let (text, tokens) = directly(&file);
    block_on(async {
        let answer = post(shared(), PATH, &caption_request(&file, &json!({}))).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        let json = answer.json();
        assert_eq!(json["choices"][0]["message"]["content"], text);
        assert_eq!(json["choices"][0]["finish_reason"], "stop");
        assert_eq!(json["lenslet"]["tokens"], json!(tokens));
        assert_eq!(json["usage"]["completion_tokens"], tokens.len());
    });
}

#[test]
fn a_stream_has_the_same_text_and_ends_with_its_usage() {
    let file = picture("emoji/1F34E.png");
    let (text, tokens) = directly(&file);
    block_on(async {
        let more = json!({"stream": true, "stream_options": {"include_usage": true}});
        let answer = post(shared(), PATH, &caption_request(&file, &more)).await;
        assert_eq!(answer.headers["content-type"], "text/event-stream");
        let events = answer.events();
        let (done, chunks) = events.split_last().unwrap();
        assert_eq!(done, "[DONE]");
        let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
        let (usage, chunks) = chunks.split_last().unwrap();
        assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(tokens.len())));
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let pieces = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(pieces.collect::<String>(), text);
        assert!(chunks.len() > 2, "{chunks:?}");
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    });
}

#[test]
fn captions_at_once_are_those_of_captions_in_turn() {
    let files: Vec<Vec<u8>> =
        ["1F34E", "1F436", "1F431", "1F680", "2615"].iter().map(|name| picture(&format!("emoji/{name}.png"))).collect();
    let wanted: Vec<String> = files.iter().map(|file| directly(file).0).collect();
    block_on(async {
        let asks = files.iter().map(|file| async {
            post(shared(), PATH, &caption_request(file, &json!({}))).await.json()["choices"][0]["message"]["content"]
                .as_str()
                .map(str::to_owned)
        });
        let got: Vec<String> = futures_util::future::join_all(asks).await.into_iter().flatten().collect();
        assert_eq!(got, wanted);
    });
}

/// Text and tokens of a stream's chunks, and the completion tokens that its usage says.
fn gathered(events: &[String]) -> (Vec<(String, Vec<u32>)>, u64) {
    let chunks: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let usage = chunks.iter().find_map(|chunk| chunk["usage"]["completion_tokens"].as_u64()).unwrap_or(0);
    let piece = |chunk: &Value| {
        let tokens = chunk["lenslet"]["tokens"].as_array()?;
        let text = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        Some((text.to_owned(), tokens.iter().filter_map(|id| Some(id.as_u64()? as u32)).collect()))
    };
    (chunks.iter().filter_map(piece).collect(), usage)
}

/// Cuts a caption behind each of its chunks and has it gone on with on a server: nothing is said twice, nothing is left out.
pub(crate) fn resumes_everywhere(server: std::net::SocketAddr) {
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert!(resumes(server, &stream) > 3);
    let drawn = (0..6).map(|seed| {
        let mut drawn = stream.clone();
        (drawn["temperature"], drawn["seed"], drawn["max_tokens"]) = (1.2.into(), seed.into(), 12.into());
        resumes(server, &drawn)
    });
    assert!(drawn.max() > Some(3));
}

/// The number of chunks.
fn resumes(server: std::net::SocketAddr, stream: &Value) -> usize {
    let file = picture("emoji/1F32C.png");
    block_on(async {
        let (chunks, count) = gathered(&post(server, PATH, &caption_request(&file, stream)).await.events());
        let whole: String = chunks.iter().map(|(text, _)| text.as_str()).collect();
        for cut in 1..chunks.len() {
            let shown: String = chunks[..cut].iter().map(|(text, _)| text.as_str()).collect();
            let tokens: Vec<u32> = chunks[..cut].iter().flat_map(|(_, tokens)| tokens.clone()).collect();
            let rest = |own: Value| {
                let mut body = caption_request(&file, stream);
                body["lenslet"] = own;
                async move { gathered(&post(server, PATH, &body).await.events()) }
            };
            let (more, total) = rest(json!({"resume_tokens": tokens})).await;
            let text: String = more.iter().map(|(text, _)| text.as_str()).collect();
            assert_eq!((format!("{shown}{text}"), total), (whole.clone(), count), "cut at {cut}");
            let all: Vec<u32> = tokens.into_iter().chain(more.into_iter().flat_map(|(_, tokens)| tokens)).collect();
            assert_eq!(all, chunks.iter().flat_map(|(_, tokens)| tokens.clone()).collect::<Vec<u32>>());
            // Another tokenizer may cut the words elsewhere; what is shown is not said again all the same.
            let (more, _) = rest(json!({"resume_text": shown})).await;
            let text: String = more.iter().map(|(text, _)| text.as_str()).collect();
            assert!(!text.starts_with(shown.trim()) || shown.trim().is_empty(), "{shown:?} then {text:?}");
        }
        chunks.len()
    })
}

#[test]
fn a_caption_that_was_cut_goes_on_behind_what_was_shown() {
    resumes_everywhere(shared());
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    let file = picture("emoji/1F34E.png");
    block_on(async {
        let cases = [
            (json!({"resume_tokens": [1], "resume_text": "a"}), "invalid_value"),
            (json!({"resume_tokens": ["a"]}), "invalid_type"),
            (json!({"resume_tokens": [4_000_000_000u32]}), "unknown_token"),
            (json!({"resume_tokens": vec![5; 500]}), "context_full"),
            (json!("resume"), "invalid_type"),
        ];
        for (own, code) in cases {
            let answer = post(shared(), PATH, &caption_request(&file, &json!({"lenslet": own}))).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, code), "{own}");
        }
        let long = json!({"lenslet": {"resume_text": "a".repeat(1 << 20)}});
        let answer = post(shared(), PATH, &caption_request(&file, &long)).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "text_too_long"));
        // A text that has as many tokens as it may is over.
        let more = json!({"max_tokens": 2, "lenslet": {"resume_tokens": [5, 6]}});
        let over = post(shared(), PATH, &caption_request(&file, &more)).await.json();
        assert_eq!(over["choices"][0]["finish_reason"], "length");
        assert_eq!(over["choices"][0]["message"]["content"], "");
    });
}

#[test]
fn max_tokens_and_stop_end_a_caption() {
    let file = picture("emoji/1F34E.png");
    let (text, _) = directly(&file);
    block_on(async {
        let short = post(shared(), PATH, &caption_request(&file, &json!({"max_tokens": 1}))).await.json();
        assert_eq!(short["choices"][0]["finish_reason"], "length");
        assert_eq!(short["usage"]["completion_tokens"], 1);
        let last = text.split(' ').next_back().unwrap();
        let stopped = post(shared(), PATH, &caption_request(&file, &json!({"stop": [last]}))).await.json();
        assert_eq!(stopped["choices"][0]["message"]["content"], text[..text.rfind(last).unwrap()]);
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    });
}

#[test]
fn what_a_captioner_cannot_do_is_said_before_a_stream_begins() {
    let file = picture("emoji/1F34E.png");
    block_on(async {
        let words =
            json!({"model": "emoji-captioner", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        let picture = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
        let several = json!([picture(&data_url(&file)), picture(&data_url(&file))]);
        let fetched = json!([picture("http://127.0.0.1:1/secret.png")]);
        let truncated = json!([picture(&data_url(&file[..file.len() / 2]))]);
        let ask = |content| json!({"model": "emoji-captioner", "messages": [{"role": "user", "content": content}]});
        let cases = [
            (words, "picture_missing"),
            (ask(several), "too_many_pictures"),
            (ask(fetched), "invalid_image_url"),
            (ask(truncated), "image_corrupt"),
            (json!({"model": "emoji-clip", "messages": [{"role": "user", "content": "hi"}]}), "model_task"),
            (json!({"model": "emoji-captioner", "messages": []}), "invalid_value"),
            (json!({"model": "emoji-captioner"}), "missing_field"),
            (caption_request(&file, &json!({"n": 2})), "unsupported"),
            (caption_request(&file, &json!({"temperature": -1})), "invalid_type"),
            (caption_request(&file, &json!({"stop": [""]})), "invalid_type"),
        ];
        for (body, code) in cases {
            let answer = post(shared(), PATH, &body).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, code), "{code}");
        }
    });
}
