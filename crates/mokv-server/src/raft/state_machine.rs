//! openraft's state machine over the [`Store`]: live entries, replay after a start and snapshots all go through here.
//!
//! Decides nothing: it decodes a batch, applies it, and answers with the outcomes. What can't be decoded stops the node,
//! because applying anything after it would make this node differ from the others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use mokv_proto::internal;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder};
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;

use super::types::{
    self, LogId, NodeId, SnapshotMeta, StoredMembership, TypeConfig, log_id, log_id_from_proto,
    stored_membership_from_proto,
};
use crate::command::Outcomes;
use crate::metrics::ConsensusMetrics;
use crate::mutants::mutant;
use crate::snapshot::{SnapshotError, SnapshotInfo, Snapshots};
use crate::store::{Position, Store};

/// How long a snapshot that found no room on the disk waits before it tries again.
const DISK_FULL_RETRY: Duration = Duration::from_secs(5);

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotInfo>;

/// The store, as openraft drives it. Cheap to clone.
#[derive(Clone)]
pub struct StateMachine {
    store: Store,
    snapshots: Snapshots,
    cluster_id: watch::Receiver<Option<String>>,
    counters: Arc<ConsensusMetrics>,
}

impl StateMachine {
    /// A state machine whose state is `store` and whose snapshots are kept in `snapshots`, under the name of the
    /// cluster.
    pub fn new(
        store: Store,
        snapshots: Snapshots,
        cluster_id: watch::Receiver<Option<String>>,
        counters: Arc<ConsensusMetrics>,
    ) -> Self {
        Self { store, snapshots, cluster_id, counters }
    }

    async fn describe(&self, info: SnapshotInfo) -> io::Result<Snapshot> {
        let head = self.snapshots.head(&info).await.map_err(io::Error::other)?;
        let meta = SnapshotMeta {
            last_log_id: Some(log_id_from_proto(&info.last_log_id)),
            last_membership: decode_membership(&head.membership)?,
        };
        Ok(Snapshot { meta, snapshot: info })
    }

    /// One attempt. Each takes a fresh view, so that waiting for room holds no old versions.
    async fn take_snapshot(&self) -> Result<SnapshotInfo, SnapshotError> {
        let Some(checkpoint) = self.store.checkpoint() else { return Err(SnapshotError::Cancelled) };
        let cluster_id = self.cluster_id.borrow().clone().unwrap_or_default();
        let began = Instant::now();
        let written = self.snapshots.write(checkpoint, &cluster_id).await?;
        self.counters.wrote_snapshot(began.elapsed());
        Ok(written)
    }
}

/// Decodes a membership as the store has it.
pub(crate) fn decode_membership(encoded: &[u8]) -> io::Result<StoredMembership> {
    let stored = internal::StoredMembership::decode(encoded).map_err(io::Error::other)?;
    stored_membership_from_proto(stored).map_err(io::Error::other)
}

fn position(id: &LogId) -> Position {
    Position { term: id.leader_id.term, index: id.index }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotInfo;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let Some(checkpoint) = self.store.checkpoint() else { return Ok((None, StoredMembership::default())) };
        let applied = checkpoint.applied();
        Ok((Some(log_id(applied.term, applied.index)), decode_membership(checkpoint.membership())?))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let (at, began) = (position(&entry.log_id), Instant::now());
            let outcomes = match &entry.payload {
                EntryPayload::Blank => {
                    self.store.apply_blank(at);
                    Vec::new()
                }
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                    let encoded = types::stored_membership_to_proto(&stored).encode_to_vec();
                    let members: Vec<NodeId> = membership.nodes().map(|(id, _)| *id).collect();
                    self.store.apply_membership(at, encoded.into(), &members);
                    Vec::new()
                }
                EntryPayload::Normal(batch) => {
                    let (log_time, mut commands) = batch.decode().map_err(io::Error::other)?;
                    if mutant!(FollowersReorder) && responder.is_none() {
                        commands.rotate_right(1);
                    }
                    self.store.apply(at, log_time, &commands).map_err(io::Error::other)?
                }
            };
            self.counters.applied(began.elapsed());
            if let Some(responder) = responder {
                responder.send(Outcomes(outcomes));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotInfo) -> io::Result<()> {
        let loaded = self.snapshots.load(&snapshot).await.map_err(io::Error::other)?;
        self.store.replace(loaded);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        match self.snapshots.latest() {
            Some(info) => self.describe(info).await.map(Some),
            None => Ok(None),
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotInfo;

    /// A full disk puts the snapshot off.
    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        loop {
            match self.take_snapshot().await {
                Ok(info) => return self.describe(info).await,
                Err(SnapshotError::DiskFull) => {
                    tracing::warn!(retry = ?DISK_FULL_RETRY, "no room for a snapshot: free some disk");
                    tokio::time::sleep(DISK_FULL_RETRY).await;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
