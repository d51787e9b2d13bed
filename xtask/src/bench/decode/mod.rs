//! `cargo xtask bench decode`: tokens a second of a language model, natively beside ONNX Runtime and in Chromium beside
//! transformers.js, each with the same file.

mod browser;
mod native;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::Options;
use super::row::median;
use crate::error::Error;
use crate::workspace::Workspace;
use browser::Browser;
use native::Native;

/// Names the folder of SmolLM2-135M-Instruct with `model_quantized.onnx`, as the test material's recipe makes it.
pub(super) const FOLDER: &str = "LENSLET_SMOLLM2";
const FILE: &str = "model_quantized.onnx";
/// Tokens of one measurement.
const NEW_TOKENS: usize = 64;
/// Turns of each, where the options do not say.
const ROUNDS: usize = 3;

/// Where tokens are made, and where in a sequence.
#[derive(Debug)]
struct Case {
    name: &'static str,
    /// How often the sentence is repeated in the prompt.
    repeats: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Native,
    /// Headless Chromium, on WASM.
    Browser,
}

/// Ten tokens.
const SENTENCE: &str = "The quick brown fox jumps over the lazy dog. ";

const CASES: &[Case] = &[
    Case { name: "smollm2 int8 native", repeats: 2, place: Place::Native },
    Case { name: "smollm2 int8 native at 1000", repeats: 98, place: Place::Native },
    Case { name: "smollm2 int8 wasm", repeats: 2, place: Place::Browser },
];

impl Case {
    fn prompt(&self) -> String {
        SENTENCE.repeat(self.repeats).trim_end().to_owned()
    }
}

impl Place {
    /// Lenslet's module has no threads.
    fn allows(self, threads: usize) -> bool {
        self == Self::Native || threads == 1
    }

    /// Finds, builds and installs what its rows need.
    fn prepare(self, workspace: &Workspace, model: &Model) -> Result<Box<dyn Pair>, Error> {
        Ok(match self {
            Self::Native => Box::new(Native::prepare(workspace)?),
            Self::Browser => Box::new(Browser::prepare(workspace, model)?),
        })
    }
}

/// Lenslet and a peer in one place, ready to be measured.
trait Pair {
    /// Both, one after the other.
    fn turn(&self, model: &Model, case: &Case, threads: usize) -> Result<Turn, Error>;
}

/// Tokens a second of both.
struct Turn {
    product: f64,
    peer: f64,
    /// What else the row says.
    facts: Value,
}

/// The model that is measured.
struct Model {
    folder: PathBuf,
    file: PathBuf,
    bytes: u64,
}

impl Model {
    fn find() -> Result<Self, Error> {
        let folder = std::env::var_os(FOLDER).map(PathBuf::from).filter(|folder| folder.join(FILE).is_file());
        let folder = folder.ok_or_else(|| Error::Missing {
            what: "SmolLM2-135M-Instruct as ONNX",
            why: format!("{FOLDER} does not name a folder with {FILE}"),
            remedy: format!("run shared/smollm2-135m-instruct/make.py FOLDER int8, and set {FOLDER} to FOLDER"),
        })?;
        let file = folder.join(FILE);
        let bytes = std::fs::metadata(&file).map_err(Error::io("read", &file))?.len();
        Ok(Self { folder, file, bytes })
    }
}

