//! `cargo xtask build-web`: the wasm modules of the npm package.
//!
//! Each variant is compiled by cargo into a target directory of its own (two builds that differ in
//! `RUSTFLAGS` would overwrite each other's module), goes through wasm-bindgen, then through wasm-opt where
//! a suitable one is installed, and lands in `web/pkg` with the JavaScript that loads it. What has not
//! changed is not done again: cargo sees to its part, a stamp to the rest.

mod bindgen;
mod sizes;
mod stamp;
mod wasm_opt;

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use crate::error::Error;
use crate::process;
use crate::setup::{self, Component, wasm};
use crate::workspace::Workspace;
use sizes::Sizes;
use stamp::Stamp;
use wasm_opt::WasmOpt;

/// What the project promises: a module of at most five megabytes.
const MAX_RAW_BYTES: u64 = 5_000_000;

/// The options of `cargo xtask build-web`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) exports: Exports,
    /// Do not run wasm-opt.
    pub(crate) no_wasm_opt: bool,
}

/// What a module offers to JavaScript.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exports {
    /// What the package's worker uses.
    #[default]
    Package,
    /// The test suite's entry points as well.
    TestSuite,
    /// A graph by itself as well; compiled as the package is, since it stands for it where time is measured.
    Bench,
}

impl Exports {
    /// The folder of the finished modules, the cargo feature, and what sets records apart.
    fn names(self) -> (&'static str, Option<&'static str>, &'static str) {
        match self {
            Self::Package => ("web/pkg", None, ""),
            Self::TestSuite => ("web/pkg-test", Some("test-suite"), "-test"),
            Self::Bench => ("web/pkg-bench", Some("bench"), "-bench"),
        }
    }

    /// The suite checks kernels, which the relaxed module has in all their variants, and is built with the settings of
    /// `release`: linking the whole program at once would only make the tests start later.
    fn profile(self) -> &'static str {
        if self == Self::TestSuite { "release" } else { "web" }
    }

    fn variants(self) -> &'static [Variant] {
        match self {
            Self::Package => &[RELAXED, SIMD, THREADS],
            Self::Bench => &[RELAXED, THREADS],
            Self::TestSuite => &[RELAXED],
        }
    }
}

/// One of the modules that a browser chooses from by what it supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    /// The module's file name without its extension.
    name: &'static str,
    /// The folder below cargo's target directory.
    target_dir: &'static str,
    features: &'static str,
    /// Whether workers share its memory.
    threads: bool,
}

const RELAXED: Variant = Variant {
    name: "lenslet_relaxed",
    target_dir: "web-relaxed",
    features: "+simd128,+relaxed-simd,+bulk-memory,+nontrapping-fptoint",
    threads: false,
};

const SIMD: Variant = Variant {
    name: "lenslet_simd",
    target_dir: "web-simd",
    features: "+simd128,+bulk-memory,+nontrapping-fptoint",
    threads: false,
};

/// For pages that are cross-origin isolated.
const THREADS: Variant = Variant {
    name: "lenslet_threads",
    target_dir: "web-threads",
    features: "+simd128,+relaxed-simd,+bulk-memory,+nontrapping-fptoint,+atomics",
    threads: true,
};

/// Memory that workers share is made by the script, with a limit: all that 32 bits address. wasm-bindgen needs to know where a
/// thread's own variables are, of which it gives each worker a copy.
const SHARED_MEMORY: &str = "-C link-arg=--shared-memory -C link-arg=--import-memory -C link-arg=--max-memory=4294967296 \
     -C link-arg=--export=__wasm_init_tls -C link-arg=--export=__tls_size -C link-arg=--export=__tls_align \
     -C link-arg=--export=__tls_base";

/// LLVM's pass for processors with few ways to address memory: it turns the constant offsets of a loop's loads into additions, which
/// engines then carry out one by one. Without it modules are smaller by a hundredth, and no slower.
const ADDRESSES: &str = "-C llvm-args=-disable-lsr";

/// Installs what a build needs.
pub(crate) fn prepare(workspace: &Workspace) -> Result<(), Error> {
    eprintln!("Checking what the browser build needs:");
    setup::run(workspace, &[Component::Wasm])
}

