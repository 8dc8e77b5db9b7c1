//! `mokv import`: many writes in flight, each tried until it is answered, nothing skipped.
//!
//! A thread reads and checks the lines, one task a write sends them through one session. Two lines with the same key are
//! written one after the other, so the last one wins, as a reader of the file expects.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use mokv_client::{Client, Error};
use mokv_server::config::parse_duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output;
use crate::pair::Pair;

/// Lines that are read ahead of the writes.
const READ_AHEAD: usize = 256;
/// The longest line: the largest value that a server can be told to take, with every byte escaped.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// How often people see the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  mokv import everything.jsonl
  zcat users.jsonl.gz | mokv import -
  mokv import everything.jsonl --endpoints 10.0.0.1:8400,10.0.0.2:8400,10.0.0.3:8400

A line is {\"key\": ..., \"value\": ...} with a text, or {\"key\": ..., \"value_base64\": ...}. A line that is neither ends the
import. Running it again is harmless. With several endpoints it goes on when a node dies.";

/// Set the pairs of a file of JSON Lines
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ImportArgs {
    /// Where from; - is standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,

    /// How many writes may be under way
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: u16,

    /// How long to try one write, on all endpoints, before giving up
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    retry_for: Duration,

    /// Append each key to this file, one a line, once its write is acknowledged (backslash, newline and carriage return
    /// as \\, \n, \r)
    #[arg(long, value_name = "FILE")]
    ack_log: Option<PathBuf>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A pair and where it stood.
struct Record {
    line: u64,
    key: String,
    value: Vec<u8>,
    /// Bytes of the file up to its end.
    offset: u64,
}

impl ImportArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.patient_client()?.with_timeout(self.retry_for);
        let ack_log = self.ack_log.as_deref().map(open_ack_log).transpose()?;
        let (input, size) = open(&self.file)?;
        let (sender, mut records) = mpsc::channel(READ_AHEAD);
        // Not a task: nothing can interrupt a read from a pipe that stays silent.
        thread::spawn(move || read_records(input, &sender));

        let mut import = Import::new(client, ack_log, Progress::new(size));
        let ended = import.write_all(&mut records, self.in_flight.into()).await;
        let count = import.progress.finish();
        ended.map_err(|failure| failure.of(format_args!("stopped after {count} pairs were imported")))
    }
}

/// A running import.
struct Import {
    client: Client,
    writing: JoinSet<(Record, Result<(), Error>)>,
    keys_in_flight: BTreeSet<String>,
    ack_log: Option<(PathBuf, File)>,
    progress: Progress,
}

impl Import {
    fn new(client: Client, ack_log: Option<(PathBuf, File)>, progress: Progress) -> Self {
        Self { client, writing: JoinSet::new(), keys_in_flight: BTreeSet::new(), ack_log, progress }
    }

    async fn write_all(
        &mut self,
        records: &mut mpsc::Receiver<Result<Record, Failure>>,
        in_flight_max: usize,
    ) -> Result<(), Failure> {
        let mut bad_line = None;
        while let Some(record) = records.recv().await {
            match record {
                Ok(record) => self.begin(record, in_flight_max).await?,
                Err(failure) => bad_line = Some(failure),
            }
        }
        // What came before a bad line is still answered, so that the count and the log of acknowledgements are right.
        while !self.writing.is_empty() {
            self.complete_one().await?;
        }
        bad_line.map_or(Ok(()), Err)
    }

    async fn begin(&mut self, record: Record, in_flight_max: usize) -> Result<(), Failure> {
        while self.writing.len() >= in_flight_max || self.keys_in_flight.contains(&record.key) {
            self.complete_one().await?;
        }
        self.keys_in_flight.insert(record.key.clone());
        let written = self.client.set(&record.key, record.value.clone());
        self.writing.spawn(async move {
            let written = written.await.map(drop);
            (record, written)
        });
        Ok(())
    }

    async fn complete_one(&mut self) -> Result<(), Failure> {
        let Some(joined) = self.writing.join_next().await else { return Ok(()) };
        let (record, written) = joined.map_err(Failure::error)?;
        self.keys_in_flight.remove(&record.key);
        written.map_err(|error| Failure::from(error).of(format_args!("line {}", record.line)))?;
        if let Some((path, log)) = &mut self.ack_log {
            let line = format!("{}\n", escaped(&record.key));
            log.write_all(line.as_bytes()).map_err(|error| Failure::error(format!("{}: {error}", path.display())))?;
        }
        self.progress.add(record.offset);
        Ok(())
    }
}

/// What was done so far, and a line about it for people who watch.
struct Progress {
    started: Instant,
    shown: Instant,
    is_watched: bool,
    count: u64,
    offset: u64,
    size: Option<u64>,
}

impl Progress {
    fn new(size: Option<u64>) -> Self {
        let now = Instant::now();
        Self { started: now, shown: now, is_watched: io::stderr().is_terminal(), count: 0, offset: 0, size }
    }

    fn add(&mut self, offset: u64) {
        self.count += 1;
        self.offset = self.offset.max(offset);
        if self.is_watched && self.shown.elapsed() >= PROGRESS_INTERVAL {
            self.shown = Instant::now();
            let percent =
                self.size.map(|size| format!("{:3} %  ", self.offset * 100 / size.max(1))).unwrap_or_default();
            self.write(&format!("\r{percent}{} pairs  {:.0} a second\x1b[K", self.count, self.rate()));
        }
    }

