//! The bytes of a node's files, as `docs/storage.md` describes them: read once more here, so that a test that damages them
//! does not depend on the code which has to notice.

use std::path::{Path, PathBuf};

use mokv_server::disk::sim::SimDisk;
use mokv_server::disk::{Disk, OpenMode};

const RECORDS_AT: usize = 512;
const RECORD_HEADER_BYTES: usize = 48;
const MARK_SLOTS_AT: [usize; 2] = [0, 4096];

/// A record of the log: its number, and where in its segment it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) begin: usize,
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The records of a segment, one after the other.
pub(crate) fn records(segment: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut begin = RECORDS_AT;
    while let Some(header) = segment.get(begin..begin + RECORD_HEADER_BYTES) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        records.push(Record { number: number_at(header, 16), begin });
        let payload = u32::from_le_bytes(header[4..8].try_into().expect("4 bytes")) as usize;
        begin += RECORD_HEADER_BYTES + payload.next_multiple_of(8);
    }
    records
}

/// Where the records of a segment end: behind the last byte that is not zero.
pub(crate) fn records_end(segment: &[u8]) -> usize {
    segment.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The last record that the log's mark says to be durable.
pub(crate) fn marked(disk: &SimDisk) -> u64 {
    let mark = disk.content(Path::new("/data/log/mark"));
    let slots = MARK_SLOTS_AT.map(|at| (number_at(&mark, at + 16), number_at(&mark, at + 32)));
    slots.into_iter().max().map_or(0, |(_generation, last_record)| last_record)
}

/// The files whose names end so, in the order of their names.
pub(crate) fn ending(disk: &SimDisk, end: &str) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

/// The segments that have records, oldest first.
pub(crate) fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let segments = ending(disk, ".seg").into_iter();
    segments.filter(|path| records_end(&disk.content(path)) > RECORDS_AT).collect()
}

/// Has the files whose names end so be those of another disk, as if they had been restored from it.
pub(crate) async fn restore(disk: &SimDisk, from: &SimDisk, end: &str) -> std::io::Result<()> {
    for path in ending(disk, end) {
        disk.remove(&path).await?;
    }
    for path in ending(from, end) {
        let file = disk.open(&path, OpenMode::CreateNew).await?;
        file.write_at(0, &from.content(&path)).await?;
        file.sync().await?;
        disk.sync_dir(path.parent().expect("in a directory")).await?;
    }
    Ok(())
}
