//! The disk seam: every byte that the server keeps goes through these calls.
//!
//! [`OsDisk`] is the production implementation. A simulator implements the same traits with pending writes, torn
//! sectors and failing syncs.
//!
//! # Contract
//!
//! - What was written is durable once [`File::sync`] has returned, a name once [`Disk::sync_dir`] of its directory has.
//!   Before that a crash may keep all of it, none of it, or any 512-byte sectors of it.
//! - After a failed sync nothing is known about the unsynced bytes, and another sync proves nothing: the caller stops
//!   the process.
//! - The futures of [`OsDisk`] block the thread that polls them. They are only awaited in tasks started with
//!   [`Tasks::spawn_disk`](crate::runtime::Tasks::spawn_disk), which own a thread in production.

use crate::mutants::mutant;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

#[cfg(test)]
pub(crate) mod crash_points;
pub mod os;
pub mod sim;

pub use os::OsDisk;

/// A boxed future of a disk call.
pub type DiskFuture<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new file; fails with [`io::ErrorKind::AlreadyExists`] if there is one.
    CreateNew,
}

/// Names: directories and what they hold.
pub trait Disk: Send + Sync + 'static {
    /// Creates a directory and its missing parents, durably. No error if it exists.
    fn create_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()>;

    /// The names of the files in a directory, sorted.
    fn list<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, Vec<String>>;

    /// Opens a file. The name of a new one is durable only after [`Disk::sync_dir`].
    fn open<'a>(&'a self, path: &'a Path, mode: OpenMode) -> DiskFuture<'a, Arc<dyn File>>;

    /// Renames a file within its directory, replacing what had the new name. Durable after [`Disk::sync_dir`].
    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> DiskFuture<'a, ()>;

    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, ()>;

    /// Makes the names in a directory durable.
    fn sync_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()>;

    /// Locks a file (creating it) until the returned guard is dropped or the process ends. Fails at once with
    /// [`io::ErrorKind::WouldBlock`] if another process has it.
    fn lock<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, Box<dyn Lock>>;
}

/// One open file. Reads and writes name their place; there is no cursor.
pub trait File: Send + Sync + 'static {
    /// The length in bytes.
    fn size(&self) -> DiskFuture<'_, u64>;

    /// Reads exactly `len` bytes, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<'_, Vec<u8>>;

    /// Writes all of `data`, extending the file where needed.
    fn write_at<'a>(&'a self, offset: u64, data: &'a [u8]) -> DiskFuture<'a, ()>;

    /// Makes the file `size` bytes long: cut, or extended by zeros that have their room on the disk
    /// ([`io::ErrorKind::StorageFull`] otherwise), so that later writes below `size` need no new blocks.
    fn set_size(&self, size: u64) -> DiskFuture<'_, ()>;

    /// Makes content and size durable (`fdatasync`).
    fn sync(&self) -> DiskFuture<'_, ()>;
}

/// Holds a lock while it lives.
pub trait Lock: Send + Sync + 'static {}

/// The name under which [`write_atomically`] prepares a file. One that is found at a start was never finished.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Puts `bytes` under the name `path`, durably: after a crash the name has either all of its old content or all of the
/// new one. One writer per name at a time.
///
/// # Errors
///
/// As the disk reports them. The old content is untouched, unless only the last step failed, which makes the new name
/// durable.
pub async fn write_atomically(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    remove_if_present(disk, &unfinished).await?;
    let file = disk.open(&unfinished, OpenMode::CreateNew).await?;
    file.write_at(0, bytes).await?;
    if !mutant!(RenameBeforeSync) {
        file.sync().await?;
    }
    disk.rename(&unfinished, path).await?;
    disk.sync_dir(parent(path)).await
}

/// Reads a whole file.
///
/// # Errors
///
/// As the disk reports them; [`io::ErrorKind::NotFound`] if there is no such file.
pub async fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read).await?;
    let size = file.size().await?;
    file.read_at(0, usize::try_from(size).map_err(io::Error::other)?).await
}

/// Removes a file that may not be there. Durable after [`Disk::sync_dir`].
///
/// # Errors
///
/// As the disk reports them, except [`io::ErrorKind::NotFound`].
pub async fn remove_if_present(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The directory that holds a name. A bare name is in the working directory.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
