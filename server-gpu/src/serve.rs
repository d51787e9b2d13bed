//! Connections: accepting them, bounding them, ending them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::app::App;
use crate::config::Config;
use crate::error::ServeError;
use crate::{api, load};

/// Why a server did not start, or ended by itself.
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
    /// A model or engine.
    #[error("{0}")]
    Load(#[from] ServeError),
}

/// A server that runs.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    accepting: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Begins to listen; live at once, ready when [`Server::load`] is done.
    ///
    /// # Errors
    /// [`StartError::Listen`].
    pub async fn bind(app: App) -> Result<Server, StartError> {
        let address = app.config.listen;
        let failed = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let app = Arc::new(app);
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, app.clone(), stopped));
        Ok(Server { address, app, accepting, stop })
    }

    /// Loads the models and warms them up.
    ///
    /// # Errors
    /// [`StartError::Load`] names the model.
    pub async fn load(&self) -> Result<(), StartError> {
        let models = load::load(&self.app.config).await?;
        // Nobody else sets it.
        let _ = self.app.models.set(models);
        Ok(())
    }

    /// Both, for tests and for programs that have a server inside.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Server, StartError> {
        let server = Server::bind(App::new(config, None)).await?;
        server.load().await?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its requests share.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Refuses new requests, lets those under way finish within the limit, and ends. Says whether all of them did.
    pub async fn drain(self) -> bool {
        let config = &self.app.config;
        self.app.drain();
        tokio::time::sleep(Duration::from_secs_f64(config.drain_grace_s)).await;
        let limit = Duration::from_secs_f64(config.drain_limit_s);
        let finished = tokio::time::timeout(limit, self.app.idle()).await.is_ok();
        let _ = self.stop.send(true);
        // Connections that are kept alive without a request are closed; none of them is waited for long.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.accepting).await;
        finished
    }
}

async fn accept(listener: TcpListener, app: Arc<App>, mut stopped: watch::Receiver<bool>) {
    let router = api::router(app.clone());
    let places = Arc::new(Semaphore::new(app.config.limits.max_connections));
    let patience = Duration::from_secs_f64(app.config.limits.read_timeout_s);
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
        let connection = connection(stream, peer, router.clone(), patience);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off is no event.
            let _ = watched.await;
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// A service that answers requests of hyper.
trait Answering:
    Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static> + Send + 'static
{
}

impl<S> Answering for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static> + Send + 'static
{
}

type Connection<S> = hyper::server::conn::http1::Connection<TokioIo<TcpStream>, S>;

fn connection(stream: TcpStream, peer: SocketAddr, router: Router, patience: Duration) -> Connection<impl Answering> {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(ConnectInfo(peer));
        let request = Request::from_parts(parts, axum::body::Body::new(body));
        let mut router = router.clone();
        async move { tower_service::Service::call(&mut router, request).await }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that sends its head byte by byte is cut off.
        .header_read_timeout(patience)
        .serve_connection(TokioIo::new(stream), service)
}
