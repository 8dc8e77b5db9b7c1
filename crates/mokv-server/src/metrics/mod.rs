//! The metrics page: every metric of a node, its name and its help.
//!
//! Most values are gauges that exist anyway ([`NodeStatus`]) and are read when the page is asked for. What has to be
//! counted as it happens is counted in fixed tables of atomics ([`Histogram`], [`GrpcMetrics`]). So the page needs no
//! registry; it is written from top to bottom, and this file is the list of what there is.
//!
//! Names are `mokv_<subsystem>_<name>_<unit>`, in seconds and bytes. Labels have few values: never a key.

pub mod consensus;
pub mod grpc;
pub mod histogram;
mod process;
mod text;

use std::time::Duration;

pub use self::consensus::{ConsensusMetrics, ConsensusStats};
pub use self::grpc::GrpcMetrics;
pub use self::histogram::{Histogram, HistogramSnapshot};
pub(crate) use self::process::ProcessStats;
pub use self::text::CONTENT_TYPE;
use self::text::{Kind, Page};
use crate::discovery::PeerState;
use crate::members::MemberView;
use crate::node::Readiness;
use crate::status::NodeStatus;

/// Writes the page.
///
/// `started` is when the process began, since the Unix epoch.
pub fn page(status: &NodeStatus, members: &[MemberView], grpc: &GrpcMetrics, started: Duration) -> String {
    let mut page = Page::default();
    write_build(&mut page);
    write_raft(&mut page, status);
    write_members(&mut page, members);
    write_round_trips(&mut page, status, members);
    write_gossip(&mut page, status);
    write_log(&mut page, status);
    write_store(&mut page, status);
    write_watches(&mut page, status);
    grpc.write(&mut page);
    write_process(&mut page, &ProcessStats::read(), started);
    page.into_text()
}

