//! 8-bit products are equal bit for bit with a plain loop, on the CPU and on a GPU.

use lenslet::{CpuKernels, SessionOptions};
use lenslet_tests::backend::Backend;
use lenslet_tests::integers::cases;
use lenslet_tests::native::{options, say};

/// Rounds over operators and ranges; a round is 12 cases.
const ROUNDS: usize = 8;

fn run(backend: Backend, kernels: CpuKernels) {
    let Some(options) = options(backend) else { return };
    let options = SessionOptions { kernels, ..options };
    let cases = cases(ROUNDS);
    let mut failed = Vec::new();
    let mut on_gpu = 0;
    for case in &cases {
        match pollster::block_on(case.run(&options)) {
            Ok(gpu) => on_gpu += usize::from(gpu),
            Err(reason) => failed.push(format!("{}: {reason}", case.name)),
        }
    }
    let place = if backend == Backend::Gpu { format!(", {on_gpu} of them by a GPU kernel") } else { String::new() };
    let exact = cases.len() - failed.len();
    say(&format!("integers on {} ({kernels:?}): {exact} of {} exact{place}", backend.name(), cases.len()));
    assert!(failed.is_empty(), "{} of {} cases differ on {kernels:?}: {failed:#?}", failed.len(), cases.len());
    // What falls back to the CPU says nothing about the GPU's kernels.
    assert!(backend != Backend::Gpu || on_gpu == cases.len(), "only {on_gpu} of {} ran on the GPU", cases.len());
}

#[test]
fn integers_on_cpu() {
    // Each level of instructions that the machine has, not only the best.
    CpuKernels::available().for_each(|kernels| run(Backend::Cpu, kernels));
}

#[test]
fn integers_on_gpu() {
    run(Backend::Gpu, CpuKernels::default());
}
