//! What a handle asks of the task that owns the core.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::serf::{Counters, KeyCommand, KeyReport, Query, QueryAnswer, QueryOptions, SendError};
use crate::wire::Text;
use crate::wire::serf::Tags;

/// Why a request of this node's own was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nothing was sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The agent does not run any more. What was asked just before may have been done.
    #[error("the agent has stopped")]
    Stopped,
}

/// Where the outcome goes. Nobody need wait there.
pub(super) type Reply<T> = oneshot::Sender<T>;

pub(super) enum Request {
    Join {
        to: SocketAddr,
        reply: Reply<Result<usize, String>>,
    },
    Leave {
        reply: Reply<()>,
    },
    ForceLeave {
        node: Text,
        prune: bool,
        reply: Reply<()>,
    },
    SetTags {
        tags: Tags,
        reply: Reply<Result<(), SendError>>,
    },
    UserEvent {
        name: Text,
        payload: Bytes,
        coalesce: bool,
        reply: Reply<Result<(), SendError>>,
    },
    Query {
        name: Text,
        payload: Bytes,
        options: QueryOptions,
        reply: Reply<Result<mpsc::Receiver<QueryAnswer>, SendError>>,
    },
    Respond {
        query: Query,
        payload: Bytes,
        reply: Reply<Result<(), SendError>>,
    },
    Keys {
        command: KeyCommand,
        reply: Reply<Result<KeyReport, SendError>>,
    },
    Counters {
        reply: Reply<Counters>,
    },
}
