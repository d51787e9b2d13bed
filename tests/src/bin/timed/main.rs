//! Lenslet as `cargo xtask bench cpu` measures it: a process that is told when to run. `timed --limit THREADS` instead prints what
//! the machine's instructions allow.

mod limit;
#[path = "../../../../xtask/peers/src/protocol.rs"]
mod protocol;

use std::collections::BTreeMap;
use std::process::ExitCode;

use lenslet::onnx::ImportOptions;
use lenslet::{Session, SessionOptions};
use lenslet_models::shapes::{input_shapes, open_sizes, sample};
use protocol::{Loaded, Task};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--limit") {
        let Some(threads) = args.next().and_then(|threads| threads.parse().ok()) else {
            eprintln!("usage: --limit THREADS");
            return ExitCode::from(2);
        };
        println!("{}", limit::measure(threads));
        return ExitCode::SUCCESS;
    }
    protocol::serve(load)
}

fn load(task: &Task) -> Result<Loaded, String> {
    let options = SessionOptions { threads: task.threads, ..SessionOptions::default() };
    let session =
        Session::from_file(&task.model, &ImportOptions::default(), options).map_err(|error| error.to_string())?;
    let open = open_sizes(session.inputs());
    let sizes = task.sizes.iter().filter(|(name, _)| open.contains(*name));
    let sizes = sizes.map(|(name, size)| (name.clone(), *size)).collect();
    let shapes = input_shapes(session.inputs(), &BTreeMap::new(), &sizes, None)?;
    let tensors: Result<Vec<_>, _> = shapes.iter().map(|(dtype, shape)| sample(*dtype, shape)).collect();
    let tensors = tensors.map_err(|error| error.to_string())?;
    let run = move || {
        let inputs: Vec<_> = session.inputs().iter().map(|info| &*info.name).zip(tensors.iter().cloned()).collect();
        session.run(&inputs).map(drop).map_err(|error| error.to_string())
    };
    Ok(Loaded { version: env!("CARGO_PKG_VERSION"), run: Box::new(run) })
}
