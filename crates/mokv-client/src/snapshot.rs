//! [`SnapshotStream`]: a copy of the whole state, as it arrives.

use std::time::Duration;

use bytes::Bytes;
use mokv_proto::cluster::{SaveSnapshotRequest, SaveSnapshotResponse};
use tokio::time::timeout;
use tonic::{Request, Streaming};

use crate::client::Client;
use crate::error::Error;

/// The bytes of a snapshot file, in order. It has every write that was acknowledged before it was asked for.
#[derive(Debug)]
pub struct SnapshotStream {
    pieces: Streaming<SaveSnapshotResponse>,
    timeout: Duration,
}

impl Client {
    /// Begins to copy the whole state: the first endpoint that can. The file says by itself where it ends; what ends before
    /// that is incomplete.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn save_snapshot(&self) -> Result<SnapshotStream, Error> {
        let opened = self.open(self.limit(), |attempt| async move {
            // Without a gRPC deadline: that would bound the whole stream.
            Ok(attempt.cluster().save_snapshot(Request::new(SaveSnapshotRequest {})).await?.into_inner())
        });
        Ok(SnapshotStream { pieces: opened.await?.stream, timeout: self.limit().timeout })
    }
}

impl SnapshotStream {
    /// The next bytes; `None` after the last. After an error what came is of no use: begin again.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match timeout(self.timeout, self.pieces.message()).await {
            Ok(Ok(piece)) => Ok(piece.map(|piece| piece.data)),
            Ok(Err(status)) => Err(Error::of_stream(&status)),
            Err(_) => Err(Error::Unavailable(format!("nothing of the snapshot within {:?}", self.timeout))),
        }
    }
}
