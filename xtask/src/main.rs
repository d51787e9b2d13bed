//! `cargo xtask`: everything that the project does beyond `cargo build`, on a machine that has nothing but
//! Rust. Run it without arguments for the list of tasks.

mod bench;
mod browser;
mod build_web;
mod cli;
mod demo;
mod error;
mod process;
mod serve;
mod setup;
mod suite;
mod test;
mod workspace;

use std::process::ExitCode;

use crate::cli::Task;
use crate::error::Error;
use crate::workspace::Workspace;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(task: Task) -> Result<ExitCode, Error> {
    let workspace = Workspace::find();
    match task {
        Task::Help => println!("{}", cli::USAGE),
        Task::Setup => setup::run(&workspace, setup::Component::ALL)?,
        Task::BuildWeb(options) => {
            build_web::prepare(&workspace)?;
            build_web::run(&workspace, &options)?;
        }
        // Its last line is the summary, on success and on failure.
        Task::Test(options) => return test::run(&workspace, &options),
        Task::Suite(page, options) => suite::run(&workspace, page, &options)?,
        Task::Demo(options) => demo::run(&workspace, &options)?,
        Task::Bench(options) => bench::run(&workspace, &options)?,
        Task::Serve(options) => serve::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
