//! The mark: where the log begins, and which record it reaches at least.
//!
//! A log that is cut at a record's boundary, or whose last segment is gone, looks like a shorter log. The mark tells: it
//! has the last record that is known to be durable. That only says what is already true, so it may lag behind the log;
//! the closer it follows, the more damage is noticed rather than taken for the unfinished write of a crash.
//!
//! ```text
//! the file `mark`: two slots, at 0 and 4096, zeros between and after them
//! offset  bytes  slot
//!      0      8  magic, "mokvmark"
//!      8      4  format version, 1
//!     12      4  CRC-32 of bytes 0..12 and 16..64
//!     16      8  generation: the slot with the higher one counts
//!     24      8  sequence of the first segment that is needed
//!     32      8  number of the last record that is known to be durable; 0 for none
//!     40      8  1 if entries were purged, otherwise 0
//!     48     16  the position up to which entries were purged: term, index
//! ```
//!
//! A slot is rewritten only while the other one is durable, and it lies within one sector, which a device writes as a
//! whole. So one damaged slot loses nothing: the other has an earlier, still true, mark.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::LogError;
use super::record::Damage;
use crate::disk::{self, Disk, File, OpenMode};
use crate::raft::types::{self, LogId};

const MAGIC: [u8; 8] = *b"mokvmark";
const FORMAT_VERSION: u32 = 1;
const SLOT_BYTES: usize = 64;
/// Slots are apart by what the largest common sector has.
const SLOTS_AT: [u64; 2] = [0, 4096];
const FILE_BYTES: usize = 8192;

/// Where the log begins, and which record it reaches at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Segments before this one are not needed any more.
    pub(super) first_segment: u64,
    /// The last record that is known to be durable; 0 for none.
    pub(super) last_record: u64,
    /// Entries up to this one were purged.
    pub(super) purged: Option<LogId>,
}

/// The file that holds the mark.
pub(super) struct MarkFile {
    path: PathBuf,
    file: Arc<dyn File>,
    generation: u64,
    /// The slot to write: the other one is durable.
    slot: usize,
}

impl MarkFile {
    pub(super) fn path_in(dir: &Path) -> PathBuf {
        dir.join("mark")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the file, durably.
    pub(super) async fn create(disk: &dyn Disk, dir: &Path, mark: Mark) -> Result<Self, LogError> {
        let path = Self::path_in(dir);
        let mut bytes = encode(1, mark);
        bytes.resize(FILE_BYTES, 0);
        disk::write_atomically(disk, &path, &bytes).await.map_err(LogError::io("create", &path))?;
        let file = disk.open(&path, OpenMode::ReadWrite).await.map_err(LogError::io("open", &path))?;
        Ok(Self { path, file, generation: 1, slot: 1 })
    }

    /// Reads the file. `None` if there is none.
    pub(super) async fn open(disk: &dyn Disk, dir: &Path) -> Result<Option<(Self, Mark)>, LogError> {
        let path = Self::path_in(dir);
        let file = match disk.open(&path, OpenMode::ReadWrite).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(LogError::io("open", &path))?,
        };
        let bytes = disk::read(disk, &path).await.map_err(LogError::io("read", &path))?;
        let mut newest: Option<(u64, Mark, usize)> = None;
        for (slot, at) in SLOTS_AT.into_iter().enumerate() {
            match decode(bytes.get(at as usize..).unwrap_or_default()) {
                Ok(Some((generation, mark))) if newest.is_none_or(|(newest, ..)| generation > newest) => {
                    newest = Some((generation, mark, slot));
                }
                Ok(_) => {}
                Err(Damage::NewerVersion(version)) => return Err(LogError::NewerVersion { path, version }),
                Err(_) => {
                    tracing::warn!(path = %path.display(), offset = at, "a mark of the log is damaged; its twin is used")
                }
            }
        }
        let (generation, mark, slot) = newest.ok_or_else(|| LogError::damaged(&path, 0, &Damage::Mark))?;
        Ok(Some((Self { path, file, generation, slot: 1 - slot }, mark)))
    }

    /// Writes the mark, to become durable at some time.
    pub(super) async fn write(&mut self, mark: Mark) -> io::Result<()> {
        self.generation += 1;
        self.file.write_at(SLOTS_AT[self.slot], &encode(self.generation, mark)).await
    }

    /// Makes what was written durable.
    pub(super) async fn sync(&mut self) -> io::Result<()> {
        self.file.sync().await?;
        self.slot = 1 - self.slot;
        Ok(())
    }

