//! The messages of memberlist, the layer that knows who is there.

use std::net::IpAddr;

use bytes::Bytes;

use super::Text;

pub(super) mod codec;

/// The most meta data that a node may have (memberlist.go `MetaMaxSize`).
pub const META_BYTES_MAX: usize = 512;

/// The versions that a node speaks: of memberlist's protocol, and of that of the layer above it ("delegate").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The lowest protocol.
    pub protocol_min: u8,
    /// The highest protocol.
    pub protocol_max: u8,
    /// The protocol that it speaks.
    pub protocol: u8,
    /// The lowest version of the layer above.
    pub delegate_min: u8,
    /// The highest version of the layer above.
    pub delegate_max: u8,
    /// The version of the layer above that it speaks.
    pub delegate: u8,
}

/// Where an answer goes, if not to the sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The address; none if the sender's counts.
    pub addr: Option<IpAddr>,
    /// The port; 0 if the sender's counts.
    pub port: u16,
    /// The name.
    pub node: Text,
}

/// Are you there?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// Chosen by the sender.
    pub seq_no: u32,
    /// Who is meant; empty if it does not matter.
    pub node: Text,
    /// Who asks.
    pub source: Source,
}

/// Is that node there, of which I hear nothing?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndirectPing {
    /// Chosen by the sender.
    pub seq_no: u32,
    /// Where the node is.
    pub target: IpAddr,
    /// Its port; 0 for the receiver's own port.
    pub port: u16,
    /// Its name.
    pub node: Text,
    /// Whether the receiver is to say that it heard nothing either.
    pub nack: bool,
    /// Who asks.
    pub source: Source,
}

/// I am here, or that node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The one of the ping.
    pub seq_no: u32,
    /// Network coordinates, in Serf's case. Not looked at.
    pub payload: Bytes,
}

/// I am here, but hear nothing of that node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nack {
    /// The one of the indirect ping.
    pub seq_no: u32,
}

/// A node does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// The node's incarnation that is suspected.
    pub incarnation: u32,
    /// The node.
    pub node: Text,
    /// Who says so.
    pub from: Text,
}

/// A node is there, with these properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive {
    /// Raised by the node itself when it has news, or refutes what is said of it.
    pub incarnation: u32,
    /// The node.
    pub node: Text,
    /// Where it is.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// The tags, as the layer above encodes them.
    pub meta: Bytes,
    /// What it speaks; none if it did not say.
    pub versions: Option<Versions>,
}

/// A node is gone. If it says so itself, it has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// The node's incarnation.
    pub incarnation: u32,
    /// The node.
    pub node: Text,
    /// Who says so.
    pub from: Text,
}

/// How a node is doing, as somebody sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It does not answer, and has not had the time to object.
    Suspect,
    /// It is gone.
    Dead,
    /// It said good-bye.
    Left,
}

/// A node, as an exchange of whole states has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// The node.
    pub name: Text,
    /// Where it is.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// The tags, as the layer above encodes them.
    pub meta: Bytes,
    /// Its incarnation.
    pub incarnation: u32,
    /// How it is doing.
    pub state: Liveness,
    /// What it speaks; none if nobody said.
    pub versions: Option<Versions>,
}

/// All that a node knows, for another one that tells what it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushPull {
    /// Whether the sender is new.
    pub join: bool,
    /// The nodes.
    pub nodes: Vec<NodeState>,
    /// A message of the layer above ([`serf::Message::PushPull`](super::serf::Message::PushPull)).
    pub user_state: Bytes,
}

/// A message in a datagram, without its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`Ping`].
    Ping(Ping),
    /// See [`IndirectPing`].
    IndirectPing(IndirectPing),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Nack`].
    Nack(Nack),
    /// See [`Suspect`].
    Suspect(Suspect),
    /// See [`Alive`].
    Alive(Alive),
    /// See [`Dead`].
    Dead(Dead),
    /// A message of the layer above, encoded.
    User(Bytes),
}

/// A message in a TCP connection, without its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamMessage {
    /// See [`PushPull`]: the question and the answer.
    PushPull(PushPull),
    /// A ping where datagrams do not arrive.
    Ping(Ping),
    /// Its answer.
    Ack(Ack),
    /// A message of the layer above, encoded. Not answered.
    User(Bytes),
    /// The other side could not understand, and says why.
    Error(Text),
}
