//! `mokv set`

use std::fs;
use std::io::{self, Read};

use clap::Args;
use serde::Serialize;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ValueFormat, ValueOutput};

const EXAMPLES: &str = "\
Examples:
  mokv set greeting hello
  mokv set picture @picture.png
  date | mokv set today -";

/// Set a key
///
/// When it answers, the write is on disk on a majority of the voters.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetArgs {
    /// The key
    key: String,

    /// The value; @FILE reads it from a file, - from standard input (also for values that begin with @)
    #[arg(value_name = "VALUE|@FILE|-", allow_hyphen_values = true)]
    value: String,

    #[command(flatten)]
    output: ValueOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    revision: u64,
    create_revision: u64,
    version: u64,
}

impl SetArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let value = read_value(self.value)?;
        // One write is not worth a place among the clients that the cluster remembers.
        let answer = client.at_most_once().set(&self.key, value).await?;
        match self.output.format {
            ValueFormat::Plain => output::line(format_args!("OK"))?,
            ValueFormat::Json => output::json(&Answer {
                revision: answer.revision,
                create_revision: answer.create_revision,
                version: answer.version,
            })?,
        }
        Ok(())
    }
}

fn read_value(value: String) -> Result<Vec<u8>, Failure> {
    if value == "-" {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().read_to_end(&mut bytes);
        return read.map(|_| bytes).map_err(|error| Failure::error(format!("can't read standard input: {error}")));
    }
    match value.strip_prefix('@') {
        Some(file) => fs::read(file).map_err(|error| Failure::error(format!("can't read {file}: {error}"))),
        None => Ok(value.into_bytes()),
    }
}