/// The rows, measured in turns.
pub(super) fn rows(
    workspace: &Workspace,
    options: &Options,
    mut done: impl FnMut(&Value),
) -> Result<Vec<Value>, Error> {
    let chosen = chosen(options)?;
    let model = Model::find()?;
    // What is missing is told before minutes of measuring, and nothing is asked for that no row needs.
    let mut groups = Vec::new();
    for place in [Place::Native, Place::Browser] {
        let group: Vec<_> = chosen.iter().filter(|(case, _)| case.place == place).collect();
        if !group.is_empty() {
            groups.push((place.prepare(workspace, &model)?, group));
        }
    }
    let mut rows = Vec::new();
    for (pair, group) in &groups {
        for &&(case, threads) in group {
            let row = measure(pair.as_ref(), &model, case, threads, options.rounds_or(ROUNDS))?;
            done(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The rows that the options ask for, each with its number of threads.
fn chosen(options: &Options) -> Result<Vec<(&'static Case, usize)>, Error> {
    let named = |case: &&Case| options.filter.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    let threads = options.threads_or(&[1, 2]);
    let of_case = |case: &'static Case| {
        threads.iter().filter(|&&threads| case.place.allows(threads)).map(move |&threads| (case, threads))
    };
    let rows: Vec<_> = CASES.iter().filter(named).flat_map(of_case).collect();
    if rows.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        let names = names.join(", ");
        return Err(Error::Usage(format!("no row is chosen; there are {names} (which has one thread only)")));
    }
    Ok(rows)
}

fn measure(pair: &dyn Pair, model: &Model, case: &Case, threads: usize, rounds: usize) -> Result<Value, Error> {
    let (mut product, mut peer) = (Vec::new(), Vec::new());
    let (mut rate, mut facts) = (0.0_f64, Value::Null);
    for round in 1..=rounds {
        eprintln!("{} on {threads} threads, round {round} of {rounds} ...", case.name);
        // A limit is what the undisturbed machine reaches, so the best round tells it.
        rate = rate.max(read_rate(threads));
        let turn = pair.turn(model, case, threads)?;
        product.push(turn.product);
        peer.push(turn.peer);
        facts = turn.facts;
    }
    let (product, peer) = (median(&product), median(&peer));
    let mut row = json!({
        "name": case.name,
        "threads": threads,
        "product_tokens_per_second": product,
        "peer_tokens_per_second": peer,
        "ratio": product / peer,
        "memory_limit_tokens_per_second": rate / model.bytes as f64,
    });
    if let (Value::Object(row), Value::Object(facts)) = (&mut row, facts) {
        row.extend(facts);
    }
    Ok(row)
}

/// Bytes a second that `threads` threads read from memory: every weight is read once a token.
fn read_rate(threads: usize) -> f64 {
    const BYTES: usize = 1 << 28;
    const PASSES: usize = 5;
    // Xtask is built without optimisation; comparing halves reads as fast as the C library can all the same.
    let buffers = vec![vec![1u8; BYTES]; threads];
    let pass = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for buffer in &buffers {
                scope.spawn(|| {
                    let (left, right) = buffer.split_at(BYTES / 2);
                    black_box(left == right)
                });
            }
        });
        started.elapsed().as_secs_f64()
    };
    let shortest = (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    (threads * BYTES) as f64 / shortest
}

/// A row for people.
pub(super) fn line(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "{:<28} {}, {} threads: {:6.1} tokens/s, {} {:6.1}, ratio {:.2}; memory would allow {:.0}",
        text("name"),
        text("device"),
        number("threads"),
        number("product_tokens_per_second"),
        text("peer"),
        number("peer_tokens_per_second"),
        number("ratio"),
        number("memory_limit_tokens_per_second"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Subject;
    use super::*;

    fn names(filter: &str, threads: &[usize]) -> Vec<(&'static str, usize)> {
        let filter = Some(filter.to_owned());
        let options = Options { subject: Subject::Decode, filter, threads: threads.to_vec(), ..Options::default() };
        chosen(&options).map_or_else(|_| Vec::new(), |rows| rows.iter().map(|(case, n)| (case.name, *n)).collect())
    }

    #[test]
    fn options_choose_rows() {
        assert_eq!(names("wasm", &[1, 2]), [("smollm2 int8 wasm", 1)]);
        assert_eq!(names("native at", &[1, 2]).len(), 2);
        assert_eq!(names("", &[1, 2]).len(), 5);
        assert!(names("wasm", &[2]).is_empty());
        assert!(names("gpt", &[1]).is_empty());
    }

    #[test]
    fn a_prompt_ends_without_a_blank() {
        assert_eq!(CASES[0].prompt(), format!("{SENTENCE}{}", SENTENCE.trim_end()));
    }
}
