//! A row of figures: Lenslet beside one peer, as JSON and as a line of a table.

use serde_json::{Map, Value, json};

use super::cases::Case;

/// What is known of one runtime after its turns.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    pub(super) version: String,
    /// What it ran in, where there is a choice: a wasm module.
    pub(super) module: Option<String>,
    /// Milliseconds from nothing to a graph that is ready; in a page, from a fetched file.
    pub(super) load_ms: f64,
    /// Milliseconds of the first run.
    pub(super) first_ms: f64,
    /// Its peak of memory: resident natively, wasm memory in a page.
    pub(super) peak_bytes: Option<u64>,
    /// A median for each turn, in milliseconds.
    pub(super) turns: Vec<f64>,
}

/// What came of a peer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Measured(Measured),
    /// Why it cannot run the graph.
    Unable(String),
}

/// What a row is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) case: &'a Case,
    pub(super) device: &'static str,
    pub(super) threads: usize,
    pub(super) model_bytes: u64,
    /// `{instruction, multiply_adds_per_second}` of the machine, or null.
    pub(super) limit: &'a Value,
}

/// The row of `product` beside `peer`.
pub(super) fn row(subject: Subject, product: &Measured, peer: &str, outcome: &Outcome) -> Value {
    let Subject { case, device, threads, model_bytes, limit } = subject;
    let product_ms = median(&product.turns);
    let mut row = json!({
        "name": case.name(),
        "device": device,
        "threads": threads,
        "product_ms": product_ms,
        "peer": peer,
        "peer_ms": Value::Null,
        "ratio": Value::Null,
        "rounds": product.turns.len(),
        "model_bytes": model_bytes,
    });
    let Value::Object(fields) = &mut row else { return row };
    describe(fields, "product", product);
    match outcome {
        Outcome::Measured(peer) => {
            let peer_ms = median(&peer.turns);
            let pairs: Vec<f64> = product.turns.iter().zip(&peer.turns).map(|(product, peer)| product / peer).collect();
            fields.insert("peer_ms".into(), json!(peer_ms));
            fields.insert("ratio".into(), json!(product_ms / peer_ms));
            // What a change of the machine's pace between two turns cannot move.
            fields.insert("median_of_ratios".into(), json!(median(&pairs)));
            describe(fields, "peer", peer);
        }
        Outcome::Unable(reason) => {
            fields.insert("note".into(), json!(reason));
        }
    }
    if let Some(rate) = limit["multiply_adds_per_second"].as_f64() {
        fields.insert("limit_ms".into(), json!(case.multiply_adds() as f64 / rate * 1e3));
        fields.insert("limit".into(), limit.clone());
    }
    row
}

fn describe(fields: &mut Map<String, Value>, whose: &str, measured: &Measured) {
    let Measured { version, module, load_ms, first_ms, peak_bytes, .. } = measured;
    fields.insert(format!("{whose}_version"), json!(version));
    fields.insert(format!("{whose}_load_ms"), json!(load_ms));
    fields.insert(format!("{whose}_first_ms"), json!(first_ms));
    fields.insert(format!("{whose}_peak_bytes"), json!(peak_bytes));
    if let Some(module) = module {
        fields.insert(format!("{whose}_module"), json!(module));
    }
}

/// The table's head.
pub(super) const HEAD: &str = "\
| row | threads | Lenslet | peer | its time | ratio | load + first run: Lenslet, peer | peak memory: Lenslet, peer; file | the machine's limit (multiply-adds) |
|---|---|---|---|---|---|---|---|---|";

/// A row for people.
pub(super) fn line(row: &Value) -> String {
    let number = |key: &str| row[key].as_f64();
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let time = |key: &str| number(key).map_or_else(|| "-".to_owned(), milliseconds);
    let start = |whose: &str| {
        let sum = number(&format!("{whose}_load_ms")).zip(number(&format!("{whose}_first_ms")));
        sum.map_or_else(|| "-".to_owned(), |(load, first)| milliseconds(load + first))
    };
    let size = |key: &str| number(key).map_or_else(|| "-".to_owned(), |bytes| format!("{:.0} MB", bytes / 1e6));
    // In multiply-adds a second, and of which instruction.
    let rate = row["limit"]["multiply_adds_per_second"].as_f64().unwrap_or(f64::NAN) / 1e9;
    let instruction = row["limit"]["instruction"].as_str().unwrap_or_default();
    let limit = number("limit_ms")
        .map_or_else(|| "-".to_owned(), |ms| format!("{} ({rate:.0} G/s, {instruction})", milliseconds(ms)));
    let ratio = number("ratio").map_or_else(|| text("note").replace(['|', '\n'], " "), |ratio| format!("{ratio:.2}"));
    format!(
        "| {} | {} | {} | {} {} | {} | {} | {}, {} | {}, {}; {} | {} |",
        text("name"),
        row["threads"],
        time("product_ms"),
        text("peer"),
        text("peer_version"),
        time("peer_ms"),
        ratio,
        start("product"),
        start("peer"),
        size("product_peak_bytes"),
        size("peer_peak_bytes"),
        size("model_bytes"),
        limit,
    )
}

fn milliseconds(ms: f64) -> String {
    if ms < 99.95 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

/// The number in the middle, or between the two in the middle.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases;
    use super::*;

    fn measured(turns: &[f64]) -> Measured {
        let turns = turns.to_vec();
        Measured {
            version: "1.2".into(),
            load_ms: 200.0,
            first_ms: 50.0,
            peak_bytes: Some(2_000_000),
            turns,
            module: None,
        }
    }

    fn sample_row(outcome: &Outcome) -> Value {
        let case = &cases::all()[1];
        let limit = json!({ "instruction": "mul", "multiply_adds_per_second": 4.408_811_520e11 });
        let subject = Subject { case, device: "cpu", threads: 2, model_bytes: 3_000_000, limit: &limit };
        row(subject, &measured(&[40.0, 20.0, 20.0]), "tract", outcome)
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(median(&[3.0, 1.0, 2.0]).total_cmp(&2.0).is_eq());
        assert!(median(&[4.0, 1.0, 2.0, 3.0]).total_cmp(&2.5).is_eq());
        assert!(median(&[7.0]).total_cmp(&7.0).is_eq());
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_row_has_the_keys_that_scripts_know() {
        let row = sample_row(&Outcome::Measured(measured(&[10.0, 10.0, 20.0])));
        let wanted = json!({
            "name": "clip-b32 image int8", "device": "cpu", "threads": 2, "product_ms": 20.0,
            "peer": "tract", "peer_ms": 10.0, "ratio": 2.0, "median_of_ratios": 2.0, "rounds": 3,
            "limit_ms": 10.0, "peer_load_ms": 200.0, "product_peak_bytes": 2_000_000,
        });
        for (key, value) in wanted.as_object().unwrap() {
            assert_eq!(&row[key], value, "{key}");
        }
        assert_eq!(
            line(&row),
            "| clip-b32 image int8 | 2 | 20.0 ms | tract 1.2 | 10.0 ms | 2.00 | 250 ms, 250 ms | 2 MB, 2 MB; 3 MB | 10.0 ms (441 G/s, mul) |"
        );
    }

    #[test]
    fn a_peer_that_cannot_leaves_its_reason() {
        let row = sample_row(&Outcome::Unable("no |op|".into()));
        assert!(row["peer_ms"].is_null() && row["ratio"].is_null());
        assert!(line(&row).contains("| tract  | - | no  op  |"), "{}", line(&row));
        let columns = |line: &str| line.matches('|').count();
        assert_eq!(columns(&line(&row)), columns(HEAD.lines().next().unwrap()));
    }
}
