//! The Rust client of mökv, a distributed, strongly consistent, in-memory key-value store.
//!
//! ```no_run
//! # async fn example() -> Result<(), mokv_client::Error> {
//! use mokv_client::Client;
//!
//! let client = Client::connect("mokv://10.0.0.1:8400,10.0.0.2:8400,10.0.0.3:8400")?;
//!
//! client.set("greeting", "hello").await?;
//! let found = client.get("greeting").await?.expect("just set");
//! assert_eq!(&found.value[..], b"hello");
//!
//! // A session's writes may be sent again, to another node even, and still take effect once.
//! let session = client.session();
//! session.set("counter", "1").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Any node takes any request, so one address is enough to begin with; more keep the client going while a node is away.
//! Every call has a deadline ([`Client::with_timeout`], 10 s by default) which the servers know of.
//!
//! # When a call fails
//!
//! [`Error`] keeps two answers apart: *failed* (nothing happened, nor will it) and *unknown*
//! ([`Error::OutcomeUnknown`]: the write may have happened, or may still). What the client does by itself follows from that:
//!
//! | call | tried again |
//! |---|---|
//! | reads | on each other endpoint once, when a node can't be reached or can't answer |
//! | [`Client::set`], [`Client::delete`] | the same, but only when the failure is known to have had no effect |
//! | writes of a [`Session`] | on all endpoints, with growing pauses, until the deadline, whatever the failure was |

mod admin;
mod calls;
mod client;
mod error;
mod list;
mod session;
mod snapshot;

pub use client::{Client, DEFAULT_TIMEOUT};
pub use error::Error;
pub use list::List;
pub use session::Session;
pub use snapshot::SnapshotStream;

/// The messages that calls take and return, as the contract has them.
pub mod messages {
    pub use mokv_proto::api::{Consistency, DeleteResponse, GetResponse, ListRequest, Server, SetResponse};
    pub use mokv_proto::cluster::{ListMembersResponse, Member, Peer, PeerState, Role, StatusResponse};
}
