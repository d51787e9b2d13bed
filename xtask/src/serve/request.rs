//! Reading an HTTP/1 request.

use std::io::{self, BufRead, Read};

/// No honest request for a file has a longer head.
const MAX_HEAD: u64 = 32 * 1024;

/// The parts of a request that a file server looks at.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// The target as sent: percent-encoded, with its query.
    pub(super) target: String,
    pub(super) range: Option<String>,
    pub(super) keep_open: bool,
}

/// A request that cannot be answered as one.
#[derive(Debug)]
pub(super) enum Malformed {
    Io(io::Error),
    Syntax,
}

impl From<io::Error> for Malformed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Request {
    /// Reads one request's head; `None` when the connection was closed instead.
    pub(super) fn read(reader: &mut impl BufRead) -> Result<Option<Self>, Malformed> {
        let mut head = reader.take(MAX_HEAD);
        let Some(first) = line(&mut head)? else {
            return Ok(None);
        };
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Malformed::Syntax);
        };
        if !version.starts_with("HTTP/1.") {
            return Err(Malformed::Syntax);
        }
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            range: None,
            keep_open: version != "HTTP/1.0",
        };
        loop {
            let header = line(&mut head)?.ok_or(Malformed::Syntax)?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').ok_or(Malformed::Syntax)?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("range") {
                request.range = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("connection") {
                request.keep_open &= !value.eq_ignore_ascii_case("close");
            }
        }
        // Only GET and HEAD are served; a body behind another method is not worth reading.
        request.keep_open &= matches!(request.method.as_str(), "GET" | "HEAD");
        Ok(Some(request))
    }
}

/// One line of the head without its end; `None` at the end of the stream before any byte.
fn line(head: &mut impl BufRead) -> Result<Option<String>, Malformed> {
    let mut bytes = Vec::new();
    if head.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|_| Malformed::Syntax)?;
    // Without its end the line was cut: by the limit, or by the other side.
    let text = text.strip_suffix('\n').ok_or(Malformed::Syntax)?;
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Request>, Malformed> {
        Request::read(&mut text.as_bytes())
    }

    #[test]
    fn reads_what_it_needs() {
        let request = read("GET /a?b HTTP/1.1\r\nHost: x\r\nRANGE: bytes=0-1\r\n\r\n").unwrap().unwrap();
        assert_eq!(request.method, "GET");
        assert_eq!(request.target, "/a?b");
        assert_eq!(request.range.as_deref(), Some("bytes=0-1"));
        assert!(request.keep_open);
        let request = read("GET / HTTP/1.1\r\nconnection: Close\r\n\r\n").unwrap().unwrap();
        assert!(!request.keep_open);
    }

    #[test]
    fn refuses_what_is_not_http() {
        assert!(read("").unwrap().is_none());
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(40_000));
        for text in ["GET /", "GET /\r\n\r\n", "GET / SPDY/3\r\n\r\n", "GET / HTTP/1.1\r\nx\r\n\r\n", &long] {
            assert!(matches!(read(text), Err(Malformed::Syntax)), "{text:.40}");
        }
    }
}
