//! `mokv recover`

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mokv_server::config::parse_node_name;
use mokv_server::disk::OsDisk;
use mokv_server::offline::{Founder, Survey, Survivor};
use mokv_server::runtime::Tasks;

use crate::exit::Failure;
use crate::facts::{Facts, founded};
use crate::member::confirm;
use crate::output::{self, TableOutput};

const EXAMPLES: &str = "\
For a cluster of which fewer than a majority of the voters can ever come back. Where more can, start them instead: nothing is
lost then. Stop all nodes first, and run this without the flag on each directory that is left: it changes nothing, and shows
which one has the most. Recover that one; give all other nodes empty directories, and they join it.

The log, the snapshots and the identity of before stay in the directory. What this member has, the new cluster has, with
entries that may never have been acknowledged. Writes that were acknowledged without it are lost.

Examples:
  mokv recover --data-dir /var/lib/mokv                      shows what there is
  mokv recover --data-dir /var/lib/mokv --i-understand-that-writes-may-be-lost";

/// Begin a new cluster with what one node has, when the others are lost for good
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RecoverArgs {
    /// The data directory of a node that is stopped
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Another name for the node
    #[arg(long, value_name = "NAME", value_parser = parse_node_name)]
    name: Option<String>,

    /// Raise the store's revision by so much, so that nobody who saw lost writes takes new ones for them
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000_000)]
    bump_revision: u64,

    /// Do it without asking
    #[arg(long)]
    i_understand_that_writes_may_be_lost: bool,

    #[command(flatten)]
    output: TableOutput,
}

impl RecoverArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let tasks = Tasks::from_os().map_err(Failure::error)?;
        let survivor = Survivor::open(&tasks, Arc::new(OsDisk), self.data_dir.clone()).await.map_err(Failure::error)?;
        let survey = survivor.survey().clone();
        output::note(format_args!("{}", consequences(&survey)));
        if !self.i_understand_that_writes_may_be_lost {
            if !io::stdin().is_terminal() {
                let flag = "--i-understand-that-writes-may-be-lost";
                return Err(Failure::usage(format!("nothing was changed: to go on, say {flag}")));
            }
            if !confirm("Begin a new cluster with what this node has?")? {
                return Err(Failure::error("nothing was changed"));
            }
        }
        let founder =
            Founder { name: self.name.unwrap_or_else(|| survey.name.clone()), revisions_skipped: self.bump_revision };
        let made = survivor.recover(&founder).await.map_err(Failure::error)?;
        founded(Facts::default().fact("data_dir", self.data_dir.display()), &made).print(self.output.format)?;
        output::note(format_args!(
            "start it: mokv --data-dir {} --node-name {}; give the nodes of before empty data directories",
            self.data_dir.display(),
            founder.name
        ));
        Ok(())
    }
}

/// What there is, and what would be lost.
fn consequences(survey: &Survey) -> String {
    let Survey { cluster_id, node_id, name, last, committed, revision, keys, members, .. } = survey;
    let others = members.iter().filter(|member| member.node_id != *node_id);
    let others = others.map(|member| {
        let vote = if member.is_voter { "" } else { ", without a vote" };
        format!("{} ({}{vote})", member.name, member.rpc_addr)
    });
    let committed = committed.map_or_else(|| "none".to_owned(), |committed| committed.index.to_string());
    format!(
        "{name} of cluster {cluster_id} has the log up to entry {} of term {}: revision {revision}, {keys} keys.\n\
         Entries up to {committed} it knew to be committed; those after that may have been, and are kept.\n\
         Lost is what was acknowledged by others and never reached it: of these it can't know what they had:\n  {}\n\
         If one of them has its disk and shows a higher term here, or the same term and a later entry, recover that one instead.",
        last.index,
        last.leader_id.term,
        others.collect::<Vec<_>>().join("\n  "),
    )
}
