//! The `lenslet` command.

mod ask;
mod bench;
mod caption;
mod check;
mod classify;
mod context;
mod embed;
mod encoder;
mod eval;
mod failure;
mod generate;
mod index;
mod inspect;
mod maker;
mod output;
mod search;
mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use context::{Context, GlobalArgs};
use failure::Failure;

/// What a command that ran to its end says: whether what it checked is so.
type Outcome = Result<bool, Failure>;

/// Search pictures by text, caption them, and write text, on this machine or a server of yours.
#[derive(Parser)]
#[command(name = "lenslet", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  lenslet index ~/Pictures -o pictures.idx
  lenslet search \"a red bicycle\" --index pictures.idx
  lenslet caption photo.jpg --device server:http://gpu-box:8080    (key in LENSLET_API_KEY)

Exit status: 0 done, 1 a check failed, 2 bad usage or bad input, 130 interrupted.")]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Index(index::Args),
    Search(search::Args),
    Classify(classify::Args),
    Embed(embed::Args),
    Caption(caption::Args),
    Ask(ask::Args),
    Generate(generate::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Eval(eval::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context::new(cli.global);
    let outcome = match &cli.command {
        Command::Index(args) => index::run(&context, args),
        Command::Search(args) => search::run(&context, args),
        Command::Classify(args) => classify::run(&context, args),
        Command::Embed(args) => embed::run(&context, args),
        Command::Caption(args) => caption::run(&context, args),
        Command::Ask(args) => ask::run(&context, args),
        Command::Generate(args) => generate::run(&context, args),
        Command::Inspect(args) => inspect::run(&context, args),
        Command::Check(args) => check::run(&context, args),
        Command::Eval(args) => eval::run(&context, args),
        Command::Bench(args) => bench::run(&context, args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => failure.report(),
    }
}
