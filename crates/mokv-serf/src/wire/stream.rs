//! Messages in a TCP connection (memberlist's net.go `readStream`, label.go, security.go).
//!
//! They follow each other without frames, and the end of one shows only in what it says; unless it is encrypted, when its
//! length stands before it.

use std::mem;

use bytes::{Buf as _, Bytes, BytesMut};

use super::codec::{Codec, LABEL, OpenError, STREAM_HEADER_BYTES};
use super::compression::decompress;
use super::encryption::decrypt;
use super::memberlist::codec::{
    ACK, COMPRESSED, ENCRYPTED, ERROR, PING, PUSH_PULL, PushPullHeader, USER, decode_ack, decode_error, decode_node,
    decode_ping, decode_push_pull_header, decode_user_header, struct_reader,
};
use super::memberlist::{NodeState, PushPull, StreamMessage};
use super::msgpack::{DecodeError, Reader};

/// The longest message, with all that comes with it: what Go decompresses at most.
const MESSAGE_BYTES_MAX: usize = 40 * 1024 * 1024;

/// The longest encrypted message, the longest state or message of the layer above: Go's limits.
const BODY_BYTES_MAX: usize = 20 * 1024 * 1024;

/// The most nodes in a message. Go takes a million; in memory each takes some 200 bytes, and connections are many.
const NODES_MAX: usize = 64 * 1024;

/// A side of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that connected. It sends the label first.
    Initiator,
    /// The one that was connected to.
    Acceptor,
}

/// Takes what one side of a TCP connection sends, in pieces of any size, and gives its messages.
///
/// It holds what it was given and not yet turned into messages, and never reserves memory by what a message claims. A message
/// has to end within 40 MiB. After an error there is no way to tell where the next message would begin: it stays.
#[derive(Debug)]
pub struct StreamDecoder {
    codec: Codec,
    label_due: bool,
    buffer: BytesMut,
    /// A message without layers of which only the beginning is there.
    pending: Option<Pending>,
    failed: Option<OpenError>,
}

impl StreamDecoder {
    pub(super) fn new(codec: Codec, side_of_sender: Side) -> Self {
        let label_due = side_of_sender == Side::Initiator;
        Self { codec, label_due, buffer: BytesMut::new(), pending: None, failed: None }
    }

    /// Takes the next bytes. What can be had from them should be [had](Self::next) before there are more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next message, if all of it is there.
    #[expect(clippy::should_implement_trait, reason = "after none there may be another one")]
    pub fn next(&mut self) -> Result<Option<StreamMessage>, OpenError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.advance().and_then(|message| {
            let held = self.buffer.len() + self.pending.as_ref().map_or(0, Pending::bytes_read);
            if message.is_none() && held > MESSAGE_BYTES_MAX { Err(DecodeError::TooLarge.into()) } else { Ok(message) }
        });
        if let Err(error) = result {
            self.failed = Some(error);
            self.buffer = BytesMut::new();
            self.pending = None;
        }
        result
    }

    fn advance(&mut self) -> Result<Option<StreamMessage>, OpenError> {
        if self.label_due && !self.take_label()? {
            return Ok(None);
        }
        if self.pending.is_some() {
            return Ok(advance(&mut self.pending, &mut self.buffer)?);
        }
        match (self.buffer.first(), &self.codec.keyring) {
            (None, _) => Ok(None),
            (Some(&ENCRYPTED), _) => self.take_encrypted(),
            (Some(_), Some(_)) => Err(OpenError::Plaintext),
            (Some(&COMPRESSED), None) => self.take_compressed(),
            (Some(_), None) => Ok(advance(&mut self.pending, &mut self.buffer)?),
        }
    }

    /// Whether all of it was there.
    fn take_label(&mut self) -> Result<bool, OpenError> {
        let ours = self.codec.label_header();
        let length = ours.len().min(self.buffer.len());
        match self.buffer.first() {
            None => return Ok(false),
            Some(&LABEL) if ours.is_empty() => return Err(OpenError::Label),
            Some(_) if self.buffer[..length] != ours[..length] => return Err(OpenError::Label),
            Some(_) if length < ours.len() => return Ok(false),
            Some(_) => {}
        }
        self.buffer.advance(length);
        self.label_due = false;
        Ok(true)
    }

    fn take_encrypted(&mut self) -> Result<Option<StreamMessage>, OpenError> {
        let keyring = self.codec.keyring.as_ref().ok_or(OpenError::Encrypted)?;
        let Some((header, rest)) = self.buffer.split_first_chunk::<STREAM_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [_, length @ ..] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if length > BODY_BYTES_MAX {
            return Err(DecodeError::TooLarge.into());
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let plain = decrypt(body, &self.codec.stream_associated(header), keyring)?;
        self.buffer.advance(STREAM_HEADER_BYTES + length);
        match &*plain {
            [COMPRESSED, body @ ..] => assemble(decompress(body, MESSAGE_BYTES_MAX)?.0).map(Some),
            _ => assemble(plain).map(Some),
        }
    }

    fn take_compressed(&mut self) -> Result<Option<StreamMessage>, OpenError> {
        match decompress(&self.buffer[1..], MESSAGE_BYTES_MAX) {
            Err(OpenError::Decode(DecodeError::Truncated)) => Ok(None),
            Err(error) => Err(error),
            Ok((plain, length)) => {
                self.buffer.advance(1 + length);
                assemble(plain).map(Some)
            }
        }
    }
}

