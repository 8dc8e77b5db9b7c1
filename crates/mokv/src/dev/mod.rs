//! `mokv dev`: a whole cluster on this machine, each node a process of its own, so that one can be killed and watched.
//!
//! It promises that its nodes end with it, however it ends; that a node that dies is started again; and that what it
//! prints as ready serves. The data stays in the directory for the next time.

mod plan;
mod supervisor;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mokv_client::messages::{Member, Role};
use mokv_client::{Client, Error};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::exit::Failure;
use crate::output::{self, ValueFormat, ValueOutput, note};
use crate::serve::{Signals, host};
use plan::NodePlan;
use supervisor::{Phase, Supervisor};

/// A cluster that does not serve by then has a problem that waiting won't solve.
const FORM_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at a cluster that is forming.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// For one question to a node that may not have started to listen.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  mokv dev
  mokv dev --nodes 5 --data-dir ./cluster
  kill -9 <pid>                        one node; watch `mokv status`

Ctrl-C stops the cluster. Its data stays: the same command starts it again.";

/// Run a whole cluster on this machine
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DevArgs {
    /// How many nodes
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,

    /// Where the nodes keep their data and logs [default: $XDG_STATE_HOME/mokv/dev, for root /var/lib/mokv/dev]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// The port of node-0's gRPC; each further node is ten ports up
    #[arg(long, value_name = "PORT", default_value = "8400", value_parser = clap::value_parser!(u16).range(1..))]
    rpc_port: u16,

    /// The port of node-0's metrics; each further node is ten ports up
    #[arg(long, value_name = "PORT", default_value = "4000", value_parser = clap::value_parser!(u16).range(1..))]
    metrics_port: u16,

    #[command(flatten)]
    output: ValueOutput,
}

impl DevArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let default_dir = || host().state_dir().map(|dir| dir.join("dev"));
        let no_home = || Failure::usage("there is no home directory to keep data in: give --data-dir");
        let dir = self.data_dir.or_else(default_dir).ok_or_else(no_home)?;
        let dir = std::path::absolute(dir).map_err(Failure::usage)?;
        let plan = plan::plan(self.nodes, self.rpc_port, self.metrics_port, &dir)?;
        plan::check_ports(&plan)?;
        plan::claim(&dir, &plan)?;
        let mut signals = Signals::new()?;

        note(format_args!("starting {} in {}", count(plan.len()), dir.display()));
        let mut cluster = Cluster::start(plan);
        let ended = tokio::select! {
            biased;
            () = signals.next() => Ok(()),
            ended = cluster.serve(self.output.format) => ended,
        };
        if ended.is_ok() {
            note(format_args!("stopping; the data stays in {}", dir.display()));
        }
        tokio::select! {
            biased;
            () = signals.next() => Err(Failure::error("second signal: the nodes were not waited for")),
            stopped = cluster.stop() => ended.and(stopped),
        }
    }
}

/// The nodes and those who keep them running. Dropped, it ends them at once.
struct Cluster {
    plan: Vec<NodePlan>,
    pids: Vec<watch::Receiver<Option<u32>>>,
    phase: watch::Sender<Phase>,
    supervisors: JoinSet<Result<(), Failure>>,
}

impl Cluster {
    fn start(plan: Vec<NodePlan>) -> Self {
        let phase = watch::Sender::new(Phase::Forming);
        let mut supervisors = JoinSet::new();
        let mut pids = Vec::new();
        for node in &plan {
            let pid = watch::Sender::new(None);
            pids.push(pid.subscribe());
            supervisors.spawn(Supervisor { node: node.clone(), phase: phase.subscribe(), pid }.run());
        }
        Self { plan, pids, phase, supervisors }
    }

    /// Forms the cluster, says that it is ready, and goes on until something can't be mended.
    async fn serve(&mut self, format: ValueFormat) -> Result<(), Failure> {
        let members = tokio::select! {
            biased;
            ended = first_failure(&mut self.supervisors) => return ended,
            members = form(&self.plan) => members?,
        };
        self.phase.send_replace(Phase::Running);
        match format {
            ValueFormat::Plain => self.print_plain(&members)?,
            ValueFormat::Json => output::json(&self.ready(&members))?,
        }
        first_failure(&mut self.supervisors).await
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        self.phase.send_replace(Phase::Stopping);
        while let Some(stopped) = self.supervisors.join_next().await {
            stopped.map_err(Failure::error)??;
        }
        Ok(())
    }

