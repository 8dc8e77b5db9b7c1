//! The Rust client of mökv, a distributed, strongly consistent, in-memory key-value store.

mod address;
mod admin;
mod calls;
mod client;
mod election;
mod error;
mod exactly_once;
mod lease;
mod list;
mod lock;
mod operation;
mod pair;
mod pipeline;
mod queue;
mod range;
mod read;
mod retry;
mod routes;
mod session;
mod snapshot;
mod txn;
mod watch;
mod write;

pub use client::{Client, DEFAULT_TIMEOUT};
pub use election::{Campaign, Election, Leader, Leadership, Observer};
pub use error::Error;
pub use lease::{GrantLease, Lease, LeaseTime};
pub use list::{List, ListKeys};
pub use lock::{Lock, LockGuard};
pub use mokv_proto::api::{Consistency, Server};
pub use pair::{Counted, Deleted, DeletedRange, Found, Incremented, Pair, Written};
pub use range::KeyRange;
pub use read::{Count, Get};
pub use session::Session;
pub use snapshot::SnapshotStream;
pub use txn::{Compare, Comparing, Transact, Txn, TxnAnswer, TxnDelete, TxnList, TxnOp, TxnResult, TxnSet};
pub use watch::{Changes, Event, Watch, WatchItem, WatchKeys};
pub use write::{Delete, DeleteRange, Increment, Set};

/// The messages of operating a cluster, as the contract has them.
pub mod messages {
    pub use mokv_proto::cluster::{ListMembersResponse, Member, Peer, PeerState, Role, StatusResponse};
}
