//! `mokv members`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use mokv_client::messages::{ListMembersResponse, Member, Peer, PeerState};
use serde::Serialize;

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::member::role;
use crate::output::{self, TableFormat, TableOutput};

/// Of a cluster's id, as much as tells two apart.
const CLUSTER_CHARS: usize = 8;

const EXAMPLES: &str = "\
One row a node, as the asked node sees it: its part in the cluster, and how gossip says it is doing. A node that gossip
sees alive and that is in no cluster will be taken in; one of another cluster never is.

Examples:
  mokv members
  mokv members -o json | jq '.[] | select(.gossip != \"alive\")'";

/// Show the nodes, as the cluster and as gossip see them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MembersArgs {
    #[command(flatten)]
    output: TableOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl MembersArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?;
        let cluster_id = client.status().await?.cluster_id;
        let views = side_by_side(client.members_and_peers().await?, &cluster_id);
        if self.output.format == TableFormat::Json {
            return Ok(output::json(&views)?);
        }
        let rows: Vec<_> = views.iter().map(View::row).collect();
        Ok(output::rows(["NAME", "ID", "ADDRESS", "ROLE", "LAG", "GOSSIP", "SINCE"], &rows, self.output.format)?)
    }
}

/// A node, for machines. Ids are texts: JSON's numbers are too short for them.
#[derive(Debug, Default, PartialEq, Serialize)]
struct View {
    name: String,
    /// Empty for a node that is no mökv node.
    node_id: String,
    rpc_addr: String,
    /// `leader`, `voter`, `learner`; or `none` (in no cluster), `other` (in another one), `foreign` (no mökv node), `no member`
    /// (of this cluster: it is about to be taken in, or was removed).
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    /// `alive`, `leaving`, `left`, `failed`, or `unknown`: gossip has not seen it.
    gossip: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    gossip_addr: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cluster_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
}

impl View {
    fn row(&self) -> [String; 7] {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let role = match self.role.as_str() {
            "none" => "in no cluster".to_owned(),
            "other" => format!("of cluster {}", self.cluster_id.chars().take(CLUSTER_CHARS).collect::<String>()),
            "foreign" => "no mökv node".to_owned(),
            role => role.to_owned(),
        };
        [
            self.name.clone(),
            or_dash(&self.node_id),
            or_dash(&self.rpc_addr),
            role,
            self.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
            self.gossip.to_owned(),
            self.since_ms.map_or_else(|| "-".to_owned(), |since| duration(Duration::from_millis(since))),
        ]
    }
}

/// Members and peers, each node once, in the order of the names. Two nodes may have one name while one takes the other's
/// place.
fn side_by_side(ListMembersResponse { members, peers }: ListMembersResponse, cluster_id: &str) -> Vec<View> {
    let mut views: BTreeMap<(String, u64), View> = BTreeMap::new();
    for member in members {
        let view = view_of_member(&member, cluster_id);
        views.insert((member.name, member.node_id), view);
    }
    for peer in peers {
        let view =
            views.entry((peer.name.clone(), peer.node_id)).or_insert_with(|| view_of_stranger(&peer, cluster_id));
        view.gossip = gossip(peer.state());
        view.since_ms = Some(peer.since_ms);
        view.gossip_addr = peer.gossip_addr;
        view.version = peer.version;
    }
    views.into_values().collect()
}

fn view_of_member(member: &Member, cluster_id: &str) -> View {
    View {
        name: member.name.clone(),
        node_id: member.node_id.to_string(),
        rpc_addr: member.rpc_addr.clone(),
        role: if member.is_leader { "leader" } else { role(member) }.to_owned(),
        lag: member.lag,
        gossip: gossip(member.gossip()),
        cluster_id: cluster_id.to_owned(),
        ..View::default()
    }
}

/// A node that only gossip knows.
fn view_of_stranger(peer: &Peer, cluster_id: &str) -> View {
    let role = match (peer.node_id, peer.cluster_id.as_str()) {
        (0, _) => "foreign",
        (_, "") => "none",
        (_, theirs) if theirs == cluster_id => "no member",
        _ => "other",
    };
    View {
        name: peer.name.clone(),
        node_id: if peer.node_id == 0 { String::new() } else { peer.node_id.to_string() },
        rpc_addr: peer.rpc_addr.clone(),
        role: role.to_owned(),
        cluster_id: peer.cluster_id.clone(),
        ..View::default()
    }
}

fn gossip(state: PeerState) -> &'static str {
    match state {
        PeerState::Unknown => "unknown",
        PeerState::Alive => "alive",
        PeerState::Leaving => "leaving",
        PeerState::Left => "left",
        PeerState::Failed => "failed",
    }
}

/// For people: its two largest units.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use mokv_client::messages::Role;

    use super::*;

    fn member(name: &str, node_id: u64, role: Role) -> Member {
        Member { name: name.into(), node_id, role: role.into(), ..Member::default() }
    }

    fn peer(name: &str, node_id: u64, cluster_id: &str, state: PeerState) -> Peer {
        let cluster_id = cluster_id.into();
        Peer { name: name.into(), node_id, cluster_id, state: state.into(), since_ms: 61_000, ..Peer::default() }
    }

    #[test]
    fn each_node_has_one_row_however_it_is_known() {
        let response = ListMembersResponse {
            members: vec![member("a", 1, Role::Voter), member("b", 2, Role::Learner), member("d", 4, Role::Voter)],
            peers: vec![
                peer("a", 1, "ours", PeerState::Alive),
                // It lost its disk, and takes the place of the member with its name.
                peer("b", 9, "", PeerState::Alive),
                peer("c", 3, "theirs", PeerState::Alive),
                peer("e", 0, "", PeerState::Failed),
            ],
        };
        let views = side_by_side(response, "ours");
        let told: Vec<_> = views.iter().map(|view| (view.name.as_str(), view.role.as_str(), view.gossip)).collect();
        let expected = [
            ("a", "voter", "alive"),
            ("b", "learner", "unknown"),
            ("b", "none", "alive"),
            ("c", "other", "alive"),
            ("d", "voter", "unknown"),
            ("e", "foreign", "failed"),
        ];
        assert_eq!(told, expected);
        assert_eq!(views[0].row()[6], "1m 1s");
        assert_eq!(views[3].row()[3], "of cluster theirs");
        assert_eq!(views[5].row()[1], "-");
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (3599, "59m 59s"), (3660, "1h 1m"), (90_000, "1d 1h")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
