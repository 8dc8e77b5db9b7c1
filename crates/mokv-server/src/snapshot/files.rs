//! The directory of snapshots: which there are, how one becomes complete, and when one goes.
//!
//! # Crash safety
//!
//! A snapshot is written under a temporary name, synced, renamed, and its directory is synced: only then does the caller
//! hear of it, and only then does the third last one go. A crash anywhere leaves the last two complete ones, and at most
//! temporary files and an older snapshot besides, which [`Snapshots::open`] removes. It syncs the directory first: a
//! name that was found may be one that only this process's predecessor saw, and the log is purged on the strength of it.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mokv_proto::internal::{LogId, SnapshotHead};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::codec::{Block, Encoder};
use super::reader::CheckedFile;
use super::{SnapshotError, SnapshotReader, SnapshotReceiver};
use crate::disk::{Disk, OpenMode};
use crate::mutants::mutant;
use crate::runtime::Tasks;
use crate::store::{Checkpoint, ChunkLimit, KeyRange, Loaded, Loader};

/// Two: should the last one turn out to be damaged, the one before it and the log after it still make the state.
const KEPT: usize = 2;

const COMPLETE: &str = ".snap";
const TEMPORARY: &str = ".tmp";

/// Blocks that may wait between the task that reads and checks a file and the one that loads it: a MiB, mostly.
const BLOCKS_AHEAD: usize = 4;

/// A complete snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last log entry in it.
    pub last_log_id: LogId,
    /// Bytes of the file.
    pub size: u64,
}

impl SnapshotInfo {
    /// The name of its file. Names sort as the positions do.
    pub fn name(&self) -> String {
        // A committed index has one term only, so sorting by the index is enough.
        format!("{:020}-{}{COMPLETE}", self.last_log_id.index, self.last_log_id.term)
    }

    /// What a file of this name is, apart from its size. `None` for names that we would not have given: they are not ours.
    fn from_name(name: &str) -> Option<Self> {
        let (index, term) = name.strip_suffix(COMPLETE)?.split_once('-')?;
        let last_log_id = LogId { index: index.parse().ok()?, term: term.parse().ok()? };
        let info = Self { last_log_id, size: 0 };
        (info.name() == name).then_some(info)
    }
}