fn write_build(page: &mut Page) {
    let help = "Always 1; which version runs.";
    page.family(Kind::Gauge, "mokv_build_info", help).sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn write_raft(page: &mut Page, status: &NodeStatus) {
    let ready = status.readiness == Readiness::Ready;
    page.gauge("mokv_ready", "1 if the node is fit to serve: it knows a leader and has caught up.", u8::from(ready));
    // A follower goes on naming a leader that has vanished until there is another one.
    let has_leader = status.leader_id.is_some() && !matches!(status.readiness, Readiness::NoLeader(_));
    let help = "1 if the node knows a leader, which has lately confirmed that it leads. 0 everywhere: no quorum.";
    page.gauge("mokv_raft_has_leader", help, u8::from(has_leader));
    page.gauge("mokv_raft_is_leader", "1 if the node leads.", u8::from(status.is_leader()));
    page.counter("mokv_raft_leader_changes_total", "New leaders that the node saw.", status.leader_changes);
    page.gauge("mokv_raft_term", "The term that the node knows.", status.term);
    page.gauge("mokv_raft_last_log_index", "The last entry in the log.", status.last_log_index);
    page.gauge("mokv_raft_committed_index", "The last entry known to be committed.", status.committed_index);
    page.gauge("mokv_raft_applied_index", "The last entry applied to the store.", status.applied_index);
    let pending = status.committed_index.saturating_sub(status.applied_index);
    page.gauge("mokv_raft_apply_lag_entries", "Committed entries that are not applied yet.", pending);
    page.gauge("mokv_snapshot_index", "The last entry that the newest snapshot covers.", status.snapshot_index);
    page.gauge("mokv_snapshot_size_bytes", "The size of the newest snapshot.", status.snapshot_bytes);
    let ConsensusStats { proposed, pending, failed, commits, applies, snapshots, .. } = &status.consensus;
    page.histogram("mokv_snapshot_write_seconds", "How long each snapshot took to be written.", snapshots);
    page.counter("mokv_raft_proposals_total", "Writes that the node has proposed as leader.", proposed);
    let help = "Writes that the node has proposed, and that may not be committed yet.";
    page.gauge("mokv_raft_proposals_pending", help, pending);
    let help = "Writes that the node has proposed, and that it did not see committed: it led no more, or stopped.";
    page.counter("mokv_raft_proposals_failed_total", help, failed);
    let help = "From the proposal of each batch of writes until it was committed and applied.";
    page.histogram("mokv_raft_commit_seconds", help, commits);
    page.histogram("mokv_store_apply_seconds", "How long each log entry took to be applied.", applies);
}

fn write_members(page: &mut Page, members: &[MemberView]) {
    let voters = members.iter().filter(|member| member.is_voter).count();
    page.gauge("mokv_raft_voters", "Members that vote.", voters);
    page.gauge("mokv_raft_learners", "Members that follow without a vote.", members.len() - voters);
    let help = "Log entries that a member is known to lack. Only the leader knows: no samples elsewhere.";
    let mut lag = page.family(Kind::Gauge, "mokv_raft_replication_lag_entries", help);
    for member in members {
        if let Some(entries) = member.lag {
            lag.sample(&[("peer", &member.name)], entries);
        }
    }
}

fn write_round_trips(page: &mut Page, status: &NodeStatus, members: &[MemberView]) {
    let help =
        "How long the last heartbeat to a member took, there and back. Only the leader knows: no samples elsewhere.";
    let mut round_trips = page.family(Kind::Gauge, "mokv_raft_peer_rtt_seconds", help);
    for member in members.iter().filter(|_| status.is_leader()) {
        if let Some(took) = status.consensus.round_trips.get(&member.node_id) {
            round_trips.sample(&[("peer", &member.name)], took.as_secs_f64());
        }
    }
}

fn write_gossip(page: &mut Page, status: &NodeStatus) {
    let Some(members) = &status.gossip else { return };
    let help = "Nodes in gossip, this one too, by how they are doing.";
    let mut family = page.family(Kind::Gauge, "mokv_gossip_members", help);
    for (state, name) in [
        (PeerState::Alive, "alive"),
        (PeerState::Leaving, "leaving"),
        (PeerState::Left, "left"),
        (PeerState::Failed, "failed"),
    ] {
        family.sample(&[("status", name)], members.get(&state).copied().unwrap_or(0));
    }
}

fn write_log(page: &mut Page, status: &NodeStatus) {
    page.gauge("mokv_log_size_bytes", "The size of the log on disk.", status.log_bytes);
    if let Some(age) = status.log_age {
        let help = "How much time, as the state counts it, lies between the oldest entry in the log and the state. Members that \
                    were away for less can catch up without a snapshot.";
        page.gauge("mokv_log_oldest_entry_age_seconds", help, age.as_secs_f64());
    }
    page.counter("mokv_log_written_bytes_total", "Bytes written to the log.", status.log_bytes_written);
    page.counter("mokv_log_written_entries_total", "Entries written to the log.", status.log_entries_written);
    page.histogram("mokv_log_fsync_seconds", "How long each sync of the log took.", &status.log_syncs);
    let help = "1 while the log finds no room on the disk: writes are refused until it does.";
    page.gauge("mokv_log_disk_full", help, u8::from(status.disk_full));
}

fn write_store(page: &mut Page, status: &NodeStatus) {
    page.gauge("mokv_store_keys", "Keys in the store.", status.keys);
    page.gauge("mokv_store_revision", "The revision of the store: writes since it was empty.", status.revision);
    let help = "Bytes of keys, values and what the store needs to hold them.";
    page.gauge("mokv_store_memory_bytes", help, status.memory_bytes);
    let help = "Bytes that the store may hold before writes that let it grow are refused; 0: no quota.";
    page.gauge("mokv_store_memory_quota_bytes", help, status.memory_quota_bytes.unwrap_or(0));
    page.gauge("mokv_store_sessions", "Open client sessions.", status.sessions);
    let help = "Consistent views that are being read: lists and snapshots under way.";
    page.gauge("mokv_store_pins", help, status.pins);
    let help = "The time of the state, in which deadlines are. It stands still while there is no leader.";
    page.gauge("mokv_log_time_seconds", help, Duration::from_millis(status.log_time.as_millis()).as_secs_f64());
    page.gauge("mokv_leases", "Leases.", status.leases);
    let help = "Keep-alives of leases that the node has answered as leader.";
    page.counter("mokv_lease_keep_alives_total", help, status.keep_alives);
    let help = "Keys that ended with their time to live, or with a lease that was not kept alive, while the node led.";
    page.counter("mokv_expired_keys_total", help, status.expired_keys);
}

fn write_watches(page: &mut Page, status: &NodeStatus) {
    let help = "Bytes of changes that the node remembers, for watches and for reads of older revisions.";
    page.gauge("mokv_history_bytes", help, status.history.bytes);
    let help = "The oldest revision that can be read; watches can begin after it.";
    page.gauge("mokv_history_oldest_revision", help, status.history.oldest);
    page.gauge("mokv_watch_watchers", "Watches under way.", status.watches.watchers);
    let help = "Watches that have been behind for over a second: what is sent is taken too slowly, or not at all.";
    page.gauge("mokv_watch_slow_watchers", help, status.watches.slow);
    page.counter("mokv_watch_events_total", "Events sent to watchers.", status.watches.events);
    let help = "Watches that ended because what they still had to see was forgotten.";
    page.counter("mokv_watch_compacted_total", help, status.watches.compacted);
}

fn write_process(page: &mut Page, stats: &ProcessStats, started: Duration) {
    let help = "When the process began, in seconds since the Unix epoch.";
    page.gauge("process_start_time_seconds", help, started.as_secs_f64());
    if let Some(bytes) = stats.resident_bytes {
        page.gauge("process_resident_memory_bytes", "Memory in use.", bytes);
    }
    if let Some(seconds) = stats.cpu_seconds {
        page.counter("process_cpu_seconds_total", "Processor time used.", seconds);
    }
    if let Some(fds) = stats.open_fds {
        page.gauge("process_open_fds", "Open files and sockets.", fds);
    }
    if let Some(threads) = stats.threads {
        page.gauge("process_threads", "Threads.", threads);
    }
}
