//! `cargo xtask bench`: Lenslet beside other runtimes, and its server beside itself, on one machine, in one run.
//!
//! Machines of one class differ by half and a busy one by more, so a figure says something only beside another that was taken
//! at the same time: the two take turns, each in a process or a worker of its own, and a row has the median over the turns of
//! each.

mod cases;
mod cpu;
mod decode;
mod models;
mod npm;
mod peer;
mod python;
mod row;
mod server;
mod web;

use std::process::Command;

use serde_json::{Value, json};

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use cases::Case;
pub(crate) use peer::Peer;

/// What is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Graphs, natively.
    #[default]
    Cpu,
    /// Graphs on WASM in a browser.
    Web,
    /// Tokens of a language model.
    Decode,
    /// The server under load.
    Server,
}

/// The options of `cargo xtask bench`.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) subject: Subject,
    pub(crate) json: bool,
    pub(crate) filter: Option<String>,
    /// Turns of each; none is the subject's own number.
    pub(crate) rounds: Option<usize>,
    /// Numbers of threads; none are the subject's own.
    pub(crate) threads: Vec<usize>,
    /// Whom to compare with; none is all that the subject has.
    pub(crate) peers: Vec<Peer>,
    /// Seconds of the server's soak; 0 leaves it out.
    pub(crate) soak: usize,
}

/// Turns of each where graphs are measured and the options do not say.
const ROUNDS: usize = 20;

impl Options {
    fn rounds_or(&self, own: usize) -> usize {
        self.rounds.unwrap_or(own)
    }

    fn threads_or(&self, own: &[usize]) -> Vec<usize> {
        if self.threads.is_empty() { own.to_vec() } else { self.threads.clone() }
    }

    /// The graphs that the filter leaves.
    fn cases(&self) -> Result<Vec<Case>, Error> {
        let (all, filter) = (cases::all(), self.filter.as_deref().unwrap_or_default());
        let chosen: Vec<Case> = all.iter().filter(|case| case.name().contains(filter)).cloned().collect();
        if chosen.is_empty() {
            let names: Vec<String> = all.iter().map(Case::name).collect();
            return Err(Error::Usage(format!("no row is called {filter}; the rows are {}", names.join(", "))));
        }
        Ok(chosen)
    }

    /// The chosen of the peers that a subject has.
    fn peers(&self, own: &[Peer]) -> Result<Vec<Peer>, Error> {
        if let Some(other) = self.peers.iter().find(|peer| !own.contains(peer)) {
            let names: Vec<&str> = own.iter().map(|peer| peer.name()).collect();
            return Err(Error::Usage(format!("{} is no peer here; there are {}", other.name(), names.join(", "))));
        }
        Ok(own.iter().copied().filter(|peer| self.peers.is_empty() || self.peers.contains(peer)).collect())
    }
}

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<(), Error> {
    // Minutes of measuring are not lost when somebody stops the rest.
    let tell = |line: &str| if options.json { eprintln!("{line}") } else { println!("{line}") };
    let mut any = false;
    let mut in_table = |row: &Value| {
        if !std::mem::replace(&mut any, true) {
            tell(row::HEAD);
        }
        tell(&row::line(row));
    };
    let rows = match options.subject {
        Subject::Cpu => cpu::rows(workspace, options, &mut in_table)?,
        Subject::Web => web::rows(workspace, options, &mut in_table)?,
        Subject::Decode => decode::rows(workspace, options, |row| tell(&decode::line(row)))?,
        Subject::Server => {
            let rows = server::rows(workspace, options)?;
            rows.iter().for_each(|row| tell(&server::line(row)));
            rows
        }
    };
    if options.json {
        println!("{:#}", json!({ "rows": rows }));
    }
    Ok(())
}

/// Runs a command that prints JSON.
fn measured(what: &str, command: &mut Command) -> Result<Value, Error> {
    let output = process::capture(what, command)?;
    serde_json::from_str(&output)
        .map_err(|error| Error::Failed(format!("{what} did not print JSON ({error}): {output}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_chooses_rows() {
        let names = |filter: &str| {
            let options = Options { filter: Some(filter.to_owned()), ..Options::default() };
            options.cases().map(|cases| cases.iter().map(Case::name).collect::<Vec<_>>())
        };
        assert_eq!(names("minilm").unwrap(), ["minilm 128 fp32", "minilm 128 int8"]);
        assert_eq!(names("").unwrap().len(), cases::all().len());
        assert_eq!(names("gpt").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn peers_are_those_of_the_subject() {
        let chosen = |peers: &[Peer]| Options { peers: peers.to_vec(), ..Options::default() }.peers(&Peer::NATIVE);
        assert_eq!(chosen(&[]).unwrap(), Peer::NATIVE);
        assert_eq!(chosen(&[Peer::OnnxRuntime]).unwrap(), [Peer::OnnxRuntime]);
        assert_eq!(chosen(&[Peer::OnnxRuntimeWeb]).unwrap_err().exit_code(), 2);
    }
}
