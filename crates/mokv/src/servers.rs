//! `mokv servers`

use clap::Args;
use serde::Serialize;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, TableFormat, TableOutput};

/// List the nodes that a client can ask
///
/// As the original's GetServers has it; `mokv member list` says more.
#[derive(Debug, Args)]
pub(crate) struct ServersArgs {
    #[command(flatten)]
    output: TableOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Serialize)]
struct Server {
    id: String,
    rpc_addr: String,
    is_leader: bool,
    is_voter: bool,
}

impl ServersArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let servers = self.cluster.client()?.servers().await?;
        if self.output.format == TableFormat::Json {
            let servers = servers.into_iter().map(|server| Server {
                id: server.id,
                rpc_addr: server.rpc_addr,
                is_leader: server.is_leader,
                is_voter: server.is_voter,
            });
            return Ok(output::json(&servers.collect::<Vec<_>>())?);
        }
        let rows = servers.into_iter().map(|server| {
            let role = match (server.is_leader, server.is_voter) {
                (true, _) => "leader",
                (false, true) => "voter",
                (false, false) => "learner",
            };
            [server.id, server.rpc_addr, role.to_owned()]
        });
        Ok(output::rows(["NAME", "ADDRESS", "ROLE"], &rows.collect::<Vec<_>>(), self.output.format)?)
    }
}