    fn finish(&self) -> u64 {
        if self.is_watched {
            self.write("\r\x1b[K");
        }
        let seconds = self.started.elapsed().as_secs_f64();
        output::note(format_args!("imported {} pairs in {seconds:.1} s ({:.0} a second)", self.count, self.rate()));
        self.count
    }

    fn rate(&self) -> f64 {
        self.count as f64 / self.started.elapsed().as_secs_f64().max(0.001)
    }

    fn write(&self, text: &str) {
        // Progress that nobody can see is not worth failing for.
        drop(io::stderr().lock().write_all(text.as_bytes()));
    }
}

fn open(file: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let cannot = |error| Failure::error(format!("can't read {}: {error}", file.display()));
    let input = File::open(file).map_err(cannot)?;
    let metadata = input.metadata().map_err(cannot)?;
    // A named pipe has no size.
    let size = Some(metadata.len()).filter(|_| metadata.is_file());
    Ok((Box::new(BufReader::with_capacity(1 << 20, input)), size))
}

fn open_ack_log(path: &Path) -> Result<(PathBuf, File), Failure> {
    match OpenOptions::new().append(true).create(true).open(path) {
        Ok(file) => Ok((path.to_owned(), file)),
        Err(error) => Err(Failure::error(format!("can't write {}: {error}", path.display()))),
    }
}

/// Sends all records, or those before the first bad line and then what is wrong with it.
fn read_records(mut input: impl BufRead, records: &mpsc::Sender<Result<Record, Failure>>) {
    let mut offset = 0;
    for line in 1.. {
        let record = match read_record(&mut input, line, &mut offset) {
            Ok(Some(record)) => Ok(record),
            Ok(None) => return,
            Err(failure) => Err(failure.of(format_args!("line {line}"))),
        };
        let is_last = record.is_err();
        if records.blocking_send(record).is_err() || is_last {
            return;
        }
    }
}

fn read_record(input: &mut impl BufRead, line: u64, offset: &mut u64) -> Result<Option<Record>, Failure> {
    let mut text = Vec::new();
    let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
    let length = read.map_err(|error| Failure::error(format!("can't read: {error}")))? as u64;
    if length == 0 {
        return Ok(None);
    }
    if length == LINE_BYTES_MAX && text.last() != Some(&b'\n') {
        return Err(Failure::error(format!("longer than {LINE_BYTES_MAX} bytes")));
    }
    *offset += length;
    let (key, value) = Pair::parse(&text).map_err(Failure::error)?;
    Ok(Some(Record { line, key, value, offset: *offset }))
}

fn escaped(key: &str) -> String {
    key.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Vec<Result<(u64, String, u64), String>> {
        let (sender, mut records) = mpsc::channel(READ_AHEAD);
        read_records(text.as_bytes(), &sender);
        drop(sender);
        let mut read = Vec::new();
        while let Some(record) = records.blocking_recv() {
            read.push(record.map(|r| (r.line, r.key, r.offset)).map_err(|failure| format!("{failure:?}")));
        }
        read
    }

    #[test]
    fn lines_are_numbered_and_measured() {
        let first = (1, "a".to_owned(), 24);
        assert_eq!(read("{\"key\":\"a\",\"value\":\"1\"}\n"), [Ok(first.clone())]);
        let second = (2, "b".to_owned(), 47);
        assert_eq!(read("{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"2\"}"), [Ok(first), Ok(second)]);
        assert_eq!(read(""), []);
    }

    #[test]
    fn the_first_bad_line_is_the_last_read() {
        for bad in ["\n", "{}\n", "{\"key\":\"b\"}\n"] {
            let text = format!("{{\"key\":\"a\",\"value\":\"1\"}}\n{bad}{{\"key\":\"c\",\"value\":\"1\"}}\n");
            let read = read(Box::leak(text.into_boxed_str()));
            assert_eq!(read.len(), 2, "{bad:?}");
            assert!(read[1].as_ref().is_err_and(|message| message.contains("line 2: ")), "{bad:?}: {:?}", read[1]);
        }
    }

    /// What is begun stays under way until its time is over.
    fn import_to_nobody() -> Import {
        let retry_for = Duration::from_millis(200);
        let client = Client::connect("127.0.0.1:1").expect("client").with_timeout(retry_for);
        Import::new(client, None, Progress::new(None))
    }

    fn record(line: u64, key: &str) -> Record {
        Record { line, key: key.into(), value: vec![], offset: 0 }
    }

    #[tokio::test]
    async fn a_key_waits_for_its_earlier_line() {
        let mut import = import_to_nobody();
        import.begin(record(1, "a"), 64).await.expect("begun");
        import.begin(record(2, "b"), 64).await.expect("another key");
        assert_eq!(import.writing.len(), 2);
        let failure = import.begin(record(3, "a"), 64).await.expect_err("the failure of an earlier line");
        assert!(!format!("{failure:?}").contains("line 3"), "{failure:?}");
    }

    #[tokio::test]
    async fn no_more_than_the_limit_is_in_flight() {
        let mut import = import_to_nobody();
        import.begin(record(1, "a"), 1).await.expect("begun");
        import.begin(record(2, "b"), 1).await.expect_err("the failure of the first");
    }

    #[test]
    fn acknowledged_keys_stay_on_their_line() {
        assert_eq!(escaped("a\\b\nc\rd"), "a\\\\b\\nc\\rd");
    }
}
