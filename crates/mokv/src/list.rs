//! `mokv list`

use std::io::{self, BufWriter, Write};

use clap::Args;
use mokv_client::List;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat};
use crate::pair::{Found, readable};
use crate::range_args::PrefixArgs;
use crate::read_args::{ReadArgs, with_read_args};

const EXAMPLES: &str = "\
Examples:
  mokv list                            every pair
  mokv list users/ --keys-only
  mokv list --start a --end b --limit 100 -o json
  mokv list events/ --reverse --limit 1    the last one

plain prints key, tab, value and newline, byte for byte; json prints one object a line and is safe for every value.";

/// List pairs in the order of their keys, as of one revision
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    keys: PrefixArgs,

    /// At most so many pairs; 0 is all
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    limit: u64,

    /// From the last key to the first
    #[arg(long)]
    reverse: bool,

    /// Leave the values out
    #[arg(long)]
    keys_only: bool,

    #[command(flatten)]
    read: ReadArgs,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl ListArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let mut list = with_read_args!(client.list(self.keys.range()), self.read).limit(self.limit);
        if self.reverse {
            list = list.reverse();
        }
        if self.keys_only {
            list = list.keys_only();
        }
        let list = list.await?;
        match self.output.format {
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
