//! The application data of a log entry: a [`Batch`] of commands, and the outcomes of applying it.
//!
//! A batch stays encoded from the proposer to the log and over the network; it is decoded once, to be applied.

use std::fmt;

use bytes::Bytes;
use mokv_proto::internal;
use prost::Message;

use crate::incarnation::Lineage;
use crate::raft::types::NodeId;

pub use mokv_proto::internal::command::Op;
pub use mokv_proto::internal::outcome::Result as OutcomeResult;
pub use mokv_proto::internal::{Command, Outcome, Rejection, RequestId};

/// The writes of one group commit, encoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    encoded: Bytes,
}

impl Batch {
    /// Encodes commands, to be applied in this order.
    pub fn new(commands: Vec<Command>) -> Self {
        Self { encoded: internal::Batch { commands, log_time_ms: 0 }.encode_to_vec().into() }
    }

    /// A batch that was encoded before. It is not looked at until [`Batch::commands`].
    pub fn from_encoded(encoded: Bytes) -> Self {
        Self { encoded }
    }

    /// The encoded form.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Decodes the commands. Their keys and values are slices of the batch's memory: copy what is kept.
    ///
    /// # Errors
    ///
    /// The bytes are no batch. In a log entry that was committed this is corruption, and nothing can be applied after it.
    pub fn commands(&self) -> Result<Vec<Command>, prost::DecodeError> {
        Ok(internal::Batch::decode(self.encoded.clone())?.commands)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.encoded.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the commands of one batch brought, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcomes(pub Vec<Outcome>);

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

/// A write of `value` under `key`.
pub fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    Command {
        id: None,
        op: Some(Op::Set(internal::Set { key: key.into(), value: value.into(), ..Default::default() })),
    }
}

/// A deletion of `key`.
pub fn delete(key: impl Into<Bytes>) -> Command {
    Command { id: None, op: Some(Op::Delete(internal::Delete { key: key.into(), ..Default::default() })) }
}

/// The opening of a session.
pub fn open_session() -> Command {
    Command { id: None, op: Some(Op::OpenSession(internal::OpenSession {})) }
}

/// That a member has started.
pub fn record_start(node_id: NodeId, lineage: &Lineage) -> Command {
    let (incarnation, numbers) = (lineage.start().incarnation, lineage.numbers().to_vec());
    Command { id: None, op: Some(Op::RecordStart(internal::RecordStart { node_id, incarnation, numbers })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let commands = vec![set("k", "v"), delete("k"), open_session()];
        let batch = Batch::new(commands.clone());
        assert_eq!(Batch::from_encoded(batch.encoded().clone()).commands().expect("decode"), commands);
    }
}
