//! Reading a snapshot from the disk, checked on the way: to load it, or to send it to another node.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use mokv_proto::internal::{LogId, SnapshotHead};
use tokio::sync::mpsc;

use super::codec::{self, Block, DecodeError, Decoder};
use super::{SnapshotError, SnapshotInfo};
use crate::disk::{Disk, File, OpenMode};
use crate::runtime::Tasks;

/// How much is read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Chunks that may wait to be sent while the next is read.
const CHUNKS_AHEAD: usize = 2;

/// The bytes of a snapshot, for another node. Dropping it ends the reading.
pub struct SnapshotReader {
    size: u64,
    chunks: mpsc::Receiver<Result<Option<Bytes>, SnapshotError>>,
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader").field("size", &self.size).finish_non_exhaustive()
    }
}

impl SnapshotReader {
    pub(super) fn start(file: CheckedFile, tasks: &Tasks) -> io::Result<Self> {
        let size = file.size;
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tasks.spawn_disk("snapshot-read", file.send_chunks(sender).boxed())?;
        Ok(Self { size, chunks })
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes, at most 1 MiB; `None` when those were all.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Damaged`], [`SnapshotError::WrongName`] or [`SnapshotError::Io`]: the snapshot is of no use, and
    /// what was sent of it must be dropped. [`SnapshotError::Cancelled`]: the node is stopping. It was the last call.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        self.chunks.recv().await.unwrap_or(Err(SnapshotError::Cancelled))
    }
}

/// A snapshot file that is read once, in order. For disk tasks.
pub(super) struct CheckedFile {
    path: PathBuf,
    file: Arc<dyn File>,
    /// What the name of the file says that it is of.
    named: Option<LogId>,
    size: u64,
    offset: u64,
    decoder: Decoder,
}

impl CheckedFile {
    /// Opens a snapshot: the one that should be of the state after the entry `named`, or whichever it is.
    pub(super) async fn open(disk: Arc<dyn Disk>, path: PathBuf, named: Option<LogId>) -> Result<Self, SnapshotError> {
        let opened = async {
            let file = disk.open(&path, OpenMode::Read).await?;
            let size = file.size().await?;
            io::Result::Ok((file, size))
        };
        match opened.await {
            Ok((file, size)) => Ok(Self { path, file, named, size, offset: 0, decoder: Decoder::new() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SnapshotError::Gone(path)),
            Err(source) => Err(SnapshotError::Io { path, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The head, which comes first.
    pub(super) async fn head(&mut self) -> Result<SnapshotHead, SnapshotError> {
        loop {
            if let Some(Block::Head(head)) = self.next_block()? {
                return Ok(head);
            }
            self.read().await?;
        }
    }

    /// Sends the blocks to who loads them, until the end or until nobody listens.
    pub(super) async fn send_blocks(mut self, blocks: mpsc::Sender<Block>) -> Result<(), SnapshotError> {
        while self.read().await?.is_some() {
            while let Some(block) = self.next_block()? {
                if blocks.send(block).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends the bytes to who passes them on. Only what was checked: the sender's damage must not look like the network's.
    async fn send_chunks(mut self, chunks: mpsc::Sender<Result<Option<Bytes>, SnapshotError>>) {
        loop {
            let chunk = self.read_checked().await;
            let last = !matches!(chunk, Ok(Some(_)));
            if chunks.send(chunk).await.is_err() || last {
                return;
            }
        }
    }

    async fn read_checked(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        let chunk = self.read().await?;
        while self.next_block()?.is_some() {}
        Ok(chunk)
    }

    /// Reads the next bytes into the decoder. `None` at the end, which is where a whole snapshot ends.
    async fn read(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        let len = CHUNK_BYTES.min(self.size - self.offset);
        if len == 0 {
            let decoder = std::mem::take(&mut self.decoder);
            decoder.finish().map_err(|problem| self.damaged(problem))?;
            return Ok(None);
        }
        let chunk = self.file.read_at(self.offset, len as usize).await;
        let chunk = chunk.map_err(|source| SnapshotError::Io { path: self.path.clone(), source })?;
        self.offset += len;
        self.decoder.push(&chunk);
        Ok(Some(chunk.into()))
    }

    fn next_block(&mut self) -> Result<Option<Block>, SnapshotError> {
        let block = self.decoder.next_block().map_err(|problem| self.damaged(problem))?;
        if let Some(Block::Head(head)) = &block {
            let last_log_id = codec::last_log_id(head).map_err(|problem| self.damaged(problem))?;
            if self.named.is_some_and(|named| named != last_log_id) {
                let name = SnapshotInfo { last_log_id, size: self.size }.name();
                return Err(SnapshotError::WrongName { path: self.path.clone(), name });
            }
        }
        Ok(block)
    }

    fn damaged(&self, problem: DecodeError) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), problem }
    }
}