/// Builds what `options` asks for and prints the sizes.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<(), Error> {
    let toolchain = wasm::Toolchain::find(workspace).ok_or_else(|| Error::Missing {
        what: "a Rust compiler for wasm",
        why: format!("rustc has no standard library for {}", wasm::TARGET),
        remedy: "run `cargo xtask setup`".to_owned(),
    })?;
    let exports = options.exports;
    let (out_dir, ..) = exports.names();
    let unoptimized = exports == Exports::TestSuite || options.no_wasm_opt;
    let optimizer = if unoptimized { None } else { WasmOpt::find() };
    let out_dir = workspace.path(out_dir);
    fs::create_dir_all(&out_dir).map_err(Error::io("create", &out_dir))?;

    let modules = compile_all(workspace, &toolchain, exports)?;
    let mut sizes = Vec::new();
    for (&variant, module) in exports.variants().iter().zip(modules) {
        let stamp_path = stamp_path(workspace, variant, exports);
        sizes.push((variant, package(variant, &module, &out_dir, optimizer.as_ref(), &stamp_path)?));
    }
    eprintln!("{}:", out_dir.display());
    for (variant, sizes) in &sizes {
        eprintln!("  {}.wasm  {sizes}", variant.name);
    }
    if exports != Exports::Package {
        return Ok(());
    }
    sizes.iter().find(|(_, sizes)| sizes.raw > MAX_RAW_BYTES).map_or(Ok(()), |(variant, sizes)| {
        Err(Error::TooBig { file: format!("{}.wasm", variant.name), size: sizes.raw, limit: MAX_RAW_BYTES })
    })
}

/// Compiles the variants at the same time and returns cargo's modules.
///
/// Linking a whole program at once keeps one core busy for a minute or two, and the other one idle unless the next variant
/// is compiled meanwhile. They share no directory, so neither cargo waits for the other.
fn compile_all(workspace: &Workspace, toolchain: &wasm::Toolchain, exports: Exports) -> Result<Vec<PathBuf>, Error> {
    thread::scope(|scope| {
        let builds: Vec<_> = exports
            .variants()
            .iter()
            .map(|&variant| scope.spawn(move || compile(workspace, toolchain, variant, exports)))
            .collect();
        let joined = builds.into_iter().map(|build| build.join().unwrap_or_else(|panic| resume_unwind(panic)));
        // All of them have ended before the first error is told.
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Compiles a variant and returns cargo's module.
fn compile(
    workspace: &Workspace,
    toolchain: &wasm::Toolchain,
    variant: Variant,
    exports: Exports,
) -> Result<PathBuf, Error> {
    let profile = exports.profile();
    // The suite's build shares its directory with the native one: they meet in `target/release`, where
    // build scripts and procedural macros are compiled for both.
    let target_dir = match exports {
        Exports::TestSuite => workspace.target().to_owned(),
        Exports::Package | Exports::Bench => workspace.target().join(variant.target_dir),
    };
    eprintln!("Compiling {} (profile {profile}) ...", variant.name);
    let mut command = toolchain.build(workspace, variant.threads);
    let shared = if variant.threads { SHARED_MEMORY } else { "" };
    command
        .args(["--package", "lenslet-web", "--lib", "--profile", profile, "--target-dir"])
        .arg(&target_dir)
        // Takes the place of what .cargo/config.toml says for the target.
        .env("RUSTFLAGS", format!("-C target-feature={} {ADDRESSES} {shared}", variant.features))
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let (_, feature, _) = exports.names();
    let features: Vec<&str> = feature.into_iter().chain(variant.threads.then_some("threads")).collect();
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    process::run("compiling lenslet-web", &mut command)?;
    Ok(target_dir.join(wasm::TARGET).join(profile).join("lenslet_web.wasm"))
}

/// Turns cargo's module into the package's files, unless they were made from the same module already.
fn package(
    variant: Variant,
    module: &Path,
    out_dir: &Path,
    optimizer: Option<&WasmOpt>,
    stamp_path: &Path,
) -> Result<Sizes, Error> {
    let bytes = fs::read(module).map_err(Error::io("read", module))?;
    let stamp = Stamp::new(&bytes, optimizer.map(WasmOpt::version));
    let wasm = out_dir.join(format!("{}.wasm", variant.name));
    if let Some(sizes) = stamp.recorded(stamp_path, &wasm) {
        return Ok(sizes);
    }
    bindgen::run(variant.name, module, bytes, out_dir)?;
    if let Some(optimizer) = optimizer {
        optimizer.run(&wasm);
    }
    let sizes = Sizes::of(&wasm)?;
    stamp.record(stamp_path, &sizes)?;
    Ok(sizes)
}

fn stamp_path(workspace: &Workspace, variant: Variant, exports: Exports) -> PathBuf {
    let (profile, (.., suffix)) = (exports.profile(), exports.names());
    workspace.records().join(format!("{}-{profile}{suffix}.stamp", variant.name))
}
