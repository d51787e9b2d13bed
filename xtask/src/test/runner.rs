//! Running one stage: its output goes to a log, the terminal shows that it is alive.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::counts::Counts;
use super::stages::Stage;
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// How often a running stage is looked at.
const POLL: Duration = Duration::from_millis(100);

/// How often a long stage says what it is doing.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// How much of a failed stage's log is shown.
const SHOWN_LINES: usize = 60;

/// How a stage ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) success: bool,
    pub(super) counts: Counts,
    pub(super) time: Duration,
    /// What to show of a failure.
    pub(super) tail: String,
    pub(super) log: PathBuf,
}

/// Runs a stage to its end.
pub(super) fn run(workspace: &Workspace, stage: &Stage) -> Result<Outcome, Error> {
    let started = Instant::now();
    let dir = workspace.records().join("logs");
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    let log_path = dir.join(format!("{}.log", stage.name));
    let log = File::create(&log_path).map_err(Error::io("create", &log_path))?;
    let log_too = log.try_clone().map_err(Error::io("open", &log_path))?;

    let mut command = (stage.command)(workspace);
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        // Logs are read by people and by the counters, not by terminals.
        .env("CARGO_TERM_COLOR", "never")
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .env("NO_COLOR", "1")
        .env("TERM", "dumb")
        .env_remove("FORCE_COLOR");
    let ended = wait(&mut command, &log_path, started);
    let text = read_lossy(&log_path);
    let (success, tail) = match ended {
        Ok(status) => (status.success(), process::last_lines(&text, SHOWN_LINES)),
        Err(source) => (false, process::start_error(&command, source).to_string()),
    };
    let counts = (stage.counter)(workspace).count(&text, success);
    Ok(Outcome { success: success && counts.failed == 0, counts, time: started.elapsed(), tail, log: log_path })
}

fn wait(command: &mut Command, log: &Path, started: Instant) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let mut next_sign = SIGN_OF_LIFE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if started.elapsed() >= next_sign {
            let now = process::last_lines(&read_lossy(log), 1);
            let now: String = now.trim().chars().take(90).collect();
            println!("         {:>4} s  {now}", next_sign.as_secs());
            next_sign += SIGN_OF_LIFE;
        }
        thread::sleep(POLL);
    }
}

/// A log; a runner may have written bytes that are not UTF-8.
fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
