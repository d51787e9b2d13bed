//! The stages of `cargo xtask test`.
//!
//! Quick ones first, so that a slip shows early. Everything native is built with the `release` profile,
//! lints and documentation too: build scripts and procedural macros are then compiled once for all of them.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use super::counts::Counter;
use crate::browser::Device;
use crate::setup;
use crate::suite::{self, Page};
use crate::workspace::Workspace;

/// One step of the tests.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) name: &'static str,
    /// What it does, for the user.
    pub(super) about: &'static str,
    /// Whether it is part of `--quick`.
    pub(super) quick: bool,
    /// Stages that must have passed before.
    pub(super) needs: &'static [&'static str],
    pub(super) requires: Requires,
    pub(super) command: fn(&Workspace) -> Command,
    pub(super) counter: fn(&Workspace) -> Counter,
}

/// Without what a stage is left out.
#[derive(Debug)]
pub(super) enum Requires {
    /// It runs anywhere.
    Nothing,
    /// A file that not every checkout has.
    File(&'static str),
    /// A compiler for aarch64 and an emulator.
    Aarch64,
    /// Helm, hadolint and schemas.
    Deploy,
}

impl Requires {
    /// Why the stage must be left out, if it must.
    pub(super) fn missing(&self, workspace: &Workspace) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::File(path) => (!workspace.path(path).exists()).then(|| format!("this checkout has no {path}")),
            Self::Aarch64 => setup::aarch64::missing(workspace),
            Self::Deploy => setup::deploy::missing(workspace),
        }
    }
}

const WEB_PACKAGE: Requires = Requires::File("web/package.json");
const SUITE_PAGE: Requires = Requires::File("tests/browser/suite/index.html");
const PICTURES_PAGE: Requires = Requires::File("tests/browser/pictures/index.html");
const SEARCH_PAGE: Requires = Requires::File("web/apps/search/package.json");

/// What the server has beside its default features, as far as this machine can build it.
fn server_features() -> &'static str {
    if setup::can_build_c() {
        "lenslet-server/grpc,lenslet-server/kafka,lenslet-server/otlp,lenslet-server/tls"
    } else {
        eprintln!("Without make and compilers of C and C++ the server is built without the feature kafka.");
        "lenslet-server/grpc,lenslet-server/otlp,lenslet-server/tls"
    }
}

