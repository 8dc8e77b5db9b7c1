//! Messages as bytes: a byte for the type, then a struct (memberlist's net.go). Keys are written in the order of their bytes.

use bytes::Bytes;

use super::{
    Ack, Alive, Dead, IndirectPing, Liveness, Message, Nack, NodeState, Ping, PushPull, Source, StreamMessage, Suspect,
    Versions,
};
use crate::wire::Text;
use crate::wire::msgpack::{DecodeError, Reader, Writer};

pub(crate) const PING: u8 = 0;
pub(crate) const INDIRECT_PING: u8 = 1;
pub(crate) const ACK: u8 = 2;
pub(crate) const SUSPECT: u8 = 3;
pub(crate) const ALIVE: u8 = 4;
pub(crate) const DEAD: u8 = 5;
pub(crate) const PUSH_PULL: u8 = 6;
pub(crate) const COMPOUND: u8 = 7;
pub(crate) const USER: u8 = 8;
pub(crate) const COMPRESSED: u8 = 9;
pub(crate) const ENCRYPTED: u8 = 10;
pub(crate) const NACK: u8 = 11;
pub(crate) const CHECKSUM: u8 = 12;
pub(crate) const ERROR: u8 = 13;

/// Values in one struct, those within others included. The largest has a dozen fields, one of which may be an array of 512
/// bytes.
const VALUES_MAX: usize = 4096;

/// A reader for one struct.
pub(crate) fn struct_reader(bytes: &[u8]) -> Reader<'_> {
    Reader::new(bytes, VALUES_MAX)
}

impl Versions {
    /// What this library speaks, and what Serf's agent says by default.
    pub const OURS: Self =
        Self { protocol_min: 1, protocol_max: 5, protocol: 2, delegate_min: 2, delegate_max: 5, delegate: 5 };

    fn to_bytes(self) -> [u8; 6] {
        [self.protocol_min, self.protocol_max, self.protocol, self.delegate_min, self.delegate_max, self.delegate]
    }

    /// None if they do not say all of it; what follows the six is not ours to know.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let &[protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate] = bytes.first_chunk()?;
        Some(Self { protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate })
    }
}

impl Message {
    /// The type and the message.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Ping(ping) => encode_ping(ping),
            Self::IndirectPing(ping) => encode_indirect_ping(ping),
            Self::Ack(ack) => encode_ack(ack),
            Self::Nack(nack) => Writer::new(NACK).map(1).key("SeqNo").uint(nack.seq_no).finish(),
            Self::Suspect(Suspect { incarnation, node, from }) => encode_verdict(SUSPECT, *incarnation, node, from),
            Self::Dead(Dead { incarnation, node, from }) => encode_verdict(DEAD, *incarnation, node, from),
            Self::Alive(alive) => encode_alive(alive),
            Self::User(message) => Writer::new(USER).raw(message).finish(),
        }
    }

    /// The message in these bytes, which has to be one of a datagram. What follows it is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&message_type, body) = bytes.split_first().ok_or(DecodeError::Truncated)?;
        let reader = &mut struct_reader(body);
        match message_type {
            PING => decode_ping(reader).map(Self::Ping),
            INDIRECT_PING => decode_indirect_ping(reader).map(Self::IndirectPing),
            ACK => decode_ack(reader).map(Self::Ack),
            NACK => decode_ack(reader).map(|ack| Self::Nack(Nack { seq_no: ack.seq_no })),
            SUSPECT => decode_verdict(reader)
                .map(|(incarnation, node, from)| Self::Suspect(Suspect { incarnation, node, from })),
            DEAD => {
                decode_verdict(reader).map(|(incarnation, node, from)| Self::Dead(Dead { incarnation, node, from }))
            }
            ALIVE => decode_alive(reader).map(Self::Alive),
            USER => Ok(Self::User(Bytes::copy_from_slice(body))),
            _ => Err(DecodeError::UnknownType(message_type)),
        }
    }
}

impl StreamMessage {
    /// The type and the message.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::PushPull(state) => encode_push_pull(state),
            Self::Ping(ping) => encode_ping(ping),
            Self::Ack(ack) => encode_ack(ack),
            Self::User(message) => Writer::new(USER).map(1).key("UserMsgLen").len(message.len()).raw(message).finish(),
            Self::Error(error) => Writer::new(ERROR).map(1).key("Error").text(error).finish(),
        }
    }
}

