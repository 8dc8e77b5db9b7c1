//! The application data of a log entry: a [`Batch`] of commands, and the outcomes of applying it.
//!
//! A batch stays encoded from the proposer to the log and over the network; it is decoded once, to be applied.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use mokv_proto::internal;
use prost::{Message, length_delimiter_len};

use crate::incarnation::Lineage;
use crate::raft::types::NodeId;
use crate::store::LogTime;

pub use mokv_proto::internal::command::Op;
pub use mokv_proto::internal::outcome::Result as OutcomeResult;
pub use mokv_proto::internal::{Command, Outcome, Rejection, RequestId};

/// Commands that are proposed together, encoded as they are in a [`Batch`]. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    encoded: Bytes,
    len: usize,
}

/// What precedes each command in a batch: its field, of which the length comes first.
const COMMANDS_TAG: u8 = 1 << 3 | 2;

impl Group {
    /// Encodes commands, to be applied in this order.
    pub fn new<'a>(commands: impl IntoIterator<Item = &'a Command, IntoIter: Clone>) -> Self {
        let commands = commands.into_iter();
        let bytes =
            commands.clone().map(|command| 1 + length_delimiter_len(command.encoded_len()) + command.encoded_len());
        let (mut encoded, mut len) = (BytesMut::with_capacity(bytes.sum()), 0);
        for command in commands {
            encoded.put_u8(COMMANDS_TAG);
            command.encode_length_delimited(&mut encoded).expect("a buffer that grows");
            len += 1;
        }
        Self { encoded: encoded.freeze(), len }
    }

    /// The encoded bytes.
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// The number of commands.
    pub fn commands(&self) -> usize {
        self.len
    }
}

/// What precedes the log time of a batch.
const LOG_TIME_TAG: u8 = 2 << 3;

/// The writes of one group commit, encoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    encoded: Bytes,
}

impl Batch {
    /// Encodes commands, to be applied in this order at this log time.
    pub fn new(commands: &[Command], log_time: LogTime) -> Self {
        Self::of_groups(&[Group::new(commands)], log_time)
    }

    /// Groups, one after the other.
    pub fn of_groups(groups: &[Group], log_time: LogTime) -> Self {
        let rest = internal::Batch { commands: Vec::new(), log_time_ms: log_time.as_millis() };
        let bytes = groups.iter().map(Group::bytes).sum::<usize>() + rest.encoded_len();
        let mut encoded = BytesMut::with_capacity(bytes);
        // First, so that it can be read without the rest.
        rest.encode(&mut encoded).expect("a buffer that grows");
        for group in groups {
            encoded.put_slice(&group.encoded);
        }
        Self { encoded: encoded.freeze() }
    }

    /// A batch that was encoded before. It is not looked at until [`Batch::decode`].
    pub fn from_encoded(encoded: Bytes) -> Self {
        Self { encoded }
    }

    /// The encoded form.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The log time, where it comes first, as it does in batches that are encoded here; otherwise zero.
    pub fn log_time(&self) -> LogTime {
        let mut millis = self.encoded.strip_prefix(&[LOG_TIME_TAG]).unwrap_or(&[0]);
        prost::encoding::decode_varint(&mut millis).map(LogTime::from_millis).unwrap_or_default()
    }

    /// Decodes the log time and the commands. Their keys and values are slices of the batch's memory: copy what is kept.
    ///
    /// # Errors
    ///
    /// The bytes are no batch. In a log entry that was committed this is corruption, and nothing can be applied after it.
    pub fn decode(&self) -> Result<(LogTime, Vec<Command>), prost::DecodeError> {
        let internal::Batch { commands, log_time_ms } = internal::Batch::decode(self.encoded.clone())?;
        Ok((LogTime::from_millis(log_time_ms), commands))
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

/// A command without a request id.
pub fn of(op: Op) -> Command {
    Command { id: None, op: Some(op) }
}

/// A write of `value` under `key`.
pub fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    of(Op::Set(internal::Set { key: key.into(), value: value.into(), ..Default::default() }))
}

/// A deletion of `key`.
pub fn delete(key: impl Into<Bytes>) -> Command {
    of(Op::Delete(internal::Delete { key: key.into(), ..Default::default() }))
}

/// The opening of a session.
pub fn open_session() -> Command {
    of(Op::OpenSession(internal::OpenSession {}))
}

/// The granting of a lease; id 0 has the cluster choose.
pub fn grant_lease(lease_id: u64, ttl: Duration) -> Command {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    of(Op::GrantLease(internal::GrantLease { lease_id, ttl_ms }))
}

/// The end of a lease and of its keys.
pub fn revoke_lease(lease_id: u64) -> Command {
    of(Op::RevokeLease(internal::RevokeLease { lease_id }))
}

/// The end of the keys whose deadline has come.
pub fn expire_keys() -> Command {
    of(Op::ExpireKeys(internal::ExpireKeys {}))
}

/// The end of leases that were not kept alive, as the leader of a term has decided.
pub fn expire_leases(term: u64, lease_ids: Vec<u64>) -> Command {
    of(Op::ExpireLeases(internal::ExpireLeases { term, lease_ids }))
}

/// That a member has started.
pub fn record_start(node_id: NodeId, lineage: &Lineage) -> Command {
    let (incarnation, numbers) = (lineage.start().incarnation, lineage.numbers().to_vec());
    of(Op::RecordStart(internal::RecordStart { node_id, incarnation, numbers }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let commands = vec![set("k", "v"), delete("k"), open_session()];
        let batch = Batch::new(&commands, LogTime::from_millis(7));
        let decoded = Batch::from_encoded(batch.encoded().clone()).decode().expect("decode");
        assert_eq!(decoded, (LogTime::from_millis(7), commands));
    }

    /// What is on disks and under way between nodes of two versions is the message, however it was put together.
    #[test]
    fn a_batch_is_the_message() {
        let commands = vec![set("k", vec![7; 300]), delete("k"), open_session()];
        let groups = [Group::new(&commands[..1]), Group::new(&commands[1..]), Group::new(&[])];
        assert_eq!(groups.each_ref().map(Group::commands), [1, 2, 0]);
        for log_time in [LogTime::default(), LogTime::from_millis(300)] {
            let message = internal::Batch { commands: commands.clone(), log_time_ms: log_time.as_millis() };
            let batch = Batch::of_groups(&groups, log_time);
            assert_eq!(internal::Batch::decode(batch.encoded().clone()).expect("decode"), message);
            assert_eq!(batch.encoded().len(), message.encoded_len());
            assert_eq!(batch, Batch::new(&commands, log_time));
            assert_eq!(batch.log_time(), log_time);
        }
    }
}
