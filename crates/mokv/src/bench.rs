//! `mokv bench`

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use mokv_client::{Client, Error, KeyRange};
use mokv_server::config::parse_duration;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput};
use crate::serve::Signals;

const EXAMPLES: &str = "\
All callers share one client, as those of one service do. Keys begin with mokv-bench/ and are deleted at the end.

A signal (SIGINT, SIGTERM) ends it early, with the report. With --check the callers also add to counters, each of which must be the number of acknowledged additions in the end, and
read what they wrote themselves. Kill nodes meanwhile: no call fails whose time (--timeout) lasts until there is another leader.

Examples:
  mokv bench --duration 10s --clients 256 --reads 90
  mokv bench --check --duration 60s --endpoints 10.0.0.1:8400,10.0.0.2:8400,10.0.0.3:8400";

const PREFIX: &str = "mokv-bench/";
const COUNTERS: u64 = 8;

/// Measure a cluster, or check that it keeps its promises while nodes come and go
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,

    /// Callers, each with one call at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65536))]
    clients: u64,

    /// How many of a hundred calls read
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    reads: u32,

    /// Keys of each caller
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,

    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    value_size: usize,

    /// Check what is read, and count
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is shared by the callers.
#[derive(Default)]
struct Tally {
    reads: AtomicU64,
    writes: AtomicU64,
    added: [AtomicU64; COUNTERS as usize],
    failed: AtomicU64,
    /// Nobody begins another call.
    is_over: AtomicBool,
    first_failure: Mutex<Option<String>>,
    /// Of each call, in microseconds.
    times: Mutex<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct Report {
    seconds: f64,
    reads_per_second: u64,
    writes_per_second: u64,
    median_us: u32,
    p99_us: u32,
    slowest_us: u32,
    failed: u64,
    checked: bool,
}

impl BenchArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        // Whether there is a cluster at all, and nothing of an earlier run.
        client.delete_range(KeyRange::prefix(PREFIX)).await?;
        let tally = Arc::new(Tally::default());
        let mut signals = Signals::new()?;
        let told = tally.clone();
        tokio::spawn(async move {
            signals.next().await;
            told.is_over.store(true, Ordering::Relaxed);
        });
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for number in 0..self.clients {
            let caller = Caller {
                client: client.clone(),
                number,
                random: SmallRng::seed_from_u64(number),
                written: vec![None; usize::try_from(self.keys).unwrap_or(usize::MAX)],
                until: began + self.duration,
                value: "x".repeat(self.value_size),
                reads: self.reads,
                check: self.check,
                tally: tally.clone(),
            };
            callers.spawn(caller.run());
        }
        let mut wrong = None;
        while let Some(ended) = callers.join_next().await {
            wrong = wrong.or(ended.map_err(Failure::error)?);
        }
        let took = began.elapsed();
        if self.check && wrong.is_none() {
            wrong = miscounted(&client, &tally).await?;
        }
        client.delete_range(KeyRange::prefix(PREFIX)).await?;
        let report = tally.report(took, self.check);
        output::answer(self.output.format, format_args!("{}", report.text()), &report)?;
        if let Some(wrong) = wrong {
            return Err(Failure::error(wrong));
        }
        let first = tally.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match first {
            Some(error) => Err(Failure::error(format!("{} calls failed, the first one: {error}", report.failed))),
            None => Ok(()),
        }
    }
}

/// Says which counter is not the number of acknowledged additions.
async fn miscounted(client: &Client, tally: &Tally) -> Result<Option<String>, Failure> {
    // What failed may have been added or not: nothing can be said of a counter then.
    if tally.failed.load(Ordering::Relaxed) > 0 {
        return Ok(None);
    }
    for (counter, added) in tally.added.iter().enumerate() {
        let found = client.get(counter_key(counter as u64)).await?;
        let value = found.map_or_else(|| "0".into(), |pair| String::from_utf8_lossy(&pair.value).into_owned());
        let added = added.load(Ordering::Relaxed).to_string();
        if value != added {
            return Ok(Some(format!("counter {counter} is {value} after {added} additions")));
        }
    }
    Ok(None)
}

fn counter_key(counter: u64) -> String {
    format!("{PREFIX}counter-{counter}")
}

struct Caller {
    client: Client,
    number: u64,
    random: SmallRng,
    /// What it wrote last to each of its keys; `None` if nothing, or not known.
    written: Vec<Option<u64>>,
    until: Instant,
    value: String,
    reads: u32,
    check: bool,
    tally: Arc<Tally>,
}

impl Caller {
    /// Calls until the time is over. Returns what it found wrong.
    async fn run(mut self) -> Option<String> {
        let mut times = Vec::new();
        let mut wrong = None;
        while Instant::now() < self.until && !self.tally.is_over.load(Ordering::Relaxed) && wrong.is_none() {
            let began = Instant::now();
            match self.step().await {
                Ok(found) => wrong = found,
                Err(error) => {
                    self.tally.failed.fetch_add(1, Ordering::Relaxed);
                    let mut first = self.tally.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert_with(|| error.to_string());
                }
            }
            times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        self.tally.times.lock().unwrap_or_else(PoisonError::into_inner).append(&mut times);
        wrong
    }

    async fn step(&mut self) -> Result<Option<String>, Error> {
        let index = self.random.random_range(0..self.written.len());
        let key = format!("{PREFIX}{}/{index}", self.number);
        if self.random.random_range(0..100) < self.reads {
            let found = self.client.get(&key).await?;
            self.tally.reads.fetch_add(1, Ordering::Relaxed);
            let Some(written) = self.written[index].filter(|_| self.check) else { return Ok(None) };
            let is_right = found.is_some_and(|pair| pair.value.starts_with(format!("{written} ").as_bytes()));
            return Ok((!is_right).then(|| format!("{key} is not what was written to it last")));
        }
        self.tally.writes.fetch_add(1, Ordering::Relaxed);
        if self.check && self.random.random_bool(0.5) {
            let counter = self.random.random_range(0..COUNTERS);
            self.client.increment(counter_key(counter), 1).await?;
            self.tally.added[counter as usize].fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let token = self.random.random();
        // Until it is known.
        self.written[index] = None;
        self.client.set(&key, format!("{token} {}", self.value)).await?;
        self.written[index] = Some(token);
        Ok(None)
    }
}

impl Tally {
    fn report(&self, took: Duration, checked: bool) -> Report {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner));
        times.sort_unstable();
        let at = |of_1000: usize| times.get((times.len() * of_1000 / 1000).min(times.len().saturating_sub(1))).copied();
        let per_second = |count: &AtomicU64| (count.load(Ordering::Relaxed) as f64 / took.as_secs_f64()) as u64;
        Report {
            seconds: took.as_secs_f64(),
            reads_per_second: per_second(&self.reads),
            writes_per_second: per_second(&self.writes),
            median_us: at(500).unwrap_or(0),
            p99_us: at(990).unwrap_or(0),
            slowest_us: times.last().copied().unwrap_or(0),
            failed: self.failed.load(Ordering::Relaxed),
            checked,
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let ms = |micros: u32| f64::from(micros) / 1000.0;
        format!(
            "{} reads/s, {} writes/s for {:.1} s; median {:.2} ms, 99 % below {:.2} ms, slowest {:.0} ms; {} failed{}",
            self.reads_per_second,
            self.writes_per_second,
            self.seconds,
            ms(self.median_us),
            ms(self.p99_us),
            ms(self.slowest_us),
            self.failed,
            if self.checked { "; checked" } else { "" },
        )
    }
}
