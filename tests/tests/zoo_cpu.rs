//! Every graph of the zoo against its golden, on the CPU.

fn main() -> std::process::ExitCode {
    lenslet_tests::native::zoo_main(lenslet_tests::backend::Backend::Cpu, std::env::args().skip(1))
}
