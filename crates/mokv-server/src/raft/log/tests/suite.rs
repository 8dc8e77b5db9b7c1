//! openraft's own tests of a log storage, beside a state machine that is just enough for them.

use std::sync::Mutex;

use futures_util::StreamExt;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};

use super::*;
use crate::command::Outcomes;
use crate::raft::types::{SnapshotMeta, StoredMembership};

type AppliedState = (Option<LogId>, StoredMembership);
type StoredSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, ()>;

/// A state machine whose state is how far it has come.
#[derive(Debug, Clone, Default)]
struct Applied {
    applied: AppliedState,
    snapshot: Arc<Mutex<Option<SnapshotMeta>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Applied {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<StoredSnapshot, io::Error> {
        let (last_log_id, last_membership) = self.applied.clone();
        let meta = SnapshotMeta { last_log_id, last_membership };
        *self.snapshot.lock().expect("lock") = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Applied {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<AppliedState, io::Error> {
        Ok(self.applied.clone())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied.0 = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.applied.1 = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcomes::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> Result<(), io::Error> {
        self.applied = (meta.last_log_id, meta.last_membership.clone());
        *self.snapshot.lock().expect("lock") = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<StoredSnapshot>, io::Error> {
        Ok(self.snapshot.lock().expect("lock").clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, Applied> for Builder {
    async fn build(&self) -> Result<((), Log, Applied), StorageError<TypeConfig>> {
        // No cache: what is durable is read from the disk.
        let options = LogOptions { cache_bytes_max: 0, ..options() };
        let log = open_with(&SimDisk::default(), options).await.expect("open");
        Ok(((), log, Applied::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn openrafts_suite_passes() {
    Suite::test_all(Builder).await.expect("suite");
}
