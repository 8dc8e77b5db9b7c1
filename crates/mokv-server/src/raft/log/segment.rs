//! Segment files: their names, their creation, and reading records from them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{self, Damage, RECORDS_AT, Salt};
use crate::disk::{self, Disk, File, OpenMode};
use crate::mutants::mutant;

const SUFFIX: &str = ".seg";
/// Sequences have this many digits in a name, so that names sort as they follow each other.
const DIGITS: usize = 20;

/// One open segment. It has its whole size, filled with zeros behind the records, from the moment that it has its name.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    /// The size of the file.
    pub(super) size: u64,
    pub(super) salt: Salt,
    pub(super) file: Arc<dyn File>,
}

impl Segment {
    pub(super) fn path_in(dir: &Path, sequence: u64) -> PathBuf {
        dir.join(format!("{sequence:0DIGITS$}{SUFFIX}"))
    }

    /// The sequence in a segment's name. `None` if it is no such name.
    pub(super) fn sequence_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(SUFFIX)?;
        (digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// Creates an empty segment of `size` bytes, durably. Leaves nothing behind when there is no room for it.
    pub(super) async fn create(disk: &dyn Disk, dir: &Path, sequence: u64, size: u64, salt: u64) -> io::Result<Self> {
        let path = Self::path_in(dir, sequence);
        let unfinished = disk::unfinished(&path);
        disk::remove_if_present(disk, &unfinished).await?;
        let file = disk.open(&unfinished, OpenMode::CreateNew).await?;
        let filled = async {
            file.set_size(size).await?;
            file.write_at(0, &record::encode_segment_header(sequence, salt)).await?;
            file.sync().await
        };
        if let Err(error) = filled.await {
            disk::remove_if_present(disk, &unfinished).await?;
            return Err(error);
        }
        disk.rename(&unfinished, &path).await?;
        if !mutant!(SegmentNameNotDurable) {
            disk.sync_dir(dir).await?;
        }
        Ok(Self { sequence, path, size, salt: Salt::new(salt), file })
    }

    /// Opens a segment and reads all of it.
    pub(super) async fn open(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
    ) -> io::Result<Result<(Self, Vec<u8>), Damage>> {
        let path = Self::path_in(dir, sequence);
        let file = disk.open(&path, OpenMode::ReadWrite).await?;
        let size = file.size().await?;
        let bytes = file.read_at(0, usize::try_from(size).map_err(io::Error::other)?).await?;
        if size < RECORDS_AT {
            return Ok(Err(Damage::Magic));
        }
        let salt = record::decode_segment_header(&bytes, sequence);
        Ok(salt.map(|salt| (Self { sequence, path, size, salt, file }, bytes)))
    }
}

/// Where a record is.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

impl Place {
    pub(super) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.bytes)
    }
}