/// All stages in the order in which they run; what a stage needs stands before it.
pub(super) const STAGES: &[Stage] = &[
    Stage {
        name: "fmt",
        about: "Rust code is formatted",
        quick: true,
        needs: &[],
        requires: Requires::Nothing,
        command: |workspace| cargo(workspace, &["fmt", "--all", "--check"]),
        counter: whole,
    },
    Stage {
        name: "xtask",
        about: "tests of xtask itself",
        quick: true,
        needs: &[],
        requires: Requires::Nothing,
        // With the profile it was built with, or wasm-bindgen would be compiled again.
        command: |workspace| cargo(workspace, &["test", "--profile", "xtask", "--package", "xtask"]),
        counter: |_| Counter::CargoTest,
    },
    Stage {
        name: "clippy",
        about: "lints of all crates and targets",
        quick: true,
        needs: &[],
        requires: Requires::Nothing,
        command: |workspace| {
            cargo(workspace, &["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"])
        },
        counter: whole,
    },
    Stage {
        name: "clippy-features",
        about: "lints of the server with all its features",
        quick: true,
        needs: &[],
        requires: Requires::Nothing,
        // Of the whole workspace, since features are unified over what is asked for: by itself the server would have the runtime
        // checked again.
        command: |workspace| {
            let server = ["clippy", "--release", "--workspace", "--all-targets", "--features", server_features()];
            cargo(workspace, &[&server[..], &["--", "-D", "warnings"]].concat())
        },
        counter: whole,
    },
    Stage {
        name: "doc",
        about: "the documentation builds without warnings",
        quick: true,
        needs: &[],
        requires: Requires::Nothing,
        command: |workspace| {
            let mut command = cargo(
                workspace,
                &[
                    "doc",
                    "--release",
                    "--workspace",
                    // The library and the command are both called `lenslet`: one page would overwrite the
                    // other.
                    "--lib",
                    "--no-deps",
                    "--document-private-items",
                    "--features",
                    server_features(),
                ],
            );
            command.env("RUSTDOCFLAGS", "-D warnings");
            command
        },
        counter: whole,
    },
    Stage {
        name: "setup",
        about: "what the other stages need is on this machine",
        quick: false,
        needs: &[],
        requires: Requires::Nothing,
        command: |_| xtask(&["setup"]),
        counter: whole,
    },
    Stage {
        name: "deploy",
        about: "images, chart and settings that deploy the server: hadolint, helm lint, schemas, promtool",
        quick: false,
        needs: &["setup"],
        requires: Requires::Deploy,
        command: setup::deploy::check,
        counter: whole,
    },
    Stage {
        name: "rust",
        about: "tests of all crates: the runtime on CPU and Vulkan (lavapipe), the zoo, the models, the command, the server",
        quick: false,
        needs: &["setup"],
        requires: Requires::Nothing,
        command: rust_tests,
        counter: |_| Counter::CargoTest,
    },
    Stage {
        name: "clippy-aarch64",
        about: "lints of the kernels for aarch64",
        quick: false,
        needs: &["setup"],
        requires: Requires::Aarch64,
        command: |workspace| {
            let mut command = workspace.cargo();
            command.arg("clippy").args(AARCH64_TESTS).arg("--tests").args(["--", "-D", "warnings"]);
            command
        },
        counter: whole,
    },
    Stage {
        name: "aarch64-dot",
        about: "tests of the CPU kernels on an emulated aarch64 processor with dot products",
        quick: false,
        needs: &["setup"],
        requires: Requires::Aarch64,
        // One function has a form without fused multiply-add, which aarch64 never runs and the native tests have run:
        // emulated, it would take as long as half of all others.
        command: |workspace| {
            aarch64_tests(workspace, "max", "neon-dot", &["cpu::", "--skip", "error_bounds_without_fma"])
        },
        counter: |_| Counter::CargoTest,
    },
    Stage {
        name: "aarch64",
        about: "tests of the products on an emulated aarch64 processor without them",
        quick: false,
        needs: &["setup"],
        requires: Requires::Aarch64,
        command: |workspace| {
            aarch64_tests(
                workspace,
                "cortex-a53",
                "neon",
                &["cpu::matmul", "cpu::integer", "cpu::conv", "cpu::attention"],
            )
        },
        counter: |_| Counter::CargoTest,
    },
    Stage {
        name: "clippy-wasm",
        about: "lints of the browser's code",
        quick: false,
        needs: &["setup"],
        requires: Requires::Nothing,
        command: |workspace| {
            cargo(
                workspace,
                &[
                    "clippy",
                    "--release",
                    "--package",
                    "lenslet-web",
                    "--features",
                    "test-suite,bench,threads",
                    "--target",
                    setup::wasm::TARGET,
                    "--",
                    "-D",
                    "warnings",
                ],
            )
        },
        counter: whole,
    },
    Stage {
        name: "build-web",
        about: "the browser package, and its size",
        quick: false,
        needs: &["setup"],
        requires: Requires::Nothing,
        command: |_| xtask(&["build-web"]),
        counter: whole,
    },
    Stage {
        name: "web-check",
        about: "types and lints of the TypeScript code",
        quick: false,
        needs: &["build-web"],
        requires: WEB_PACKAGE,
        command: |workspace| npm(workspace, &["run", "--silent", "check"]),
        counter: whole,
    },
    Stage {
        name: "web-test",
        about: "tests of the TypeScript code",
        quick: false,
        needs: &["build-web"],
        requires: WEB_PACKAGE,
        command: |workspace| npm(workspace, &["--silent", "test"]),
        counter: |_| Counter::NodeTest,
    },
    Stage {
        name: "demo",
        about: "the search page, used in headless Chromium",
        quick: false,
        needs: &["build-web"],
        requires: SEARCH_PAGE,
        command: |_| xtask(&["demo", "--check"]),
        counter: whole,
    },
    Stage {
        name: "offload",
        about: "the search page with a server, which is killed, in headless Chromium",
        quick: false,
        needs: &["build-web"],
        requires: SEARCH_PAGE,
        command: |_| xtask(&["demo", "--check-server"]),
        counter: whole,
    },
    Stage {
        name: "pictures-wasm",
        about: "photographs, captions and answers through the npm package on WASM, decoded by Chromium",
        quick: false,
        needs: &["build-web"],
        requires: PICTURES_PAGE,
        command: |workspace| run_page(workspace, Page::Pictures, Device::Wasm),
        counter: |workspace| page_report(workspace, Page::Pictures, Device::Wasm),
    },
    Stage {
        name: "pictures-webgpu",
        about: "photographs, captions and answers through the npm package on WebGPU, decoded by Chromium",
        quick: false,
        needs: &["build-web"],
        requires: PICTURES_PAGE,
        command: |workspace| run_page(workspace, Page::Pictures, Device::WebGpu),
        counter: |workspace| page_report(workspace, Page::Pictures, Device::WebGpu),
    },
    Stage {
        name: "build-suite",
        about: "the browser suite's module",
        quick: false,
        needs: &["setup"],
        requires: SUITE_PAGE,
        command: |_| xtask(&["build-web", "--test-suite"]),
        counter: whole,
    },
    Stage {
        name: "suite-wasm",
        about: "the suite on WASM in headless Chromium",
        quick: false,
        needs: &["build-suite"],
        requires: SUITE_PAGE,
        command: |workspace| run_page(workspace, Page::Suite, Device::Wasm),
        counter: |workspace| page_report(workspace, Page::Suite, Device::Wasm),
    },
    Stage {
        name: "suite-webgpu",
        about: "the suite on WebGPU in headless Chromium",
        quick: false,
        needs: &["build-suite"],
        requires: SUITE_PAGE,
        command: |workspace| run_page(workspace, Page::Suite, Device::WebGpu),
        counter: |workspace| page_report(workspace, Page::Suite, Device::WebGpu),
    },
];

