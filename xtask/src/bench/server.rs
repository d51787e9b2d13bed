//! The server under load: `server-gpu/examples/load.rs` measures, this builds both and finds ONNX Runtime's library.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Options, measured, python};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// Turns of each where the options do not say.
const ROUNDS: usize = 3;

/// The rows of the server.
pub(super) fn rows(workspace: &Workspace, options: &Options) -> Result<Vec<Value>, Error> {
    let library = library(&python::ensure(workspace)?)?;
    eprintln!("Building lenslet-server and its load ...");
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--package", "lenslet-server", "--bin", "lenslet-server", "--example", "load"]);
    process::run("building lenslet-server", &mut build)?;
    let built = |name: &str| workspace.target().join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let mut command = Command::new(built("examples/load"));
    command.arg("--json").arg("--server").arg(built("lenslet-server")).arg("--ort-library").arg(library);
    command.args(["--rounds", &options.rounds_or(ROUNDS).to_string(), "--soak", &options.soak.to_string()]);
    // Its text tower in fp32: dynamic INT8, as bundled, is not batched over requests.
    if let Some(folder) = workspace.shared().map(|shared| shared.join("emoji-clip")).filter(|folder| folder.is_dir()) {
        command.arg("--text-model").arg(folder);
    }
    if let Some(folder) = std::env::var_os(super::decode::FOLDER).map(PathBuf::from) {
        if !folder.join("model.onnx").is_file() {
            return Err(Error::Failed(format!("{} has no model.onnx", folder.display())));
        }
        command.arg("--writer").arg(folder);
    }
    let mut value = measured("the load on lenslet-server", &mut command)?;
    match value["rows"].take() {
        Value::Array(rows) => Ok(rows),
        other => Err(Error::Failed(format!("the load printed no rows: {other}"))),
    }
}

/// The library inside Python's onnxruntime.
fn library(python: &Path) -> Result<PathBuf, Error> {
    const FIND: &str = "import glob, os, onnxruntime; \
        print(next(iter(glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), 'capi', '*onnxruntime.*'))), ''))";
    let path = process::capture("looking for ONNX Runtime's library", Command::new(python).args(["-c", FIND]))?;
    let path = PathBuf::from(path.trim());
    if path.is_file() { Ok(path) } else { Err(Error::Failed("Python's onnxruntime has no library".to_owned())) }
}

/// A row for people: the curve of an overload, where there is one, point by point.
pub(super) fn line(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    let rate = match row["per_second"].as_f64() {
        Some(rate) => format!(" {rate:.1} a second, {} {:.1},", text("peer"), number("peer_per_second")),
        None => String::new(),
    };
    let mut line =
        format!("{:<16} {} {}:{rate} ratio {:.2}", text("name"), text("engine"), text("model"), number("ratio"));
    if row["p99_ms"].is_number() {
        line += &format!(", p99 {:.0} and {:.0} ms", number("p99_ms"), number("peer_p99_ms"));
    }
    if let Some(samples) = row["memory_mib"].as_array() {
        let mib = |sample: Option<&Value>| sample.and_then(Value::as_f64).unwrap_or(f64::NAN);
        line += &format!(", memory {:.0} to {:.0} MiB", mib(samples.first()), mib(samples.last()));
    }
    for point in row["curve"].as_array().into_iter().flatten() {
        let number = |key: &str| point[key].as_f64().unwrap_or(f64::NAN);
        line += &format!(
            "\n    {:.1} x peak: {:.1} good a second ({:.2}), {} refused by 429, {} failed, p99 {:.0} ms",
            number("factor"),
            number("good_per_second"),
            number("share_of_peak"),
            point["refused"],
            point["failed"],
            number("p99_ms")
        );
    }
    line
}