/// The snapshots of one node. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    tasks: Tasks,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Complete ones by ascending position. Those on disk that are not here are being removed.
    complete: Mutex<Vec<SnapshotInfo>>,
    /// Held from the renaming of a new one to the removal of an old one, so that the one is never the other.
    publishing: tokio::sync::Mutex<()>,
    next_temporary: AtomicU64,
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Opens the directory, creating it if it is missing, and removes what interrupted attempts left behind.
    ///
    /// The content of the snapshots is not looked at: that is [`Snapshots::load`].
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`] only.
    pub async fn open(tasks: &Tasks, disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, SnapshotError> {
        let snapshots = Self {
            inner: Arc::new(Inner {
                tasks: tasks.clone(),
                disk,
                dir,
                complete: Mutex::default(),
                publishing: tokio::sync::Mutex::default(),
                next_temporary: AtomicU64::new(1),
            }),
        };
        let recovering = snapshots.clone();
        snapshots.run("snapshot-open", async move { recovering.recover().await }).await?;
        Ok(snapshots)
    }

    async fn recover(&self) -> Result<(), SnapshotError> {
        let complete =
            find_complete(&*self.inner.disk, &self.inner.dir).await.map_err(|error| self.dir_error(error))?;
        *self.lock_complete() = complete;
        self.retire(None).await;
        Ok(())
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Option<SnapshotInfo> {
        self.lock_complete().last().copied()
    }

    /// All snapshots, the newest first: two, once so many were made.
    ///
    /// To start from another one than the newest is right only if the log has every entry from the one after its
    /// `last_log_id` on: compare with the log's purge point.
    pub fn all(&self) -> Vec<SnapshotInfo> {
        self.lock_complete().iter().rev().copied().collect()
    }

    /// Writes a snapshot of a state of this cluster, and returns when it is durable. One at a time makes sense.
    ///
    /// The store's writers go on meanwhile. A caller that drops the future calls the snapshot off.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::DiskFull`]: try again later. [`SnapshotError::Io`] and [`SnapshotError::ItemTooLarge`].
    pub async fn write(&self, checkpoint: Checkpoint, cluster_id: &str) -> Result<SnapshotInfo, SnapshotError> {
        let cancelled = CancellationToken::new();
        let _cancel_when_dropped = cancelled.clone().drop_guard();
        // Encoding has a task of its own, so that it goes on while the disk syncs.
        let head = checkpoint.head(cluster_id);
        let mut receiver = self.receiver()?;
        let encoding = async move {
            encode(checkpoint, head, &mut receiver, cancelled).await?;
            receiver.complete().await
        };
        self.run("snapshot-encode", encoding).await
    }

    /// Loads a snapshot: checked, and ready to replace the content of a store.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`], [`SnapshotError::WrongState`] or [`SnapshotError::WrongName`]: this one can't be
    /// used; see [`Snapshots::all`] for when another can. [`SnapshotError::Gone`] and [`SnapshotError::Io`].
    pub async fn load(&self, info: &SnapshotInfo) -> Result<Loaded, SnapshotError> {
        let file = self.open_file(info).await?;
        load_file(&self.inner.tasks, file).await
    }

    /// Reads what a snapshot is of: its membership, among others.
    ///
    /// # Errors
    ///
    /// As [`Snapshots::load`].
    pub async fn head(&self, info: &SnapshotInfo) -> Result<SnapshotHead, SnapshotError> {
        let mut file = self.open_file(info).await?;
        self.run("snapshot-head", async move { file.head().await }).await
    }

    /// Opens a snapshot to send it to another node. From here on it stays readable, also when newer ones replace it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Gone`] and [`SnapshotError::Io`].
    pub async fn reader(&self, info: &SnapshotInfo) -> Result<SnapshotReader, SnapshotError> {
        let file = self.open_file(info).await?;
        SnapshotReader::start(file, &self.inner.tasks).map_err(|error| self.dir_error(error))
    }

    /// Begins a snapshot that another node sends. Several may be received, and one written, at once.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Io`] only.
    pub fn receiver(&self) -> Result<SnapshotReceiver, SnapshotError> {
        SnapshotReceiver::start(self.clone(), &self.inner.tasks).map_err(|error| self.dir_error(error))
    }

    async fn open_file(&self, info: &SnapshotInfo) -> Result<CheckedFile, SnapshotError> {
        let (disk, path, last_log_id) = (self.inner.disk.clone(), self.inner.dir.join(info.name()), info.last_log_id);
        self.run("snapshot-open", CheckedFile::open(disk, path, Some(last_log_id))).await
    }

    /// The disk, and a name for a new temporary file on it.
    pub(super) fn new_temporary(&self) -> (Arc<dyn Disk>, PathBuf) {
        let number = self.inner.next_temporary.fetch_add(1, Ordering::Relaxed);
        (self.inner.disk.clone(), self.inner.dir.join(format!("{number}{TEMPORARY}")))
    }

    /// Makes a synced temporary file a complete snapshot, durably, and lets an old one go. For disk tasks.
    pub(super) async fn publish(&self, temporary: &Path, info: SnapshotInfo) -> Result<(), SnapshotError> {
        let Inner { disk, dir, .. } = &*self.inner;
        let path = dir.join(info.name());
        let _alone = self.inner.publishing.lock().await;
        disk.rename(temporary, &path).await.map_err(|error| SnapshotError::from_disk(&path, error))?;
        disk.sync_dir(dir).await.map_err(|error| SnapshotError::from_disk(dir, error))?;
        {
            let mut complete = self.lock_complete();
            complete.retain(|other| other.last_log_id != info.last_log_id);
            complete.push(info);
            complete.sort_by_key(|info| info.last_log_id.index);
        }
        self.retire(Some(info.last_log_id)).await;
        Ok(())
    }

    /// Removes all but the newest ones, and but the one that was `just_made` if that is older (received late): its
    /// maker may still want to load it.
    async fn retire(&self, just_made: Option<LogId>) {
        let retired: Vec<SnapshotInfo> = {
            let mut complete = self.lock_complete();
            let surplus = complete.len().saturating_sub(KEPT);
            let newest = complete.split_off(surplus);
            let (kept, retired) = complete.iter().partition(|info| Some(info.last_log_id) == just_made);
            *complete = kept;
            complete.extend(newest);
            retired
        };
        for info in retired {
            let path = self.inner.dir.join(info.name());
            if let Err(error) = self.inner.disk.remove(&path).await {
                // It takes room and does no harm; the next start tries again.
                tracing::warn!(path = %path.display(), %error, "an old snapshot could not be removed");
            }
        }
    }

    /// Runs a job on a disk task.
    async fn run<T, F>(&self, name: &str, job: F) -> Result<T, SnapshotError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SnapshotError>> + Send + 'static,
    {
        run(&self.inner.tasks, name, &self.inner.dir, job).await
    }

    fn dir_error(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { path: self.inner.dir.clone(), source }
    }

    fn lock_complete(&self) -> MutexGuard<'_, Vec<SnapshotInfo>> {
        self.inner.complete.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The complete snapshots in a directory, by ascending position. Removes those that were not finished.
