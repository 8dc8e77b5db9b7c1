//! Opening a log: what is on the disk is checked and becomes what is in memory, or is refused.
//!
//! # What a crash may leave
//!
//! Records are only ever appended. They are written in groups, and a group is written only when all before it is durable;
//! a segment is left for the next one only when it is durable. So a crash can damage records of the *last* group alone,
//! which nobody was told of. It may leave any sectors of them.
//!
//! So where records stop, the log ends, *unless* something proves that the missing record was durable once:
//!
//! - the mark has its number or a later one, or
//! - behind it there is a record, intact by its header, that was written when the missing one was durable: it says so in
//!   `synced`. Records of the same group don't, however many of them are there.
//!
//! Then the log lost something that was acknowledged, and is refused. Otherwise the remains of the last group are
//! overwritten by zeros before anything new is written, so they can't be mistaken for records of a later group.
//!
//! # Why truncated entries can't come back
//!
//! A truncation is a record too, after the entries that it drops and before those that replace them. Replaying the
//! records in their order drops the same entries again; the new ones are there only if the truncation is.
//!
//! # Crashes during recovery
//!
//! Nothing is changed until all checks have passed. The zeros make the remains of the last group less, never more. What
//! was read is written back before the sync: after a failed sync the system may have it in memory, clean, and not on the
//! disk. Segments beyond the end are empty; the first is the spare, others are removed.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use super::LogOptions;
use super::error::{LogError, is_full};
use super::mark::{Mark, MarkFile};
use super::record::{self, Content, Damage, RECORDS_AT, State};
use super::segment::{Place, Segment};
use super::tail::Tail;
use crate::disk::Disk;
use crate::mutants::mutant;

/// A segment with records.
pub(super) struct Written {
    pub(super) segment: Arc<Segment>,
    /// The highest index of an entry in it.
    pub(super) index_max: Option<u64>,
}

/// A log that was opened.
pub(super) struct Recovered {
    pub(super) tail: Tail,
    /// Segments that are needed, oldest first. Records go on in the last one, of which there is always one.
    pub(super) segments: VecDeque<Written>,
    /// Where in the last segment the next record goes.
    pub(super) offset: u64,
    /// The number of the last record.
    pub(super) last_record: u64,
    /// As the last record of a state has it.
    pub(super) state: State,
    /// The segment after the last one. `None` if there was no room for it.
    pub(super) spare: Option<Segment>,
    pub(super) mark: MarkFile,
}

/// Opens the log in `dir`, or creates it.
pub(super) async fn recover(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
    rng: &mut SmallRng,
) -> Result<Recovered, LogError> {
    disk.create_dir(dir).await.map_err(LogError::io("create", dir))?;
    let (mark_file, mark) = match MarkFile::open(disk, dir).await? {
        Some(found) => found,
        None => create(disk, dir, options, rng).await?,
    };
    let listed = Listed::read(disk, dir, mark.first_segment).await?;
    let mut replay = Replay::new(mark, options.cache_bytes_max);
    for sequence in &listed.sequences {
        let (segment, bytes) = open(disk, dir, *sequence).await?;
        replay.segment(segment, bytes);
    }
    replay.check(mark)?;
    replay.settle(disk, dir, mark_file, listed, options, rng).await
}

/// Creates an empty log. A first segment without records is what an earlier try has left.
async fn create(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
    rng: &mut SmallRng,
) -> Result<(MarkFile, Mark), LogError> {
    const FIRST: u64 = 1;
    let listed = Listed::read_any(disk, dir).await?;
    match listed.sequences.as_slice() {
        [] => drop(create_segment(disk, dir, FIRST, options, rng).await?),
        [FIRST] if !has_records(&open(disk, dir, FIRST).await?.1) => {
            // That try may have been killed before the name was durable, and the mark must not outlive the segment.
            disk.sync_dir(dir).await.map_err(LogError::io("sync", dir))?;
        }
        _ => return Err(LogError::Missing { path: MarkFile::path_in(dir) }),
    }
    let mark = Mark { first_segment: FIRST, last_record: 0, purged: None };
    Ok((MarkFile::create(disk, dir, mark).await?, mark))
}

async fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    sequence: u64,
    options: &LogOptions,
    rng: &mut SmallRng,
) -> Result<Segment, LogError> {
    let created = Segment::create(disk, dir, sequence, options.segment_bytes, rng.next_u64()).await;
    created.map_err(LogError::io("create", &Segment::path_in(dir, sequence)))
}

async fn open(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<(Segment, Vec<u8>), LogError> {
    let path = Segment::path_in(dir, sequence);
    let opened = Segment::open(disk, dir, sequence).await.map_err(LogError::io("read", &path))?;
    opened.map_err(|damage| LogError::damaged(&path, 0, &damage))
}

/// Whether there is anything where records would be.
fn has_records(segment: &[u8]) -> bool {
    last_nonzero(&segment[RECORDS_AT as usize..]).is_some()
}

/// The place of the last byte that is not zero.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    /// Pieces are compared as a whole, which is fast; most of what is looked at is zeros.
    const PIECE: usize = 4096;
    let pieces = bytes.chunks(PIECE).enumerate().rev();
    let mut dirty = pieces.filter(|(_, piece)| *piece != &[0; PIECE][..piece.len()]);
    let (number, piece) = dirty.next()?;
    Some(number * PIECE + piece.iter().rposition(|byte| *byte != 0)?)
}

/// The files of a log.
struct Listed {
    /// Segments, which follow each other without a gap.
    sequences: Vec<u64>,
    /// What is not needed: unfinished files, and segments that were purged.
    leftovers: Vec<PathBuf>,
}

impl Listed {
    async fn read_any(disk: &dyn Disk, dir: &Path) -> Result<Self, LogError> {
        let names = disk.list(dir).await.map_err(LogError::io("list", dir))?;
        let unfinished = names.iter().filter(|name| name.ends_with(".tmp"));
        Ok(Self {
            sequences: names.iter().filter_map(|name| Segment::sequence_of(name)).collect(),
            leftovers: unfinished.map(|name| dir.join(name)).collect(),
        })
    }

    /// The files of a log that begins with segment `first`.
    async fn read(disk: &dyn Disk, dir: &Path, first: u64) -> Result<Self, LogError> {
        let mut listed = Self::read_any(disk, dir).await?;
        let purged = listed.sequences.iter().filter(|sequence| **sequence < first);
        listed.leftovers.extend(purged.map(|sequence| Segment::path_in(dir, *sequence)));
        listed.sequences.retain(|sequence| *sequence >= first);
        let found = listed.sequences.iter().copied().chain([0]);
        match (first..).zip(found).find(|(expected, found)| expected != found) {
            Some((expected, found)) if found != 0 || expected == first => {
                Err(LogError::Missing { path: Segment::path_in(dir, expected) })
            }
            _ => Ok(listed),
        }
    }
}

/// A segment as it was read, and where its records stop.
struct Loaded {
    segment: Arc<Segment>,
    bytes: Vec<u8>,
    index_max: Option<u64>,
    /// Behind the last record.
    stop: usize,
    /// What is wrong at `stop`. `None` if there is nothing.
    damage: Option<Damage>,
}

/// Turns the records of all segments, in their order, into the log in memory.
struct Replay {
    tail: Tail,
    state: State,
    last_record: u64,
    /// The last record of the mark.
    marked: u64,
    /// The segments, without the bytes of those that another one with records followed.
    segments: Vec<Loaded>,
    /// Of the segment with the last record: its place in `segments`, and where records begin that the mark doesn't have.
    end: (usize, usize),
}

