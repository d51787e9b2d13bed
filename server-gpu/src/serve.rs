//! Connections: accepting them, bounding them, ending them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::config::Config;
use crate::error::ServeError;
use crate::jobs::Jobs;
use crate::{api, load, metrics};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("tls: {0}")]
    Tls(String),
    /// A model or engine.
    #[error("{0}")]
    Load(#[from] ServeError),
}

/// A server that runs.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    accepting: JoinHandle<()>,
    stop: watch::Sender<bool>,
    #[cfg(feature = "grpc")]
    grpc: Option<Grpc>,
}

/// Where a server speaks gRPC.
#[cfg(feature = "grpc")]
struct Grpc {
    address: SocketAddr,
    health: api::grpc::Health,
    accepting: JoinHandle<()>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    #[cfg(feature = "grpc")]
    Grpc,
}

impl Protocol {
    /// Its name in a TLS handshake.
    #[cfg(feature = "tls")]
    fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Http => b"http/1.1",
            #[cfg(feature = "grpc")]
            Protocol::Grpc => b"h2",
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Server {
    /// Begins to listen; live at once, ready when [`Server::load`] is done.
    ///
    /// # Errors
    /// [`StartError::Listen`] and [`StartError::Tls`].
    pub async fn bind(app: App) -> Result<Server, StartError> {
        Server::bind_with(app, api::router).await
    }

    /// Begins to listen as a worker of jobs does: for its health and its metrics alone.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_worker(mut app: App) -> Result<Server, StartError> {
        // It takes no calls.
        app.config.grpc_listen = None;
        Server::bind_with(app, api::worker_router).await
    }

    async fn bind_with(app: App, router: fn(Arc<App>) -> Router) -> Result<Server, StartError> {
        let acceptor = Acceptor::new(&app.config, Protocol::Http)?;
        let (listener, address) = listen(app.config.listen).await?;
        let app = Arc::new(app);
        if let Some(prometheus) = app.prometheus.clone() {
            tokio::spawn(keep_counts(prometheus, Arc::downgrade(&app)));
        }
        let (stop, stopped) = watch::channel(false);
        let port = Port { protocol: Protocol::Http, listener, acceptor, router: router(app.clone()) };
        #[cfg(feature = "grpc")]
        let grpc = match app.config.grpc_listen {
            None => None,
            Some(address) => {
                let acceptor = Acceptor::new(&app.config, Protocol::Grpc)?;
                let (listener, address) = listen(address).await?;
                let (router, health) = api::grpc::router(app.clone()).await;
                let port = Port { protocol: Protocol::Grpc, listener, acceptor, router };
                let accepting = tokio::spawn(port.accept(app.clone(), stopped.clone()));
                Some(Grpc { address, health, accepting })
            }
        };
        let accepting = tokio::spawn(port.accept(app.clone(), stopped));
        Ok(Server {
            address,
            app,
            accepting,
            stop,
            #[cfg(feature = "grpc")]
            grpc,
        })
    }

    /// Connects to the queue of jobs, if there is one, loads the models and warms them up.
    ///
    /// # Errors
    /// [`StartError::Load`] names the model, or says why the queue refuses this server.
    pub async fn load(&self) -> Result<(), StartError> {
        if let Some(jobs) = Jobs::connect(&self.app.config.jobs).await? {
            let jobs = Arc::new(jobs);
            tokio::spawn(watch_queue(Arc::downgrade(&jobs)));
            // Nobody else sets it.
            let _ = self.app.jobs.set(jobs);
        }
        let models = load::load(&self.app.config).await?;
        // Nobody else sets it.
        let _ = self.app.models.set(models);
        self.tell_health().await;
        Ok(())
    }

    /// Both, for tests and for programs that have a server inside.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Server, StartError> {
        let server = Server::bind(App::new(config, crate::telemetry::count())).await?;
        server.load().await?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it speaks gRPC, if it does.
    #[cfg(feature = "grpc")]
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(|grpc| grpc.address)
    }

    /// Tells those that watch whether the server is ready.
    async fn tell_health(&self) {
        #[cfg(feature = "grpc")]
        if let Some(grpc) = &self.grpc {
            grpc.health.set(self.app.ready()).await;
        }
    }

    /// What its requests share.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Refuses new requests, lets those under way finish within the limit, and ends. Says whether all of them did.
    pub async fn drain(self) -> bool {
        let config = &self.app.config;
        self.app.drain();
        self.tell_health().await;
        tokio::time::sleep(Duration::from_secs_f64(config.drain_grace_s)).await;
        let limit = Duration::from_secs_f64(config.drain_limit_s);
        let finished = tokio::time::timeout(limit, self.app.idle()).await.is_ok();
        let _ = self.stop.send(true);
        // Connections that are kept alive without a request are closed; none of them is waited for long.
        let ended = async {
            let _ = self.accepting.await;
            #[cfg(feature = "grpc")]
            if let Some(grpc) = self.grpc {
                let _ = grpc.accepting.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), ended).await;
        finished
    }
}

/// Moves what was recorded into its buckets: between two looks of Prometheus, and where nobody looks at all, it would gather.
async fn keep_counts(prometheus: PrometheusHandle, app: std::sync::Weak<App>) {
    while app.strong_count() > 0 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        prometheus.run_upkeep();
    }
}

