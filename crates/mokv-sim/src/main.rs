//! Runs seeds. `docs/testing.md` tells what for.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use mokv_sim::cluster;
use mokv_sim::plan::Plan;
use mokv_sim::run::{self, Report};

/// The mökv server under seeded simulation.
#[derive(Debug, Parser)]
#[command(name = "mokv-sim")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds; exit with 1 if a promise was broken.
    Run {
        /// How many.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Start no further seed after so many minutes.
        #[arg(long)]
        minutes: Option<u64>,
        /// Threads; each runs one seed at a time. All cores if not given.
        #[arg(long)]
        jobs: Option<NonZeroUsize>,
        /// Go on after a seed that broke a promise.
        #[arg(long)]
        keep_going: bool,
    },
    /// Run one seed again and print all that happens.
    Replay {
        /// The seed.
        seed: u64,
        /// Show the server's own log too, at this level (`debug`, `mokv_server=trace`, ...).
        #[arg(long)]
        log: Option<String>,
        /// Print the report only.
        #[arg(long)]
        quiet: bool,
        /// Write the history to this file, for `mokv-check`.
        #[arg(long)]
        history: Option<PathBuf>,
    },
    /// Plant each bug that the server has for this purpose, and run seeds until it is noticed.
    #[cfg(mokv_mutants)]
    Mutants {
        /// Seeds for one mutant at most.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// Only mutants whose name contains this.
        #[arg(default_value = "")]
        name: String,
    },
    /// Print the hash of each seed: the same in every process, or something does not follow from the seed.
    Hashes {
        /// Seeds, in this order.
        seeds: Vec<u64>,
    },
}

fn main() -> ExitCode {
    cluster::note_panics();
    match Args::parse().command {
        Command::Run { seeds, first, minutes, jobs, keep_going } => {
            let jobs = jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
            let until = minutes.map(|minutes| started() + Duration::from_secs(60 * minutes));
            sweep(first..first.saturating_add(seeds), until, jobs, keep_going)
        }
        Command::Replay { seed, log, quiet, history } => replay(seed, log.as_deref(), quiet, history),
        #[cfg(mokv_mutants)]
        Command::Mutants { seeds, name } => mutants::show(seeds, &name),
        Command::Hashes { seeds } => {
            for seed in seeds {
                say(format_args!("{seed} {:016x}", run::run_seed(seed, false).hash));
            }
            ExitCode::SUCCESS
        }
    }
}

#[cfg(mokv_mutants)]
mod mutants {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use mokv_server::mutants::{Mutant, activate};

    use super::{ExitCode, NonZeroUsize, run, say};

    /// Shows for each mutant how many seeds it took to notice it.
    pub(super) fn show(seeds: u64, name: &str) -> ExitCode {
        let mutants: Vec<Mutant> =
            Mutant::ALL.iter().copied().filter(|mutant| format!("{mutant:?}").contains(name)).collect();
        let (next, all_caught) = (AtomicUsize::new(0), AtomicBool::new(true));
        let jobs = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        thread::scope(|threads| {
            for _ in 0..jobs {
                threads.spawn(|| {
                    while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if !is_caught(*mutant, seeds) {
                            all_caught.store(false, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        match all_caught.into_inner() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn is_caught(mutant: Mutant, seeds: u64) -> bool {
        activate(Some(mutant));
        let mut reports = (0..seeds).map(|seed| run::run_seed(seed, false));
        let caught = reports.find_map(|report| Some((report.seed, report.violation?)));
        activate(None);
        let name = format!("{mutant:?}");
        match caught {
            Some((seed, violation)) => {
                let violation: String = violation.chars().take(140).collect();
                say(format_args!("{name:<26} caught in {:>3} seeds: {violation}", seed + 1));
                true
            }
            None => {
                say(format_args!("{name:<26} NOT CAUGHT in {seeds} seeds: {}", mutant.describe().trim()));
                false
            }
        }
    }
}

/// What all seeds of a sweep amount to.
#[derive(Default)]
struct Total {
    seeds: u64,
    events: u64,
    simulated: Duration,
    counts: BTreeMap<String, u64>,
    failed: Vec<u64>,
}

fn sweep(seeds: std::ops::Range<u64>, until: Option<Instant>, jobs: usize, keep_going: bool) -> ExitCode {
    let begin = started();
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    std::thread::scope(|threads| {
        for _ in 0..jobs {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| started() < until) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run::run_seed(seed, false);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.add(&report);
                    if report.violation.is_some() {
                        show_violation(&report);
                        stop.fetch_or(!keep_going, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.show(begin.elapsed());
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.events += report.events;
        self.simulated += report.simulated;
        for (what, count) in &report.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
        if report.violation.is_some() {
            self.failed.push(report.seed);
        }
    }

    fn show(&self, took: Duration) {
        let simulated = self.simulated.as_secs_f64();
        say(format_args!(
            "{} seeds, {:.2} simulated hours in {:.0} s of real time ({:.0} x), {} events",
            self.seeds,
            simulated / 3600.0,
            took.as_secs_f64(),
            simulated / took.as_secs_f64(),
            self.events
        ));
        for (what, count) in &self.counts {
            say(format_args!("{count:>12} {what}"));
        }
        match self.failed.as_slice() {
            [] => say(format_args!("no promise was broken")),
            failed => say(format_args!("BROKEN PROMISES in seeds {failed:?}")),
        }
    }
}

fn replay(seed: u64, log: Option<&str>, quiet: bool, history: Option<PathBuf>) -> ExitCode {
    if let Some(level) = log {
        tracing_subscriber::fmt().with_env_filter(level).without_time().with_ansi(false).init();
    }
    say(format_args!("{:#?}", Plan::from_seed(seed)));
    let report = run::run_seed(seed, !quiet);
    if let Some(path) = history
        && let Err(error) = write_history(&report, &path)
    {
        say(format_args!("can't write {}: {error}", path.display()));
        return ExitCode::FAILURE;
    }
    for (what, count) in &report.counts {
        say(format_args!("{count:>12} {what}"));
    }
    say(format_args!("{:.3} simulated seconds, hash {:016x}", report.simulated.as_secs_f64(), report.hash));
    if report.violation.is_none() {
        return ExitCode::SUCCESS;
    }
    show_violation(&report);
    ExitCode::FAILURE
}

// The simulator's own files are real ones.
#[allow(clippy::disallowed_methods)]
fn write_history(report: &Report, path: &std::path::Path) -> std::io::Result<()> {
    report.history.write(std::io::BufWriter::new(std::fs::File::create(path)?))
}

fn show_violation(report: &Report) {
    for event in &report.recent {
        say(event);
    }
    say(format_args!("seed {}: {}", report.seed, report.violation.as_deref().unwrap_or_default()));
    say(format_args!("again: make sim SEED={}", report.seed));
}

/// How long a sweep took is real time.
#[allow(clippy::disallowed_methods)]
fn started() -> Instant {
    Instant::now()
}

#[allow(clippy::print_stdout)]
fn say(line: impl std::fmt::Display) {
    println!("{line}");
}
