//! The suite on this machine: where files lie, which device there is, how results are told.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

use lenslet::gpu::{Gpu, GpuOptions};
use lenslet::{CpuKernels, SessionOptions};

use crate::backend::{Backend, ignored};
use crate::zoo;

/// Set to let tests of the GPU pass on a machine without one.
pub const ALLOW_NO_GPU: &str = "LENSLET_ALLOW_NO_GPU";

/// A file or folder of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A file or folder of the test material that is no part of the repository: below `LENSLET_SHARED`, or below `shared` beside
/// the project. `None`, said aloud, if it is not on this machine.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("LENSLET_SHARED") {
        Some(root) => PathBuf::from(root),
        None => repository("../shared"),
    };
    let found = root.join(path);
    if found.exists() {
        return Some(found);
    }
    say(&format!("skipped: {path} is not on this machine (LENSLET_SHARED names the folder that holds it)"));
    None
}

/// Reads a file that must be there.
///
/// # Panics
/// If it is not.
pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file of a zoo model's graphs. Other exports of ViT-GPT2 share the encoder's golden with the first.
pub fn zoo_file(zoo: &Path, folder: &str, name: &str) -> Result<Vec<u8>, String> {
    std::fs::read(zoo.join(folder).join("onnx").join(name))
        .or_else(|_| std::fs::read(zoo.join("vit-gpt2-image-captioning/tiny/onnx").join(name)))
        .map_err(|e| format!("{name}: {e}"))
}

/// Prints a line even when the test runner keeps what passing tests print.
pub fn say(line: &str) {
    // The runner catches the print macros, not the stream. A closed stream is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The GPU of this machine, opened once. `None` if there is none and [`ALLOW_NO_GPU`] is set.
///
/// # Panics
/// If there is none and its absence is not allowed.
pub fn gpu() -> Option<Gpu> {
    static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();
    let opened = GPU.get_or_init(|| pollster::block_on(Gpu::new(&GpuOptions::default())).map_err(|e| e.to_string()));
    match opened {
        Ok(gpu) => Some(gpu.clone()),
        Err(reason) if std::env::var_os(ALLOW_NO_GPU).is_some() => {
            say(&format!("skipped: {reason}"));
            None
        }
        Err(reason) => panic!("{reason} (set {ALLOW_NO_GPU} to skip the tests that need one)"),
    }
}

/// Names the level of instructions that products on the CPU are limited to.
pub const KERNELS: &str = "LENSLET_KERNELS";

/// The level that [`KERNELS`] names, or the best.
///
/// # Panics
/// If this machine has no such level.
fn kernels() -> CpuKernels {
    let Some(name) = std::env::var_os(KERNELS) else { return CpuKernels::default() };
    let known: Vec<_> = CpuKernels::available().collect();
    name.to_str()
        .and_then(CpuKernels::named)
        .unwrap_or_else(|| panic!("{KERNELS} is {}, and this machine has {known:?}", name.display()))
}

/// Options for a backend, one thread; `None` if its device is absent and that is allowed.
pub fn options(backend: Backend) -> Option<SessionOptions> {
    let cpu = SessionOptions { threads: 1, kernels: kernels(), ..SessionOptions::default() };
    match backend {
        Backend::Gpu => gpu().map(|gpu| SessionOptions { gpu: Some(gpu), ..cpu }),
        _ => Some(cpu),
    }
}

/// Runs `work` on each item, on as many threads as there are cores, and keeps the order.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(item) = items.get(i) else { return mine };
                        mine.push((i, work(item)));
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A graph of the zoo with its golden.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Path below the zoo, without the ending.
    pub name: String,
    /// The model file.
    pub model: PathBuf,
    /// The golden file.
    pub golden: PathBuf,
}

/// All graphs with goldens below `folder`, by name.
pub fn graphs(folder: &Path) -> Vec<Graph> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<Graph>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, out);
            } else if path.extension().is_some_and(|e| e == "onnx") {
                let golden = path.with_extension("golden.safetensors");
                if golden.is_file() {
                    let name = path.strip_prefix(root).unwrap_or(&path).with_extension("");
                    let name = name.to_string_lossy().replace('\\', "/");
                    out.push(Graph { name, model: path, golden });
                }
            }
        }
    }
    let mut out = Vec::new();
    walk(folder, folder, &mut out);
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// Runs one graph. A panic is a reason to fail as well.
pub fn run_graph(graph: &Graph, options: &SessionOptions) -> zoo::Outcome {
    let work = || {
        let (model, golden) = (read(&graph.model), read(&graph.golden));
        pollster::block_on(zoo::run(&graph.name, &model, &golden, options))
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        zoo::Outcome { result: Err(format!("panicked: {}", text.unwrap_or("for an unknown reason"))) }
    })
}

/// The program of `tests/zoo_cpu.rs` and `tests/zoo_gpu.rs`: a line a graph, then the counts. Arguments that are no options
/// choose graphs by a part of their names, as with other tests. The CPU runs them with every level of instructions that
/// it has, unless [`KERNELS`] names one.
pub fn zoo_main(backend: Backend, arguments: impl Iterator<Item = String>) -> ExitCode {
    let wanted: Vec<String> = arguments.filter(|a| !a.starts_with('-')).collect();
    let started = Instant::now();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    match shared("zoo").zip(options(backend)) {
        None => skipped = 1,
        Some((folder, options)) => {
            let graphs = graphs(&folder);
            let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
            let one = backend != Backend::Cpu || std::env::var_os(KERNELS).is_some();
            let levels = if one { vec![options.kernels] } else { CpuKernels::available().collect() };
            for kernels in levels {
                let options = SessionOptions { kernels, ..options.clone() };
                for graph in graphs.iter().filter(|g| chosen(&g.name)) {
                    let outcome = run_graph(graph, &options);
                    let name = match backend {
                        Backend::Cpu => format!("{} [{kernels:?}]", graph.name),
                        _ => graph.name.clone(),
                    };
                    match (outcome.reason(), ignored(backend, &graph.name)) {
                        (None, None) => {
                            passed += 1;
                            println!("ok      {:.6} {name}", outcome.cosine().unwrap_or(1.0));
                        }
                        (Some(reason), Some(known)) => {
                            skipped += 1;
                            println!("ignored {name} {reason} (known: {known})");
                        }
                        (Some(reason), None) => {
                            failed += 1;
                            println!("FAILED  {name} {reason}");
                        }
                        (None, Some(_)) => {
                            failed += 1;
                            println!("FAILED  {name} passes: take it off the list of ignored graphs");
                        }
                    }
                }
            }
            say(&format!("{passed} of {} graphs on {}", passed + failed + skipped, backend.name()));
            // A browser cannot list a folder: its list must be the folder's.
            let listed: Vec<String> =
                serde_json::from_slice(&read(repository("tests/browser/suite/graphs.json"))).unwrap_or_default();
            if wanted.is_empty() && !graphs.iter().map(|g| &g.name).eq(&listed) {
                failed += 1;
                println!("FAILED  tests/browser/suite/graphs.json does not list the zoo");
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        started.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
