//! `cargo xtask test`: every check of the project, in order, with one summary.
//!
//! A stage that fails does not stop the others, except those that need it. The last line counts tests over
//! all stages: `N passed, M failed`.

mod counts;
mod runner;
mod stages;

use std::process::ExitCode;
use std::time::Instant;

use crate::error::Error;
use crate::workspace::Workspace;
use counts::Counts;
use stages::{STAGES, Stage};

/// The options of `cargo xtask test`.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Only stages that need no browser build.
    pub(crate) quick: bool,
    /// Only these stages, and what they need.
    pub(crate) only: Vec<String>,
    /// Print the stages instead of running them.
    pub(crate) list: bool,
}

/// How the run went.
#[derive(Debug, Default)]
struct Summary {
    counts: Counts,
    failed: Vec<&'static str>,
    /// Stages that a failed one kept from running.
    blocked: Vec<&'static str>,
    lines: Vec<String>,
}

/// Runs the stages. That some failed is no error of this program: the summary has told.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode, Error> {
    let chosen = choose(options)?;
    if options.list {
        for stage in chosen {
            println!("{:<15} {}", stage.name, stage.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let mut summary = Summary::default();
    for (index, stage) in chosen.iter().enumerate() {
        let place = format!("[{}/{}]", index + 1, chosen.len());
        run_stage(workspace, stage, &place, &mut summary)?;
    }
    summary.print(started);
    let good = summary.failed.is_empty() && summary.blocked.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose(options: &Options) -> Result<Vec<&'static Stage>, Error> {
    if let Some(name) = options.only.iter().find(|name| !STAGES.iter().any(|stage| stage.name == **name)) {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        return Err(Error::Usage(format!("there is no stage `{name}`; there are {}", names.join(", "))));
    }
    let wanted = stages::with_prerequisites(&options.only);
    let chosen = |stage: &&Stage| {
        if !options.only.is_empty() {
            return wanted.contains(&stage.name);
        }
        stage.quick || !options.quick
    };
    Ok(STAGES.iter().filter(chosen).collect())
}

fn run_stage(workspace: &Workspace, stage: &Stage, place: &str, summary: &mut Summary) -> Result<(), Error> {
    let Stage { name, about, .. } = stage;
    if let Some(missing) = stage.requires.missing(workspace) {
        println!("{place} {name}: left out, {missing}");
        summary.lines.push(format!("  {name:<15} left out, {missing}"));
        return Ok(());
    }
    let broken = |need: &&&str| summary.failed.contains(*need) || summary.blocked.contains(*need);
    if let Some(need) = stage.needs.iter().find(broken) {
        println!("{place} {name}: not run, {need} failed");
        summary.lines.push(format!("  {name:<15} not run, {need} failed"));
        summary.blocked.push(name);
        return Ok(());
    }
    println!("{place} {name}: {about} ...");
    let outcome = runner::run(workspace, stage)?;
    let Counts { passed, failed, .. } = outcome.counts;
    let result = if outcome.success { "ok" } else { "FAILED" };
    let line =
        format!("{name:<15} {result:<7} {:>7.1} s  {passed} passed, {failed} failed", outcome.time.as_secs_f64());
    println!("{:width$} {line}", "", width = place.len());
    summary.lines.push(format!("  {line}"));
    summary.counts += outcome.counts;
    if !outcome.success {
        summary.failed.push(name);
        println!("---- the end of {} ----", outcome.log.display());
        println!("{}\n----", outcome.tail);
    }
    Ok(())
}

impl Summary {
    fn print(&self, started: Instant) {
        println!("\nSummary after {:.0} s:", started.elapsed().as_secs_f64());
        for line in &self.lines {
            println!("{line}");
        }
        let Counts { passed, failed, skipped } = self.counts;
        if skipped > 0 {
            println!("  {skipped} tests were skipped; the logs say why");
        }
        println!("{passed} passed, {failed} failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(options: &Options) -> Vec<&'static str> {
        choose(options).unwrap().iter().map(|stage| stage.name).collect()
    }

    #[test]
    fn chooses_stages() {
        assert_eq!(names(&Options::default()).len(), STAGES.len());
        let quick = names(&Options { quick: true, ..Options::default() });
        assert!(quick.contains(&"fmt") && !quick.contains(&"suite-wasm"), "{quick:?}");
        let only = Options { only: vec!["web-test".to_owned()], ..Options::default() };
        assert_eq!(names(&only), ["setup", "build-web", "web-test"]);
        let unknown = Options { only: vec!["nothing".to_owned()], ..Options::default() };
        assert!(choose(&unknown).is_err());
    }
}
