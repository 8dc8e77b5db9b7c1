//! The layers around messages (memberlist's net.go, label.go).
//!
//! From the outside, in a datagram: label, encryption, checksum, compression, compound of several messages. In a stream:
//! label, encryption, compression ([`StreamDecoder`]). Each may be absent, and none occurs twice: honest nodes do not nest
//! them, and what would unfold without end is refused.

use bytes::Bytes;
use rand::rngs::StdRng;

use super::compression::{compress, decompress};
use super::encryption::{self, decrypt, encrypt};
use super::keyring::Keyring;
use super::memberlist::codec::{CHECKSUM, COMPOUND, COMPRESSED, ENCRYPTED};
use super::memberlist::{Message, StreamMessage};
use super::msgpack::DecodeError;
use super::stream::{Side, StreamDecoder};

/// The first byte of a label. No message has this type.
pub(super) const LABEL: u8 = 0xf4;

/// The longest label: its length takes one byte.
const LABEL_BYTES_MAX: usize = 255;

/// What a datagram may be decompressed to: no datagram is longer.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// Why bytes of another node are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It has another label than ours, or only one of us has one.
    #[error("the label is not ours")]
    Label,
    /// It is not encrypted, as it would have to be.
    #[error("it is not encrypted")]
    Plaintext,
    /// It is encrypted, and there are no keys.
    #[error("it is encrypted, and there is no key")]
    Encrypted,
    /// None of the keys fits, or it was altered.
    #[error("no key decrypts it")]
    Decryption,
    /// It was altered.
    #[error("the checksum is wrong")]
    Checksum,
    /// It cannot be decompressed.
    #[error("it cannot be decompressed")]
    Compression,
    /// It is no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// How nodes of a cluster wrap their messages. All of them have to agree on the label and share a key; whether to compress is
/// each node's choice. A plain value, cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Codec {
    /// Keeps clusters apart that might meet; none if it is empty. Only the first 255 bytes count.
    pub label: Bytes,
    /// Whether to compress what is sent.
    pub compression: bool,
    /// What to encrypt with. With keys, what is not encrypted is refused.
    pub keyring: Option<Keyring>,
}

impl Codec {
    /// The most messages that fit into one datagram, whose number takes one byte.
    pub const MESSAGES_MAX: usize = 255;

    /// How many bytes of a datagram the label and the encryption take. The checksum takes 5 more, and a compound 2 and 2 for
    /// each message.
    pub fn overhead(&self) -> usize {
        let label = if self.label.is_empty() { 0 } else { 2 + self.label().len() };
        label + if self.keyring.is_some() { encryption::OVERHEAD } else { 0 }
    }

    /// A datagram with these encoded messages: at most [`MESSAGES_MAX`](Self::MESSAGES_MAX), and at most 64 KiB each. More
    /// than that would not fit into a datagram; what exceeds it is left out.
    ///
    /// The numbers have to come from a generator that was seeded by the operating system: if two datagrams were encrypted
    /// with one nonce, the key could be computed from them.
    pub fn seal(&self, messages: &[Bytes], crc: bool, rng: &mut StdRng) -> Bytes {
        let mut packet = match messages {
            [message] => message.clone(),
            messages => compound(messages),
        };
        if self.compression {
            let compressed = compress(&packet);
            if compressed.len() < packet.len() {
                packet = compressed;
            }
        }
        let mut checked = Vec::new();
        if crc {
            checked.push(CHECKSUM);
            checked.extend_from_slice(&crc32fast::hash(&packet).to_be_bytes());
        }
        checked.extend_from_slice(&packet);

        let mut datagram = self.label_header();
        match &self.keyring {
            Some(keyring) => encrypt(&mut datagram, &checked, self.label(), keyring, rng),
            None => datagram.extend_from_slice(&checked),
        }
        datagram.into()
    }

    /// The messages in a datagram. Of several, those that cannot be decoded are left out; if none can be, that is an error.
    pub fn open(&self, datagram: &[u8]) -> Result<Vec<Message>, OpenError> {
        let label = self.label_header();
        let body = datagram.strip_prefix(&*label).ok_or(OpenError::Label)?;
        if label.is_empty() && body.first() == Some(&LABEL) {
            return Err(OpenError::Label);
        }
        match &self.keyring {
            Some(keyring) => open_packet(&decrypt(body, self.label(), keyring)?),
            None => open_packet(body),
        }
    }

