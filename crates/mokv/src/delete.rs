//! `mokv delete`

use std::io::{self, Write};

use clap::Args;
use mokv_client::{Client, Deleted};

use crate::answer::{DeleteAnswer, DeleteRangeAnswer, deleted_keys};
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat};
use crate::range_args::RangeArgs;

const EXAMPLES: &str = "\
Examples:
  mokv delete greeting
  mokv delete config --if-revision 12            exit code 5 if somebody else has changed it
  mokv delete --prefix sessions/                 says how many there were
  mokv delete --all";

/// Delete a key, or every key of a range in one revision
///
/// Deleting a key that has no value succeeds, too; the answer says which it was. A condition that does not hold is exit code
/// 5, and nothing is deleted.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DeleteArgs {
    /// The key
    #[arg(conflicts_with_all = ["prefix", "start", "end", "all"])]
    key: Option<String>,

    #[command(flatten)]
    range: RangeArgs,

    /// Every key
    #[arg(long, conflicts_with_all = ["prefix", "start", "end"])]
    all: bool,

    /// Only if the key has a value
    #[arg(long, requires = "key", conflicts_with = "if_revision")]
    if_present: bool,

    /// Only if the key's last write has this revision (mod_revision)
    #[arg(long, value_name = "REVISION", requires = "key")]
    if_revision: Option<u64>,

    /// Also print the value that the key had
    #[arg(long, requires = "key")]
    previous: bool,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl DeleteArgs {
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        // One write is not worth a place among the clients that the cluster remembers.
        let client = self.cluster.client()?.at_most_once();
        match self.key.take() {
            Some(key) => self.delete_key(&client, &key).await,
            None => self.delete_range(&client).await,
        }
    }

    async fn delete_key(self, client: &Client, key: &str) -> Result<(), Failure> {
        let mut delete = client.delete(key);
        if self.if_present {
            delete = delete.if_present();
        }
        if let Some(revision) = self.if_revision {
            delete = delete.if_revision(revision);
        }
        if self.previous {
            delete = delete.previous();
        }
        let deleted = delete.await?;
        let refusal = (!deleted.ok).then(|| Failure::condition(key, deleted.mod_revision));
        if self.output.format == TableFormat::Plain {
            print_plain(&deleted)?;
        } else {
            output::document(self.output.format, &DeleteAnswer::from(deleted))?;
        }
        refusal.map_or(Ok(()), Err)
    }

    async fn delete_range(self, client: &Client) -> Result<(), Failure> {
        if self.range.is_all() && !self.all {
            return Err(Failure::usage("say which keys: a KEY, --prefix, --start, --end, or --all for every one"));
        }
        let deleted = client.delete_range(self.range.range()).await?;
        let plain = deleted_keys(deleted.deleted);
        Ok(output::answer(self.output.format, format_args!("{plain}"), &DeleteRangeAnswer::from(deleted))?)
    }
}

fn print_plain(deleted: &Deleted) -> io::Result<()> {
    if deleted.ok {
        let what = if deleted.existed { "deleted" } else { "there was no such key" };
        output::line(format_args!("{what}"))?;
    }
    if let Some(previous) = &deleted.previous {
        let mut out = io::stdout().lock();
        out.write_all(&previous.value)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}