impl Replay {
    fn new(mark: Mark, cache_bytes_max: u64) -> Self {
        let mut tail = Tail::new(cache_bytes_max);
        if let Some(purged) = mark.purged {
            tail.purge(purged);
        }
        let end = (0, RECORDS_AT as usize);
        Self { tail, state: State::default(), last_record: 0, marked: mark.last_record, segments: Vec::new(), end }
    }

    fn segment(&mut self, segment: Segment, bytes: Vec<u8>) {
        let (stop, damage) = (RECORDS_AT as usize, None);
        let mut loaded = Loaded { segment: Arc::new(segment), bytes, index_max: None, stop, damage };
        while let Some(bytes) = self.record(&mut loaded) {
            if self.end.0 != self.segments.len() {
                self.end = (self.segments.len(), RECORDS_AT as usize);
                self.segments.iter_mut().for_each(|earlier| earlier.bytes = Vec::new());
            }
            loaded.stop += bytes;
            if self.last_record <= self.marked {
                self.end.1 = loaded.stop;
            }
        }
        self.segments.push(loaded);
    }

    /// Replays the next record, if there is one, and returns its length.
    fn record(&mut self, loaded: &mut Loaded) -> Option<usize> {
        let decoded = match record::decode(&loaded.bytes[loaded.stop..], &loaded.segment.salt) {
            Ok(decoded) => decoded?,
            Err(damage) => {
                loaded.damage = Some(damage);
                return None;
            }
        };
        // Only a log's first segment begins with its first record; before others there were some that were purged.
        let begins = self.last_record == 0 && self.segments.is_empty() && loaded.segment.sequence > 1;
        let expected = if begins { decoded.header.number } else { self.last_record + 1 };
        let place = Place { segment: loaded.segment.clone(), offset: loaded.stop as u32, bytes: decoded.bytes as u32 };
        let replayed = match decoded.header.number {
            found if found != expected => Err(Damage::Number { found, expected }),
            _ => self.content(decoded.content, place, &mut loaded.index_max),
        };
        match replayed {
            Ok(()) => {
                self.last_record = decoded.header.number;
                Some(decoded.bytes)
            }
            Err(damage) => {
                loaded.damage = Some(damage);
                None
            }
        }
    }

    fn content(&mut self, content: Content, place: Place, index_max: &mut Option<u64>) -> Result<(), Damage> {
        match content {
            Content::Entry(entry) => {
                let index = entry.log_id.index;
                *index_max = (*index_max).max(Some(index));
                if self.tail.purged().is_some_and(|purged| index <= purged.index) {
                    return Ok(());
                }
                let appended = self.tail.append(entry);
                appended.map_err(|error| Damage::Index { found: error.found, expected: error.expected })?;
                self.tail.durable(index, [place]);
            }
            Content::Truncation(from) if from > self.tail.end() => {
                return Err(Damage::Truncation { found: from, expected: self.tail.end() });
            }
            Content::Truncation(from) => self.tail.truncate(from),
            Content::State(state) => self.state = state,
        }
        Ok(())
    }

    /// Refuses a log that has lost something. See the head of this file.
    fn check(&self, mark: Mark) -> Result<(), LogError> {
        let last = self.last_record;
        let beyond = self.segments[self.end.0..].iter();
        let later = beyond.flat_map(|loaded| record::headers(&loaded.bytes[loaded.stop..], &loaded.segment.salt));
        let known = later.map(|header| header.synced).chain([mark.last_record]).max().unwrap_or_default();
        if known > last && !mutant!(DamageTakenForTornTail) {
            let mut beyond = self.segments[self.end.0..].iter();
            return Err(match beyond.find_map(|loaded| Some((loaded, loaded.damage.as_ref()?))) {
                Some((loaded, damage)) => LogError::damaged(&loaded.segment.path, loaded.stop as u64, damage),
                None => {
                    let ends = &self.segments[self.end.0];
                    LogError::WentBack { path: ends.segment.path.clone(), offset: ends.stop as u64, last, known }
                }
            });
        }
        // Saved only when its entry was durable, and never truncated.
        match self.state.committed {
            Some(committed) if committed.index >= self.tail.end() && !mutant!(DamageTakenForTornTail) => {
                let ends = &self.segments[self.end.0];
                let damage = Damage::Committed { committed: committed.index, end: self.tail.end() };
                Err(LogError::damaged(&ends.segment.path, ends.stop as u64, &damage))
            }
            _ => Ok(()),
        }
    }

