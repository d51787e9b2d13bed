//! Input that means harm: refused in bounded memory and time, and the server goes on.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chat::caption_request;
use crate::http::{get, post, send};
use crate::setup::{block_on, config, data_url, picture, shared, start};

const PATH: &str = "/v1/embeddings";

/// Writes bytes to a connection, and returns all that comes back until the server closes it.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    read.expect("the server neither answers nor closes").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A PNG whose header claims this size, with hardly anything behind it.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut file = picture("emoji/1F34E.png");
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&file[12..29]);
    file[29..33].copy_from_slice(&crc.to_be_bytes());
    file
}

/// PNG's checksum (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

#[test]
fn pictures_that_claim_too_much_are_not_decoded() {
    block_on(async {
        for (width, height, status) in [
            (60_000, 60_000, StatusCode::PAYLOAD_TOO_LARGE),
            (8_000, 8_000, StatusCode::PAYLOAD_TOO_LARGE),
            (u32::MAX, u32::MAX, StatusCode::BAD_REQUEST),
            (0, 5, StatusCode::BAD_REQUEST),
        ] {
            let url = data_url(&bomb(width, height));
            for model in ["emoji-clip", "photo-search"] {
                let answer = post(shared(), PATH, &json!({"model": model, "input": url})).await;
                let refused = [StatusCode::PAYLOAD_TOO_LARGE, StatusCode::BAD_REQUEST];
                assert!(refused.contains(&answer.status), "{width} x {height}: {} {:?}", answer.status, answer.body);
                if status == StatusCode::PAYLOAD_TOO_LARGE {
                    assert_eq!(answer.status, status, "{:?}", answer.body);
                }
            }
            let answer =
                post(shared(), "/v1/chat/completions", &caption_request(&bomb(width, height), &json!({}))).await;
            assert!(answer.status.is_client_error(), "{} {:?}", answer.status, answer.body);
        }
    });
}

#[test]
fn damaged_pictures_are_refused_at_every_cut() {
    let files = [picture("emoji/1F34E.png"), picture("photos/astronaut.jpg")];
    block_on(async {
        for file in &files {
            let step = file.len() / 12 + 1;
            for cut in (0..file.len() - 4).step_by(step) {
                let url = data_url(&file[..cut]);
                let answer = post(shared(), PATH, &json!({"model": "emoji-clip", "input": url})).await;
                // A JPEG decoder may fill in what is missing at the end.
                assert!(!answer.status.is_server_error(), "{cut}: {} {:?}", answer.status, answer.body);
            }
            let mut noisy = file.clone();
            for (at, byte) in noisy.iter_mut().enumerate().skip(40) {
                *byte = byte.wrapping_mul(31).wrapping_add(at as u8);
            }
            let answer = post(shared(), PATH, &json!({"model": "emoji-clip", "input": data_url(&noisy)})).await;
            assert!(!answer.status.is_server_error(), "{} {:?}", answer.status, answer.body);
        }
    });
}

#[test]
fn a_body_that_is_too_large_is_not_read() {
    block_on(async {
        let head = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        let announced = raw(shared(), format!("{head}content-length: 1073741824\r\n\r\n{{").as_bytes()).await;
        assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
        assert!(announced.contains("body_too_large"), "{announced}");
        let mut config = config(&["emoji-clip"]);
        config.limits.max_body_bytes = 10_000;
        let server = start(config).await;
        // In pieces, without saying how many there will be.
        let mut pieces = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
        for _ in 0..20 {
            pieces.extend_from_slice(b"3e8\r\n");
            pieces.extend_from_slice(&[b' '; 1000]);
            pieces.extend_from_slice(b"\r\n");
        }
        pieces.extend_from_slice(b"0\r\n\r\n");
        let chunked = raw(server.address(), &pieces).await;
        assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
        let nested = "[".repeat(9_000);
        let answer = send(server.address(), Method::POST, PATH, &[], nested).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "body_not_json"));
    });
}

#[test]
fn slow_clients_are_cut_off_and_hold_nobody_up() {
    block_on(async {
        let mut config = config(&["emoji-clip"]);
        config.limits.read_timeout_s = 1.0;
        let server = start(config).await;
        let at = server.address();
        let mut slow = vec![];
        for _ in 0..50 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(b"POST /v1/embeddings HTTP/1.1\r\nhost: ").await.unwrap();
            slow.push(stream);
        }
        let body =
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{\"model\"";
        let ask = json!({"model": "emoji-clip", "input": "quick"});
        let (half, quick) = futures_util::join!(raw(at, body), post(at, PATH, &ask));
        assert_eq!(quick.status, StatusCode::OK);
        assert!(half.starts_with("HTTP/1.1 408") && half.contains("body_too_slow"), "{half}");
        for mut stream in slow {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
            assert!(read.is_ok(), "a connection without a head is kept open");
        }
        assert_eq!(server.app().under_way(), 0);
    });
}

#[test]
fn what_is_not_http_or_not_a_name_is_refused() {
    block_on(async {
        for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"] {
            let answer = raw(shared(), bytes).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
        for path in [
            "/v1/models/../../etc/passwd",
            "/v1/models/..%2F..%2Fetc%2Fpasswd",
            "/v2/models/..%2f/infer",
            "/v2/models/emoji-clip.image%00/infer",
            "/v2/models/%2e%2e",
            "/v2/models/emoji-clip.image/versions/..%2f1",
        ] {
            let text =
                raw(shared(), format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
            assert!(text.starts_with("HTTP/1.1 4"), "{path}: {text}");
            assert!(!text.contains("root:"), "{text}");
        }
        for model in ["/etc", "../emoji-clip", "hf:org/name", "emoji-clip\u{0}", &"x".repeat(100_000)] {
            let answer = post(shared(), PATH, &json!({"model": model, "input": "x"})).await;
            assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "model_not_found"));
            assert!(answer.body.len() < 1000);
        }
        assert_eq!(get(shared(), "/v2/health/live").await.status, StatusCode::OK);
    });
}

#[test]
fn a_client_that_leaves_costs_no_more_than_it_has() {
    block_on(async {
        let server = start(config(&["emoji-captioner"])).await;
        let body = caption_request(&picture("emoji/1F34E.png"), &json!({"stream": true})).to_string();
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
        }
        // All of them left after the first bytes. The server notices without being asked.
        let gone = tokio::time::timeout(Duration::from_secs(20), server.app().idle()).await;
        assert!(gone.is_ok(), "{} are still under way", server.app().under_way());
    });
}
