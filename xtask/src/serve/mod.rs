//! A small static file server for the demo and the browser tests: local files, nothing else.
//!
//! It listens on the loopback interface only, gives every browser the right media type for modules and
//! wasm, answers range requests (weights are read in pieces) and never leaves the folders it was given.

mod mime;
mod range;
mod request;
mod resolve;
mod response;

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::Error;
use request::Request;
use resolve::{Mount, Mounts};

/// How long an idle connection is kept open.
const IDLE: Duration = Duration::from_secs(60);

/// The options of `cargo xtask serve`.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) root: PathBuf,
    pub(crate) port: u16,
    pub(crate) isolated: bool,
}

/// `cargo xtask serve`.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let site = Site::new(options.isolated).mount("/", &options.root)?;
    let server = Server::bind(site, options.port)?;
    println!("Serving {} at {} (Ctrl-C stops it)", options.root.display(), server.url());
    server.run();
    Ok(())
}

/// What a server serves.
#[derive(Debug)]
pub(crate) struct Site {
    mounts: Mounts,
    isolated: bool,
}

impl Site {
    /// An empty site; `isolated` makes its pages cross-origin isolated.
    pub(crate) fn new(isolated: bool) -> Self {
        Self { mounts: Mounts::default(), isolated }
    }

    /// Serves `folder` under the URL path `prefix` (`/` or `/name/`).
    pub(crate) fn mount(mut self, prefix: &str, folder: &Path) -> Result<Self, Error> {
        let folder = folder.canonicalize().map_err(Error::io("serve", folder))?;
        self.mounts.add(Mount { prefix: prefix.to_owned(), folder });
        Ok(self)
    }
}

/// A bound server.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    site: Arc<Site>,
}

impl Server {
    /// Binds to 127.0.0.1; port 0 takes a free one.
    pub(crate) fn bind(site: Site, port: u16) -> Result<Self, Error> {
        let unusable = |source: std::io::Error| Error::Missing {
            what: "a port to serve on",
            why: format!("127.0.0.1:{port}: {source}"),
            remedy: "choose another with --port, or leave it out for a free one".to_owned(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        Ok(Self { listener, address, site: Arc::new(site) })
    }

    /// The address of the site, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until the process ends.
    pub(crate) fn run(self) {
        for stream in self.listener.incoming() {
            // A connection that failed to open is the browser's to retry.
            let Ok(stream) = stream else { continue };
            let site = Arc::clone(&self.site);
            thread::spawn(move || {
                // An error here is a browser that went away in the middle of a file.
                let _ = converse(&site, &stream);
            });
        }
    }

    /// Serves in the background until the process ends, and returns the address.
    pub(crate) fn spawn(self) -> String {
        let url = self.url();
        thread::spawn(move || self.run());
        url
    }
}

/// Answers the requests of one connection.
fn converse(site: &Site, stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let request = match Request::read(&mut reader) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(request::Malformed::Io(error)) => return Err(error),
            Err(request::Malformed::Syntax) => {
                response::error(400, site.isolated).send(&mut writer, false)?;
                return Ok(());
            }
        };
        let keep_open = request.keep_open;
        let body = request.method != "HEAD";
        response::answer(&request, &site.mounts, site.isolated).send(&mut writer, body)?;
        writer.flush()?;
        if !keep_open {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;

    use super::*;

    fn get(address: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn site(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("lenslet-xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("sub folder")).unwrap();
        fs::write(root.join("index.html"), "<p>home").unwrap();
        fs::write(root.join("sub folder/a+b.json"), "0123456789").unwrap();
        root
    }

    #[test]
    fn serves_whole_files_ranges_and_errors() {
        let root = site("plain");
        let url = Server::bind(Site::new(false).mount("/", &root).unwrap(), 0).unwrap().spawn();
        let home = get(&url, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(home.starts_with("HTTP/1.1 200 OK\r\n"), "{home}");
        assert!(home.contains("Content-Type: text/html; charset=utf-8\r\n"), "{home}");
        assert!(home.ends_with("\r\n\r\n<p>home"), "{home}");
        assert!(!home.contains("Cross-Origin"), "{home}");

        let part =
            get(&url, "GET /sub%20folder/a+b.json?v=1 HTTP/1.1\r\nrange: bytes=2-4\r\nConnection: close\r\n\r\n");
        assert!(part.starts_with("HTTP/1.1 206 "), "{part}");
        assert!(part.contains("Content-Range: bytes 2-4/10\r\n"), "{part}");
        assert!(part.ends_with("\r\n\r\n234"), "{part}");

        let beyond = get(&url, "GET /sub%20folder/a+b.json HTTP/1.0\r\nRange: bytes=10-\r\n\r\n");
        assert!(beyond.starts_with("HTTP/1.1 416 "), "{beyond}");
        assert!(beyond.contains("Content-Range: bytes */10\r\n"), "{beyond}");

        for (path, status) in [
            ("/missing", "404"),
            ("/../Cargo.toml", "404"),
            ("/%2e%2e/Cargo.toml", "404"),
            ("/sub%20folder", "301"),
            ("/sub%20folder/", "404"),
        ] {
            let answer = get(&url, &format!("GET {path} HTTP/1.0\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        }
        assert!(get(&url, "POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert!(get(&url, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn keeps_connections_open_and_can_isolate() {
        let root = site("isolated");
        let url = Server::bind(Site::new(true).mount("/", &root).unwrap(), 0).unwrap().spawn();
        let two = get(&url, "HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert_eq!(two.matches("HTTP/1.1 200 OK").count(), 2, "{two}");
        assert_eq!(two.matches("<p>home").count(), 1, "HEAD has no body: {two}");
        assert!(two.contains("Cross-Origin-Opener-Policy: same-origin\r\n"), "{two}");
        assert!(two.contains("Cross-Origin-Embedder-Policy: require-corp\r\n"), "{two}");
        fs::remove_dir_all(root).unwrap();
    }
}
