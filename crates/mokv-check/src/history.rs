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
//!   any node applied before the last return. Only with them is it judged when keys and leases end, what watchers see, and
//!   what keys have that more than plain sets and deletes may write.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::answer::Outcome;
use crate::op::Op;
use crate::watch::{Seen, Watch};

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
    /// What time brought about, as a node applied it: keys whose ttl is over are gone, and leases with their keys. Where
    /// keys are gone it takes a revision, and is one of the write transactions that commits claim to have all of.
    Expiry {
        /// Who applied it.
        node: u64,
        /// When that was known: not before it was applied.
        at: u64,
        /// The revision that it took; without keys, of the view.
        revision: u64,
        /// The keys that are gone.
        keys: Vec<String>,
        /// The leases that ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        leases: Vec<u64>,
    },
    /// A client is about to watch.
    Watch {
        /// Unique in the history, also among calls.
        id: u64,
        /// Who watches.
        client: u64,
        /// Microseconds since the run began.
        at: u64,
        /// What is asked for.
        watch: Watch,
    },
    /// A watcher is told something. What one watcher is told stands in its order, unlike all else.
    Seen {
        /// The watch's.
        id: u64,
        /// Microseconds since the run began.
        at: u64,
        /// What it is told.
        seen: Seen,
    },
    /// A watch has ended. Who begins another one where it ended has recorded two.
    Unwatch {
        /// The watch's.
        id: u64,
        /// Microseconds since the run began.
        at: u64,
        /// Why, for people.
        reason: String,
    },
    /// How fast the clocks of the nodes run: 100, as if this is not said, is as fast as the recorder's.
    Clocks {
        /// The fastest one's speed.
        fastest_percent: u64,
        /// The slowest one's.
        slowest_percent: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What others rely on, byte by byte: recorders and judges need not be of one build.
    const LINES: &str = r#"{"event":"call","id":1,"client":2,"at":3,"op":{"op":"set","key":"k","value":"v1"}}
{"event":"call","id":4,"client":3,"at":4,"op":{"op":"list","range":{},"read":{"consistency":"local","min_revision":7}}}
{"event":"call","id":5,"client":4,"at":4,"op":{"op":"txn","compare":[{"key":"k","is":"equal","target":{"version":0}},{"key":"k","range_end":"l","is":"greater","target":{"mod_revision":3}}],"then":[{"op":"delete","key":"k"}],"otherwise":[{"op":"get","key":"k"}]}}
{"event":"commit","node":1,"revision":1,"changes":[{"change":"put","key":"k","value":"v1"}],"call":1}
{"event":"commit","node":2,"revision":1,"changes":[{"change":"put","key":"k","value":"v1"}]}
{"event":"return","id":1,"at":9,"result":{"outcome":"ok","answer":{"answer":"set","revision":1,"create_revision":1,"version":1}}}
{"event":"return","id":4,"at":9,"result":{"outcome":"ok","answer":{"answer":"list","revision":1,"pairs":[{"key":"k","value":"v1","create_revision":1,"mod_revision":1,"version":1}]}}}
{"event":"return","id":5,"at":10,"result":{"outcome":"ok","answer":{"answer":"txn","revision":1,"done":{"succeeded":false,"results":[{"result":"get","pair":null}]}}}}
{"event":"return","id":6,"at":11,"result":{"outcome":"unknown","reason":"timeout"}}
{"event":"call","id":7,"client":4,"at":12,"op":{"op":"set","key":"k","value":"v2","ttl_ms":5,"condition":{"mod_revision":1},"keep_ttl":true}}
{"event":"call","id":8,"client":4,"at":12,"op":{"op":"grant_lease","ttl_ms":5,"lease":0}}
{"event":"expiry","node":1,"at":13,"revision":2,"keys":["k"],"leases":[3]}
{"event":"watch","id":9,"client":4,"at":12,"watch":{"keys":{"range":{"prefix":"k"}},"start_revision":1}}
{"event":"seen","id":9,"at":13,"seen":{"revision":2,"events":[{"key":"k","revision":2,"pair":null}]}}
{"event":"unwatch","id":9,"at":14,"reason":"stopped"}
{"event":"clocks","fastest_percent":150,"slowest_percent":67}
"#;

    #[test]
    fn json_lines_are_read_and_written_alike() {
        let history = History::read(LINES.as_bytes()).expect("a history");
        assert_eq!(history.events.len(), 16);
        let mut written = Vec::new();
        history.write(&mut written).expect("written");
        assert_eq!(String::from_utf8(written).expect("UTF-8"), LINES);
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        let broken = format!("{}\n\n{{\"event\":\"commit\",\"node\":1}}\n", LINES.trim_end());
        let error = History::read(broken.as_bytes()).expect_err("no event");
        assert!(matches!(error, ReadError::NoEvent { line: 18, .. }), "{error}");
        assert!(error.to_string().starts_with("line 18 is no event: missing field `revision`"), "{error}");
    }

    #[test]
    fn a_misspelt_field_is_not_taken_for_an_absent_one() {
        let line = r#"{"event":"commit","node":1,"revision":1,"changes":[],"caller":1}"#;
        assert!(matches!(History::read(line.as_bytes()), Err(ReadError::NoEvent { line: 1, .. })));
    }
}
