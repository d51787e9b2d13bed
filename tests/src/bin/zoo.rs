//! `zoo [cpu|gpu] [FILTER]`: every graph of the zoo against its goldens, a line each.

use lenslet::SessionOptions;
use lenslet_tests::zoo;

fn main() {
    let mut args = std::env::args().skip(1);
    let device = args.next().unwrap_or_else(|| "cpu".into());
    let filter = args.next().unwrap_or_default();
    let Some(folder) = zoo::folder() else {
        eprintln!("the zoo is not there; set LENSLET_SHARED to the folder that holds it");
        std::process::exit(2);
    };
    let mut options = SessionOptions { threads: 1, ..SessionOptions::default() };
    if device == "gpu" {
        match pollster::block_on(lenslet::gpu::Gpu::new(&lenslet::gpu::GpuOptions::default())) {
            Ok(gpu) => options.gpu = Some(gpu),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(2);
            }
        }
    }
    let (mut passed, mut total) = (0, 0);
    for graph in zoo::graphs(&folder).into_iter().filter(|g| g.name.contains(&filter)) {
        let outcome = zoo::run(&graph, &options);
        total += 1;
        passed += outcome.ok() as usize;
        match outcome.reason() {
            None => println!("ok    {:.6} {}", outcome.cosine().unwrap_or(1.0), graph.name),
            Some(reason) => println!("MISS  {} {reason}", graph.name),
        }
    }
    println!("{passed} of {total} graphs on {device}");
    if passed < total {
        std::process::exit(1);
    }
}
