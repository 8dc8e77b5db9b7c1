//! `mokv watch`

use std::ffi::OsString;
use std::future::{IntoFuture, pending};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;

use clap::Args;
use mokv_client::{Client, Error, Event, Pair, WatchItem, WatchKeys};
use serde::Serialize;

use crate::child::Run;
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{ResultOutput, TableFormat, note};
use crate::pair::{Found, readable};
use crate::range_args::RangeArgs;
use crate::serve::Signals;

/// The kernel takes no longer variable than 128 KiB, name and all.
const VALUE_BYTES_MAX: usize = (128 << 10) - 64;

const EXAMPLES: &str = "\
Examples:
  mokv watch config
  mokv watch --prefix users/ --list-first     first what there is, then what changes, with no gap
  mokv watch --prefix users/ --from 17        also what happened since revision 17
  mokv watch config -- ./reload.sh            run for each change; it reads the value from standard input

plain prints revision, put or delete, key and value, separated by tabs, byte for byte; json prints one object a line and is safe
for every value. With --list-first, what there is comes as `have`, and then `listed`; if changes were missed all the same, it
comes again. The command finds MOKV_WATCH_EVENT (put, delete, have), MOKV_WATCH_KEY, MOKV_WATCH_REVISION and, if it is shorter
than 128 KiB and has no NUL, MOKV_WATCH_VALUE in its environment. If it fails, the watch ends with its exit code.";

/// Print what changes, as it happens
///
/// Goes on at another node when one dies, without missing or repeating a change. Exit code 3 if what was to come next is not
/// remembered any more.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WatchArgs {
    /// The key
    #[arg(conflicts_with_all = ["prefix", "start", "end", "all"])]
    key: Option<String>,

    #[command(flatten)]
    range: RangeArgs,

    /// Every key
    #[arg(long, conflicts_with_all = ["prefix", "start", "end"])]
    all: bool,

    /// The command to run for each change
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// Begin with the changes of this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    from: u64,

    /// First what there is
    #[arg(long, conflicts_with = "from")]
    list_first: bool,

    /// Also what there was before
    #[arg(long)]
    previous: bool,

    /// Leave the values out
    #[arg(long)]
    keys_only: bool,

    /// Leave out that keys are set
    #[arg(long, conflicts_with = "no_deletes")]
    no_puts: bool,

    /// Leave out that keys are deleted
    #[arg(long)]
    no_deletes: bool,

    /// End after so many changes
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What happened to a key.
#[derive(Debug, Serialize)]
struct Change {
    kind: &'static str,
    #[serde(flatten)]
    pair: Found,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Found>,
}

/// A key that was deleted.
#[derive(Debug, Serialize)]
struct Deletion<'a> {
    kind: &'static str,
    key: &'a str,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Found>,
}

/// All that there is has been told.
#[derive(Debug, Serialize)]
struct Listed {
    kind: &'static str,
    revision: u64,
    count: usize,
    again: bool,
}