    fn ready(&self, members: &[Member]) -> Ready<'_> {
        let nodes = self.plan.iter().zip(&self.pids).map(|(node, pid)| ReadyNode {
            name: &node.name,
            rpc_addr: node.rpc_addr(),
            metrics_addr: node.metrics_addr(),
            pid: *pid.borrow(),
            is_leader: members.iter().any(|member| member.is_leader && member.name == node.name),
            data_dir: node.data_dir.display().to_string(),
            log_file: node.log_file.display().to_string(),
        });
        Ready { nodes: nodes.collect() }
    }

    fn print_plain(&self, members: &[Member]) -> io::Result<()> {
        let ready = self.ready(members);
        let is_or_are = if ready.nodes.len() == 1 { "is" } else { "are" };
        output::line(format_args!("{} {is_or_are} up\n", count(ready.nodes.len())))?;
        for node in &ready.nodes {
            output::line(format_args!(
                "  {}  {}  http://{}/metrics  pid {}{}",
                node.name,
                node.rpc_addr,
                node.metrics_addr,
                node.pid.unwrap_or_default(),
                if node.is_leader { "  leader" } else { "" }
            ))?;
        }
        // The default of the other commands is the default here.
        let first = &ready.nodes[0].rpc_addr;
        let endpoints = if first == "127.0.0.1:8400" { String::new() } else { format!(" --endpoints {first}") };
        output::line(format_args!(
            "\nTry:  mokv set greeting hello{endpoints}\n      mokv get greeting{endpoints}\n      mokv status{endpoints}\n\
             Ctrl-C stops the cluster; its data stays. Each node's log is beside its data: {}",
            ready.nodes[0].log_file
        ))
    }
}

/// What `-o json` prints when the cluster serves.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    nodes: Vec<ReadyNode<'a>>,
}

#[derive(Debug, Serialize)]
struct ReadyNode<'a> {
    name: &'a str,
    rpc_addr: String,
    metrics_addr: String,
    pid: Option<u32>,
    is_leader: bool,
    data_dir: String,
    log_file: String,
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

/// Completes when a supervisor gives up. They don't end otherwise before they are told to.
async fn first_failure(supervisors: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    match supervisors.join_next().await {
        Some(ended) => ended.map_err(Failure::error)?,
        None => Ok(()),
    }
}

/// Waits until all nodes have become one cluster and each of them serves. Answers the members.
async fn form(plan: &[NodePlan]) -> Result<Vec<Member>, Failure> {
    let connect = |node: &NodePlan| {
        Ok(Client::connect(&format!("{}?routing=single", node.rpc_addr()))?.with_timeout(CALL_TIMEOUT))
    };
    let clients: Vec<Client> = plan.iter().map(connect).collect::<Result<_, Error>>()?;
    let mut last = None;
    let formed = timeout(FORM_TIMEOUT, async {
        loop {
            match look(plan, &clients).await {
                Ok(members) => return members,
                Err(error) => last = Some(error),
            }
            sleep(POLL_INTERVAL).await;
        }
    });
    formed.await.map_err(|_| {
        let reason = last.map(|error| format!(": {error}")).unwrap_or_default();
        let log = plan[0].log_file.display();
        Failure::error(format!("the nodes have not formed a cluster within {FORM_TIMEOUT:?}{reason} (see {log})"))
    })
}

/// Looks whether all is as it should be. Answers the members.
async fn look(plan: &[NodePlan], clients: &[Client]) -> Result<Vec<Member>, Error> {
    let (client, members) = find_cluster(clients).await?;
    let is_missing = |node: &&NodePlan| members.iter().all(|member| member.name != node.name);
    if let Some(node) = plan.iter().find(is_missing) {
        return Err(Error::Unavailable(format!("{} is no member yet", node.name)));
    }
    // An odd number of them votes.
    let voters = members.iter().filter(|member| member.role() == Role::Voter).count();
    if voters % 2 == 0 {
        return Err(Error::Unavailable(format!("{voters} of {} members vote yet", members.len())));
    }
    for client in clients {
        // Any key: what counts is that a linearizable read is answered.
        client.get("mokv-dev").await?;
    }
    let members = client.members().await?;
    let has_leader = members.iter().any(|member| member.is_leader);
    if has_leader { Ok(members) } else { Err(Error::Unavailable("no leader yet".into())) }
}

/// A node that is in a cluster, and the members it knows. A new node answers, too, but knows of none.
async fn find_cluster(clients: &[Client]) -> Result<(&Client, Vec<Member>), Error> {
    let mut reason = Error::Unavailable("no node is in a cluster yet".into());
    for client in clients {
        match client.members().await {
            Ok(members) if !members.is_empty() => return Ok((client, members)),
            Ok(_) => {}
            Err(error) => reason = error,
        }
    }
    Err(reason)
}
