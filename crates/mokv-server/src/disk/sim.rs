//! A simulated disk, in memory: what was not synced is pending, and a crash keeps of it whatever the caller chooses.
//!
//! Pending changes are **atoms**: the image of one 512-byte sector, a file's new size, a name that came, went or was
//! replaced. A crash may keep any of them and lose any other, which covers reordering and tearing. A failing sync loses
//! the file's pending atoms for ever, though they stay readable until the crash, as Linux does it.
//!
//! Of the calls only [`File::sync`] yields, and [`File::set_size`] when it is told to: requests pile up while a sync runs, as they do in
//! production.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFuture, File, Lock, OpenMode};

/// What a device writes as a whole or not at all.
pub const SECTOR: usize = 512;

type FileId = usize;

/// One pending change that a crash keeps or loses as a whole.
#[derive(Debug, Clone)]
enum Atom {
    Sector { file: FileId, at: usize, image: Vec<u8> },
    Size { file: FileId, size: usize },
    Link { path: PathBuf, file: FileId },
    Rename { from: PathBuf, to: PathBuf, file: FileId },
    Unlink { path: PathBuf },
}

impl Atom {
    fn file(&self) -> Option<FileId> {
        match self {
            Self::Sector { file, .. } | Self::Size { file, .. } => Some(*file),
            _ => None,
        }
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Link { path, .. } | Self::Unlink { path } | Self::Rename { to: path, .. } => {
                Some(super::parent(path))
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Content {
    /// What reads see.
    live: Arc<Vec<u8>>,
    /// What a crash leaves at least.
    durable: Arc<Vec<u8>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, FileId>,
    durable_names: BTreeMap<PathBuf, FileId>,
    /// Directories are durable from the call on.
    dirs: BTreeSet<PathBuf>,
    pending: Vec<Atom>,
    locks: BTreeSet<PathBuf>,
    /// All files together may be this long.
    capacity: Option<usize>,
    /// Whether files that are to grow have to wait.
    growth_is_stalled: bool,
    syncs_to_fail: usize,
    writes_to_fail: usize,
    /// The number of calls that changed something.
    calls: usize,
    /// The state before each such call, if that is recorded.
    history: Option<Vec<State>>,
}

impl State {
    fn before_change(&mut self) {
        if self.history.is_some() {
            let image = Self { history: None, ..self.without_history() };
            self.history.as_mut().expect("recording").push(image);
        }
        self.calls += 1;
    }

    fn without_history(&mut self) -> Self {
        let history = self.history.take();
        let image = self.clone();
        self.history = history;
        image
    }

    fn apply(&mut self, atom: Atom) {
        match atom {
            Atom::Sector { file, at, image } => {
                let content = Arc::make_mut(&mut self.files[file].durable);
                if content.len() < at + image.len() {
                    content.resize(at + image.len(), 0);
                }
                content[at..at + image.len()].copy_from_slice(&image);
            }
            Atom::Size { file, size } => Arc::make_mut(&mut self.files[file].durable).resize(size, 0),
            Atom::Link { path, file } => drop(self.durable_names.insert(path, file)),
            Atom::Unlink { path } => drop(self.durable_names.remove(&path)),
            Atom::Rename { from, to, file } => {
                self.durable_names.remove(&from);
                self.durable_names.insert(to, file);
            }
        }
    }

    /// Applies the pending atoms that are meant, in their order.
    fn settle(&mut self, meant: impl Fn(&Atom) -> bool) {
        let (settled, pending) = std::mem::take(&mut self.pending).into_iter().partition(meant);
        self.pending = pending;
        let settled: Vec<Atom> = settled;
        settled.into_iter().for_each(|atom| self.apply(atom));
    }

    fn resize(&mut self, file: FileId, size: usize) -> io::Result<()> {
        let old = self.files[file].live.len();
        let used: usize = self.names.values().map(|file| self.files[*file].live.len()).sum();
        if self.capacity.is_some_and(|capacity| size > old && used + size - old > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Arc::make_mut(&mut self.files[file].live).resize(size, 0);
        self.pending.push(Atom::Size { file, size });
        Ok(())
    }

    fn write(&mut self, file: FileId, offset: usize, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len();
        if end > self.files[file].live.len() {
            self.resize(file, end)?;
        }
        let live = Arc::make_mut(&mut self.files[file].live);
        live[offset..end].copy_from_slice(data);
        let first = offset / SECTOR * SECTOR;
        let sectors = (first..end).step_by(SECTOR);
        self.pending.extend(sectors.map(|at| {
            let image = live[at..live.len().min(at + SECTOR)].to_vec();
            Atom::Sector { file, at, image }
        }));
        Ok(())
    }

    fn file(&self, path: &Path) -> io::Result<FileId> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as a crash at this moment leaves it. Pending atoms are numbered in the order of their calls; `keep` says
    /// which of them have reached the disk.
    pub fn crash(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let mut state = self.lock_state().without_history();
        for (number, atom) in std::mem::take(&mut state.pending).into_iter().enumerate() {
            if keep(number) {
                state.apply(atom);
            }
        }
        state.names = state.durable_names.clone();
        state.files.iter_mut().for_each(|file| file.live = file.durable.clone());
        state.locks.clear();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A disk of its own, as it is: what is pending stays pending. A process that is killed leaves it so.
    pub fn copy(&self) -> Self {
        let mut state = self.lock_state().without_history();
        state.locks.clear();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The number of pending atoms.
    pub fn pending(&self) -> usize {
        self.lock_state().pending.len()
    }

    /// The number of calls so far that changed something.
    pub fn calls(&self) -> usize {
        self.lock_state().calls
    }

    /// From now on keeps what the disk is before each call that changes something.
    pub fn record(&self) {
        let mut state = self.lock_state();
        state.calls = 0;
        state.history = Some(Vec::new());
    }

    /// Ends the recording. The disk at index `n` is the one that `n` calls had been made on.
    pub fn recorded(&self) -> Vec<Self> {
        let mut state = self.lock_state();
        let mut images = state.history.take().unwrap_or_default();
        images.push(state.clone());
        images.into_iter().map(|image| Self { state: Arc::new(Mutex::new(image)) }).collect()
    }

    /// Lets all files together be at most this many bytes long.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock_state().capacity = bytes;
    }

    /// The length of all files together.
    pub fn used(&self) -> usize {
        let state = self.lock_state();
        state.names.values().map(|file| state.files[*file].live.len()).sum()
    }

    /// Lets [`File::set_size`] wait for as long as this is set.
    pub fn stall_growth(&self, stall: bool) {
        self.lock_state().growth_is_stalled = stall;
    }

    /// Fails the next syncs of files; what was pending then is lost.
    pub fn fail_syncs(&self, count: usize) {
        self.lock_state().syncs_to_fail = count;
    }

    /// Fails the next writes, which write nothing.
    pub fn fail_writes(&self, count: usize) {
        self.lock_state().writes_to_fail = count;
    }

    /// Changes a file behind the back of its owner.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock_state();
        let file = state.file(path).expect("a file to edit");
        let mut bytes = state.files[file].live.to_vec();
        edit(&mut bytes);
        state.files[file] = Content { live: Arc::new(bytes.clone()), durable: Arc::new(bytes) };
    }

    /// A file's content.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.lock_state();
        state.files[state.file(path).expect("a file")].live.to_vec()
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock_state().names.keys().cloned().collect()
    }
}

impl Disk for SimDisk {
    fn create_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            let mut state = self.lock_state();
            state.before_change();
            state.dirs.extend(dir.ancestors().map(Path::to_path_buf));
            Ok(())
        })
    }

