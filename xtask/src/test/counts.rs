//! Counting tests in what the runners print.

use std::fs;
use std::ops::AddAssign;
use std::path::PathBuf;

use serde_json::Value;

/// How many tests ran, and how they ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Where a stage's counts come from.
#[derive(Debug, Clone)]
pub(super) enum Counter {
    /// The stage is one check, which passes or fails.
    Whole,
    /// The `test result:` lines of cargo test in the log.
    CargoTest,
    /// The closing lines of node's test runner in the log.
    NodeTest,
    /// The report of the browser suite.
    SuiteReport(PathBuf),
}

impl Counter {
    /// Counts the tests of a stage that has ended. A stage that failed without a failed test (it did not
    /// compile, say) has one failure, and so has one that ran no test: it checked nothing.
    pub(super) fn count(&self, log: &str, success: bool) -> Counts {
        let mut counts = match self {
            Self::Whole => Counts { passed: u64::from(success), ..Counts::default() },
            Self::CargoTest => cargo_test(log),
            Self::NodeTest => node_test(log),
            Self::SuiteReport(path) => fs::read_to_string(path).map(|json| suite_report(&json)).unwrap_or_default(),
        };
        if counts.failed == 0 && (!success || counts.passed == 0) {
            counts.failed = 1;
        }
        counts
    }
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s`
fn cargo_test(log: &str) -> Counts {
    let mut counts = Counts::default();
    for line in log.lines() {
        let Some((_, result)) = line.split_once("test result: ") else {
            continue;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => counts.passed += number,
                "failed" => counts.failed += number,
                "ignored" => counts.skipped += number,
                _ => {}
            }
        }
    }
    counts
}

/// `# pass 12` (TAP) or `ℹ pass 12` (for terminals), and the like for fail, cancelled, skipped and todo.
fn node_test(log: &str) -> Counts {
    let mut counts = Counts::default();
    for line in log.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &["#" | "ℹ", what, number] = words.as_slice() else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match what {
            "pass" => counts.passed += number,
            "fail" | "cancelled" => counts.failed += number,
            "skipped" | "todo" => counts.skipped += number,
            _ => {}
        }
    }
    counts
}

fn suite_report(json: &str) -> Counts {
    let report: Value = serde_json::from_str(json).unwrap_or_default();
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    Counts { passed: number("passed"), failed: number("failed"), skipped: number("skipped") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_results_of_cargo_test() {
        let log = "\
running 3 tests
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.25s
     Running tests/x.rs
test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s
";
        assert_eq!(cargo_test(log), Counts { passed: 7, failed: 2, skipped: 1 });
    }

    #[test]
    fn reads_both_reporters_of_node() {
        let tap = "ok 1 - x\n# tests 4\n# pass 2\n# fail 1\n# cancelled 0\n# skipped 1\n# todo 0\n";
        assert_eq!(node_test(tap), Counts { passed: 2, failed: 1, skipped: 1 });
        let spec = "✔ x (1ms)\nℹ tests 3\nℹ pass 3\nℹ fail 0\nℹ duration_ms 45.2\n";
        assert_eq!(node_test(spec), Counts { passed: 3, failed: 0, skipped: 0 });
    }

    #[test]
    fn reads_the_suite_report() {
        let json = r#"{ "device": "wasm", "passed": 9, "failed": 1, "skipped": 2, "cases": [] }"#;
        assert_eq!(suite_report(json), Counts { passed: 9, failed: 1, skipped: 2 });
        assert_eq!(suite_report("half a re"), Counts::default());
    }

    #[test]
    fn a_stage_that_checked_nothing_has_failed() {
        let one = Counts { failed: 1, ..Counts::default() };
        assert_eq!(Counter::CargoTest.count("error: could not compile", false), one);
        assert_eq!(Counter::CargoTest.count("nothing to do", true), one);
        assert_eq!(Counter::Whole.count("", false), one);
        assert_eq!(Counter::Whole.count("", true), Counts { passed: 1, ..Counts::default() });
        let missing = PathBuf::from("no/such/report.json");
        assert_eq!(Counter::SuiteReport(missing).count("", true), one);
        // A test process that died after its tests passed.
        let log = "test result: ok. 2 passed; 0 failed";
        assert_eq!(Counter::CargoTest.count(log, false), Counts { passed: 2, failed: 1, skipped: 0 });
    }
}
