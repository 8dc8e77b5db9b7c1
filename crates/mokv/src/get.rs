//! `mokv get`

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat};
use crate::pair::Found;
use crate::read_args::{ReadArgs, level_name, with_read_args};

const EXAMPLES: &str = "\
Examples:
  mokv get greeting
  mokv get picture > picture.png       the value's bytes and nothing else
  mokv get greeting --revision 7       what it was
  mokv get greeting --local --max-staleness 5s";

/// Print the value of a key
///
/// The value is printed as it is, byte for byte; on a terminal a newline follows. A key without a value is exit code 3.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetArgs {
    /// The key
    key: String,

    #[command(flatten)]
    read: ReadArgs,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl GetArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let found = with_read_args!(client.get(&self.key), self.read).found().await?;
        let pair = found.pair.ok_or_else(|| Failure::not_found(format!("no value for key: {}", self.key)))?;
        if self.output.format != TableFormat::Plain {
            let found = Found::from(pair).served(level_name(found.served));
            return Ok(output::document(self.output.format, &found)?);
        }
        let mut out = io::stdout().lock();
        out.write_all(&pair.value)?;
        if out.is_terminal() {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }
}