    /// Writes the mark to both slots, durably: after that none has an earlier one, whose files may go.
    pub(super) async fn replace(&mut self, mark: Mark) -> io::Result<()> {
        for _ in SLOTS_AT {
            self.write(mark).await?;
            self.sync().await?;
        }
        Ok(())
    }
}

fn encode(generation: u64, mark: Mark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    let (purged, term, index) = mark.purged.map_or((0, 0, 0), |id| (1, id.leader_id.term, id.index));
    for number in [generation, mark.first_segment, mark.last_record, purged, term, index] {
        bytes.extend(number.to_le_bytes());
    }
    let crc = crc(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The generation and the mark of a slot; `None` if it was never written.
fn decode(bytes: &[u8]) -> Result<Option<(u64, Mark)>, Damage> {
    let slot = bytes.get(..SLOT_BYTES).ok_or(Damage::Mark)?;
    if slot.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let u32_at = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    if slot[..8] != MAGIC || u32_at(12) != crc(slot) {
        return Err(Damage::Mark);
    }
    if u32_at(8) != FORMAT_VERSION {
        return Err(Damage::NewerVersion(u32_at(8)));
    }
    let purged = (u64_at(40) != 0).then(|| types::log_id(u64_at(48), u64_at(56)));
    Ok(Some((u64_at(16), Mark { first_segment: u64_at(24), last_record: u64_at(32), purged })))
}

fn crc(slot: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot[..12]);
    hasher.update(&slot[16..SLOT_BYTES]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::sim::SimDisk;

    const DIR: &str = "/log";

    fn mark(n: u64) -> Mark {
        Mark { first_segment: n, last_record: 10 * n, purged: (n > 2).then(|| types::log_id(1, n)) }
    }

    async fn read(disk: &SimDisk) -> Result<Mark, LogError> {
        MarkFile::open(disk, Path::new(DIR)).await.map(|found| found.expect("a mark").1)
    }

    proptest! {
        #[test]
        fn a_mark_comes_back_and_a_changed_byte_is_noticed(
            generation: u64,
            numbers: (u64, u64),
            purged: Option<(u64, u64)>,
            at in 0..SLOT_BYTES,
            change in 1..=255_u8,
        ) {
            let mark = Mark {
                first_segment: numbers.0,
                last_record: numbers.1,
                purged: purged.map(|(term, index)| types::log_id(term, index)),
            };
            let mut bytes = encode(generation, mark);
            prop_assert_eq!(decode(&bytes), Ok(Some((generation, mark))));
            bytes[at] ^= change;
            prop_assert!(decode(&bytes).is_err());
        }
    }

    /// Changing these bytes means changing the format: give it a new version, and keep reading this one.
    #[test]
    fn the_bytes_are_those_of_version_1() {
        let mark = Mark { first_segment: 2, last_record: 40, purged: Some(types::log_id(3, 17)) };
        let numbers = [5_u64, 2, 40, 1, 3, 17].map(u64::to_le_bytes).concat();
        let expected = [&b"mokvmark"[..], &[1, 0, 0, 0, 0xc0, 0x75, 0xa9, 0x25], &numbers];
        assert_eq!(encode(5, mark), expected.concat());
    }

    #[tokio::test]
    async fn a_synced_mark_survives_every_crash_and_one_damaged_slot() {
        let disk = SimDisk::default();
        disk.create_dir(Path::new(DIR)).await.expect("directory");
        assert!(MarkFile::open(&disk, Path::new(DIR)).await.expect("no file").is_none());
        let mut file = MarkFile::create(&disk, Path::new(DIR), mark(1)).await.expect("create");
        for n in 2..6 {
            file.write(mark(n)).await.expect("write");
            file.sync().await.expect("sync");
            assert_eq!(read(&disk.crash(|_| false)).await.expect("mark"), mark(n));
            // Overwriting what is not durable yet must leave the durable one alone.
            for _ in 0..2 {
                file.write(mark(n + 1)).await.expect("write");
                assert_eq!(read(&disk.crash(|_| false)).await.expect("mark"), mark(n));
                assert_eq!(read(&disk.crash(|_| true)).await.expect("mark"), mark(n + 1));
            }
        }
        for (damaged, left) in SLOTS_AT.into_iter().zip([6, 5]) {
            let disk = disk.crash(|_| true);
            disk.edit(&MarkFile::path_in(Path::new(DIR)), |bytes| bytes[damaged as usize + 30] ^= 1);
            assert_eq!(read(&disk).await.expect("the twin"), mark(left));
        }
        disk.edit(&MarkFile::path_in(Path::new(DIR)), |bytes| bytes.fill(1));
        assert!(matches!(read(&disk).await, Err(LogError::Damaged { .. })));
    }
}
