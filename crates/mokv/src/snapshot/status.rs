//! `mokv snapshot status`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mokv_server::disk::OsDisk;
use mokv_server::offline::inspect;
use mokv_server::runtime::Tasks;

use crate::exit::Failure;
use crate::facts::Facts;
use crate::output::TableOutput;

const EXAMPLES: &str = "\
It needs no cluster, and as much memory as a node with this data. A file that is damaged is told by exit code 1, with the
place of the damage.

Examples:
  mokv snapshot status backup.snap
  mokv snapshot status backup.snap -o json | jq .revision";

/// Check every byte of a saved copy, and say what it has
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// The copy; the snapshots in a data directory are such files, too
    file: PathBuf,

    #[command(flatten)]
    output: TableOutput,
}

impl StatusArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let tasks = Tasks::from_os().map_err(Failure::error)?;
        let found = inspect(&tasks, Arc::new(OsDisk), &self.file).await.map_err(Failure::error)?;
        let facts = Facts::default()
            .fact("cluster_id", found.cluster_id)
            .number("revision", found.revision)
            .number("keys", found.keys)
            .number("sessions", found.sessions)
            .number("leases", found.leases)
            .number("term", found.last_log_id.term)
            .number("log_index", found.last_log_id.index)
            .bytes("size", found.size)
            .fact("state_hash", found.state_hash);
        Ok(facts.print(self.output.format)?)
    }
}
