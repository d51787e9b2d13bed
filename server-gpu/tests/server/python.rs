//! Python's clients and ONNX Runtime's library, from PyPI, in a virtual environment below `target`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is installed. Another list gets another environment.
const PACKAGES: [&str; 4] =
    ["onnxruntime==1.32.0", "openai==3.57.0", "tritonclient[grpc,http]==2.73.0", "schemathesis==4.32.5"];

/// The environment's Python; `None`, with the reason on standard error, where Python or PyPI cannot be reached.
pub(crate) fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| match environment() {
        Ok(python) => Some(python),
        Err(why) => {
            eprintln!("left out: no Python with {}: {why}", PACKAGES.join(", "));
            None
        }
    });
    python.as_deref()
}

fn environment() -> Result<PathBuf, String> {
    let name: String = PACKAGES.join("-").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{name}"));
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let done = folder.join("complete");
    if done.is_file() {
        return Ok(python);
    }
    let folder_name = folder.to_string_lossy();
    run(Command::new("python3").args(["-m", "venv", "--clear", &folder_name]))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))?;
    std::fs::write(&done, "").map_err(|e| e.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    let end = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(end.lines().last().unwrap_or("it failed").to_owned()) }
}

/// ONNX Runtime's library.
pub(crate) fn onnxruntime() -> Option<PathBuf> {
    let site = python()?.parent()?.parent()?.join("lib");
    let version = std::fs::read_dir(site).ok()?.flatten().next()?.path();
    let files = std::fs::read_dir(version.join("site-packages/onnxruntime/capi")).ok()?;
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime."));
    files.flatten().map(|file| file.path()).find(named)
}

/// Runs a script with arguments, and returns what it printed.
pub(crate) fn run_script(python: &Path, script: &str, args: &[&str]) -> String {
    let output = Command::new(python).arg("-c").arg(script).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Has schemathesis make up requests to the server at `address`, with these arguments besides: no answer may be a 5xx, or other than
/// the server's OpenAPI document says.
pub(crate) fn schemathesis(python: &Path, address: SocketAddr, args: &[&str]) {
    let mut command = Command::new(python.with_file_name("schemathesis"));
    command.args(["run", &format!("http://{address}/openapi.json")]).args(args);
    command.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1", "--no-color"]);
    // Its reports and its examples stay below target.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
