//! The operating system's disk: the production side of the disk seam.
//!
//! What std does not reach (locks, reserving room) goes through rustix. Directories and files are made for the owner
//! alone: they hold everybody's data.

// This module is the seam.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::{Disk, DiskFuture, File, Lock, OpenMode};

/// Zeros are written in pieces of this many bytes: few calls, and no buffer worth mentioning.
const ZEROS_BYTES: usize = 256 * 1024;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The operating system's files. Its futures block the thread that polls them.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn create_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move { create_dir(dir) })
    }

    fn list<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, Vec<String>> {
        Box::pin(async move {
            let mut names = Vec::new();
            for entry in fs::read_dir(dir)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        })
    }

    fn open<'a>(&'a self, path: &'a Path, mode: OpenMode) -> DiskFuture<'a, Arc<dyn File>> {
        Box::pin(async move {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(mode != OpenMode::Read).mode(FILE_MODE);
            options.create_new(mode == OpenMode::CreateNew);
            Ok(Arc::new(OsFile(options.open(path)?)) as Arc<dyn File>)
        })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move { fs::rename(from, to) })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move { fs::remove_file(path) })
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move { sync_dir(dir) })
    }

    fn lock<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, Box<dyn Lock>> {
        Box::pin(async move {
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(Box::new(OsLock { _file: file }) as Box<dyn Lock>)
        })
    }
}

/// Whether a path is on a file system in memory, whose content a reboot loses. `false` where that can't be found out.
pub fn is_in_memory(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of `linux/magic.h`.
        const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
        rustix::fs::statfs(path).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u64 & 0xffff_ffff)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}

/// Creates a directory and its parents, durably.
fn create_dir(dir: &Path) -> io::Result<()> {
    let parent = super::parent(dir);
    let create = || fs::DirBuilder::new().mode(DIR_MODE).create(dir);
    match create() {
        Ok(()) => sync_dir(parent),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dir(parent)?;
            create()?;
            sync_dir(parent)
        }
        // It may have been made by a process that died before it made the name durable. A parent that may not be read
        // belongs to somebody else, who made this directory for us.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => match sync_dir(parent) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        },
        Err(error) => Err(error),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

struct OsLock {
    /// Closing it gives the lock back.
    _file: fs::File,
}

impl Lock for OsLock {}

struct OsFile(fs::File);

impl OsFile {
    /// Extends the file by zeros that were written, not only promised: the first write to a block that was merely
    /// allocated changes the file system's metadata, which a sync then has to write too.
    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        // Asks for the room at once, so that a full disk is found before anything is written. Not all file systems can.
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), from, to - from) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(to - from).unwrap_or(ZEROS_BYTES))];
        let mut at = from;
        while at < to {
            let piece = zeros.len().min(usize::try_from(to - at).unwrap_or(zeros.len()));
            self.0.write_all_at(&zeros[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }
}

impl File for OsFile {
    fn size(&self) -> DiskFuture<'_, u64> {
        Box::pin(async move { Ok(self.0.metadata()?.len()) })
    }

    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<'_, Vec<u8>> {
        Box::pin(async move {
            let mut bytes = vec![0; len];
            self.0.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        })
    }

    fn write_at<'a>(&'a self, offset: u64, data: &'a [u8]) -> DiskFuture<'a, ()> {
        Box::pin(async move { self.0.write_all_at(data, offset) })
    }

    fn set_size(&self, size: u64) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            let now = self.0.metadata()?.len();
            if size <= now { self.0.set_len(size) } else { self.grow(now, size) }
        })
    }

    fn sync(&self) -> DiskFuture<'_, ()> {
        Box::pin(async move { self.0.sync_data() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{read, unfinished, write_atomically};

    #[tokio::test]
    async fn files_grow_by_zeros_and_shrink() {
        let dir = tempfile::tempdir().expect("directory");
        let file = OsDisk.open(&dir.path().join("f"), OpenMode::CreateNew).await.expect("create");
        file.write_at(0, b"abc").await.expect("write");
        let size = 2 * ZEROS_BYTES as u64 + 7;
        file.set_size(size).await.expect("grow");
        assert_eq!(file.size().await.expect("size"), size);
        let bytes = file.read_at(0, size as usize).await.expect("read");
        assert_eq!(bytes[..3], *b"abc");
        assert!(bytes[3..].iter().all(|byte| *byte == 0));
        file.set_size(2).await.expect("shrink");
        file.sync().await.expect("sync");
        assert_eq!(file.read_at(0, 2).await.expect("read"), b"ab");
        let beyond = file.read_at(0, 3).await.expect_err("beyond the end");
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn names_are_created_listed_renamed_and_removed() {
        let dir = tempfile::tempdir().expect("directory");
        let inner = dir.path().join("a/b");
        for _ in 0..2 {
            OsDisk.create_dir(&inner).await.expect("create");
        }
        let (x, y) = (inner.join("x"), inner.join("y"));
        OsDisk.open(&x, OpenMode::CreateNew).await.expect("create");
        let twice = OsDisk.open(&x, OpenMode::CreateNew).await.err().expect("exists");
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
        OsDisk.rename(&x, &y).await.expect("rename");
        OsDisk.sync_dir(&inner).await.expect("sync");
        assert_eq!(OsDisk.list(&inner).await.expect("list"), ["y"]);
        OsDisk.remove(&y).await.expect("remove");
        let gone = OsDisk.open(&y, OpenMode::Read).await.err().expect("removed");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_lock_is_held_once_and_given_back() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("LOCK");
        let lock = OsDisk.lock(&path).await.expect("lock");
        let second = OsDisk.lock(&path).await.err().expect("held");
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        OsDisk.lock(&path).await.expect("given back");
    }

    #[tokio::test]
    async fn an_atomic_write_replaces_the_content_and_leftovers() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("f");
        std::fs::write(unfinished(&path), "from a process that died").expect("leftover");
        for content in ["one", "another"] {
            write_atomically(&OsDisk, &path, content.as_bytes()).await.expect("write");
            assert_eq!(read(&OsDisk, &path).await.expect("read"), content.as_bytes());
        }
        assert_eq!(OsDisk.list(dir.path()).await.expect("list"), ["f"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_system_in_memory_is_recognised() {
        if Path::new("/dev/shm").is_dir() {
            assert!(is_in_memory(Path::new("/dev/shm")));
        }
        assert!(!is_in_memory(Path::new("/proc")));
    }
}
