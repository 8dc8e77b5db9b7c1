//! Tests of the log as a whole, on the simulated disk unless they say otherwise.

#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;

use super::*;
use crate::command::Batch;
use crate::disk::sim::SimDisk;
use crate::raft::types;
use crate::runtime::DiskTasks;

mod crash;
mod damage;
mod faults;
mod operation;
mod suite;
mod workload;

const DIR: &str = "/data/log";

/// Small, so that a few entries make segments follow each other.
fn options() -> LogOptions {
    LogOptions { segment_bytes: 4096, cache_bytes_max: 1500 }
}

async fn open(disk: &SimDisk) -> Result<Log, LogError> {
    open_with(disk, options()).await
}

async fn open_with(disk: &SimDisk, options: LogOptions) -> Result<Log, LogError> {
    let tasks = Tasks::new(1, DiskTasks::Inline);
    Log::open(&tasks, Arc::new(disk.clone()), DIR.into(), options).await
}

fn segment_path(sequence: u64) -> PathBuf {
    segment::Segment::path_in(Path::new(DIR), sequence)
}

/// An entry whose content follows from its position.
fn entry(term: u64, index: u64, len: usize) -> Entry {
    let byte = (term * 31 + index) as u8;
    let payload = openraft::EntryPayload::Normal(Batch::from_encoded(vec![byte; len].into()));
    Entry { log_id: types::log_id(term, index), payload }
}

/// Tells when entries are durable.
type Durable = OneshotReceiverOf<TypeConfig, io::Result<()>>;

async fn submit(log: &Log, entries: Vec<Entry>) -> Durable {
    let (flushed, durable) = TypeConfig::oneshot();
    log.clone().append(entries, IOFlushed::signal(flushed)).await.expect("append");
    durable
}

/// Appends entries and waits until they are durable.
async fn append(log: &Log, entries: Vec<Entry>) {
    submit(log, entries).await.await.expect("an answer").expect("durable");
}

/// What a log has.
#[derive(Debug, Clone, Default, PartialEq)]
struct Contents {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

async fn contents(log: &Log) -> Contents {
    let mut reader = log.clone().get_log_reader().await;
    let entries = reader.try_get_log_entries(..).await.expect("entries");
    let expected_last = entries.last().map(|entry| entry.log_id).or(log.purged());
    assert_eq!(log.last(), expected_last);
    Contents { vote: reader.read_vote().await.expect("vote"), purged: log.purged(), entries }
}
