//! Every graph of the zoo against its golden, on a GPU.

fn main() -> std::process::ExitCode {
    lenslet_tests::native::zoo_main(lenslet_tests::backend::Backend::Gpu, std::env::args().skip(1))
}
