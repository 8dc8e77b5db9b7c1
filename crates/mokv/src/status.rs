//! `mokv status`

use std::collections::BTreeMap;

use clap::Args;
use mokv_client::Error;
use mokv_client::messages::{Member, StatusResponse};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, TableFormat, TableOutput};

/// Of a state hash, as much as people compare by eye.
const HASH_CHARS: usize = 12;

const EXAMPLES: &str = "\
Every member of the cluster is asked, found through the endpoints. Nodes that have applied the same entry have the same
hash, or one of them is broken.

Examples:
  mokv status
  mokv status -o json | jq '.[] | select(.ready | not)'";

/// Show how each node of the cluster is
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    output: TableOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// One node's status, or why there is none.
#[derive(Debug)]
struct Report {
    address: String,
    status: Result<StatusResponse, Error>,
}

impl StatusArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let reports = ask_all(&self.cluster).await?;
        match self.output.format {
            TableFormat::Json => output::json(&reports.iter().map(Entry::from).collect::<Vec<_>>())?,
            format => {
                let rows: Vec<_> = reports.iter().map(|report| row(report, &reports)).collect();
                let headings = [
                    "NAME", "ADDRESS", "STATE", "LEADER", "TERM", "APPLIED", "REVISION", "KEYS", "MEMORY", "HASH",
                    "READY",
                ];
                output::rows(headings, &rows, format)?;
            }
        }
        if let Some((one, other)) = divergence(&reports) {
            let text = format!("{one} and {other} have applied the same entry, but their states differ: one is broken");
            return Err(Failure::error(text));
        }
        if reports.iter().all(|report| report.status.is_err()) {
            return Err(Failure::unavailable("no node answered"));
        }
        Ok(())
    }
}

/// Asks the members, or, where nobody knows of any, the endpoints themselves.
async fn ask_all(cluster: &ClusterArgs) -> Result<Vec<Report>, Failure> {
    // The first node of a restored cluster makes its address known a moment after its start.
    let is_complete =
        |members: &[Member]| !members.is_empty() && members.iter().all(|member| !member.rpc_addr.is_empty());
    let addresses: Vec<String> = match cluster.client()?.members().await {
        Ok(members) if is_complete(&members) => members.into_iter().map(|member| member.rpc_addr).collect(),
        _ => {
            let endpoints = cluster.endpoints.trim_start_matches("mokv://");
            endpoints.split(',').map(|address| address.trim().to_owned()).collect()
        }
    };
    let mut asked = JoinSet::new();
    for (index, address) in addresses.into_iter().enumerate() {
        let client = cluster.client_of(&address)?;
        asked.spawn(async move { (index, Report { address, status: client.status().await }) });
    }
    let reports: BTreeMap<usize, Report> = asked.join_all().await.into_iter().collect();
    Ok(reports.into_values().collect())
}

/// The row of one of the reports; the others know the names of nodes.
fn row(report: &Report, all: &[Report]) -> [String; 11] {
    let status = match &report.status {
        Ok(status) => status,
        Err(error) => {
            let mut row: [String; 11] = std::array::from_fn(|_| "-".to_owned());
            row[1] = report.address.clone();
            row[2] = "unreachable".to_owned();
            row[10] = error.to_string();
            return row;
        }
    };
    let mut statuses = all.iter().filter_map(|report| report.status.as_ref().ok());
    let leader = match status.leader_id {
        0 => "none".to_owned(),
        id => statuses.find(|other| other.node_id == id).map_or_else(|| id.to_string(), |leader| leader.name.clone()),
    };
    let memory = match status.memory_quota_bytes {
        0 => output::bytes(status.memory_bytes),
        quota => format!("{} of {}", output::bytes(status.memory_bytes), output::bytes(quota)),
    };
    [
        status.name.clone(),
        report.address.clone(),
        status.state.clone(),
        leader,
        status.term.to_string(),
        status.applied_index.to_string(),
        status.revision.to_string(),
        status.keys.to_string(),
        memory,
        status.state_hash.chars().take(HASH_CHARS).collect(),
        match (status.ready, status.warning.as_str()) {
            (false, _) => format!("no: {}", status.not_ready_reason),
            (true, "") => "yes".to_owned(),
            (true, warning) => format!("yes, but {warning}"),
        },
    ]
}

