//! `mokv list`

use std::io::{self, BufWriter, Write};

use clap::Args;
use mokv_client::{KeyRange, List};

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, TableFormat};
use crate::pair::{Found, readable};

const EXAMPLES: &str = "\
Examples:
  mokv list                            every pair
  mokv list users/ --keys-only
  mokv list --start a --end b --limit 100 -o json

plain prints key, tab, value and newline, byte for byte; json prints one object a line and is safe for every value.";

/// List pairs in the order of their keys, as of one revision
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListArgs {
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    /// Only keys at or after this
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    start: String,

    /// Only keys before this
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    end: String,

    /// At most so many pairs; 0 is all
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    limit: u64,

    /// Leave the values out
    #[arg(long)]
    keys_only: bool,

    /// Answer from the asked node's memory: never wrong, possibly old
    #[arg(long)]
    local: bool,

    /// How to print the result
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "plain")]
    format: TableFormat,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl ListArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let range = KeyRange::prefix(self.prefix).from(self.start).before(self.end);
        let mut list = self.cluster.client()?.list(range).limit(self.limit);
        if self.keys_only {
            list = list.keys_only();
        }
        if self.local {
            list = list.local();
        }
        let list = list.await?;
        match self.format {
            TableFormat::Plain => print_lines(list, self.keys_only).await,
            TableFormat::Json => print_json(list, self.keys_only).await,
            TableFormat::Table => print_table(list).await,
        }
    }
}

async fn print_lines(mut list: List, keys_only: bool) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout());
    while let Some(pair) = list.next().await? {
        out.write_all(pair.key.as_bytes())?;
        if !keys_only {
            out.write_all(b"\t")?;
            out.write_all(&pair.value)?;
        }
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

async fn print_json(mut list: List, keys_only: bool) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout());
    while let Some(pair) = list.next().await? {
        let line = if keys_only {
            serde_json::json!({ "key": pair.key }).to_string()
        } else {
            serde_json::to_string(&Found::from(pair)).map_err(io::Error::from)?
        };
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

async fn print_table(mut list: List) -> Result<(), Failure> {
    let mut rows = Vec::new();
    while let Some(pair) = list.next().await? {
        rows.push([
            readable(pair.key.as_bytes()),
            readable(&pair.value),
            pair.mod_revision.to_string(),
            pair.version.to_string(),
        ]);
    }
    Ok(output::rows(["KEY", "VALUE", "REVISION", "VERSION"], &rows, TableFormat::Table)?)
}
