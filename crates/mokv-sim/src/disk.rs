//! A node's disk: the server's simulated disk ([`SimDisk`]) with the time that calls take, and faults.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mokv_server::disk::sim::SimDisk;
use mokv_server::disk::{Disk, DiskFuture, File, Lock, OpenMode};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::trace::Trace;

/// How a disk behaves. Changed while it is in use.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// A sync takes at least this long.
    pub sync_min: Duration,
    /// A sync takes up to this long.
    pub sync_max: Duration,
    /// Any other call takes up to this long.
    pub call_max: Duration,
    /// Nothing comes back.
    pub is_hung: bool,
    /// The next sync fails, and what was to be synced is lost.
    pub fail_sync: bool,
    /// The next write fails.
    pub fail_write: bool,
    /// Calls of some kinds fail, for as long as this is set.
    pub refusal: Option<Refusal>,
    /// The next such call hangs before it has an effect, and all others from then on.
    pub hang_before: Option<Step>,
}

/// A state of a machine in which some calls to its disk fail and others don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The file system was mounted again, to be read only. Files that were open for writing can still be synced.
    ReadOnly,
    /// Somebody deleted the directories. Files that were open are still there for who has them open.
    Deleted,
    /// The process has as many files open as it may.
    NoDescriptors,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A file is opened that is there.
    Open,
    /// A file is created.
    Create,
    /// A file is written, or gets another size.
    Write,
    /// A file gets another name, which is the one that counts.
    Rename,
    /// A file is removed.
    Remove,
    /// A directory is synced.
    SyncDir,
}

/// A call of this kind to a file or directory whose path ends so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The kind of call.
    pub call: Call,
    /// The end of the path.
    pub path_end: &'static str,
}

impl Refusal {
    fn check(self, call: Call) -> io::Result<()> {
        /// Too many open files.
        const EMFILE: i32 = 24;
        match (self, call) {
            (Self::ReadOnly, Call::Create | Call::Write | Call::Rename | Call::Remove) => {
                Err(io::ErrorKind::ReadOnlyFilesystem.into())
            }
            (Self::Deleted, Call::Open | Call::Create | Call::Rename | Call::Remove | Call::SyncDir) => {
                Err(io::ErrorKind::NotFound.into())
            }
            // A directory is opened to be synced.
            (Self::NoDescriptors, Call::Open | Call::Create | Call::SyncDir) => {
                Err(io::Error::from_raw_os_error(EMFILE))
            }
            _ => Ok(()),
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            sync_min: Duration::ZERO,
            sync_max: Duration::from_micros(800),
            call_max: Duration::from_micros(40),
            is_hung: false,
            fail_sync: false,
            fail_write: false,
            refusal: None,
            hang_before: None,
        }
    }
}

/// Sets how a disk behaves. Cheap to clone; clones set the same disk.
#[derive(Clone)]
pub struct Control {
    node: usize,
    trace: Trace,
    usual: Behaviour,
    behaviour: Arc<watch::Sender<Behaviour>>,
    rng: Arc<Mutex<SmallRng>>,
}

impl Control {
    /// The control of the disk of node number `node`, which behaves as `usual` unless it is told otherwise.
    pub fn new(node: usize, trace: Trace, rng: SmallRng, usual: Behaviour) -> Self {
        let behaviour = Arc::new(watch::Sender::new(usual.clone()));
        Self { node, trace, usual, behaviour, rng: Arc::new(Mutex::new(rng)) }
    }

    /// Lets the disk behave as it usually does.
    pub fn restore(&self) {
        self.behaviour.send_replace(self.usual.clone());
    }

    /// Lets syncs take as long as they usually do.
    pub fn restore_syncs(&self) {
        self.set(|behaviour| (behaviour.sync_min, behaviour.sync_max) = (self.usual.sync_min, self.usual.sync_max));
    }

