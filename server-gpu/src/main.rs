//! `lenslet-server`.

use std::process::ExitCode;

use clap::Parser as _;
use lenslet_server::config::args::{Action, Cli};
use lenslet_server::jobs::worker::Worker;
use lenslet_server::{App, Config, Server, telemetry};

/// Bad usage or a setting that cannot work.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (works, config) = match cli.command {
        Some(Action::Worker(args)) => (true, args.into_worker_config()),
        None => (false, cli.args.into_config()),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            eprintln!("lenslet-server: {error}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lenslet-server: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let telemetry = match telemetry::start(&config, runtime.handle()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("lenslet-server: traces: {error}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    let code = if works { runtime.block_on(work(config)) } else { runtime.block_on(serve(config)) };
    telemetry.end();
    // Work that nobody waits for any more does not hold up the end.
    runtime.shutdown_background();
    code
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lenslet-server: {error}");
    ExitCode::FAILURE
}

async fn serve(config: Config) -> ExitCode {
    let mut told = match Told::new() {
        Ok(told) => told,
        Err(error) => return failed(&error),
    };
    let server = match Server::bind(App::new(config, telemetry::count())).await {
        Ok(server) => server,
        Err(error) => return failed(&error),
    };
    tracing::info!(address = %server.address(), "listening");
    #[cfg(feature = "grpc")]
    if let Some(address) = server.grpc_address() {
        tracing::info!(%address, "listening for gRPC");
    }
    let loaded = tokio::select! {
        loaded = server.load() => loaded,
        () = told.ending() => return ExitCode::SUCCESS,
    };
    if let Err(error) = loaded {
        return failed(&error);
    }
    tracing::info!("ready");
    told.ending().await;
    tracing::info!(under_way = server.app().under_way(), "draining");
    tokio::select! {
        finished = server.drain() => {
            tracing::info!(finished, "ended");
            if finished { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        // Who says it twice means it.
        () = told.ending() => ExitCode::FAILURE,
    }
}

/// Works on the parts of jobs. Where it listens, it answers for its health alone.
async fn work(config: Config) -> ExitCode {
    let mut told = match Told::new() {
        Ok(told) => told,
        Err(error) => return failed(&error),
    };
    let server = match Server::bind_worker(App::new(config, telemetry::count())).await {
        Ok(server) => server,
        Err(error) => return failed(&error),
    };
    tracing::info!(address = %server.address(), "listening");
    let loaded = tokio::select! {
        loaded = server.load() => loaded,
        () = told.ending() => return ExitCode::SUCCESS,
    };
    if let Err(error) = loaded {
        return failed(&error);
    }
    let worker = match Worker::start(server.app().clone()) {
        Ok(worker) => worker,
        Err(error) => return failed(&error),
    };
    tracing::info!("ready");
    told.ending().await;
    tracing::info!("draining");
    server.app().drain();
    tokio::select! {
        finished = worker.drain() => {
            tracing::info!(finished, "ended");
            if finished { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        // What it holds, the queue gives to another worker after a while.
        () = told.ending() => ExitCode::FAILURE,
    }
}

/// The signals that tell a program to end.
#[cfg(unix)]
struct Told {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Told {
    fn new() -> std::io::Result<Told> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Told { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn ending(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Told;

#[cfg(not(unix))]
impl Told {
    fn new() -> std::io::Result<Told> {
        Ok(Told)
    }

    async fn ending(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
