//! `mokv snapshot`: a copy of everything, kept outside of the cluster.

mod restore;
mod save;
mod status;

use clap::{Args, Subcommand};

use crate::exit::Failure;

const EXAMPLES: &str = "\
Examples:
  mokv snapshot save backup.snap                            from any node, while the cluster runs
  mokv snapshot status backup.snap                          checks every byte
  mokv snapshot restore backup.snap --data-dir /var/lib/mokv
                                                            the first node of a new cluster; others join it";

/// Save a copy of everything, check it, begin a new cluster with it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    Save(save::SaveArgs),
    Status(status::StatusArgs),
    Restore(restore::RestoreArgs),
}

impl SnapshotArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.command {
            SnapshotCommand::Save(args) => args.run().await,
            SnapshotCommand::Status(args) => args.run().await,
            SnapshotCommand::Restore(args) => args.run().await,
        }
    }
}
