//! Connections to other servers.

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// What opens connections: with HTTPS where this server was built with the feature `tls`.
#[cfg(feature = "tls")]
pub(crate) type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
/// What opens connections: with HTTPS where this server was built with the feature `tls`.
#[cfg(not(feature = "tls"))]
pub(crate) type Connector = HttpConnector;

/// What opens connections.
pub(crate) fn connector() -> Connector {
    let mut http = HttpConnector::new();
    http.set_connect_timeout(Some(CONNECT));
    http.set_nodelay(true);
    #[cfg(feature = "tls")]
    let http = {
        http.enforce_http(false);
        hyper_rustls::HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(http)
    };
    http
}

/// An error and what caused it: the outer one alone says little.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
