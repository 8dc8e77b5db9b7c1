//! `mokv member`

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use mokv_client::Client;
use mokv_client::messages::{Member, Role};
use serde::Serialize;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, TableFormat, TableOutput};

const EXAMPLES: &str = "\
Examples:
  mokv member list
  mokv member add 10.0.0.4:8400        a node that runs with an empty data directory
  mokv member remove node-2
  mokv member transfer node-1";

/// Show and change who is in the cluster
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// List the members, voters and learners
    List {
        #[command(flatten)]
        output: TableOutput,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Take in a node: as a learner that copies the data, then as a voter. Repeating it is harmless
    Add {
        /// Where the new node answers
        #[arg(value_name = "HOST:PORT")]
        rpc_addr: String,
        /// Leave it a learner, without a vote
        #[arg(long)]
        learner: bool,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Turn a learner that has caught up into a voter
    Promote {
        /// Its name or node id
        member: String,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Remove a member for good: its identity never comes back
    Remove {
        /// Its name or node id
        member: String,
        /// Even where fewer than a majority of the remaining voters can be reached
        #[arg(long)]
        force: bool,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Hand leadership to another voter
    Transfer {
        /// Its name or node id; without, the one that has the most of the log
        member: Option<String>,
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

impl MemberArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.command {
            MemberCommand::List { output, cluster } => list(&cluster.client()?, output.format).await,
            MemberCommand::Add { rpc_addr, learner, cluster } => {
                let member = cluster.client()?.add_member(&rpc_addr, learner).await?;
                Ok(output::line(format_args!("{} is a {}", member.name, role(&member)))?)
            }
            MemberCommand::Promote { member, cluster } => {
                let member = cluster.client()?.promote_member(&member).await?;
                Ok(output::line(format_args!("{} is a {}", member.name, role(&member)))?)
            }
            MemberCommand::Remove { member, force, yes, cluster } => {
                remove(&cluster.client()?, &member, force, yes).await
            }
            MemberCommand::Transfer { member, cluster } => transfer(&cluster.client()?, member.as_deref()).await,
        }
    }
}

/// A member for machines. Ids are texts: JSON's numbers are too short for them.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    node_id: String,
    name: &'a str,
    rpc_addr: &'a str,
    role: &'static str,
    is_leader: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
}

async fn list(client: &Client, format: TableFormat) -> Result<(), Failure> {
    let members = client.members().await?;
    if format == TableFormat::Json {
        let entries = members.iter().map(|member| Entry {
            node_id: member.node_id.to_string(),
            name: &member.name,
            rpc_addr: &member.rpc_addr,
            role: role(member),
            is_leader: member.is_leader,
            lag: member.lag,
        });
        return Ok(output::json(&entries.collect::<Vec<_>>())?);
    }
    let rows = members.iter().map(|member| {
        [
            member.node_id.to_string(),
            member.name.clone(),
            member.rpc_addr.clone(),
            if member.is_leader { "leader" } else { role(member) }.to_owned(),
            member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
        ]
    });
    Ok(output::rows(["ID", "NAME", "ADDRESS", "ROLE", "LAG"], &rows.collect::<Vec<_>>(), format)?)
}

async fn remove(client: &Client, name: &str, force: bool, yes: bool) -> Result<(), Failure> {
    let members = client.members().await?;
    let is_meant = |member: &&Member| member.name == name || member.node_id.to_string() == name;
    let Some(member) = members.iter().find(is_meant) else {
        return Err(Failure::not_found(format!("no member is called {name}: `mokv member list` shows them")));
    };
    output::note(format_args!("{}", consequence(member, &members)));
    if !yes && io::stdin().is_terminal() && !confirm("Remove it for good?")? {
        return Err(Failure::error("not removed"));
    }
    client.remove_member(&member.node_id.to_string(), force).await?;
    Ok(output::line(format_args!("{} is removed", member.name))?)
}

/// What removing a member does to the quorum.
pub(crate) fn consequence(member: &Member, members: &[Member]) -> String {
    if member.role() != Role::Voter {
        return format!("{} has no vote: the quorum stays as it is.", member.name);
    }
    let voters = members.iter().filter(|member| member.role() == Role::Voter).count();
    let left = voters - 1;
    let tolerated = left.saturating_sub(1) / 2;
    format!(
        "{} is one of {voters} voters. Without it {left} are left, and the cluster goes on with {tolerated} of them down.",
        member.name
    )
}

/// Asks a person.
pub(crate) fn confirm(question: &str) -> Result<bool, Failure> {
    let mut err = io::stderr();
    write!(err, "{question} [y/N] ").and_then(|()| err.flush()).map_err(Failure::error)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::error)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn transfer(client: &Client, to: Option<&str>) -> Result<(), Failure> {
    let leader_id = client.transfer_leader(to).await?;
    let members = client.members().await?;
    let leader = members.iter().find(|member| member.node_id == leader_id);
    let name = leader.map_or_else(|| leader_id.to_string(), |member| member.name.clone());
    Ok(output::line(format_args!("{name} leads"))?)
}

/// What a member is, in a word.
pub(crate) fn role(member: &Member) -> &'static str {
    match member.role() {
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_says_what_is_left() {
        let member = |name: &str, role: Role| Member { name: name.into(), role: role.into(), ..Member::default() };
        let mut members = vec![member("a", Role::Voter), member("b", Role::Voter), member("c", Role::Voter)];
        members.push(member("d", Role::Learner));
        assert!(consequence(&members[0], &members).contains("2 are left, and the cluster goes on with 0 of them down"));
        assert!(consequence(&members[3], &members).contains("no vote"));
    }
}
