//! The command line.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::bench::Subject;
use crate::browser::Device;
use crate::build_web::Exports;
use crate::error::Error;
use crate::suite::Page;

/// What `cargo xtask` without arguments prints.
pub(crate) const USAGE: &str = "\
Usage: cargo xtask TASK [OPTIONS]

Tasks:
  setup       Check this machine for what the other tasks need and install what can be installed
  build-web   Build the WebAssembly package into web/pkg
                --test-suite       with the test suite's entry points, into web/pkg-test
                --no-wasm-opt      leave out wasm-opt even where a suitable one is installed
  test        Run every check: formatting, lints, documentation, tests, browsers, the demo
                --quick            only the stages that need no browser build
                --only NAME        only this stage and those that it needs (may be repeated)
                --list             print the stages and stop
  suite       Run the test suite in headless Chromium
                --device DEVICE    wasm or webgpu (default: wasm)
                --filter TEXT      only cases whose name contains TEXT
                --report FILE      where to write the report (default: target/xtask/suite-DEVICE.json)
  pictures    Run photographs and captions through the npm package in headless Chromium (options as above)
  demo        Build and serve the search page, and print its address
                --port N           the port (default: any free one)
                --isolated         serve it cross-origin isolated (COOP and COEP)
                --check            instead drive the page in headless Chromium, print the result as JSON
                                   and fail if more than two searches miss
                --device DEVICE    for --check: auto, wasm or webgpu (default: auto)
                --server URL       let the page speak to this server, if its visitor allows it
                --check-server     drive the page with a server that is killed in the middle of an answer
                --screenshot FILE  for both checks: save a picture of the page
  bench cpu   Measure full-size CLIP ViT-B/32, MiniLM, ResNet-50 and MobileCLIP-S0, in turns with ONNX Runtime (Python;
              LENSLET_PYTHON names one that has it), tract, rten and wonnx (cargo builds them, in some minutes)
  bench web   Measure the same on WASM in headless Chromium, one thread, in turns with onnxruntime-web (npm installs it)
  bench decode
              Measure the tokens a second of SmolLM2 (LENSLET_SMOLLM2 names its folder), natively in turns with
              ONNX Runtime and in headless Chromium, on WASM, in turns with transformers.js (npm installs it)
  bench server
              Measure what batching gains the server on ONNX Runtime, and what three times its peak does to it
                --soak SECONDS     and its memory over this time
                --json             print one JSON object instead of a table or lines
                --filter TEXT      only rows whose name contains TEXT
                --threads N        only this number of threads (may be repeated; default: 1 and 2; for web 1)
                --rounds N         turns of each (default: 20; for decode 3)
                --peer NAME        only this peer (may be repeated; default: all; not for decode)
  serve DIR   Serve a folder on 127.0.0.1 (--port, --isolated as above)";

/// A parsed command line.
#[derive(Debug)]
pub(crate) enum Task {
    Help,
    Setup,
    BuildWeb(crate::build_web::Options),
    Test(crate::test::Options),
    Suite(Page, crate::suite::Options),
    Demo(crate::demo::Options),
    Bench(crate::bench::Options),
    Serve(crate::serve::Options),
}

/// Reads the command line.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Task, Error> {
    let mut parser = lexopt::Parser::from_args(args);
    parse_task(&mut parser).map_err(|error| Error::Usage(error.to_string()))
}

fn parse_task(parser: &mut lexopt::Parser) -> Result<Task, lexopt::Error> {
    let name = match parser.next()? {
        None | Some(Long("help") | Short('h')) => return Ok(Task::Help),
        Some(Value(name)) => name.string()?,
        Some(other) => return Err(other.unexpected()),
    };
    match name.as_str() {
        "help" => Ok(Task::Help),
        "setup" => no_more(parser, Task::Setup),
        "build-web" => build_web(parser),
        "test" => test(parser),
        "suite" => suite(parser, Page::Suite),
        "pictures" => suite(parser, Page::Pictures),
        "demo" => demo(parser),
        "bench" => bench(parser),
        "serve" => serve(parser),
        _ => Err(format!("there is no task `{name}`").into()),
    }
}

fn no_more(parser: &mut lexopt::Parser, task: Task) -> Result<Task, lexopt::Error> {
    match parser.next()? {
        None => Ok(task),
        Some(Long("help") | Short('h')) => Ok(Task::Help),
        Some(other) => Err(other.unexpected()),
    }
}

fn build_web(parser: &mut lexopt::Parser) -> Result<Task, lexopt::Error> {
    let mut options = crate::build_web::Options::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("test-suite") => options.exports = Exports::TestSuite,
            Long("no-wasm-opt") => options.no_wasm_opt = true,
            Long("help") | Short('h') => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::BuildWeb(options))
}

fn test(parser: &mut lexopt::Parser) -> Result<Task, lexopt::Error> {
    let mut options = crate::test::Options::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("quick") => options.quick = true,
            Long("only") => options.only.push(parser.value()?.string()?),
            Long("list") => options.list = true,
            Long("help") | Short('h') => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::Test(options))
}

fn suite(parser: &mut lexopt::Parser, page: Page) -> Result<Task, lexopt::Error> {
    let mut options = crate::suite::Options::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("device") => match parser.value()?.parse()? {
                Device::Auto => return Err("these tests need --device wasm or webgpu".into()),
                device => options.device = device,
            },
            Long("filter") => options.filter = Some(parser.value()?.string()?),
            Long("report") => options.report = Some(PathBuf::from(parser.value()?)),
            Long("help") | Short('h') => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::Suite(page, options))
}