/// The message that all of these bytes are.
fn assemble(plain: Vec<u8>) -> Result<StreamMessage, OpenError> {
    let message = advance(&mut None, &mut BytesMut::from(&*plain))?;
    message.ok_or(OpenError::Decode(DecodeError::Truncated))
}

/// The message without layers that the buffer begins with, or continues; none if more is to come. What has been read is gone
/// from the buffer: with the next piece no more is read again than one struct, which has a bounded number of values.
fn advance(pending: &mut Option<Pending>, buffer: &mut BytesMut) -> Result<Option<StreamMessage>, DecodeError> {
    match try_advance(pending, buffer) {
        Ok(message) => {
            *pending = None;
            Ok(Some(message))
        }
        Err(DecodeError::Truncated) => Ok(None),
        Err(error) => Err(error),
    }
}

fn try_advance(pending: &mut Option<Pending>, buffer: &mut BytesMut) -> Result<StreamMessage, DecodeError> {
    let pending = match pending {
        Some(pending) => pending,
        None => match begin(buffer)? {
            Begun::Message(message) => return Ok(message),
            Begun::Pending(begun) => pending.insert(begun),
        },
    };
    pending.finish(buffer)
}

enum Begun {
    Message(StreamMessage),
    Pending(Pending),
}

/// A message whose beginning has been read.
#[derive(Debug)]
enum Pending {
    /// So many nodes are to follow, and then the state of the layer above.
    PushPull { join: bool, nodes: Vec<NodeState>, nodes_left: usize, user_state_length: usize, bytes_read: usize },
    /// A message of the layer above is to follow.
    User { length: usize },
}

fn begin(buffer: &mut BytesMut) -> Result<Begun, DecodeError> {
    let (&message_type, body) = buffer.split_first().ok_or(DecodeError::Truncated)?;
    let (begun, length) = match message_type {
        PING => read_struct(body, |reader| decode_ping(reader).map(StreamMessage::Ping).map(Begun::Message))?,
        ACK => read_struct(body, |reader| decode_ack(reader).map(StreamMessage::Ack).map(Begun::Message))?,
        ERROR => read_struct(body, |reader| decode_error(reader).map(StreamMessage::Error).map(Begun::Message))?,
        USER => read_struct(body, begin_user)?,
        PUSH_PULL => read_struct(body, begin_push_pull)?,
        _ => return Err(DecodeError::UnknownType(message_type)),
    };
    buffer.advance(1 + length);
    Ok(begun)
}

fn begin_user(reader: &mut Reader<'_>) -> Result<Begun, DecodeError> {
    let length = at_most(BODY_BYTES_MAX, decode_user_header(reader)?)?;
    Ok(Begun::Pending(Pending::User { length }))
}

fn begin_push_pull(reader: &mut Reader<'_>) -> Result<Begun, DecodeError> {
    let PushPullHeader { join, nodes, user_state_length } = decode_push_pull_header(reader)?;
    Ok(Begun::Pending(Pending::PushPull {
        join,
        nodes: Vec::new(),
        nodes_left: at_most(NODES_MAX, nodes)?,
        user_state_length: at_most(BODY_BYTES_MAX, user_state_length)?,
        bytes_read: 0,
    }))
}

impl Pending {
    /// The message, if the rest of it is there.
    fn finish(&mut self, buffer: &mut BytesMut) -> Result<StreamMessage, DecodeError> {
        match self {
            Self::User { length } => Ok(StreamMessage::User(take(buffer, *length)?)),
            Self::PushPull { join, nodes, nodes_left, user_state_length, bytes_read } => {
                while *nodes_left > 0 {
                    let (node, length) = read_struct(buffer, decode_node)?;
                    nodes.push(node);
                    *nodes_left -= 1;
                    *bytes_read += length;
                    buffer.advance(length);
                }
                let user_state = take(buffer, *user_state_length)?;
                Ok(StreamMessage::PushPull(PushPull { join: *join, nodes: mem::take(nodes), user_state }))
            }
        }
    }

    /// How much is gone from the buffer and still held.
    fn bytes_read(&self) -> usize {
        match self {
            Self::PushPull { bytes_read, .. } => *bytes_read,
            Self::User { .. } => 0,
        }
    }
}

/// A struct, and how many bytes it took.
fn read_struct<T>(
    bytes: &[u8],
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<(T, usize), DecodeError> {
    let mut reader = struct_reader(bytes);
    let value = decode(&mut reader)?;
    Ok((value, reader.position()))
}

/// Copied, so that what is kept of it does not keep the whole buffer.
fn take(buffer: &mut BytesMut, length: usize) -> Result<Bytes, DecodeError> {
    let taken = Bytes::copy_from_slice(buffer.get(..length).ok_or(DecodeError::Truncated)?);
    buffer.advance(length);
    Ok(taken)
}

fn at_most(max: usize, value: u64) -> Result<usize, DecodeError> {
    usize::try_from(value).ok().filter(|&value| value <= max).ok_or(DecodeError::TooLarge)
}
