//! The messages of Serf, the layer above memberlist. Each travels in a user message.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;

use super::Text;

mod codec;
mod tags;

pub use tags::{decode_tags, encode_tags};

/// A Lamport time.
pub type LamportTime = u64;

/// What a node says of itself.
pub type Tags = BTreeMap<Text, Text>;

/// A node is about to leave, or somebody wants it to be taken for one that has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveIntent {
    /// When.
    pub time: LamportTime,
    /// The node.
    pub node: Text,
    /// Whether it is to be forgotten altogether.
    pub prune: bool,
}

/// A node has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinIntent {
    /// When.
    pub time: LamportTime,
    /// The node.
    pub node: Text,
}

/// Events that happened at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsAt {
    /// When.
    pub time: LamportTime,
    /// Their names and payloads.
    pub events: Vec<(Text, Bytes)>,
}

/// What Serf adds to an exchange of whole states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushPull {
    /// The clock of intents.
    pub time: LamportTime,
    /// When each node last joined or left.
    pub status_times: BTreeMap<Text, LamportTime>,
    /// Nodes that have left.
    pub left_members: Vec<Text>,
    /// The clock of events.
    pub event_time: LamportTime,
    /// Recent events. Empty slots are left out.
    pub events: Vec<EventsAt>,
    /// The clock of queries.
    pub query_time: LamportTime,
}

/// Something for all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEvent {
    /// When.
    pub time: LamportTime,
    /// Its name.
    pub name: Text,
    /// What comes with it.
    pub payload: Bytes,
    /// Whether of several with this name only the last one need be told.
    pub coalesce: bool,
}

/// Which nodes a query is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// These.
    Nodes(Vec<Text>),
    /// Those with a tag that matches a regular expression.
    Tag {
        /// The tag.
        tag: Text,
        /// The expression; it may match anywhere in the value.
        expr: Text,
    },
    /// One that is not understood, as it was. No node matches it, but the query is passed on.
    Unknown(Bytes),
}

/// Something that nodes answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// When.
    pub time: LamportTime,
    /// With the time, what tells it from others.
    pub id: u32,
    /// Where answers go.
    pub addr: IpAddr,
    /// The port there.
    pub port: u16,
    /// Who asks.
    pub source_node: Text,
    /// All of them have to match.
    pub filters: Vec<Filter>,
    /// See [`Query::ACK`] and [`Query::NO_BROADCAST`].
    pub flags: u32,
    /// Over how many other nodes each answer goes as well.
    pub relay_factor: u8,
    /// How long answers are waited for, in nanoseconds.
    pub timeout: i64,
    /// Its name; those that begin with `_serf_` are Serf's own.
    pub name: Text,
    /// What comes with it.
    pub payload: Bytes,
}

impl Query {
    /// Flag: each node is to say that it received the query.
    pub const ACK: u32 = 1;
    /// Flag: the query is not passed on.
    pub const NO_BROADCAST: u32 = 2;
}

/// An answer to a query, or the word that it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryResponse {
    /// The query's time.
    pub time: LamportTime,
    /// The query's id.
    pub id: u32,
    /// Who answers.
    pub from: Text,
    /// See [`QueryResponse::ACK`].
    pub flags: u32,
    /// The answer.
    pub payload: Bytes,
}

impl QueryResponse {
    /// Flag: only the word that the query arrived.
    pub const ACK: u32 = 1;
}

/// A member, as the answer to a conflict of names has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: Text,
    /// Where it is.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its tags.
    pub tags: Tags,
    /// 1 alive, 2 leaving, 3 left, 4 failed.
    pub status: u8,
    /// memberlist's protocol: lowest, highest, spoken.
    pub protocol: [u8; 3],
    /// Serf's protocol: lowest, highest, spoken.
    pub delegate: [u8; 3],
}

/// The answer to a query about keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyResponse {
    /// Whether it worked.
    pub result: bool,
    /// If not, why.
    pub message: Text,
    /// The keys in use, in base64.
    pub keys: Vec<Text>,
    /// The one that is encrypted with.
    pub primary_key: Text,
}

/// A message that another node is to send on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Where to.
    pub addr: IpAddr,
    /// The port there.
    pub port: u16,
    /// To whom.
    pub node: Text,
    /// A Serf message, encoded.
    pub message: Bytes,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`LeaveIntent`].
    Leave(LeaveIntent),
    /// See [`JoinIntent`].
    Join(JoinIntent),
    /// See [`PushPull`]. Only in an exchange of whole states.
    PushPull(PushPull),
    /// See [`UserEvent`].
    UserEvent(UserEvent),
    /// See [`Query`].
    Query(Query),
    /// See [`QueryResponse`].
    QueryResponse(QueryResponse),
    /// What a node knows of a name that two nodes have. Only in a [`QueryResponse`].
    ConflictResponse(Option<Member>),
    /// A key to install, use or remove. Only in a [`Query`].
    KeyRequest(Bytes),
    /// See [`KeyResponse`]. Only in a [`QueryResponse`].
    KeyResponse(KeyResponse),
    /// See [`Relay`].
    Relay(Relay),
}
