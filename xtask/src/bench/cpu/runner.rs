//! A process that has loaded a graph and waits for its turns; `xtask/peers/src/protocol.rs` says what goes to and fro.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::error::Error;
use crate::process;

/// A running process.
pub(super) struct Runner {
    what: String,
    child: Child,
    /// Taken away when it shall end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub(super) version: String,
    pub(super) load_ms: f64,
    pub(super) first_ms: f64,
}

/// How a process began.
pub(super) enum Start {
    Ready(Runner),
    /// Why it cannot run the graph.
    Unable(String),
}

impl Runner {
    /// Starts a process and waits until it has run once. What it says on standard error goes to `log`.
    pub(super) fn start(what: &str, command: &mut Command, log: &Path) -> Result<Start, Error> {
        let errors = File::create(log).map_err(Error::io("create", log))?;
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).env("RUST_BACKTRACE", "0");
        let mut child = command.spawn().map_err(|source| process::start_error(command, source))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Failed(format!("{what} was started without pipes")));
        };
        let output = BufReader::new(output);
        let what = what.to_owned();
        let mut runner =
            Self { what, child, input: Some(input), output, version: String::new(), load_ms: 0.0, first_ms: 0.0 };
        let Some(said) = runner.hear()? else {
            // A panic, or memory that did not suffice: the graph is at fault as far as one can tell.
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Ok(Start::Unable(format!("it ended: {}", last_words(&said))));
        };
        if let Some(reason) = unable(&said) {
            return Ok(Start::Unable(reason));
        }
        runner.version = said["version"].as_str().unwrap_or_default().to_owned();
        runner.load_ms = runner.number(&said, "load_ms")?;
        runner.first_ms = runner.number(&said, "first_ms")?;
        Ok(Start::Ready(runner))
    }

    /// Its turn: the times of `count` runs, in milliseconds.
    pub(super) fn times(&mut self, count: usize) -> Result<Vec<f64>, Error> {
        let sent = self.input.as_mut().map(|input| writeln!(input, "{count}").and_then(|()| input.flush()));
        let said = if matches!(sent, Some(Ok(()))) { self.hear()? } else { None };
        let said = said.ok_or_else(|| self.failed("it ended before its turns were over"))?;
        times(&said, count).ok_or_else(|| self.failed(&format!("it answered {said}")))
    }

    /// Ends it. Its peak of memory, in bytes, where it knows it.
    pub(super) fn end(mut self) -> Result<Option<u64>, Error> {
        self.input = None;
        let said = self.hear()?.ok_or_else(|| self.failed("it ended without a last word"))?;
        Ok(said["peak_bytes"].as_u64())
    }

    /// The next line; none if it has ended.
    fn hear(&mut self) -> Result<Option<Value>, Error> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).map_err(|error| self.failed(&error.to_string()))?;
        if read == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line)
            .map(Some)
            .map_err(|error| self.failed(&format!("it wrote no JSON ({error}): {line}")))
    }

    fn number(&self, said: &Value, key: &str) -> Result<f64, Error> {
        said[key].as_f64().ok_or_else(|| self.failed(&format!("it did not say {key}: {said}")))
    }

    fn failed(&self, why: &str) -> Error {
        Error::Failed(format!("{}: {why}", self.what))
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.input = None;
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unable(said: &Value) -> Option<String> {
    said["unable"].as_str().map(|reason| reason.lines().map(str::trim).collect::<Vec<_>>().join(" "))
}

/// What is worth telling of what a process wrote before it ended: the message of a panic, or its last lines.
fn last_words(said: &str) -> String {
    let panic = said.find("panicked at").map(|at| &said[at..]);
    let lines =
        panic.map(|text| text.lines().take_while(|line| !line.starts_with("note:")).collect::<Vec<_>>().join(" "));
    lines.unwrap_or_else(|| process::last_lines(said, 3))
}

fn times(said: &Value, count: usize) -> Option<Vec<f64>> {
    let times: Option<Vec<f64>> = said["ms"].as_array()?.iter().map(Value::as_f64).collect();
    times.filter(|times| times.len() == count)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_read_as_they_are_meant() {
        assert_eq!(unable(&json!({ "unable": "no\n  MatMulInteger" })).as_deref(), Some("no MatMulInteger"));
        assert_eq!(unable(&json!({ "load_ms": 1.0 })), None);
        assert_eq!(times(&json!({ "ms": [1.5, 2] }), 2), Some(vec![1.5, 2.0]));
        for wrong in [json!({ "ms": [1.5] }), json!({ "ms": ["1", 2] }), json!({}), json!({ "ms": 2 })] {
            assert_eq!(times(&wrong, 2), None, "{wrong}");
        }
    }

    #[test]
    fn a_panic_is_told_by_its_message() {
        let said = "hm\n\nthread 'main' panicked at a.rs:1:2:\nnot yet\nnote: run with `RUST_BACKTRACE=1`\n";
        assert_eq!(last_words(said), "panicked at a.rs:1:2: not yet");
        assert_eq!(last_words("a\nb\nc\n\nd\n"), "b\nc\nd");
    }

    #[cfg(unix)]
    mod processes {
        use super::*;

        fn start(script: &str) -> Result<Start, Error> {
            let folder = std::env::temp_dir();
            let name = format!("lenslet-runner-{}-{:?}.log", std::process::id(), std::thread::current().id());
            let log = folder.join(name);
            let started = Runner::start("a script", Command::new("sh").args(["-c", script]), &log);
            std::fs::remove_file(log).unwrap();
            started
        }

        #[test]
        fn a_process_takes_its_turns_and_ends() {
            let script = r#"
                echo '{"load_ms": 3, "first_ms": 2, "version": "1"}'
                while read count; do echo '{"ms": [1, 2]}'; done
                echo '{"peak_bytes": 4096}'"#;
            let Ok(Start::Ready(mut runner)) = start(script) else { panic!("it does not start") };
            assert_eq!((runner.version.as_str(), runner.load_ms, runner.first_ms), ("1", 3.0, 2.0));
            assert_eq!(runner.times(2).unwrap(), [1.0, 2.0]);
            assert!(runner.times(3).is_err(), "two times are not three");
            assert_eq!(runner.end().unwrap(), Some(4096));
        }

        #[test]
        fn a_process_that_cannot_says_why() {
            let reason = |script| match start(script) {
                Ok(Start::Unable(reason)) => reason,
                _ => panic!("{script} is able"),
            };
            assert_eq!(reason(r#"echo '{"unable": "no such operator"}'"#), "no such operator");
            assert_eq!(reason("echo 'out of luck' >&2; exit 101"), "it ended: out of luck");
            assert!(start("echo nonsense").is_err());
        }
    }
}