impl WatchArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let client = self.cluster.lasting_client().await?;
        let mut watch = tokio::select! {
            biased;
            () = signals.next() => return Ok(()),
            watch = self.begin(&client)?.into_future() => watch?,
        };
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let item = tokio::select! {
                biased;
                () = signals.next() => break,
                item = watch.next() => item,
            };
            match item {
                Ok(item) => self.tell(item, &mut left).await?,
                Err(error @ Error::Unavailable(_)) => note(format_args!("{error}; still trying")),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn begin(&self, client: &Client) -> Result<WatchKeys, Failure> {
        let mut watch = match &self.key {
            Some(key) => client.watch(key),
            None if self.range.is_all() && !self.all => {
                return Err(Failure::usage("say which keys: a KEY, --prefix, --start, --end, or --all for every one"));
            }
            None => client.watch_range(self.range.range()),
        };
        watch = watch.from_revision(self.from);
        if self.list_first {
            watch = watch.list_first();
        }
        if self.previous {
            watch = watch.previous();
        }
        if self.keys_only {
            watch = watch.keys_only();
        }
        if self.no_puts {
            watch = watch.no_puts();
        }
        if self.no_deletes {
            watch = watch.no_deletes();
        }
        Ok(watch)
    }

    async fn tell(&self, item: WatchItem, left: &mut u64) -> Result<(), Failure> {
        match item {
            WatchItem::Changes(changes) => {
                for event in changes.events {
                    if *left > 0 {
                        *left -= 1;
                        self.tell_event(changes.revision, event).await?;
                    }
                }
            }
            WatchItem::Listed { revision, pairs, again } => {
                let count = pairs.len();
                for pair in pairs {
                    let line = self.pair_line("have", revision, &pair, None)?;
                    self.act("have", revision, &pair.key, Some(&pair), line).await?;
                }
                if self.command.is_empty() {
                    self.print(&match self.output.format {
                        TableFormat::Json => json(&Listed { kind: "listed", revision, count, again })?,
                        TableFormat::Plain => format!("{revision}\tlisted").into_bytes(),
                        TableFormat::Table => format!("{revision:>10}  listed").into_bytes(),
                    })?;
                }
            }
        }
        Ok(())
    }

    async fn tell_event(&self, revision: u64, event: Event) -> Result<(), Failure> {
        let Event { key, pair, previous } = event;
        let (kind, line) = match &pair {
            Some(pair) => ("put", self.pair_line("put", revision, pair, previous)?),
            None => ("delete", self.deletion_line(revision, &key, previous)?),
        };
        self.act(kind, revision, &key, pair.as_ref(), line).await
    }

    fn pair_line(&self, kind: &'static str, revision: u64, pair: &Pair, previous: Option<Pair>) -> io::Result<Vec<u8>> {
        match self.output.format {
            TableFormat::Json => {
                let found = |pair: Pair| {
                    let found = Found::from(pair);
                    if self.keys_only { found.without_value() } else { found }
                };
                json(&Change { kind, pair: found(pair.clone()), previous: previous.map(found) })
            }
            TableFormat::Plain => {
                let mut line = format!("{revision}\t{kind}\t{}", pair.key).into_bytes();
                if !self.keys_only {
                    line.push(b'\t');
                    line.extend(&pair.value);
                }
                Ok(line)
            }
            TableFormat::Table => {
                let value = if self.keys_only { String::new() } else { format!("  {}", readable(&pair.value)) };
                Ok(format!("{revision:>10}  {kind:<6}  {}{value}", readable(pair.key.as_bytes())).into_bytes())
            }
        }
    }

    fn deletion_line(&self, revision: u64, key: &str, previous: Option<Pair>) -> io::Result<Vec<u8>> {
        match self.output.format {
            TableFormat::Json => json(&Deletion { kind: "delete", key, revision, previous: previous.map(Found::from) }),
            TableFormat::Plain => Ok(format!("{revision}\tdelete\t{key}").into_bytes()),
            TableFormat::Table => Ok(format!("{revision:>10}  delete  {}", readable(key.as_bytes())).into_bytes()),
        }
    }

    /// Prints the line, or runs the command.
    async fn act(
        &self,
        kind: &'static str,
        revision: u64,
        key: &str,
        pair: Option<&Pair>,
        line: Vec<u8>,
    ) -> Result<(), Failure> {
        if self.command.is_empty() {
            return Ok(self.print(&line)?);
        }
        let mut variables = vec![
            ("MOKV_WATCH_EVENT", kind.into()),
            ("MOKV_WATCH_KEY", key.into()),
            ("MOKV_WATCH_REVISION", revision.to_string().into()),
        ];
        let value = pair.map(|pair| pair.value.to_vec()).unwrap_or_default();
        if pair.is_some() && value.len() <= VALUE_BYTES_MAX && !value.contains(&0) {
            variables.push(("MOKV_WATCH_VALUE", OsString::from_vec(value.clone())));
        }
        Run { command: &self.command, variables, stdin: Some(value) }.while_held(pending()).await
    }

    fn print(&self, line: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(line)?;
        out.write_all(b"\n")?;
        out.flush()
    }
}

fn json(line: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(line)?)
}
