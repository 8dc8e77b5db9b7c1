//! `mokv check`

use std::time::Instant;

use clap::Args;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output;

const EXAMPLES: &str = "\
Writes a key of its own (mokv-check/...), reads it, and deletes it again. `helm test` does this through the clients' service.

Examples:
  mokv check --endpoints 10.0.0.1:8400";

/// Show that a cluster takes writes and answers reads
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl CheckArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let began = Instant::now();
        let key = format!("mokv-check/{}-{}", crate::serve::host().hostname, std::process::id());
        let value = format!("{:?}", std::time::SystemTime::now());
        client.set(&key, value.clone()).await?;
        let found = client.get(&key).await?;
        client.delete(&key).await?;
        if found.is_none_or(|found| found.value != value.as_bytes()) {
            return Err(Failure::error("what was read is not what was written just before"));
        }
        Ok(output::line(format_args!("wrote, read and deleted a key in {} ms", began.elapsed().as_millis()))?)
    }
}