fn encode_ping(ping: &Ping) -> Bytes {
    let writer = Writer::new(PING).map(2 + source_fields(&ping.source));
    let writer = writer.key("Node").text(&ping.node).key("SeqNo").uint(ping.seq_no);
    encode_source(writer, &ping.source).finish()
}

pub(crate) fn decode_ping(reader: &mut Reader<'_>) -> Result<Ping, DecodeError> {
    let mut ping = Ping { seq_no: 0, node: Text::default(), source: Source::default() };
    reader.fields(|key, reader| {
        match key {
            b"Node" => ping.node = reader.text()?,
            b"SeqNo" => ping.seq_no = reader.uint()?,
            _ => decode_source(key, reader, &mut ping.source)?,
        }
        Ok(())
    })?;
    Ok(ping)
}

fn encode_indirect_ping(ping: &IndirectPing) -> Bytes {
    let writer = Writer::new(INDIRECT_PING).map(5 + source_fields(&ping.source));
    let writer = writer.key("Nack").bool(ping.nack).key("Node").text(&ping.node);
    let writer = writer.key("Port").uint(ping.port).key("SeqNo").uint(ping.seq_no);
    encode_source(writer, &ping.source).key("Target").addr(ping.target).finish()
}

fn decode_indirect_ping(reader: &mut Reader<'_>) -> Result<IndirectPing, DecodeError> {
    let (mut seq_no, mut target, mut port, mut nack) = (0, None, 0, false);
    let (mut node, mut source) = (Text::default(), Source::default());
    reader.fields(|key, reader| {
        match key {
            b"Nack" => nack = reader.bool()?,
            b"Node" => node = reader.text()?,
            b"Port" => port = reader.uint()?,
            b"SeqNo" => seq_no = reader.uint()?,
            b"Target" => target = reader.addr()?,
            _ => decode_source(key, reader, &mut source)?,
        }
        Ok(())
    })?;
    let target = target.ok_or(DecodeError::Address(0))?;
    Ok(IndirectPing { seq_no, target, port, node, nack, source })
}

/// How many fields of a source are written: those that say something.
fn source_fields(source: &Source) -> usize {
    usize::from(source.addr.is_some()) + usize::from(!source.node.is_empty()) + usize::from(source.port != 0)
}

fn encode_source(mut writer: Writer, source: &Source) -> Writer {
    if let Some(addr) = source.addr {
        writer = writer.key("SourceAddr").addr(addr);
    }
    if !source.node.is_empty() {
        writer = writer.key("SourceNode").text(&source.node);
    }
    if source.port != 0 {
        writer = writer.key("SourcePort").uint(source.port);
    }
    writer
}

/// A field of a source, or one that is not known.
fn decode_source(key: &[u8], reader: &mut Reader<'_>, source: &mut Source) -> Result<(), DecodeError> {
    match key {
        b"SourceAddr" => source.addr = reader.addr()?,
        b"SourceNode" => source.node = reader.text()?,
        b"SourcePort" => source.port = reader.uint()?,
        _ => reader.skip()?,
    }
    Ok(())
}

fn encode_ack(ack: &Ack) -> Bytes {
    Writer::new(ACK).map(2).key("Payload").bytes(&ack.payload).key("SeqNo").uint(ack.seq_no).finish()
}

