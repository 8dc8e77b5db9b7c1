//! A node's disk: the server's simulated disk ([`SimDisk`]) with the time that calls take, and faults.

use std::io;
use std::path::Path;
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
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            sync_max: Duration::from_micros(800),
            call_max: Duration::from_micros(40),
            is_hung: false,
            fail_sync: false,
            fail_write: false,
        }
    }
}

/// Sets how a disk behaves. Cheap to clone; clones set the same disk.
#[derive(Clone)]
pub struct Control {
    node: usize,
    trace: Trace,
    behaviour: Arc<watch::Sender<Behaviour>>,
    rng: Arc<Mutex<SmallRng>>,
}

impl Control {
    /// The control of the disk of node number `node`.
    pub fn new(node: usize, trace: Trace, rng: SmallRng) -> Self {
        Self { node, trace, behaviour: Arc::new(watch::Sender::default()), rng: Arc::new(Mutex::new(rng)) }
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
        behaviour.fail_sync || behaviour.fail_write
    }

    /// The disk with this behaviour.
    pub fn attach(&self, disk: SimDisk) -> Arc<dyn Disk> {
        Arc::new(TimedDisk { disk, control: self.clone() })
    }

    async fn take_time(&self, max: Duration) {
        let time = max.mul_f64(self.rng().random::<f64>().powi(3));
        sleep(time).await;
        let mut behaviour = self.behaviour.subscribe();
        // The sender lives in `self`.
        drop(behaviour.wait_for(|now| !now.is_hung).await);
    }

    async fn call(&self) {
        let max = self.behaviour.borrow().call_max;
        if !max.is_zero() {
            self.take_time(max).await;
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
            let file = self.disk.open(path, mode).await?;
            Ok(Arc::new(TimedFile { disk: self.disk.clone(), file, control: self.control.clone() }) as Arc<dyn File>)
        })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            self.control.call().await;
            self.disk.rename(from, to).await
        })
    }

    fn remove<'a>(&'a self, path: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            self.control.call().await;
            self.disk.remove(path).await
        })
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> DiskFuture<'a, ()> {
        Box::pin(async move {
            self.control.take_time(self.control.get().sync_max).await;
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
            self.file.set_size(size).await
        })
    }

    fn sync(&self) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            self.control.take_time(self.control.get().sync_max).await;
            if self.control.takes(|behaviour| &mut behaviour.fail_sync) {
                self.control.trace.note(format_args!("disk {} fails a sync", self.control.node));
                self.disk.fail_syncs(1);
            }
            self.file.sync().await
        })
    }
}