    /// Changes how the disk behaves from now on.
    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        self.behaviour.send_modify(change);
    }

    /// How the disk behaves.
    pub fn get(&self) -> Behaviour {
        self.behaviour.borrow().clone()
    }

    /// Whether a call is to fail that has not come yet.
    pub fn is_about_to_fail(&self) -> bool {
        let behaviour = self.behaviour.borrow();
        behaviour.fail_sync || behaviour.fail_write || behaviour.refusal.is_some()
    }

    /// The disk with this behaviour.
    pub fn attach(&self, disk: SimDisk) -> Arc<dyn Disk> {
        Arc::new(TimedDisk { disk, control: self.clone() })
    }

    async fn take_time(&self, min: Duration, max: Duration) {
        let time = min + max.saturating_sub(min).mul_f64(self.rng().random::<f64>().powi(3));
        sleep(time).await;
        self.while_hung().await;
    }

    async fn while_hung(&self) {
        let mut behaviour = self.behaviour.subscribe();
        // The sender lives in `self`.
        drop(behaviour.wait_for(|now| !now.is_hung).await);
    }

    async fn call(&self) {
        let max = self.behaviour.borrow().call_max;
        if !max.is_zero() {
            self.take_time(Duration::ZERO, max).await;
        }
    }

    async fn sync(&self) {
        let Behaviour { sync_min, sync_max, .. } = self.get();
        self.take_time(sync_min, sync_max).await;
    }

    /// Hangs or fails a call that is to hang or fail, before it has an effect.
    async fn before(&self, call: Call, path: &Path) -> io::Result<()> {
        let is_due = |step: &Step| step.call == call && path.to_string_lossy().ends_with(step.path_end);
        if self.get().hang_before.is_some_and(|step| is_due(&step)) {
            self.trace.note(format_args!("disk {} hangs before {call:?} {}", self.node, path.display()));
            self.set(|behaviour| (behaviour.is_hung, behaviour.hang_before) = (true, None));
            self.while_hung().await;
        }
        match self.get().refusal {
            Some(refusal) => refusal.check(call),
            None => Ok(()),
        }
    }

    fn rng(&self) -> MutexGuard<'_, SmallRng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the fault is due, which happens once.
    fn takes(&self, fault: impl FnOnce(&mut Behaviour) -> &mut bool) -> bool {
        let mut is_due = false;
        self.behaviour.send_modify(|behaviour| is_due = std::mem::take(fault(behaviour)));
        is_due
    }
}

struct TimedDisk {
    disk: SimDisk,
    control: Control,
}

impl Disk for TimedDisk {
    fn create_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()> {
        self.disk.create_dir(dir)
    }

    fn list<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, Vec<String>> {
        self.disk.list(dir)
    }

    fn open<'a>(&'a self, path: &'a Path, mode: OpenMode) -> DiskFuture<'a, Arc<dyn File>> {
        Box::pin(async move {
            self.control.call().await;
            let call = if mode == OpenMode::CreateNew { Call::Create } else { Call::Open };
            self.control.before(call, path).await?;
            let file = self.disk.open(path, mode).await?;
            let (disk, control, path) = (self.disk.clone(), self.control.clone(), path.to_path_buf());
            Ok(Arc::new(TimedFile { disk, file, control, path }) as Arc<dyn File>)
        })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            self.control.call().await;
            self.control.before(Call::Rename, to).await?;
            self.disk.rename(from, to).await
        })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            self.control.call().await;
            self.control.before(Call::Remove, path).await?;
            self.disk.remove(path).await
        })
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            self.control.sync().await;
            self.control.before(Call::SyncDir, dir).await?;
            self.disk.sync_dir(dir).await
        })
    }

    fn lock<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, Box<dyn Lock>> {
        self.disk.lock(path)
    }
}

struct TimedFile {
    disk: SimDisk,
    file: Arc<dyn File>,
    control: Control,
    path: PathBuf,
}

impl File for TimedFile {
    fn size(&self) -> DiskFuture<'_, u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<'_, Vec<u8>> {
        Box::pin(async move {
            self.control.call().await;
            self.file.read_at(offset, len).await
        })
    }

    fn write_at<'a>(&'a self, offset: u64, data: &'a [u8]) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            self.control.call().await;
            self.control.before(Call::Write, &self.path).await?;
            if self.control.takes(|behaviour| &mut behaviour.fail_write) {
                self.control.trace.note(format_args!("disk {} fails a write", self.control.node));
                return Err(io::Error::other("simulated failure of a write"));
            }
            self.file.write_at(offset, data).await
        })
    }

    fn set_size(&self, size: u64) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            self.control.call().await;
            self.control.before(Call::Write, &self.path).await?;
            self.file.set_size(size).await
        })
    }

    fn sync(&self) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            self.control.sync().await;
            if self.control.takes(|behaviour| &mut behaviour.fail_sync) {
                self.control.trace.note(format_args!("disk {} fails a sync", self.control.node));
                self.disk.fail_syncs(1);
            }
            self.file.sync().await
        })
    }
}