    /// Makes the disk what was read from it, without the remains of an unfinished group, and ready for the next one.
    async fn settle(
        mut self,
        disk: &dyn Disk,
        dir: &Path,
        mut mark: MarkFile,
        listed: Listed,
        options: &LogOptions,
        rng: &mut SmallRng,
    ) -> Result<Recovered, LogError> {
        let (active, unmarked) = self.end;
        self.write_back(active, unmarked).await?;
        // A process that was killed may have given names that are not durable yet.
        disk.sync_dir(dir).await.map_err(LogError::io("sync", dir))?;
        let mut spares = self.segments.split_off(active + 1).into_iter().map(|loaded| loaded.segment);
        let spare = spares.next().map(|spare| Arc::into_inner(spare).expect("nothing refers to an empty segment"));
        self.tail.vote = self.state.vote;
        self.tail.committed = self.state.committed;

        let ends = &self.segments[active];
        let (path, offset, next) = (ends.segment.path.clone(), ends.stop as u64, ends.segment.sequence + 1);
        let first_segment = self.segments[0].segment.sequence;
        let now = Mark { first_segment, last_record: self.last_record, purged: self.tail.purged() };
        mark.write(now).await.map_err(LogError::io("write", mark.path()))?;
        mark.sync().await.map_err(LogError::io("sync", mark.path()))?;

        let surplus = spares.map(|segment| segment.path.clone()).chain(listed.leftovers);
        let surplus: Vec<PathBuf> = surplus.collect();
        for path in &surplus {
            disk.remove(path).await.map_err(LogError::io("remove", path))?;
        }
        if !surplus.is_empty() {
            disk.sync_dir(dir).await.map_err(LogError::io("sync", dir))?;
        }
        let spare = match spare {
            Some(spare) => Some(spare),
            None => match create_segment(disk, dir, next, options, rng).await {
                Err(LogError::Io { source, .. }) if is_full(&source) => None,
                created => Some(created?),
            },
        };
        tracing::info!(
            log = %path.display(),
            offset,
            last_record = self.last_record,
            entries = self.tail.end() - self.tail.first(),
            "opened the log"
        );
        let segments = self.segments.into_iter();
        Ok(Recovered {
            segments: segments.map(|Loaded { segment, index_max, .. }| Written { segment, index_max }).collect(),
            tail: self.tail,
            offset,
            last_record: self.last_record,
            state: self.state,
            spare,
            mark,
        })
    }

    /// Writes what was read from `unmarked` on in the active segment, zeros behind it, and makes all of it durable.
    async fn write_back(&mut self, active: usize, unmarked: usize) -> Result<(), LogError> {
        for (number, loaded) in self.segments.iter_mut().enumerate().skip(active) {
            let Segment { path, file, .. } = &*loaded.segment;
            let from = if number == active { unmarked } else { loaded.stop };
            let Some(to) = last_nonzero(&loaded.bytes[from..]).map(|last| from + last + 1) else { continue };
            if loaded.stop < to {
                tracing::warn!(
                    path = %path.display(),
                    from = loaded.stop,
                    to,
                    "the last write before the stop was unfinished and is dropped: nobody was told that it was done"
                );
                loaded.bytes[loaded.stop..to].fill(0);
            }
            let written: io::Result<()> = async {
                file.write_at(from as u64, &loaded.bytes[from..to]).await?;
                file.sync().await
            }
            .await;
            written.map_err(LogError::io("write", path))?;
        }
        Ok(())
    }
}
