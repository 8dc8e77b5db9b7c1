//! `mokv snapshot restore`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mokv_server::config::parse_node_name;
use mokv_server::disk::OsDisk;
use mokv_server::offline::{Founder, restore};
use mokv_server::runtime::Tasks;

use crate::exit::Failure;
use crate::facts::{Facts, founded};
use crate::output::{self, TableOutput};
use crate::serve::host;

const EXAMPLES: &str = "\
The new cluster has a new id and one member, which leads alone as soon as it is started. The other nodes join it with empty
data directories; nodes of the old cluster can't. Pairs, sessions and leases are as they were saved.

Examples:
  mokv snapshot restore backup.snap --data-dir /var/lib/mokv --name node-0
  mokv --data-dir /var/lib/mokv --node-name node-0           starts it";

/// Make a data directory for a new cluster out of a saved copy
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// The copy; a snapshot of a data directory will do, too
    file: PathBuf,

    /// The directory to make: empty, or not there yet
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// The name of the new cluster's first node [default: the machine's name]
    #[arg(long, value_name = "NAME", value_parser = parse_node_name)]
    name: Option<String>,

    /// Raise the store's revision by so much. More than the old cluster wrote since the copy was made, and whoever knows
    /// later revisions of that never takes new ones for them
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    bump_revision: u64,

    #[command(flatten)]
    output: TableOutput,
}

impl RestoreArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let tasks = Tasks::from_os().map_err(Failure::error)?;
        let name = self.name.unwrap_or_else(|| host().hostname);
        let founder = Founder { name, revisions_skipped: self.bump_revision };
        let made = restore(&tasks, Arc::new(OsDisk), &self.file, self.data_dir.clone(), &founder).await;
        let made = made.map_err(Failure::error)?;
        founded(Facts::default().fact("data_dir", self.data_dir.display()), &made).print(self.output.format)?;
        output::note(format_args!(
            "start it: mokv --data-dir {} --node-name {}",
            self.data_dir.display(),
            founder.name
        ));
        Ok(())
    }
}
