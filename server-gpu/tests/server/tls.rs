//! HTTPS, with a certificate of the test's own. Needs the feature `tls`, and `openssl` and `python3` on the path.

use std::path::Path;
use std::process::Command;

use lenslet_server::config::TlsConfig;
use lenslet_server::{App, Server};

use crate::python::run_script;
use crate::setup::{bind, block_on, config};

const ASK: &str = "
import socket, ssl, sys, urllib.request
host, port, authority = sys.argv[1], int(sys.argv[2]), sys.argv[3]
trusting = ssl.create_default_context(cafile=authority)
print(urllib.request.urlopen(f'https://localhost:{port}/v2/health/live', context=trusting).status)
plain = socket.create_connection((host, port))
plain.sendall(b'GET /v2/health/live HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
plain.settimeout(10)
print(b'200' in plain.recv(100))
";

/// gRPC by NVIDIA's client: with TLS, and without.
#[cfg(feature = "grpc")]
const CALL: &str = "
import sys
import tritonclient.grpc as grpc
address, authority = f'localhost:{sys.argv[1]}', sys.argv[2]
encrypted = grpc.InferenceServerClient(address, ssl=True, root_certificates=authority)
live = encrypted.is_server_live(client_timeout=60)
try:
    plain = grpc.InferenceServerClient(address).is_server_live(client_timeout=20)
except grpc.InferenceServerException:
    plain = False
print(live, plain)
";

#[test]
fn https_is_served_and_nothing_else_beside_it() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (certificate, key) = (folder.join("tls-test.crt"), folder.join("tls-test.key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    let Ok(made) = openssl.output() else {
        eprintln!("left out: there is no openssl on the path");
        return;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let mut settings = config(&["emoji-clip"]);
    #[cfg(feature = "grpc")]
    {
        settings.grpc_listen = Some(settings.listen);
    }
    settings.tls = Some(TlsConfig { certificate: certificate.clone(), key: key.clone() });
    let server = block_on(bind(settings.checked().unwrap()));
    let (host, port) = (server.address().ip().to_string(), server.address().port().to_string());
    let printed = run_script(Path::new("python3"), ASK, &[&host, &port, &certificate.to_string_lossy()]);
    assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), ["200", "False"]);
    #[cfg(feature = "grpc")]
    if let Some(python) = crate::python::python() {
        let port = server.grpc_address().unwrap().port().to_string();
        let printed = run_script(python, CALL, &[&port, &certificate.to_string_lossy()]);
        assert_eq!(printed.trim(), "True False");
    }

    let mut swapped = config(&["emoji-clip"]);
    swapped.tls = Some(TlsConfig { certificate: key, key: certificate });
    let error = block_on(Server::bind(App::new(swapped, None))).err().unwrap();
    assert!(error.to_string().starts_with("tls: "), "{error}");
}
