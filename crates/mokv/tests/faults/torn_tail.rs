//! A log whose end was torn off, byte by byte, by the rules of docs/storage.md: a record that is missing is put down to a
//! crash only if nothing says that it was durable.

use std::fs;

use crate::cluster::eventually;
use crate::node::{Node, Place};
use crate::tools::say;

const RECORDS_AT: usize = 512;
const RECORD_HEADER_BYTES: usize = 48;

/// A node alone: what it lost on purpose can harm nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_dropped_only_past_the_mark() {
    let dir = tempfile::TempDir::new().expect("directory");
    let place = Place::local(dir.path().join("data"));
    let settings = [("log-segment-size", "256KiB")];
    let mut node = Node::new("alone".into(), place, &settings, dir.path());
    node.start(true);
    let write = async |node: &Node, key: &str| {
        eventually("a write", async || node.client().set(key, "v").await).await;
    };
    for count in 0..20 {
        write(&node, &format!("before-{count}")).await;
    }
    // What the mark would be had the system not written it since: it is synced only where a segment ends.
    let log = node.place.data_dir.join("log");
    let early_mark = fs::read(log.join("mark")).expect("mark");
    for count in 0..5 {
        write(&node, &format!("after-{count}")).await;
    }
    node.kill();
    let late_mark = fs::read(log.join("mark")).expect("mark");

    let path = log.join("00000000000000000001.seg");
    let sound = fs::read(&path).expect("segment");
    let records = records(&sound);
    let end = records.last().expect("records").end;
    let (mut started, mut refused) = (0, 0);
    for mark in [&early_mark, &late_mark] {
        let marked = last_record(mark);
        // Each boundary of the last records, and bytes around them.
        let boundaries =
            records.iter().rev().take(10).flat_map(|record| [record.begin, record.begin + 1, record.end - 9]);
        for cut in boundaries.chain([end - 1, end]).filter(|cut| *cut <= end) {
            let mut torn = sound.clone();
            torn[cut..].fill(0);
            let intact =
                records.iter().take_while(|record| torn[record.begin..record.end] == sound[record.begin..record.end]);
            let last = intact.last().map_or(0, |record| record.number);
            fs::write(&path, &torn).expect("write");
            fs::write(log.join("mark"), mark).expect("write");
            node.start(false);
            if last < marked {
                let said = node.failure().await;
                assert!(said.contains("went back in time") || said.contains("is damaged"), "cut at {cut}: {said}");
                assert!(said.contains("00000000000000000001.seg") && said.contains("offset"), "cut at {cut}: {said}");
                assert!(fs::read(&path).expect("read") == torn, "cut at {cut}: the segment was changed");
                refused += 1;
            } else {
                eventually("it serves", async || node.reads().await).await;
                let found = node.client().get("before-19").await.expect("get");
                assert!(found.is_some(), "cut at {cut}: an older write is gone");
                node.kill();
                started += 1;
            }
        }
    }
    assert!(started > 5 && refused > 5, "{started} started, {refused} refused: nothing was tried");
    say(format_args!("torn tails: {started} started, {refused} refused"));
}

struct Record {
    number: u64,
    begin: usize,
    end: usize,
}

/// The records of a segment, as docs/storage.md has them.
fn records(segment: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut begin = RECORDS_AT;
    while number_at(segment, begin + 16) != 0 {
        let payload = u32::from_le_bytes(segment[begin + 4..begin + 8].try_into().expect("4 bytes")) as usize;
        let end = begin + RECORD_HEADER_BYTES + payload.next_multiple_of(8);
        records.push(Record { number: number_at(segment, begin + 16), begin, end });
        begin = end;
    }
    records
}

/// The last durable record that a mark knows of: that of the slot with the higher generation.
fn last_record(mark: &[u8]) -> u64 {
    let slots = [0, 4096].map(|slot| (number_at(mark, slot + 16), number_at(mark, slot + 32)));
    slots.into_iter().max().map_or(0, |(_, last)| last)
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
