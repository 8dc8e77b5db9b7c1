//! Reads entries back from the disk, on a task of its own, for those that are no longer in memory.
//!
//! Records are never overwritten while they belong to the log, and an open file outlives its name: what a reading was
//! told the places of stays readable, whatever is appended, truncated or purged meanwhile.

use std::io;

use tokio::sync::{mpsc, oneshot};

use super::record::{self, Content};
use super::tail::Located;
use crate::raft::types::Entry;

/// Neighbouring records are read together, up to this many bytes.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Entries to read, and whom to give them to.
pub(super) struct ReadRequest {
    pub(super) entries: Vec<Located>,
    pub(super) done: oneshot::Sender<io::Result<Vec<Entry>>>,
}

/// Reads until nobody is left to ask.
pub(super) async fn run(mut requests: mpsc::Receiver<ReadRequest>) {
    while let Some(ReadRequest { entries, done }) = requests.recv().await {
        // Who asked may have gone.
        drop(done.send(read(&entries).await));
    }
}

async fn read(located: &[Located]) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(located.len());
    for run in located.chunk_by(are_neighbours) {
        let mut rest = run;
        while let Some(first) = rest.first() {
            let begin = u64::from(first.place.offset);
            let within = rest.iter().take_while(|entry| entry.place.end() - begin <= READ_BYTES_MAX).count().max(1);
            let (now, later) = rest.split_at(within);
            read_neighbours(now, &mut entries).await?;
            rest = later;
        }
    }
    Ok(entries)
}

fn are_neighbours(one: &Located, next: &Located) -> bool {
    one.place.segment.sequence == next.place.segment.sequence && one.place.end() == u64::from(next.place.offset)
}

/// Reads records that lie side by side.
async fn read_neighbours(located: &[Located], entries: &mut Vec<Entry>) -> io::Result<()> {
    let (Some(first), Some(last)) = (located.first(), located.last()) else { return Ok(()) };
    let segment = &first.place.segment;
    let begin = u64::from(first.place.offset);
    let bytes = segment.file.read_at(begin, (last.place.end() - begin) as usize).await?;
    for entry in located {
        let from = (u64::from(entry.place.offset) - begin) as usize;
        let record = &bytes[from..from + entry.place.bytes as usize];
        let damage = match record::decode(record, &segment.salt) {
            Ok(Some(record::Decoded { content: Content::Entry(found), .. })) if found.log_id == entry.log_id => {
                entries.push(found);
                continue;
            }
            Ok(_) => "another record is there".to_owned(),
            Err(damage) => damage.to_string(),
        };
        let (path, offset, index) = (segment.path.display(), entry.place.offset, entry.log_id.index);
        let error = format!("entry {index} of the log, in {path} at offset {offset}, is damaged: {damage}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(())
}