fn demo(parser: &mut lexopt::Parser) -> Result<Task, lexopt::Error> {
    let mut options = crate::demo::Options::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("check") => options.check = true,
            Long("check-server") => options.check_server = true,
            Long("server") => options.server = Some(parser.value()?.string()?),
            Long("device") => options.device = parser.value()?.parse()?,
            Long("screenshot") => options.screenshot = Some(PathBuf::from(parser.value()?)),
            Long("port") => options.port = parser.value()?.parse()?,
            Long("isolated") => options.isolated = true,
            Long("help") | Short('h') => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    let checks = options.check || options.check_server;
    if (!checks && options.screenshot.is_some()) || (!options.check && options.device != Device::Auto) {
        return Err("--device is for demo --check, --screenshot for both checks".into());
    }
    if options.check && options.check_server {
        return Err("--check and --check-server are two checks; choose one".into());
    }
    Ok(Task::Demo(options))
}

fn bench(parser: &mut lexopt::Parser) -> Result<Task, lexopt::Error> {
    let mut options = crate::bench::Options::default();
    let mut what = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(name) if what.is_none() => what = Some(name.string()?),
            Long("json") => options.json = true,
            Long("filter") => options.filter = Some(parser.value()?.string()?),
            Long("threads") => options.threads.push(parser.value()?.parse::<NonZeroUsize>()?.get()),
            Long("rounds") => options.rounds = Some(parser.value()?.parse::<NonZeroUsize>()?.get()),
            Long("peer") => options.peers.push(parser.value()?.parse()?),
            Long("soak") => options.soak = parser.value()?.parse()?,
            Long("help") | Short('h') => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    options.subject = match what.as_deref() {
        Some("cpu") => Subject::Cpu,
        Some("web") => Subject::Web,
        Some("decode") if options.peers.is_empty() => Subject::Decode,
        Some("decode") => return Err("bench decode has one peer in each place: leave --peer out".into()),
        Some("server") if options.peers.is_empty() => Subject::Server,
        Some("server") => return Err("bench server has no peer: leave --peer out".into()),
        _ => return Err("bench measures cpu, web, decode or server: `cargo xtask bench cpu`".into()),
    };
    Ok(Task::Bench(options))
}

fn serve(parser: &mut lexopt::Parser) -> Result<Task, lexopt::Error> {
    let mut options = crate::serve::Options::default();
    let mut root = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(dir) if root.is_none() => root = Some(PathBuf::from(dir)),
            Long("port") => options.port = parser.value()?.parse()?,
            Long("isolated") => options.isolated = true,
            Long("help") | Short('h') => return Ok(Task::Help),
            other => return Err(other.unexpected()),
        }
    }
    options.root = root.ok_or("serve needs the folder to serve")?;
    Ok(Task::Serve(options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Peer;

    fn parse_words(words: &str) -> Result<Task, Error> {
        parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn no_argument_is_help() {
        assert!(matches!(parse_words(""), Ok(Task::Help)));
        assert!(matches!(parse_words("demo --help"), Ok(Task::Help)));
    }

    #[test]
    fn options_reach_their_task() {
        let Ok(Task::Demo(demo)) = parse_words("demo --check --device=webgpu --port 80") else {
            panic!("demo does not parse");
        };
        assert!(demo.check && demo.device == Device::WebGpu && demo.port == 80);
        let Ok(Task::Demo(demo)) = parse_words("demo --server http://localhost:8080") else {
            panic!("demo --server does not parse");
        };
        assert_eq!(demo.server.as_deref(), Some("http://localhost:8080"));
        let Ok(Task::Demo(demo)) = parse_words("demo --check-server --screenshot a.png") else {
            panic!("demo --check-server does not parse");
        };
        assert!(demo.check_server && !demo.check && demo.screenshot.is_some());
        let Ok(Task::Test(test)) = parse_words("test --only fmt --only doc") else {
            panic!("test does not parse");
        };
        assert_eq!(test.only, ["fmt", "doc"]);
        let Ok(Task::Bench(bench)) = parse_words("bench cpu --json --threads 4 --rounds 5 --peer onnxruntime") else {
            panic!("bench does not parse");
        };
        assert!(bench.json && bench.threads == [4] && bench.rounds == Some(5) && bench.subject == Subject::Cpu);
        assert_eq!(bench.peers, [Peer::OnnxRuntime]);
        assert!(matches!(parse_words("bench web"), Ok(Task::Bench(bench)) if bench.subject == Subject::Web));
        assert!(matches!(parse_words("bench decode"), Ok(Task::Bench(bench)) if bench.subject == Subject::Decode));
        assert!(matches!(parse_words("bench server --soak 300"), Ok(Task::Bench(bench)) if bench.soak == 300));
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for words in [
            "bake",
            "setup now",
            "demo --port ninety",
            "demo --device cuda",
            "demo --screenshot a.png",
            "demo --check --check-server",
            "demo --check-server --device wasm",
            "suite --device auto",
            "pictures --device auto",
            "bench",
            "bench gpu",
            "bench cpu --rounds 0",
            "bench cpu --peer onnx",
            "bench decode --peer onnxruntime",
            "serve",
            "serve a b",
        ] {
            let error = parse_words(words).expect_err(words);
            assert_eq!(error.exit_code(), 2, "{words}");
        }
    }
}
