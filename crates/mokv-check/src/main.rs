//! `mokv-check check FILE`: judges a recorded history.
//!
//! It says on standard output what was looked at and, of an illegal history, what is wrong and the events that show it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mokv_check::{
    Event, History, Limits, ReadError, RevisionReport, Ruling, ValueReport, ValueViolation, Verdict, Violation, check,
};

/// The codes never change their meaning.
const EXIT_CODES: &str = "\
Exit codes:
  0  legal
  1  illegal
  2  there is no history to judge: it can't be read, or contradicts itself
  3  undecided: no violation was found, but the search was given up";

/// Judges histories of a mökv store
#[derive(Debug, Parser)]
#[command(name = "mokv-check", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(CheckArgs),
}

/// Judge a history, by revisions and by values
#[derive(Debug, Parser)]
struct CheckArgs {
    /// JSON lines, an event each; - is standard input
    file: PathBuf,

    /// Look at so many states for one key before giving up on it
    #[arg(long, value_name = "N", default_value_t = Limits::default().steps_max)]
    steps_max: u64,
}

fn main() -> ExitCode {
    let Command::Check(args) = Cli::parse().command;
    let history = match read(&args.file) {
        Ok(history) => history,
        Err(error) => {
            // Without standard error there is nobody left to tell.
            drop(writeln!(io::stderr(), "error: {}: {error}", args.file.display()));
            return ExitCode::from(2);
        }
    };
    let verdict = check(&history, Limits { steps_max: args.steps_max });
    // Who no longer reads still gets the exit code.
    drop(report(&mut io::stdout().lock(), &history, &verdict));
    ExitCode::from(match verdict.ruling() {
        Ruling::Legal => 0,
        Ruling::Illegal => 1,
        Ruling::Malformed => 2,
        Ruling::GaveUp => 3,
    })
}

fn read(file: &Path) -> Result<History, ReadError> {
    if file == Path::new("-") {
        return History::read(io::stdin().lock());
    }
    // Before the first line.
    let input = File::open(file).map_err(|source| ReadError::Io { line: 0, source })?;
    History::read(BufReader::new(input))
}

fn report(out: &mut impl Write, history: &History, verdict: &Verdict) -> io::Result<()> {
    let word = match verdict.ruling() {
        Ruling::Legal => "legal",
        Ruling::Illegal => "ILLEGAL",
        Ruling::GaveUp => "undecided",
        Ruling::Malformed => "no history",
    };
    writeln!(out, "{word}")?;
    match &verdict.revisions {
        Ok(report) => writeln!(out, "by revisions: {}", of_revisions(report))?,
        Err(violation) => {
            writeln!(out, "by revisions: {violation}")?;
            show(out, history, &violation.calls(), &violation.revisions())?;
        }
    }
    match &verdict.values {
        Ok(report) => writeln!(out, "by values: {}", of_values(report))?,
        // Said already.
        Err(ValueViolation::Malformed(_)) if matches!(verdict.revisions, Err(Violation::Malformed(_))) => {}
        Err(violation) => {
            writeln!(out, "by values: {violation}")?;
            show(out, history, violation.calls(), &[])?;
        }
    }
    out.flush()
}

fn of_revisions(report: &RevisionReport) -> String {
    let RevisionReport { calls, answered, unknown, unknown_applied, revisions, gaps, commits } = report;
    let commits = if *commits { "with commits" } else { "without commits" };
    format!(
        "{calls} calls, {answered} answered; {revisions} revisions, {commits}, {gaps} gaps; {unknown} writes unknown, \
         {unknown_applied} of them took effect"
    )
}

fn of_values(report: &ValueReport) -> String {
    let ValueReport { keys, calls, steps, gave_up, left_out } = report;
    let legal = format!("{calls} calls on {keys} keys in {steps} steps; {left_out} keys of transactions left out");
    if gave_up.is_empty() { legal } else { format!("{legal}; gave up on {gave_up:?}") }
}

/// Prints the events that a violation speaks of.
fn show(out: &mut impl Write, history: &History, calls: &[u64], revisions: &[u64]) -> io::Result<()> {
    let calls: BTreeSet<&u64> = calls.iter().collect();
    let spoken_of = |event: &&Event| match event {
        Event::Call { id, .. }
        | Event::Return { id, .. }
        | Event::Watch { id, .. }
        | Event::Seen { id, .. }
        | Event::Unwatch { id, .. } => calls.contains(id),
        Event::Expiry { revision, .. } => revisions.contains(revision),
        Event::Clocks { .. } => false,
        Event::Commit { revision, call, .. } => {
            revisions.contains(revision) || call.as_ref().is_some_and(|call| calls.contains(call))
        }
    };
    for event in history.events.iter().filter(spoken_of) {
        writeln!(out, "  {}", serde_json::to_string(event)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }
}
