//! A snapshot that is on no disk of this node: encoded while it is taken, for whoever keeps it elsewhere.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::SnapshotError;
use super::files::{Sink, encode};
use crate::runtime::Tasks;
use crate::store::Checkpoint;

/// Who takes nothing for so long loses the stream: a view that is kept costs the store memory for every key that changes
/// meanwhile.
const STALL_MAX: Duration = Duration::from_secs(30);

/// The largest piece. Blocks are about as large, unless a value is larger.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// The bytes of a snapshot of the present state, in order. Dropping it ends the encoding and releases the state.
pub struct SnapshotStream {
    pieces: mpsc::Receiver<Bytes>,
    /// `None` when its end was reported.
    encoder: Option<JoinHandle<Result<(), SnapshotError>>>,
}

impl SnapshotStream {
    /// Begins to encode a state of this cluster. The store's writers go on meanwhile.
    pub fn start(tasks: &Tasks, checkpoint: Checkpoint, cluster_id: &str) -> Self {
        // One piece waits while the next is made.
        let (sender, pieces) = mpsc::channel(1);
        let head = checkpoint.head(cluster_id);
        // A receiver that is gone ends it with the next piece.
        let encoder =
            tasks.spawn(async move { encode(checkpoint, head, &mut Pieces(sender), CancellationToken::new()).await });
        Self { pieces, encoder: Some(encoder) }
    }

    /// The next bytes, at most 256 KiB; `None` when those were all.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::TooSlow`], [`SnapshotError::ItemTooLarge`], and [`SnapshotError::Cancelled`] if the node is stopping.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if let Some(piece) = self.pieces.recv().await {
            return Ok(Some(piece));
        }
        match self.encoder.take() {
            Some(encoder) => encoder.await.unwrap_or(Err(SnapshotError::Cancelled)).map(|()| None),
            None => Ok(None),
        }
    }
}

impl fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStream").finish_non_exhaustive()
    }
}

struct Pieces(mpsc::Sender<Bytes>);

impl Sink for Pieces {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            let room = timeout(STALL_MAX, self.0.reserve()).await.map_err(|_| SnapshotError::TooSlow(STALL_MAX))?;
            let room = room.map_err(|_| SnapshotError::Cancelled)?;
            room.send(bytes.split_to(bytes.len().min(PIECE_BYTES_MAX)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::runtime::DiskTasks;
    use crate::snapshot::codec::{Block, Decoder};
    use crate::store::{Position, Store};

    /// As much as fills several pieces, and a value that is larger than one.
    fn filled_store() -> Store {
        let store = Store::new();
        let mut commands: Vec<_> = (0..5000).map(|n| command::set(format!("key-{n:05}"), vec![b'v'; 200])).collect();
        commands.push(command::set("large", vec![7; 3 * PIECE_BYTES_MAX]));
        store.apply(Position { term: 1, index: 1 }, crate::store::LogTime::default(), &commands).expect("apply");
        store
    }

    fn start(tasks: &Tasks, store: &Store) -> SnapshotStream {
        SnapshotStream::start(tasks, store.checkpoint().expect("applied"), "cluster")
    }

    #[tokio::test]
    async fn a_stream_has_the_whole_state_in_small_pieces() {
        let (tasks, store) = (Tasks::new(1, DiskTasks::Inline), filled_store());
        let mut stream = start(&tasks, &store);
        let (mut decoder, mut head, mut pairs) = (Decoder::new(), None, 0);
        while let Some(piece) = stream.next().await.expect("piece") {
            assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES_MAX, "{} bytes", piece.len());
            decoder.push(&piece);
            while let Some(block) = decoder.next_block().expect("block") {
                match block {
                    Block::Head(found) => head = Some(found),
                    Block::Sessions(_) => {}
                    Block::Pairs(found) => pairs += found.map(|pair| pair.expect("pair")).count(),
                }
            }
        }
        decoder.finish().expect("whole");
        let head = head.expect("head");
        assert_eq!((head.cluster_id.as_str(), head.keys, pairs), ("cluster", 5001, 5001));
        assert_eq!(&head.state_hash[..], store.stats().state_hash.to_bytes());
        assert!(stream.next().await.expect("an end").is_none(), "an end stays one");
        assert_eq!(store.stats().pins, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_loses_its_state() {
        let (tasks, store) = (Tasks::new(1, DiskTasks::Inline), filled_store());
        let mut stream = start(&tasks, &store);
        stream.next().await.expect("first").expect("piece");
        assert_eq!(store.stats().pins, 1);
        tokio::time::sleep(STALL_MAX * 2).await;
        assert_eq!(store.stats().pins, 0);
        let end = loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert!(matches!(end, Err(SnapshotError::TooSlow(_))), "{end:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_keeps_its_state_while_it_takes_something() {
        let (tasks, store) = (Tasks::new(1, DiskTasks::Inline), filled_store());
        let mut stream = start(&tasks, &store);
        while stream.next().await.expect("not cut").is_some() {
            tokio::time::sleep(STALL_MAX * 9 / 10).await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_wants_releases_its_state() {
        let (tasks, store) = (Tasks::new(1, DiskTasks::Inline), filled_store());
        drop(start(&tasks, &store));
        while store.stats().pins > 0 {
            tokio::task::yield_now().await;
        }
    }
}
