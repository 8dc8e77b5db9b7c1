//! One exchange over one connection. These tasks only move bytes; what is said, the core decides.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::transport::{BoxStream, Transport};
use crate::wire::memberlist::StreamMessage;
use crate::wire::{Codec, OpenError, Side, StreamDecoder};

/// How long an exchange that somebody else began may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const READ_BYTES: usize = 16 << 10;

/// What all connections of one direction may hold together of messages that are not complete, or not answered. A message
/// may take more than half of it, but then the others wait until there is room, or until their time is over.
pub(super) const HELD_BYTES_MAX: usize = 64 << 20;

/// The room for what connections hold, in bytes.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(HELD_BYTES_MAX)))
    }

    /// Waits for room for some bytes more.
    async fn take(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> io::Result<()> {
        let bytes = u32::try_from(bytes).map_err(io::Error::other)?;
        let more = Arc::clone(&self.0).acquire_many_owned(bytes).await.map_err(io::Error::other)?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }
}

/// What somebody asked over a connection.
pub(super) struct Question {
    pub(super) message: StreamMessage,
    pub(super) answer: oneshot::Sender<Option<StreamMessage>>,
}

/// Asks somebody, and returns the answer if there is to be one. `sealed` is the question as it goes over the wire.
pub(super) async fn ask(
    transport: &dyn Transport,
    to: SocketAddr,
    sealed: Bytes,
    answer: Option<StreamDecoder>,
    room: Room,
    within: Duration,
) -> Result<Option<StreamMessage>, String> {
    let exchange = async {
        let mut stream = transport.connect(to).await.map_err(|error| format!("cannot connect: {error}"))?;
        let asked = stream.write_all(&sealed).await;
        let Some(decoder) = answer else {
            asked.map_err(|error| format!("cannot send: {error}"))?;
            return stream.shutdown().await.map(|()| None).map_err(|error| format!("cannot send: {error}"));
        };
        // One that refuses us may say why, and hang up before it has read all.
        match (read_message(&mut stream, decoder, &room).await, asked) {
            (Ok((message, _)), _) => Ok(Some(message)),
            (Err(_), Err(error)) => Err(format!("cannot send: {error}")),
            (Err(error), Ok(())) => Err(error.to_string()),
        }
    };
    timeout(within, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

/// Answers somebody. What is not understood is answered with an error, as Serf does.
pub(super) async fn serve(
    mut stream: BoxStream,
    from: SocketAddr,
    codec: Codec,
    mut rng: StdRng,
    room: Room,
    questions: mpsc::Sender<Question>,
) {
    let exchange = async {
        let answer = match read_message(&mut stream, codec.stream(Side::Initiator), &room).await {
            Ok((message, _held)) => {
                let (answer, answered) = oneshot::channel();
                if questions.send(Question { message, answer }).await.is_err() {
                    return Ok(());
                }
                match answered.await {
                    Ok(Some(answer)) => answer,
                    // Nothing to say, or nobody is left to say it.
                    Ok(None) | Err(_) => return Ok(()),
                }
            }
            Err(ReadError::Open(error)) => {
                tracing::warn!(%from, "cannot understand: {error}");
                StreamMessage::Error(error.to_string().into())
            }
            Err(ReadError::Io(error)) => return Err(error),
        };
        stream.write_all(&codec.seal_stream(&answer, Side::Acceptor, &mut rng)).await?;
        stream.shutdown().await
    };
    match timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%from, "a connection broke: {error}"),
        Err(_) => tracing::debug!(%from, "a connection took longer than {ANSWER_TIMEOUT:?}"),
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("cannot understand: {0}")]
    Open(#[from] OpenError),
}

/// Reads one message, and returns the room that it takes. Nothing marks its end, and the connection stays open: it ends
/// where it is complete.
async fn read_message(
    stream: &mut BoxStream,
    mut decoder: StreamDecoder,
    room: &Room,
) -> Result<(StreamMessage, Option<OwnedSemaphorePermit>), ReadError> {
    let mut buffer = vec![0; READ_BYTES];
    let mut held = None;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        room.take(&mut held, read).await?;
        decoder.push(&buffer[..read]);
        if let Some(message) = decoder.next()? {
            return Ok((message, held));
        }
    }
}
