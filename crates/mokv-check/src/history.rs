//! What is recorded of a run: the calls of its clients, what came back, and what the nodes applied.
//!
//! It owns the format, in memory and as JSON lines, one [`Event`] a line. Whether a history makes sense is for the
//! checkers to say.
//!
//! # How to record
//!
//! - Every call is recorded *before* it is sent and every return *after* it arrived, on one clock. Recorded calls then
//!   last longer than the real ones, which can only hide a violation, never invent one. The order of the events in the
//!   history means nothing, their times do.
//! - Every client there is has to be recorded: the checkers take the calls for all that ever wrote to the store, and
//!   the store for empty at the beginning.
//! - A call that is repeated until it is answered is one call, if a session makes the repeats take effect once.
//!   Without a session a repeat is a call of its own, and the one before it ended with [`Outcome::Unknown`].
//! - A call that has not returned when the recording ends stays without a [`Event::Return`]: it counts as unknown.
//!   Leaving it out would make correct histories illegal.
//! - [`Event::Commit`]s are optional, but a history that has one claims to have them all: each write transaction that
//!   any node applied before the last return.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A client is about to call.
    Call {
        /// Unique in the history.
        id: u64,
        /// Who calls.
        client: u64,
        /// Microseconds since the run began.
        at: u64,
        /// What is asked.
        op: Op,
    },
    /// The call has ended, at most once.
    Return {
        /// The call's.
        id: u64,
        /// Microseconds since the run began.
        at: u64,
        /// How it ended.
        result: Outcome,
    },
    /// One write transaction as a node applied it: a tap at apply, or a watch from revision 1 on. A node may report a
    /// revision again, for instance when it replays its log.
    Commit {
        /// Who applied it.
        node: u64,
        /// The revision that it took.
        revision: u64,
        /// What it changed, each key once. Their order means nothing.
        changes: Vec<Change>,
        /// The call whose write this is, where the tap knows, for instance from a session's request id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<u64>,
    },
}

/// What a client asks of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Sets a key.
    Set {
        /// The key.
        key: String,
        /// A token that is written only here, in the whole history.
        value: String,
    },
    /// Deletes a key. Deleting a missing key succeeds and takes no revision.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
        /// How fresh the answer has to be.
        read: Read,
    },
    /// Reads every pair whose key begins with the prefix, in the order of the keys' bytes.
    List {
        /// The prefix.
        prefix: String,
        /// How fresh the answer has to be.
        read: Read,
    },
    /// Compares, then does one of two lists of operations, all at one revision. The operations take effect one after
    /// another, each sees those before it. No list writes a key twice.
    Txn {
        /// All of them have to hold for `then`.
        compare: Vec<Compare>,
        /// What is done if they hold.
        then: Vec<TxnOp>,
        /// What is done if one does not.
        otherwise: Vec<TxnOp>,
    },
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// Whether it reflects what was acknowledged before it began.
    pub consistency: Consistency,
    /// It reflects at least this revision.
    pub min_revision: u64,
}

/// Whether a read reflects what was acknowledged before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// It does.
    Linearizable,
    /// It reflects a state that the store had once.
    Local,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum TxnOp {
    /// Sets a key.
    Set {
        /// The key.
        key: String,
        /// A token that is written only here, in the whole history.
        value: String,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
    },
}

/// A condition on one key, on the state before the transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "compare", rename_all = "snake_case", deny_unknown_fields)]
pub enum Compare {
    /// The value is this.
    Value {
        /// The key.
        key: String,
        /// `None`: the key is absent.
        expected: Option<String>,
    },
    /// The revision of the last write is this.
    ModRevision {
        /// The key.
        key: String,
        /// 0: the key is absent.
        expected: u64,
    },
    /// The number of writes since the key came to be is this.
    Version {
        /// The key.
        key: String,
        /// 0: the key is absent.
        expected: u64,
    },
    /// The revision at which the key came to be is this.
    CreateRevision {
        /// The key.
        key: String,
        /// 0: the key is absent.
        expected: u64,
    },
}

/// What a write transaction did to one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The key has this value now.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The key had a value, and has none now.
    Delete {
        /// The key.
        key: String,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It was answered.
    Ok {
        /// By this.
        answer: Answer,
    },
    /// It had no effect and never will.
    Failed {
        /// Why, for people.
        reason: String,
    },
    /// It may have had an effect, or may have one later.
    Unknown {
        /// Why, for people.
        reason: String,
    },
}

/// What a successful call was answered. Its kind is that of the [`Op`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To [`Op::Set`].
    Set {
        /// The revision of this write.
        revision: u64,
        /// The revision at which the key came to be, since it was last absent.
        create_revision: u64,
        /// How many times the key was written since then.
        version: u64,
    },
    /// To [`Op::Delete`].
    Delete {
        /// Whether the key had a value.
        existed: bool,
        /// The revision of this write; where nothing was deleted, of the view that showed it.
        revision: u64,
    },
    /// To [`Op::Get`].
    Get {
        /// The revision of the view.
        revision: u64,
        /// `None`: the key is absent.
        pair: Option<Pair>,
    },
    /// To [`Op::List`].
    List {
        /// The revision of the view.
        revision: u64,
        /// In the order of the keys' bytes.
        pairs: Vec<Pair>,
    },
    /// To [`Op::Txn`].
    Txn {
        /// Whether all compares held.
        succeeded: bool,
        /// The revision of this write; where nothing was changed, of the view.
        revision: u64,
        /// One for each operation of the list that was done.
        results: Vec<TxnResult>,
    },
}