async fn find_complete(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<SnapshotInfo>> {
    disk.create_dir(dir).await?;
    let mut complete = Vec::new();
    for name in disk.list(dir).await? {
        let path = dir.join(&name);
        if name.ends_with(TEMPORARY) {
            disk.remove(&path).await?;
        } else if let Some(info) = SnapshotInfo::from_name(&name) {
            let size = disk.open(&path, OpenMode::Read).await?.size().await?;
            complete.push(SnapshotInfo { size, ..info });
        }
    }
    disk.sync_dir(dir).await?;
    complete.sort_by_key(|info| info.last_log_id.index);
    Ok(complete)
}

/// Where the bytes of a snapshot go while it is encoded.
pub(super) trait Sink: Send {
    /// Takes the next bytes. Waits while there are too many.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), SnapshotError>> + Send;
}

/// Encodes a state and passes it on.
pub(super) async fn encode(
    checkpoint: Checkpoint,
    head: SnapshotHead,
    sink: &mut impl Sink,
    cancelled: CancellationToken,
) -> Result<(), SnapshotError> {
    let mut encoder = Encoder::new(&head)?;
    for mut session in checkpoint.sessions() {
        if mutant!(SnapshotLosesAnswers) {
            session.answers.clear();
        }
        if let Some(bytes) = encoder.session(&session)? {
            sink.write(bytes.into()).await?;
        }
    }
    let mut range = Some(KeyRange::all());
    while let Some(rest) = range {
        if cancelled.is_cancelled() {
            return Err(SnapshotError::Cancelled);
        }
        let chunk = checkpoint.scan(&rest, ChunkLimit::default());
        for pair in chunk.pairs {
            if let Some(bytes) = encoder.pair(&pair.into())? {
                sink.write(bytes.into()).await?;
            }
        }
        range = chunk.next.map(|key| rest.starting_at(key));
    }
    // The store need not keep what is encoded until it has arrived, too.
    drop(checkpoint);
    sink.write(encoder.finish().into()).await
}

/// Runs a job on a disk task, for what is at `path`.
pub(super) async fn run<T, F>(tasks: &Tasks, name: &str, path: &Path, job: F) -> Result<T, SnapshotError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, SnapshotError>> + Send + 'static,
{
    let done = tasks.run_disk(name, async move { Ok(job.await) }).await;
    done.map_err(|source| SnapshotError::Io { path: path.into(), source })?
}

/// Loads the state that a file has.
pub(super) async fn load_file(tasks: &Tasks, file: CheckedFile) -> Result<Loaded, SnapshotError> {
    let path = file.path().to_owned();
    let (sender, blocks) = mpsc::channel(BLOCKS_AHEAD);
    // Two tasks: the disk is read and checked while what was read is decoded and linked into the map.
    let reading = run(tasks, "snapshot-read", &path, file.send_blocks(sender));
    let loading = run(tasks, "snapshot-load", &path, load(path.clone(), blocks));
    let (read, loaded) = futures_util::future::join(reading, loading).await;
    // A file that can't be read to its end can't be loaded either: the cause goes first.
    read.and(loaded)
}

/// Builds the state from the blocks of a snapshot.
async fn load(path: PathBuf, mut blocks: mpsc::Receiver<Block>) -> Result<Loaded, SnapshotError> {
    let damaged = |problem| SnapshotError::Damaged { path: path.clone(), problem };
    let wrong = |problem| SnapshotError::WrongState { path: path.clone(), problem };
    // No head: the file can't be read, and the task that tried says why.
    let Some(Block::Head(head)) = blocks.recv().await else { return Err(SnapshotError::Cancelled) };
    let mut loader = Loader::new(head).map_err(wrong)?;
    while let Some(block) = blocks.recv().await {
        match block {
            Block::Head(_) => unreachable!("the decoder lets one head pass"),
            Block::Sessions(sessions) => {
                for session in sessions {
                    loader.push_session(session.map_err(damaged)?).map_err(wrong)?;
                }
            }
            Block::Pairs(pairs) => {
                for pair in pairs {
                    loader.push_pair(pair.map_err(damaged)?).map_err(wrong)?;
                }
            }
        }
    }
    loader.finish().map_err(wrong)
}