/// Two nodes that must have the same state and have not.
fn divergence(reports: &[Report]) -> Option<(&str, &str)> {
    let mut seen: BTreeMap<(&str, u64), (&str, &str)> = BTreeMap::new();
    for status in reports.iter().filter_map(|report| report.status.as_ref().ok()) {
        // Hashes of different clusters have nothing to do with each other.
        let point = (status.cluster_id.as_str(), status.applied_index);
        let (name, hash) = *seen.entry(point).or_insert((&status.name, &status.state_hash));
        if hash != status.state_hash && !status.cluster_id.is_empty() {
            return Some((name, &status.name));
        }
    }
    None
}

/// A report for machines. Ids are texts: JSON's numbers are too short for them.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    address: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    status: Option<Status<'a>>,
}

#[derive(Debug, Serialize)]
struct Status<'a> {
    name: &'a str,
    version: &'a str,
    node_id: String,
    cluster_id: &'a str,
    state: &'a str,
    leader_id: String,
    term: u64,
    last_log_index: u64,
    committed_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    revision: u64,
    keys: u64,
    memory_bytes: u64,
    memory_quota_bytes: u64,
    state_hash: &'a str,
    sessions: u64,
    ready: bool,
    not_ready_reason: &'a str,
    disk_full: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    warning: &'a str,
}

impl<'a> From<&'a Report> for Entry<'a> {
    fn from(report: &'a Report) -> Self {
        Self {
            address: &report.address,
            error: report.status.as_ref().err().map(ToString::to_string),
            status: report.status.as_ref().ok().map(Status::from),
        }
    }
}

impl<'a> From<&'a StatusResponse> for Status<'a> {
    fn from(status: &'a StatusResponse) -> Self {
        Self {
            name: &status.name,
            version: &status.version,
            node_id: status.node_id.to_string(),
            cluster_id: &status.cluster_id,
            state: &status.state,
            leader_id: status.leader_id.to_string(),
            term: status.term,
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            snapshot_index: status.snapshot_index,
            revision: status.revision,
            keys: status.keys,
            memory_bytes: status.memory_bytes,
            memory_quota_bytes: status.memory_quota_bytes,
            state_hash: &status.state_hash,
            sessions: status.sessions,
            ready: status.ready,
            not_ready_reason: &status.not_ready_reason,
            disk_full: status.disk_full,
            warning: &status.warning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, applied_index: u64, state_hash: &str) -> Report {
        let status = StatusResponse {
            name: name.into(),
            cluster_id: "c".into(),
            applied_index,
            state_hash: state_hash.into(),
            ..StatusResponse::default()
        };
        Report { address: format!("{name}:8400"), status: Ok(status) }
    }

    #[test]
    fn only_states_of_the_same_entry_are_compared() {
        let down = Report { address: "d:1".into(), status: Err(Error::Unavailable("down".into())) };
        assert_eq!(divergence(&[node("a", 1, "x"), node("b", 2, "y"), node("c", 1, "x"), down]), None);
        assert_eq!(divergence(&[node("a", 1, "x"), node("b", 2, "y"), node("c", 1, "z")]), Some(("a", "c")));
    }

    #[test]
    fn an_unreachable_node_keeps_its_row() {
        let down = Report { address: "d:1".into(), status: Err(Error::Unavailable("refused".into())) };
        let row = row(&down, &[]);
        assert_eq!((row[1].as_str(), row[2].as_str()), ("d:1", "unreachable"));
        assert!(row[10].contains("refused"));
        assert_eq!(
            serde_json::to_string(&Entry::from(&down)).expect("JSON"),
            r#"{"address":"d:1","error":"unavailable: refused"}"#
        );
    }
}
