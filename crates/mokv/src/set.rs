//! `mokv set`

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use mokv_client::{Set, Written};
use mokv_server::config::parse_duration;

use crate::answer::SetAnswer;
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat};
use crate::value;

const EXAMPLES: &str = "\
Examples:
  mokv set greeting hello
  mokv set picture @picture.png
  date | mokv set today -
  mokv set sessions/7 alice --ttl 30m
  mokv set config @new.yaml --if-revision 12     exit code 5 if somebody else has changed it";

/// Set a key
///
/// When it answers, the write is on disk on a majority of the voters. A set without --ttl, --lease and --keep-ttl takes away
/// what the key had of them. A condition that does not hold is exit code 5, and nothing is written.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetArgs {
    /// The key
    key: String,

    /// The value; @FILE reads it from a file, - from standard input (also for values that begin with @)
    #[arg(value_name = "VALUE|@FILE|-", allow_hyphen_values = true)]
    value: OsString,

    /// Only if the key has no value
    #[arg(long, group = "condition")]
    if_absent: bool,

    /// Only if the key has a value
    #[arg(long, group = "condition")]
    if_present: bool,

    /// Only if the key's last write has this revision (mod_revision)
    #[arg(long, value_name = "REVISION", group = "condition")]
    if_revision: Option<u64>,

    /// The key is deleted so long after this write
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, group = "life")]
    ttl: Option<Duration>,

    /// The key is deleted with this lease
    #[arg(long, value_name = "ID", group = "life")]
    lease: Option<u64>,

    /// The ttl or lease that the key has stays what it is
    #[arg(long, group = "life")]
    keep_ttl: bool,

    /// Also print the value that the key had before
    #[arg(long)]
    previous: bool,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl SetArgs {
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        // One write is not worth a place among the clients that the cluster remembers.
        let client = self.cluster.client()?.at_most_once();
        let value = value::read(std::mem::take(&mut self.value))?;
        let set = self.with_options(client.set(&self.key, value));
        let written = set.await?;
        let refusal = (!written.ok).then(|| self.refusal(&written));
        if self.output.format == TableFormat::Plain {
            print_plain(&written)?;
        } else {
            output::document(self.output.format, &SetAnswer::from(written))?;
        }
        refusal.map_or(Ok(()), Err)
    }

    fn with_options(&self, mut set: Set) -> Set {
        if self.if_absent {
            set = set.if_absent();
        }
        if self.if_present {
            set = set.if_present();
        }
        if let Some(revision) = self.if_revision {
            set = set.if_revision(revision);
        }
        if let Some(ttl) = self.ttl {
            set = set.ttl(ttl);
        }
        if let Some(lease) = self.lease {
            set = set.lease(lease);
        }
        if self.keep_ttl {
            set = set.keep_ttl();
        }
        if self.previous {
            set = set.previous();
        }
        set
    }

    fn refusal(&self, written: &Written) -> Failure {
        Failure::condition(&self.key, written.mod_revision)
    }
}

fn print_plain(written: &Written) -> io::Result<()> {
    if written.ok {
        output::line(format_args!("OK"))?;
    }
    if let Some(previous) = &written.previous {
        let mut out = io::stdout().lock();
        out.write_all(&previous.value)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}
