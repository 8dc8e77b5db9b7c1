//! `mokv get`

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ValueFormat, ValueOutput};
use crate::pair::Found;

const EXAMPLES: &str = "\
Examples:
  mokv get greeting
  mokv get picture > picture.png       the value's bytes and nothing else
  mokv get greeting --local --min-revision 7";

/// Print the value of a key
///
/// The value is printed as it is, byte for byte; on a terminal a newline follows. A key without a value is exit code 3.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetArgs {
    /// The key
    key: String,

    /// Answer from the asked node's memory: never wrong, possibly old
    #[arg(long)]
    local: bool,

    /// With --local: not older than this revision
    #[arg(long, value_name = "REVISION", requires = "local", default_value_t = 0)]
    min_revision: u64,

    #[command(flatten)]
    output: ValueOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl GetArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let read = client.get(&self.key);
        let found = if self.local { read.local().min_revision(self.min_revision).await? } else { read.await? };
        let found = found.ok_or_else(|| Failure::not_found(format!("no value for key: {}", self.key)))?;
        if self.output.format == ValueFormat::Json {
            return Ok(output::json(&Found::from(found))?);
        }
        let mut out = io::stdout().lock();
        out.write_all(&found.value)?;
        if out.is_terminal() {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }
}
