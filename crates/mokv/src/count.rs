//! `mokv count`

use clap::Args;
use serde::Serialize;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput};
use crate::range_args::PrefixArgs;
use crate::read_args::{ReadArgs, level_name, with_read_args};

const EXAMPLES: &str = "\
Examples:
  mokv count
  mokv count users/
  mokv count --start a --end b";

/// Count keys
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CountArgs {
    #[command(flatten)]
    keys: PrefixArgs,

    #[command(flatten)]
    read: ReadArgs,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    count: u64,
    revision: u64,
    served: &'static str,
}

impl CountArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let counted = with_read_args!(client.count(self.keys.range()), self.read).await?;
        let answer = Answer { count: counted.count, revision: counted.revision, served: level_name(counted.served) };
        Ok(output::answer(self.output.format, format_args!("{}", answer.count), &answer)?)
    }
}
