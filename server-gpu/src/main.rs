//! `lenslet-server`.

use std::process::ExitCode;

use clap::Parser as _;
use lenslet_server::config::args::Args;
use lenslet_server::{App, Config, Server};

/// Bad usage or a setting that cannot work.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match Args::parse().into_config() {
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
    let code = runtime.block_on(run(config));
    // Work that nobody waits for any more does not hold up the end.
    runtime.shutdown_background();
    code
}

async fn run(config: Config) -> ExitCode {
    let server = match Server::bind(App::new(config, None)).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("lenslet-server: {error}");
            return ExitCode::FAILURE;
        }
    };
    eprintln!("listening on http://{}", server.address());
    if let Err(error) = server.load().await {
        eprintln!("lenslet-server: {error}");
        return ExitCode::FAILURE;
    }
    eprintln!("ready");
    let _ = tokio::signal::ctrl_c().await;
    server.drain().await;
    ExitCode::SUCCESS
}