pub(crate) fn decode_ack(reader: &mut Reader<'_>) -> Result<Ack, DecodeError> {
    let mut ack = Ack { seq_no: 0, payload: Bytes::new() };
    reader.fields(|key, reader| {
        match key {
            b"Payload" => ack.payload = reader.owned_bytes()?,
            b"SeqNo" => ack.seq_no = reader.uint()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(ack)
}

/// What one node says of another: that it suspects it, or that it is dead.
fn encode_verdict(message_type: u8, incarnation: u32, node: &Text, from: &Text) -> Bytes {
    let writer = Writer::new(message_type).map(3).key("From").text(from);
    writer.key("Incarnation").uint(incarnation).key("Node").text(node).finish()
}

fn decode_verdict(reader: &mut Reader<'_>) -> Result<(u32, Text, Text), DecodeError> {
    let (mut incarnation, mut node, mut from) = (0, Text::default(), Text::default());
    reader.fields(|key, reader| {
        match key {
            b"From" => from = reader.text()?,
            b"Incarnation" => incarnation = reader.uint()?,
            b"Node" => node = reader.text()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok((incarnation, node, from))
}

fn encode_alive(alive: &Alive) -> Bytes {
    let writer = Writer::new(ALIVE).map(6).key("Addr").addr(alive.addr);
    let writer = writer.key("Incarnation").uint(alive.incarnation).key("Meta").bytes(&alive.meta);
    let writer = writer.key("Node").text(&alive.node).key("Port").uint(alive.port);
    encode_versions(writer, alive.versions).finish()
}

fn decode_alive(reader: &mut Reader<'_>) -> Result<Alive, DecodeError> {
    let NodeState { name: node, addr, port, meta, incarnation, versions, .. } = decode_node(reader)?;
    Ok(Alive { incarnation, node, addr, port, meta, versions })
}

fn encode_versions(writer: Writer, versions: Option<Versions>) -> Writer {
    let writer = writer.key("Vsn");
    match versions {
        Some(versions) => writer.bytes(&versions.to_bytes()),
        None => writer.nil(),
    }
}

fn encode_push_pull(state: &PushPull) -> Bytes {
    let writer = Writer::new(PUSH_PULL).map(3).key("Join").bool(state.join);
    let writer = writer.key("Nodes").len(state.nodes.len()).key("UserStateLen").len(state.user_state.len());
    writer.each(&state.nodes, encode_node).raw(&state.user_state).finish()
}

/// What stands before the nodes and the state of the layer above. The numbers are claims.
pub(crate) struct PushPullHeader {
    pub(crate) join: bool,
    pub(crate) nodes: u64,
    pub(crate) user_state_length: u64,
}

pub(crate) fn decode_push_pull_header(reader: &mut Reader<'_>) -> Result<PushPullHeader, DecodeError> {
    let mut header = PushPullHeader { join: false, nodes: 0, user_state_length: 0 };
    reader.fields(|key, reader| {
        match key {
            b"Join" => header.join = reader.bool()?,
            b"Nodes" => header.nodes = reader.uint()?,
            b"UserStateLen" => header.user_state_length = reader.uint()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(header)
}

/// The length of what follows, which is a claim.
pub(crate) fn decode_user_header(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let mut length = 0;
    reader.fields(|key, reader| {
        match key {
            b"UserMsgLen" => length = reader.uint()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(length)
}

pub(crate) fn decode_error(reader: &mut Reader<'_>) -> Result<Text, DecodeError> {
    let mut error = Text::default();
    reader.fields(|key, reader| {
        match key {
            b"Error" => error = reader.text()?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    Ok(error)
}

fn encode_node(writer: Writer, node: &NodeState) -> Writer {
    let writer = writer.map(7).key("Addr").addr(node.addr).key("Incarnation").uint(node.incarnation);
    let writer = writer.key("Meta").bytes(&node.meta).key("Name").text(&node.name).key("Port").uint(node.port);
    encode_versions(writer.key("State").uint(node.state.to_byte()), node.versions)
}

/// A node of a push/pull, or an alive message, which has the same fields but for the name of the name.
pub(crate) fn decode_node(reader: &mut Reader<'_>) -> Result<NodeState, DecodeError> {
    let (mut addr, mut port, mut incarnation, mut state) = (None, 0, 0, Liveness::Alive);
    let (mut name, mut meta, mut versions) = (Text::default(), Bytes::new(), None);
    reader.fields(|key, reader| {
        match key {
            b"Addr" => addr = reader.addr()?,
            b"Incarnation" => incarnation = reader.uint()?,
            b"Meta" => meta = reader.owned_bytes()?,
            b"Name" | b"Node" => name = reader.text()?,
            b"Port" => port = reader.uint()?,
            b"State" => state = Liveness::from_byte(reader.uint()?)?,
            b"Vsn" => versions = Versions::from_bytes(&reader.owned_bytes()?),
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let addr = addr.ok_or(DecodeError::Address(0))?;
    Ok(NodeState { name, addr, port, meta, incarnation, state, versions })
}

impl Liveness {
    fn to_byte(self) -> u8 {
        match self {
            Self::Alive => 0,
            Self::Suspect => 1,
            Self::Dead => 2,
            Self::Left => 3,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            0 => Ok(Self::Alive),
            1 => Ok(Self::Suspect),
            2 => Ok(Self::Dead),
            3 => Ok(Self::Left),
            _ => Err(DecodeError::OutOfRange),
        }
    }
}