/// Counts what waits in the queue of jobs.
async fn watch_queue(jobs: std::sync::Weak<Jobs>) {
    while let Some(jobs) = jobs.upgrade() {
        if let Ok(depth) = jobs.queue.depth().await {
            metrics::job_queue(depth.parts, depth.dead);
        }
        metrics::job_queue_reachable(jobs.queue.reachable());
        drop(jobs);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// A port that is listened on.
struct Port {
    protocol: Protocol,
    listener: TcpListener,
    acceptor: Acceptor,
    router: Router,
}

impl Port {
    async fn accept(self, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
        let Port { protocol, listener, acceptor, router } = self;
        let limits = &app.config.limits;
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let patience = Duration::from_secs_f64(limits.read_timeout_s);
        let graceful = GracefulShutdown::new();
        loop {
            // Connections beyond the limit wait in the system's queue.
            let place = tokio::select! {
                place = places.clone().acquire_owned() => place,
                _ = stopped.changed() => break,
            };
            let Ok(place) = place else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.changed() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: it passes when connections end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let watcher = graceful.watcher();
            let connection = Connection { protocol, peer, router: router.clone(), patience, watcher };
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                acceptor.serve(stream, connection).await;
                drop(place);
            });
        }
        drop(listener);
        graceful.shutdown().await;
    }
}

/// A connection and what answers on it.
struct Connection {
    protocol: Protocol,
    peer: SocketAddr,
    router: Router,
    patience: Duration,
    watcher: Watcher,
}

impl Connection {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Connection { protocol, peer, router, patience, watcher } = self;
        let service = service_fn(move |request: Request<Incoming>| {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(ConnectInfo(peer));
            let request = Request::from_parts(parts, axum::body::Body::new(body));
            let mut router = router.clone();
            async move { tower_service::Service::call(&mut router, request).await }
        });
        match protocol {
            Protocol::Http => {
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    // A client that sends its head byte by byte is cut off.
                    .header_read_timeout(patience)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that breaks off is no event.
                let _ = watcher.watch(connection).await;
            }
            #[cfg(feature = "grpc")]
            Protocol::Grpc => {
                let Some(stream) = http2::begun(stream, patience).await else { return };
                let connection = http2::builder(patience).serve_connection(TokioIo::new(stream), service);
                let _ = watcher.watch(connection).await;
            }
        }
    }
}

/// HTTP/2 for gRPC, which needs its trailers.
#[cfg(feature = "grpc")]
mod http2 {
    use std::io::Cursor;
    use std::time::Duration;

    use hyper::server::conn::http2::Builder;
    use hyper_util::rt::{TokioExecutor, TokioTimer};
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

    /// What every client sends first (RFC 9113, 3.4).
    const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// The connection, once the client has sent its first bytes: who does not is cut off, and holds no place for long.
    pub(super) async fn begun(
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        patience: Duration,
    ) -> Option<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        let mut preface = [0; PREFACE.len()];
        let read = tokio::time::timeout(patience, stream.read_exact(&mut preface)).await;
        if read.ok()?.is_err() || preface != PREFACE {
            return None;
        }
        let (reader, writer) = tokio::io::split(stream);
        Some(tokio::io::join(Cursor::new(preface).chain(reader), writer))
    }

    /// What a client may take of a connection.
    pub(super) fn builder(patience: Duration) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            // A client that is gone, or hangs, is found by its silence.
            .keep_alive_interval(patience)
            .keep_alive_timeout(patience)
            .max_concurrent_streams(128)
            .max_header_list_size(16 << 10)
            // What a client may send before anybody has looked at it.
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(512 << 10);
        builder
    }
}

/// Makes a connection of what was accepted: as it is, or after a TLS handshake.
#[derive(Clone)]
struct Acceptor {
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsAcceptor>,
}

#[cfg(not(feature = "tls"))]
impl Acceptor {
    fn new(_: &Config, _: Protocol) -> Result<Acceptor, StartError> {
        Ok(Acceptor {})
    }

    async fn serve(self, stream: tokio::net::TcpStream, connection: Connection) {
        connection.serve(stream).await;
    }
}

#[cfg(feature = "tls")]
impl Acceptor {
    fn new(config: &Config, protocol: Protocol) -> Result<Acceptor, StartError> {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let Some(files) = &config.tls else { return Ok(Acceptor { tls: None }) };
        let wrong = |what: &dyn std::fmt::Display, path: &std::path::Path| {
            StartError::Tls(format!("{}: {what}", path.display()))
        };
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&files.certificate).and_then(|all| all.collect());
        let certificates = certificates.map_err(|e| wrong(&e, &files.certificate))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| wrong(&e, &files.key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(|e| wrong(&e, &files.certificate))?;
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Ok(Acceptor { tls: Some(Arc::new(config).into()) })
    }

    async fn serve(self, stream: tokio::net::TcpStream, connection: Connection) {
        let Some(tls) = self.tls else { return connection.serve(stream).await };
        // A client that does not shake hands is cut off as one that sends no head.
        if let Ok(Ok(stream)) = tokio::time::timeout(connection.patience, tls.accept(stream)).await {
            connection.serve(stream).await;
        }
    }
}
