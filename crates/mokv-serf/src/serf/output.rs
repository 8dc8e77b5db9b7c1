//! What comes out of [`Serf`](super::Serf).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::internal_queries::KeyReport;
use super::members::Member;
use crate::gossip::DialId;
use crate::wire::Text;
use crate::wire::keyring::Keyring;
use crate::wire::memberlist::StreamMessage;
use crate::wire::serf::{self as wire, LamportTime, UserEvent};

/// What the shell is to do, or to pass on.
#[derive(Debug)]
pub enum Output {
    /// Send it. It may get lost.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// With all layers.
        bytes: Bytes,
    },
    /// Open a stream, send this, and bring the answer, if one is awaited, to
    /// [`dial_finished`](super::Serf::dial_finished).
    Dial {
        /// What the answer is for.
        id: DialId,
        /// To whom.
        to: SocketAddr,
        /// The request.
        message: StreamMessage,
        /// Whether there will be an answer.
        awaits_answer: bool,
        /// How long all of it may take.
        timeout: Duration,
    },
    /// Something happened.
    Event(Event),
    /// A [`join`](super::Serf::join) came to an end.
    JoinFinished {
        /// Which one.
        id: DialId,
        /// How many nodes were contacted, or why none.
        result: Result<usize, String>,
    },
    /// Word of a query that this node asked.
    QueryAnswer {
        /// Which query.
        id: QueryId,
        /// What is known now.
        answer: QueryAnswer,
    },
    /// A query about keys came to an end.
    KeysFinished {
        /// Which query.
        id: QueryId,
        /// What the nodes said.
        report: KeyReport,
    },
    /// This node has left, as far as that is in its hands: it may stop.
    Left,
    /// Another node has this node's name, and a majority takes that one for the right one: this node has to stop.
    NameTaken,
    /// Keys came or went: they are to be kept for the next start.
    KeyringChanged(Keyring),
}

/// What happened in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member is there, for the first time or again.
    Joined(Member),
    /// It says something else of itself; or it said that it would leave, and stays.
    Updated(Member),
    /// It is about to leave.
    Leaving(Member),
    /// It left.
    Left(Member),
    /// It disappeared.
    Failed(Member),
    /// It was gone for so long that it is forgotten, or somebody wanted it to be.
    Reaped(Member),
    /// An event that somebody sent to all.
    User(UserEvent),
    /// A query that somebody asked, and that this node is meant by; see [`respond`](super::Serf::respond).
    Query(Query),
}

/// A query that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What is asked, and by whom.
    pub query: wire::Query,
    /// Until when an answer is of use.
    pub deadline: Duration,
}

/// Tells the queries of this node from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId {
    pub(super) time: LamportTime,
    pub(super) id: u32,
}

/// Word of a query that this node asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryAnswer {
    /// It reached this node.
    Ack(Text),
    /// This node answers.
    Response {
        /// Who answers.
        from: Text,
        /// The answer.
        payload: Bytes,
    },
    /// No more will come: the time is over.
    Finished,
}
