//! Writing a snapshot to the disk, checked on the way: one that another node sends, or one of our own.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use mokv_proto::internal::LogId;
use tokio::sync::{mpsc, oneshot};

use super::codec::{self, Block, Decoder};
use super::files::Sink;
use super::{SnapshotError, SnapshotInfo, Snapshots};
use crate::disk::{self, Disk, File, OpenMode};
use crate::runtime::Tasks;

/// Parts that may wait to be written. Blocks of 256 KiB fill it while [`SYNC_BYTES`] are on their way to the disk, so
/// that the encoder and the disk are both busy.
const PARTS_AHEAD: usize = 16;

/// How much is written between two syncs. Small: the log shares the disk, and waits behind a large one.
const SYNC_BYTES: u64 = 4 << 20;

/// Takes the bytes of a snapshot, in order, and makes them a complete one. Dropping it calls the snapshot off.
pub struct SnapshotReceiver {
    parts: mpsc::Sender<Part>,
    received: u64,
    /// What the disk task ended with; taken by who is told.
    outcome: Option<oneshot::Receiver<Result<SnapshotInfo, SnapshotError>>>,
}

enum Part {
    Data(Bytes),
    /// That was all.
    End,
}

impl fmt::Debug for SnapshotReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReceiver").finish_non_exhaustive()
    }
}

impl SnapshotReceiver {
    pub(super) fn start(snapshots: Snapshots, tasks: &Tasks) -> io::Result<Self> {
        let (sender, parts) = mpsc::channel(PARTS_AHEAD);
        let (done, outcome) = oneshot::channel();
        tasks.spawn_disk("snapshot-write", async move { drop(done.send(receive(&snapshots, parts).await)) }.boxed())?;
        Ok(Self { parts: sender, received: 0, outcome: Some(outcome) })
    }

    /// Takes the next bytes. Waits while too many are on their way to the disk.
    ///
    /// # Errors
    ///
    /// As [`SnapshotReceiver::finish`]. The receiver is of no more use.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        self.received += bytes.len() as u64;
        if self.parts.send(Part::Data(bytes)).await.is_ok() {
            return Ok(());
        }
        match self.outcome().await {
            Ok(_) => Err(SnapshotError::Cancelled),
            Err(error) => Err(error),
        }
    }

    /// Completes the snapshot, which was announced to have `size` bytes, and returns when it is durable.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::DiskFull`]: try again later. [`SnapshotError::Invalid`] or [`SnapshotError::WrongSize`]: what was
    /// received is no snapshot. [`SnapshotError::Io`] and, if the node is stopping, [`SnapshotError::Cancelled`].
    pub async fn finish(self, size: u64) -> Result<SnapshotInfo, SnapshotError> {
        if self.received != size {
            return Err(SnapshotError::WrongSize { expected: size, received: self.received });
        }
        self.complete().await
    }

    pub(super) async fn complete(mut self) -> Result<SnapshotInfo, SnapshotError> {
        // If the disk task has failed, its outcome says so.
        self.parts.send(Part::End).await.ok();
        self.outcome().await
    }

    async fn outcome(&mut self) -> Result<SnapshotInfo, SnapshotError> {
        match self.outcome.take() {
            Some(outcome) => outcome.await.unwrap_or(Err(SnapshotError::Cancelled)),
            None => Err(SnapshotError::Cancelled),
        }
    }
}

impl Sink for SnapshotReceiver {
    async fn write(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        Self::write(self, bytes).await
    }
}

async fn receive(snapshots: &Snapshots, parts: mpsc::Receiver<Part>) -> Result<SnapshotInfo, SnapshotError> {
    let mut file = TemporaryFile::create(snapshots).await?;
    let result = match file.fill(parts).await {
        Ok(info) => snapshots.publish(&file.path, info).await.map(|()| info),
        Err(error) => Err(error),
    };
    if result.is_err() {
        file.remove().await;
    }
    result
}

/// A snapshot until it is complete.
struct TemporaryFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    size: u64,
    synced: u64,
}

impl TemporaryFile {
    async fn create(snapshots: &Snapshots) -> Result<Self, SnapshotError> {
        let (disk, path) = snapshots.new_temporary();
        match disk.open(&path, OpenMode::CreateNew).await {
            Ok(file) => Ok(Self { disk, path, file, size: 0, synced: 0 }),
            Err(error) => Err(SnapshotError::from_disk(&path, error)),
        }
    }

    /// Writes, checks and syncs all parts.
    async fn fill(&mut self, mut parts: mpsc::Receiver<Part>) -> Result<SnapshotInfo, SnapshotError> {
        let mut decoder = Decoder::new();
        let mut last_log_id = LogId::default();
        loop {
            match parts.recv().await {
                Some(Part::Data(bytes)) => {
                    decoder.push(&bytes);
                    while let Some(block) = decoder.next_block()? {
                        if let Block::Head(head) = block {
                            last_log_id = codec::last_log_id(&head)?;
                        }
                    }
                    self.append(&bytes).await.map_err(|error| SnapshotError::from_disk(&self.path, error))?;
                }
                Some(Part::End) => break,
                None => return Err(SnapshotError::Cancelled),
            }
        }
        decoder.finish()?;
        self.file.sync().await.map_err(|error| SnapshotError::from_disk(&self.path, error))?;
        Ok(SnapshotInfo { last_log_id, size: self.size })
    }

    async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.size, bytes).await?;
        self.size += bytes.len() as u64;
        if self.size - self.synced >= SYNC_BYTES {
            self.file.sync().await?;
            self.synced = self.size;
        }
        Ok(())
    }

    async fn remove(&self) {
        // It may have its final name already; the next start finds it complete then.
        if let Err(error) = disk::remove_if_present(&*self.disk, &self.path).await {
            tracing::warn!(path = %self.path.display(), %error, "a left-over of a snapshot could not be removed");
        }
    }
}