    /// A message as one side of a TCP connection sends it. About the numbers, see [`seal`](Self::seal).
    pub fn seal_stream(&self, message: &StreamMessage, side: Side, rng: &mut StdRng) -> Bytes {
        let mut plain = message.encode();
        if self.compression {
            plain = compress(&plain);
        }
        let mut bytes = match side {
            Side::Initiator => self.label_header(),
            Side::Acceptor => Vec::new(),
        };
        match &self.keyring {
            Some(keyring) => {
                let header = stream_header(plain.len() + encryption::OVERHEAD);
                bytes.extend_from_slice(&header);
                encrypt(&mut bytes, &plain, &self.stream_associated(&header), keyring, rng);
            }
            None => bytes.extend_from_slice(&plain),
        }
        bytes.into()
    }

    /// Decodes what one side of a TCP connection sends.
    pub fn stream(&self, side_of_sender: Side) -> StreamDecoder {
        StreamDecoder::new(self.clone(), side_of_sender)
    }

    /// What the encryption of a stream vouches for besides the message: its header, and the label, which an answer does not
    /// repeat.
    pub(super) fn stream_associated(&self, header: &[u8; STREAM_HEADER_BYTES]) -> Vec<u8> {
        [header, self.label()].concat()
    }

    fn label(&self) -> &[u8] {
        &self.label[..self.label.len().min(LABEL_BYTES_MAX)]
    }

    /// What a datagram, and what the initiator of a stream sends, begins with. Nothing without a label.
    pub(super) fn label_header(&self) -> Vec<u8> {
        match self.label() {
            [] => Vec::new(),
            label => [&[LABEL, label.len() as u8], label].concat(),
        }
    }
}

/// A type and the length of what is encrypted.
pub(super) const STREAM_HEADER_BYTES: usize = 5;

fn stream_header(length: usize) -> [u8; STREAM_HEADER_BYTES] {
    let length = u32::try_from(length).expect("a message that is sent is far below 4 GiB");
    let [a, b, c, d] = length.to_be_bytes();
    [ENCRYPTED, a, b, c, d]
}

fn compound(messages: &[Bytes]) -> Bytes {
    let fitting = || messages.iter().filter(|message| message.len() <= 0xffff).take(Codec::MESSAGES_MAX);
    let mut packet = vec![COMPOUND, fitting().count() as u8];
    packet.extend(fitting().flat_map(|message| (message.len() as u16).to_be_bytes()));
    for message in fitting() {
        packet.extend_from_slice(message);
    }
    packet.into()
}

/// The messages in what is left without label and encryption.
fn open_packet(packet: &[u8]) -> Result<Vec<Message>, OpenError> {
    let packet = match packet {
        [CHECKSUM, a, b, c, d, checked @ ..] => {
            if crc32fast::hash(checked).to_be_bytes() != [*a, *b, *c, *d] {
                return Err(OpenError::Checksum);
            }
            checked
        }
        _ => packet,
    };
    match packet {
        [COMPRESSED, body @ ..] => open_parts(&decompress(body, DATAGRAM_BYTES_MAX)?.0),
        _ => open_parts(packet),
    }
}

fn open_parts(packet: &[u8]) -> Result<Vec<Message>, OpenError> {
    let &[COMPOUND, count, ref body @ ..] = packet else {
        return Ok(vec![Message::decode(packet)?]);
    };
    let (lengths, mut rest) = body.split_at_checked(2 * usize::from(count)).ok_or(DecodeError::Truncated)?;
    let (mut messages, mut first_error) = (Vec::new(), None);
    for length in lengths.chunks_exact(2) {
        let length = u16::from_be_bytes([length[0], length[1]]).into();
        // What follows a part that was cut off is lost with it.
        let (part, after) = rest.split_at_checked(length).unwrap_or((&[], &[]));
        rest = after;
        match Message::decode(part) {
            Ok(message) => messages.push(message),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    match first_error {
        Some(error) if messages.is_empty() => Err(error.into()),
        _ => Ok(messages),
    }
}