    fn list<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, Vec<String>> {
        Box::pin(async move {
            let state = self.lock_state();
            if !state.dirs.contains(dir) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let children = state.names.keys().chain(&state.dirs).filter(|path| path.parent() == Some(dir));
            let mut names: Vec<String> =
                children.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
            names.sort();
            Ok(names)
        })
    }

    fn open<'a>(&'a self, path: &'a Path, mode: OpenMode) -> DiskFuture<'a, Arc<dyn File>> {
        Box::pin(async move {
            let mut state = self.lock_state();
            let file = if mode == OpenMode::CreateNew {
                if state.names.contains_key(path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                if !state.dirs.contains(super::parent(path)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                state.before_change();
                let file = state.files.len();
                state.files.push(Content::default());
                state.names.insert(path.into(), file);
                state.pending.push(Atom::Link { path: path.into(), file });
                file
            } else {
                state.file(path)?
            };
            Ok(Arc::new(SimFile { disk: self.clone(), file }) as Arc<dyn File>)
        })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            let mut state = self.lock_state();
            let file = state.file(from)?;
            state.before_change();
            state.names.remove(from);
            state.names.insert(to.into(), file);
            state.pending.push(Atom::Rename { from: from.into(), to: to.into(), file });
            Ok(())
        })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            let mut state = self.lock_state();
            state.file(path)?;
            state.before_change();
            state.names.remove(path);
            state.pending.push(Atom::Unlink { path: path.into() });
            Ok(())
        })
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            let mut state = self.lock_state();
            state.before_change();
            state.settle(|atom| atom.dir() == Some(dir));
            Ok(())
        })
    }

    fn lock<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, Box<dyn Lock>> {
        Box::pin(async move {
            if !self.lock_state().locks.insert(path.into()) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(Box::new(SimLock { disk: self.clone(), path: path.into() }) as Box<dyn Lock>)
        })
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.lock_state().locks.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    file: FileId,
}

