//! `zoo [cpu|gpu] [FILTER...]`: every graph of the zoo against its golden, a line each.

use std::process::ExitCode;

use lenslet_tests::backend::Backend;

fn main() -> ExitCode {
    let device = std::env::args().nth(1).unwrap_or_else(|| "cpu".into());
    match Backend::named(&device) {
        Some(backend @ (Backend::Cpu | Backend::Gpu)) => {
            lenslet_tests::native::zoo_main(backend, std::env::args().skip(2))
        }
        _ => {
            eprintln!("usage: zoo [cpu|gpu] [FILTER...]");
            ExitCode::from(2)
        }
    }
}
