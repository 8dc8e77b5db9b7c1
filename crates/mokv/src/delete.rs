//! `mokv delete`

use clap::Args;
use serde::Serialize;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ValueFormat, ValueOutput};

/// Delete a key
///
/// Deleting a key that has no value succeeds, too; the answer says which it was.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The key
    key: String,

    #[command(flatten)]
    output: ValueOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    existed: bool,
    revision: u64,
}

impl DeleteArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        // One write is not worth a place among the clients that the cluster remembers.
        let answer = self.cluster.client()?.at_most_once().delete(&self.key).await?;
        match self.output.format {
            ValueFormat::Plain if answer.existed => output::line(format_args!("deleted"))?,
            ValueFormat::Plain => output::line(format_args!("there was no such key"))?,
            ValueFormat::Json => output::json(&Answer { existed: answer.existed, revision: answer.revision })?,
        }
        Ok(())
    }
}