/// A key as a read shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision at which the key came to be, since it was last absent.
    pub create_revision: u64,
    /// The revision of the last write.
    pub mod_revision: u64,
    /// How many times the key was written since it came to be; 1 after the first.
    pub version: u64,
}

/// What came of one operation of a transaction. Its kind is that of the [`TxnOp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case", deny_unknown_fields)]
pub enum TxnResult {
    /// Of [`TxnOp::Set`].
    Set,
    /// Of [`TxnOp::Delete`].
    Delete {
        /// Whether the key had a value.
        existed: bool,
    },
    /// Of [`TxnOp::Get`].
    Get {
        /// `None`: the key is absent.
        pair: Option<Pair>,
    },
}

/// Everything that was recorded of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// In any order.
    pub events: Vec<Event>,
}

/// Why there is no history in what was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The input can't be opened, or not be read any further.
    #[error("can't read on after {line} lines: {source}")]
    Io {
        /// How many lines were read.
        line: usize,
        /// Why.
        source: io::Error,
    },
    /// A line is no event.
    #[error("line {line} is no event: {source}")]
    NoEvent {
        /// Which, counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

impl History {
    /// Reads JSON lines. Empty lines are passed over.
    ///
    /// # Errors
    ///
    /// [`ReadError`] names the first line that is no event.
    pub fn read(input: impl BufRead) -> Result<Self, ReadError> {
        let mut events = Vec::new();
        for (number, text) in input.lines().enumerate() {
            let line = number + 1;
            let text = text.map_err(|source| ReadError::Io { line: number, source })?;
            if text.trim().is_empty() {
                continue;
            }
            events.push(serde_json::from_str(&text).map_err(|source| ReadError::NoEvent { line, source })?);
        }
        Ok(Self { events })
    }

    /// Writes JSON lines.
    ///
    /// # Errors
    ///
    /// What the output says.
    pub fn write(&self, mut output: impl Write) -> io::Result<()> {
        for event in &self.events {
            serde_json::to_writer(&mut output, event)?;
            output.write_all(b"\n")?;
        }
        output.flush()
    }
}

impl From<Vec<Event>> for History {
    fn from(events: Vec<Event>) -> Self {
        Self { events }
    }
}

impl Read {
    /// Reflects what was acknowledged before it began.
    pub fn linearizable() -> Self {
        Self { consistency: Consistency::Linearizable, min_revision: 0 }
    }

    /// Reflects a state that the store had once, at this revision or later.
    pub fn local(min_revision: u64) -> Self {
        Self { consistency: Consistency::Local, min_revision }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What others rely on, byte by byte: recorders and judges need not be of one build.
    const LINES: &str = r#"{"event":"call","id":1,"client":2,"at":3,"op":{"op":"set","key":"k","value":"v1"}}
{"event":"call","id":4,"client":3,"at":4,"op":{"op":"list","prefix":"","read":{"consistency":"local","min_revision":7}}}
{"event":"call","id":5,"client":4,"at":4,"op":{"op":"txn","compare":[{"compare":"value","key":"k","expected":null},{"compare":"mod_revision","key":"k","expected":3}],"then":[{"op":"delete","key":"k"}],"otherwise":[{"op":"get","key":"k"}]}}
{"event":"commit","node":1,"revision":1,"changes":[{"change":"put","key":"k","value":"v1"}],"call":1}
{"event":"commit","node":2,"revision":1,"changes":[{"change":"put","key":"k","value":"v1"}]}
{"event":"return","id":1,"at":9,"result":{"outcome":"ok","answer":{"answer":"set","revision":1,"create_revision":1,"version":1}}}
{"event":"return","id":4,"at":9,"result":{"outcome":"ok","answer":{"answer":"list","revision":1,"pairs":[{"key":"k","value":"v1","create_revision":1,"mod_revision":1,"version":1}]}}}
{"event":"return","id":5,"at":10,"result":{"outcome":"ok","answer":{"answer":"txn","succeeded":false,"revision":1,"results":[{"result":"get","pair":null},{"result":"set"}]}}}
{"event":"return","id":6,"at":11,"result":{"outcome":"unknown","reason":"timeout"}}
"#;

    #[test]
    fn json_lines_are_read_and_written_alike() {
        let history = History::read(LINES.as_bytes()).expect("a history");
        assert_eq!(history.events.len(), 9);
        let mut written = Vec::new();
        history.write(&mut written).expect("written");
        assert_eq!(String::from_utf8(written).expect("UTF-8"), LINES);
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        let broken = format!("{}\n\n{{\"event\":\"commit\",\"node\":1}}\n", LINES.trim_end());
        let error = History::read(broken.as_bytes()).expect_err("no event");
        assert!(matches!(error, ReadError::NoEvent { line: 11, .. }), "{error}");
        assert!(error.to_string().starts_with("line 11 is no event: missing field `revision`"), "{error}");
    }

    #[test]
    fn a_misspelt_field_is_not_taken_for_an_absent_one() {
        let line = r#"{"event":"commit","node":1,"revision":1,"changes":[],"caller":1}"#;
        assert!(matches!(History::read(line.as_bytes()), Err(ReadError::NoEvent { line: 1, .. })));
    }
}
