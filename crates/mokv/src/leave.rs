//! `mokv leave`

use std::io::{self, IsTerminal};

use clap::Args;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::member::{confirm, consequence};
use crate::output;

const EXAMPLES: &str = "\
A node that is stopped (SIGTERM) stays a member and comes back. One that leaves is none any more: leadership is handed over,
the membership goes on without it, then its process ends. Refused where the rest could not go on.

Examples:
  mokv leave --endpoints 10.0.0.3:8400      the node that answers there
  mokv leave --node node-2                  any other, asked of any node";

/// Let a node leave its cluster for good, and stop it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LeaveArgs {
    /// The name or node id of the node; without, the one at the endpoint
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// Don't ask
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl LeaveArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let named = match self.node {
            Some(node) => node,
            None if self.cluster.endpoints.contains(',') => {
                return Err(Failure::usage("there are several endpoints: say with --node which node is to leave"));
            }
            None => client.status().await?.node_id.to_string(),
        };
        let members = client.members().await?;
        let Some(member) = members.iter().find(|member| member.name == named || member.node_id.to_string() == named)
        else {
            return Err(Failure::not_found(format!("no member is called {named}: `mokv members` shows them")));
        };
        output::note(format_args!("{}", consequence(member, &members)));
        if !self.yes && io::stdin().is_terminal() && !confirm("Let it leave for good?")? {
            return Err(Failure::error("it stays"));
        }
        // By its id: another node may take over the name meanwhile.
        client.leave(&member.node_id.to_string()).await?;
        Ok(output::line(format_args!("{} has left", member.name))?)
    }
}