/// The runtime without what its kernels do not need.
const AARCH64_TESTS: [&str; 9] = [
    "--release",
    "--target",
    setup::aarch64::TARGET,
    "--package",
    "lenslet",
    "--lib",
    "--no-default-features",
    "--features",
    "threads",
];

/// The names of `wanted` and of all stages that they need.
pub(super) fn with_prerequisites(wanted: &[String]) -> Vec<&'static str> {
    let mut names = Vec::new();
    // Needs point backwards, so one pass from the end finds all of them.
    for stage in STAGES.iter().rev() {
        if wanted.iter().any(|name| name == stage.name) || names.contains(&stage.name) {
            names.push(stage.name);
            names.extend(stage.needs);
        }
    }
    names
}

fn whole(_: &Workspace) -> Counter {
    Counter::Whole
}

fn page_report(workspace: &Workspace, page: Page, device: Device) -> Counter {
    Counter::SuiteReport(suite::default_report(workspace, page, device))
}

fn run_page(workspace: &Workspace, page: Page, device: Device) -> Command {
    // A report of an earlier run must not be counted if this one ends before writing its own.
    let _ = std::fs::remove_file(suite::default_report(workspace, page, device));
    xtask(&[page.name(), "--device", device.name()])
}

/// All tests of all crates but xtask's own, in one call: cargo unifies features over what it is asked to build, so the runtime's
/// tests by themselves would have the runtime and half of its dependencies compiled a second time.
fn rust_tests(workspace: &Workspace) -> Command {
    let mut command = cargo(workspace, &["test", "--release", "--workspace", "--exclude", "xtask", "--no-fail-fast"]);
    command.args(["--features", server_features()]);
    if let Some(icd) = setup::lavapipe_icd() {
        // The older name of the variable and the newer one, for any version of the Vulkan loader.
        command.env("VK_ICD_FILENAMES", &icd).env("VK_DRIVER_FILES", &icd);
    }
    command
}

/// The runtime's own tests that match `filters`, on processor `model` of the emulator, whose best kernels must be
/// `expected`.
fn aarch64_tests(workspace: &Workspace, model: &str, expected: &str, filters: &[&str]) -> Command {
    let mut command = setup::aarch64::cargo(workspace, model);
    command.arg("test").args(AARCH64_TESTS).arg("--").args(filters);
    command.env("LENSLET_TEST_EXPECT_KERNELS", expected);
    command
}

fn cargo(workspace: &Workspace, args: &[&str]) -> Command {
    let mut command = workspace.cargo();
    command.args(args);
    command
}

fn npm(workspace: &Workspace, args: &[&str]) -> Command {
    let mut command = workspace.npm();
    command.args(args);
    command
}

/// A task of this very program.
fn xtask(args: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap_or_else(|_| PathBuf::from("xtask")));
    command.args(args);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_stand_before_the_stages_that_have_them() {
        for (index, stage) in STAGES.iter().enumerate() {
            for need in stage.needs {
                let place = STAGES.iter().position(|other| other.name == *need);
                assert!(place.is_some_and(|place| place < index), "{} needs {need}", stage.name);
            }
        }
    }

    #[test]
    fn prerequisites_are_found_through_others() {
        let names = with_prerequisites(&["suite-wasm".to_owned()]);
        for name in ["suite-wasm", "build-suite", "setup"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert!(!names.contains(&"fmt"));
    }
}
