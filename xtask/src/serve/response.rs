//! Writing an HTTP/1.1 response.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::mime;
use super::range::{self, Range};
use super::request::Request;
use super::resolve::{Mounts, Target};

/// A response that is ready to be sent.
#[derive(Debug)]
pub(super) struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Text(String),
    /// `length` bytes of a file from where it stands.
    File {
        file: File,
        length: u64,
    },
}

/// The response to a request.
pub(super) fn answer(request: &Request, mounts: &Mounts, isolated: bool) -> Response {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return error(405, isolated).with("Allow", "GET, HEAD");
    }
    match mounts.resolve(&request.target) {
        Target::NotFound => error(404, isolated),
        Target::Redirect(to) => error(301, isolated).with("Location", to),
        Target::File(path) => match file(&path, request.range.as_deref(), isolated) {
            Ok(response) => response,
            Err(_) => error(404, isolated),
        },
    }
}

/// A response that only tells its status.
pub(super) fn error(status: u16, isolated: bool) -> Response {
    let body = Body::Text(format!("{status} {}\n", reason(status)));
    Response { status, headers: common_headers(isolated), body }.with("Content-Type", "text/plain; charset=utf-8")
}

fn file(path: &Path, range: Option<&str>, isolated: bool) -> io::Result<Response> {
    let mut file = File::open(path)?;
    let total = file.metadata()?.len();
    let (status, first, length) = match range::parse(range, total) {
        Range::Whole => (200, 0, total),
        Range::Part { first, last } => (206, first, last - first + 1),
        Range::Unsatisfiable => {
            return Ok(error(416, isolated).with("Content-Range", format!("bytes */{total}")));
        }
    };
    file.seek(SeekFrom::Start(first))?;
    let body = Body::File { file, length };
    let mut response = Response { status, headers: common_headers(isolated), body }
        .with("Content-Type", mime::of(path))
        .with("Accept-Ranges", "bytes");
    if status == 206 {
        let last = first + length - 1;
        response = response.with("Content-Range", format!("bytes {first}-{last}/{total}"));
    }
    Ok(response)
}

fn common_headers(isolated: bool) -> Vec<(&'static str, String)> {
    // A rebuilt file must be seen at the next reload.
    let mut headers = vec![("Cache-Control", "no-cache".to_owned()), ("X-Content-Type-Options", "nosniff".to_owned())];
    if isolated {
        headers.push(("Cross-Origin-Opener-Policy", "same-origin".to_owned()));
        headers.push(("Cross-Origin-Embedder-Policy", "require-corp".to_owned()));
    }
    headers
}

impl Response {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Writes the response; without its body for a HEAD request.
    pub(super) fn send(self, writer: &mut impl Write, with_body: bool) -> io::Result<()> {
        let length = match &self.body {
            Body::Text(text) => text.len() as u64,
            Body::File { length, .. } => *length,
        };
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {length}\r\n\r\n");
        writer.write_all(head.as_bytes())?;
        if !with_body {
            return Ok(());
        }
        match self.body {
            Body::Text(text) => writer.write_all(text.as_bytes()),
            Body::File { file, length } => {
                let sent = io::copy(&mut file.take(length), writer)?;
                // The promised length can no longer be kept; only closing the connection tells.
                if sent < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
            }
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        _ => "Error",
    }
}
