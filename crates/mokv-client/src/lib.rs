//! The Rust client of mökv, a distributed, strongly consistent, in-memory key-value store.
//!
//! ```no_run
//! # async fn example() -> Result<(), mokv_client::Error> {
//! use mokv_client::Client;
//!
//! let client = Client::connect("mokv://127.0.0.1:8400")?;
//!
//! client.set("59°19'14.7\"N", "18°3'47.3\"E").await?;
//! if let Some(pair) = client.get("59°19'14.7\"N").await? {
//!     println!("{} = {}", pair.key, String::from_utf8_lossy(&pair.value));
//! }
//! client.delete("59°19'14.7\"N").await?;
//!
//! for server in client.servers().await? {
//!     println!("{} at {}{}", server.id, server.rpc_addr, if server.is_leader { ", the leader" } else { "" });
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One [`Client`] serves a whole process: clone it, and call it from as many tasks as you like. What they ask at the same
//! time goes to a node in one message.
//!
//! # Where to connect
//!
//! `[mokv://]host:port[,host:port...][?option=value[&option=value]]`. One address is enough to find the others; more help
//! while a node is away.
//!
//! | option | |
//! |---|---|
//! | `routing=all` | The default. The client asks for the members of the cluster, sends writes to the leader and spreads reads over the others. It only uses addresses that answer, so an address that means nothing here (behind a port-forward, in another network) does no harm. |
//! | `routing=single` | Only the given addresses are used. |
//! | `timeout=5s` | How long a call may take, all attempts included, in `ms`, `s` or `m`. 10 s if nothing is said; [`Client::with_timeout`] and each request's `timeout` change it. |
//!
//! # Reading and writing
//!
//! A request is built, and sent when it is awaited:
//!
//! ```no_run
//! # async fn example(client: mokv_client::Client) -> Result<(), mokv_client::Error> {
//! use std::time::Duration;
//!
//! use mokv_client::KeyRange;
//!
//! // A lock file, as it were: only who finds none writes one, and it goes away by itself.
//! let mine = client.set("jobs/7/worker", "me").if_absent().ttl(Duration::from_secs(30)).await?.ok;
//!
//! // Read, change, write back if nobody else has written meanwhile.
//! if let Some(pair) = client.get("settings").await? {
//!     let written = client.set("settings", "new").if_revision(pair.mod_revision).previous().await?;
//!     println!("written: {}, before: {:?}", written.ok, written.previous);
//! }
//!
//! // All of a range as of one moment, and later the same moment again.
//! let mut list = client.list(KeyRange::prefix("jobs/")).limit(100).await?;
//! let revision = list.revision();
//! while let Some(pair) = list.next().await? {
//!     println!("{}", pair.key);
//! }
//!
//! let hits = client.increment("hits", 1).await?.value;
//! let gone = client.delete_range(KeyRange::prefix("jobs/7/")).await?.deleted;
//! # drop((mine, revision, hits, gone));
//! # Ok(())
//! # }
//! ```
//!
//! A condition that does not hold is no error: the answer's `ok` is false, and says what there is. [`Txn`] does several
//! things at once, or none of them.
//!
//! Reads are linearizable unless they are told to be less strict ([`Get::local`], [`Get::max_staleness`]); a [`Session`]
//! makes local reads see what the session has seen.
//!
//! # When nodes fail
//!
//! Calls are tried on other nodes, and again after growing pauses, until they are answered or their time is over. That is
//! safe for writes, too: the client numbers them in a session with the cluster, which knows a write that comes again and
//! gives it the answer of the first. A node that is silent is left within a second by a read and within two by a write, and
//! is used again once it answers.
//!
//! So an [`Error`] is rare, and keeps two answers apart: *failed* (nothing happened, nor will it) and *unknown*
//! ([`Error::OutcomeUnknown`]: the write was under way when its time was over).
//!
//! | call | tried again |
//! |---|---|
//! | reads, lists | until the timeout; a list goes on where it was, at its revision |
//! | writes | until the timeout, with one effect |
//! | writes of [`Client::at_most_once`] | only after failures that are known to have had no effect |
//! | operating the cluster ([`Client::members`], [`Client::add_member`] ...) | on each given address once |
//!
//! [`Client::fail_fast`] gives up sooner where nobody takes a connection.
//!
//! Spans and events go to [`tracing`]: one span a call, one event at the level `debug` for each attempt that failed.

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
