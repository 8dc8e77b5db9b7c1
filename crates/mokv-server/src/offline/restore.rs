//! A new cluster out of a backup.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::founding::Founding;
use super::{Founded, Founder, OfflineError, load};
use crate::disk::Disk;
use crate::identity::{DataDir, fresh_cluster_id};
use crate::raft::types::MemberInfo;
use crate::runtime::Tasks;
use crate::snapshot::codec;
use crate::store::Store;

/// Makes `data_dir`, which is empty or missing, the data directory of the first member of a new cluster whose state is that
/// of the backup `file`: all pairs, sessions and leases. All of it is durable when this returns.
///
/// # Errors
///
/// See [`OfflineError`]; the directory is as empty as it was. A crash may leave a log without an identity: no node starts on
/// it, and no restore goes into it.
pub async fn restore(
    tasks: &Tasks,
    disk: Arc<dyn Disk>,
    file: &Path,
    data_dir: PathBuf,
    founder: &Founder,
) -> Result<Founded, OfflineError> {
    let data_dir = DataDir::open_empty(tasks, disk.clone(), data_dir, &founder.name).await?;
    let backup = load(tasks, disk.clone(), file).await?;
    let last =
        codec::last_log_id(&backup.head).map_err(|problem| OfflineError::Damaged { path: file.to_owned(), problem })?;
    let store = Store::new();
    store.replace(backup.state);
    let founding = Founding {
        tasks,
        disk,
        log_dir: data_dir.log_dir(),
        snapshot_dir: data_dir.snapshot_dir(),
        cluster_id: fresh_cluster_id(tasks),
        node_id: data_dir.identity().node_id,
        // Where it answers is known when it is started: gossip, of which it is a part itself, brings it into the membership.
        info: MemberInfo { name: founder.name.clone(), rpc_addr: String::new() },
        store: &store,
        term: last.term,
        revisions_skipped: founder.revisions_skipped,
    };
    let founded = founding.found().await?;
    data_dir.set_cluster_id(&founded.cluster_id).await?;
    data_dir.close();
    Ok(founded)
}