impl File for SimFile {
    fn size(&self) -> DiskFuture<'_, u64> {
        Box::pin(async move { Ok(self.disk.lock_state().files[self.file].live.len() as u64) })
    }

    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<'_, Vec<u8>> {
        Box::pin(async move {
            let state = self.disk.lock_state();
            let live = &state.files[self.file].live;
            let bytes = live.get(offset as usize..).and_then(|rest| rest.get(..len));
            bytes.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })
    }

    fn write_at<'a>(&'a self, offset: u64, data: &'a [u8]) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            let mut state = self.disk.lock_state();
            state.before_change();
            if state.writes_to_fail > 0 {
                state.writes_to_fail -= 1;
                return Err(io::Error::other("simulated failure of a write"));
            }
            state.write(self.file, offset as usize, data)
        })
    }

    fn set_size(&self, size: u64) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            while self.disk.lock_state().growth_is_stalled {
                tokio::task::yield_now().await;
            }
            let mut state = self.disk.lock_state();
            state.before_change();
            state.resize(self.file, size as usize)
        })
    }

    fn sync(&self) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut state = self.disk.lock_state();
            state.before_change();
            if state.syncs_to_fail > 0 {
                state.syncs_to_fail -= 1;
                state.pending.retain(|atom| atom.file() != Some(self.file));
                return Err(io::Error::other("simulated failure of a sync"));
            }
            state.settle(|atom| atom.file() == Some(self.file));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{read, write_atomically};

    async fn disk_with_dir() -> (SimDisk, PathBuf) {
        let disk = SimDisk::default();
        disk.create_dir(Path::new("/d")).await.expect("directory");
        (disk, PathBuf::from("/d/f"))
    }

    #[tokio::test]
    async fn a_crash_keeps_what_was_synced_and_what_it_is_told() {
        let (disk, path) = disk_with_dir().await;
        let file = disk.open(&path, OpenMode::CreateNew).await.expect("create");
        file.set_size(4 * SECTOR as u64).await.expect("size");
        file.sync().await.expect("sync");
        assert!(disk.crash(|_| false).paths().is_empty(), "a name before its directory is synced");
        disk.sync_dir(Path::new("/d")).await.expect("sync");

        file.write_at(SECTOR as u64 - 1, &[7; SECTOR + 2]).await.expect("write");
        assert_eq!(disk.pending(), 3);
        let torn = disk.crash(|atom| atom == 1).content(&path);
        let written: Vec<bool> = torn.iter().map(|byte| *byte == 7).collect();
        assert!(written[SECTOR..2 * SECTOR].iter().all(|written| *written));
        assert!(!written[SECTOR - 1] && !written[2 * SECTOR]);
        file.sync().await.expect("sync");
        assert_eq!(disk.crash(|_| false).content(&path), disk.content(&path));
    }

    #[tokio::test]
    async fn a_failed_sync_loses_what_was_pending_for_ever() {
        let (disk, path) = disk_with_dir().await;
        write_atomically(&disk, &path, b"old").await.expect("write");
        let file = disk.open(&path, OpenMode::ReadWrite).await.expect("open");
        file.write_at(0, b"new").await.expect("write");
        disk.fail_syncs(1);
        file.sync().await.expect_err("told to fail");
        file.sync().await.expect("sync");
        assert_eq!(disk.content(&path), b"new");
        assert_eq!(disk.crash(|_| true).content(&path), b"old");
    }

    #[tokio::test]
    async fn an_atomic_write_is_atomic_at_every_call_and_for_every_atom() {
        let (disk, path) = disk_with_dir().await;
        write_atomically(&disk, &path, &[1; 700]).await.expect("write");
        disk.record();
        write_atomically(&disk, &path, &[2; 900]).await.expect("write");
        let images = disk.recorded();
        assert!(images.len() > 5);
        for image in &images {
            for kept in 0..1 << image.pending() {
                let content = read(&image.crash(|atom| kept >> atom & 1 == 1), &path).await.expect("the file");
                assert!(content == [1; 700] || content == [2; 900]);
            }
        }
        assert_eq!(images.last().expect("images").crash(|_| false).content(&path), [2; 900]);
    }
}
