//! The task seam: how the tasks of one node start, end together, and get their random numbers.
//!
//! A node is started inside [`Tasks::scope`]. From then on everything that it starts, openraft's tasks included,
//! belongs to its [`Tasks`]: [`Tasks::abort`] ends them at once, as a crash would, and all their random numbers come
//! from the node's seed. Time needs no seam of its own: all code uses `tokio::time`, which a simulator pauses.

// This module is the seam.
#![allow(clippy::disallowed_methods)]

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use openraft_rt::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use rand::rngs::{SmallRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use tokio::task::{AbortHandle, JoinHandle};

/// A boxed task.
pub type BoxTask = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

tokio::task_local! {
    static NODE: Tasks;
}

/// Where tasks that block on the disk run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskTasks {
    /// Each on a thread of its own: production.
    Threads,
    /// As ordinary tasks: a simulator, whose disk does not block. Such a node can also be [paused](Tasks::pause).
    Inline,
}

/// The tasks and the random numbers of one node. Cheap to clone; clones are the same node.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    disk_tasks: DiskTasks,
    rng: Mutex<SmallRng>,
    running: Mutex<Running>,
    /// While the node is paused: who is to be woken when it goes on.
    paused: Mutex<Option<Vec<Waker>>>,
}

struct Running {
    aborted: bool,
    handles: Vec<AbortHandle>,
    /// Finished tasks are dropped from `handles` when it has grown to this.
    sweep_at: usize,
}

/// Below this many handles a sweep is not worth its time.
const SWEEP_MIN: usize = 64;

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("disk_tasks", &self.inner.disk_tasks).finish_non_exhaustive()
    }
}

impl Tasks {
    /// The tasks of a node whose random numbers follow from `seed`.
    pub fn new(seed: u64, disk_tasks: DiskTasks) -> Self {
        Self {
            inner: Arc::new(Inner {
                disk_tasks,
                rng: Mutex::new(SmallRng::seed_from_u64(seed)),
                running: Mutex::new(Running { aborted: false, handles: Vec::new(), sweep_at: SWEEP_MIN }),
                paused: Mutex::new(None),
            }),
        }
    }

    /// The tasks of a production node: seeded by the operating system, with threads for the disk.
    pub fn from_os() -> io::Result<Self> {
        let seed = SysRng.try_next_u64().map_err(io::Error::other)?;
        Ok(Self::new(seed, DiskTasks::Threads))
    }

    /// Runs a future as part of this node: what it starts belongs here.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        NODE.scope(self.clone(), future).await
    }

    /// The tasks of the node that the caller runs in. `None` outside of [`Tasks::scope`].
    pub fn current() -> Option<Self> {
        NODE.try_with(Clone::clone).ok()
    }

    /// Starts a task. It ends with [`Tasks::abort`] at the latest.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let scoped = NODE.scope(self.clone(), future);
        let handle = match self.inner.disk_tasks {
            DiskTasks::Threads => tokio::spawn(scoped),
            DiskTasks::Inline => tokio::spawn(Pausable { task: Box::pin(scoped), tasks: self.clone() }),
        };
        self.register(handle.abort_handle());
        handle
    }

    /// Starts a task that may block on the disk: on a thread of its own in production. It cannot be aborted there; it
    /// ends when what it serves hangs up.
    pub fn spawn_disk(&self, name: &str, task: BoxTask) -> io::Result<()> {
        match self.inner.disk_tasks {
            DiskTasks::Inline => {
                self.spawn(task);
            }
            DiskTasks::Threads => {
                let scoped = NODE.scope(self.clone(), task);
                std::thread::Builder::new().name(name.into()).spawn(move || futures_executor::block_on(scoped))?;
            }
        }
        Ok(())
    }

    /// Runs a disk job to its end on a disk task and waits for its result.
    pub async fn run_disk<T, F>(&self, name: &str, job: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = io::Result<T>> + Send + 'static,
    {
        let (done, result) = tokio::sync::oneshot::channel();
        self.spawn_disk(name, async move { drop(done.send(job.await)) }.boxed())?;
        result.await.map_err(|_| io::Error::other("the disk task ended before its job"))?
    }

    /// Ends all tasks where they stand, as a crash would; what is started later ends at once.
    pub fn abort(&self) {
        let mut running = self.lock_running();
        running.aborted = true;
        for handle in running.handles.drain(..) {
            handle.abort();
        }
    }

    /// Stops all tasks of a simulated node where they stand, as SIGSTOP does, until [`Tasks::resume`]. Time goes on.
    pub fn pause(&self) {
        self.lock_paused().get_or_insert_default();
    }

    /// Lets the tasks go on.
    pub fn resume(&self) {
        let waiting = self.lock_paused().take();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// A generator of its own, seeded by the node's.
    pub fn rng(&self) -> SmallRng {
        let mut rng = self.inner.rng.lock().unwrap_or_else(PoisonError::into_inner);
        SmallRng::seed_from_u64(rng.next_u64())
    }

    fn register(&self, handle: AbortHandle) {
        let mut running = self.lock_running();
        if running.aborted {
            handle.abort();
            return;
        }
        running.handles.push(handle);
        if running.handles.len() >= running.sweep_at {
            running.handles.retain(|handle| !handle.is_finished());
            running.sweep_at = SWEEP_MIN.max(running.handles.len() * 2);
        }
    }

    fn lock_paused(&self) -> std::sync::MutexGuard<'_, Option<Vec<Waker>>> {
        self.inner.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task of a node that a simulator may pause.
struct Pausable<T> {
    task: Pin<Box<dyn Future<Output = T> + Send>>,
    tasks: Tasks,
}

impl<T> Future for Pausable<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(waiting) = &mut *self.tasks.lock_paused() {
            waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        self.task.as_mut().poll(cx)
    }
}

/// Wall time, for what people read (metrics, logs). Nothing is decided by it.
#[derive(Debug, Clone, Copy)]
pub enum WallClock {
    /// The operating system's.
    System,
    /// A simulator's: this much after the epoch, for ever.
    Fixed(Duration),
}

impl WallClock {
    /// Time since the Unix epoch; zero if the clock is set before it.
    pub fn now(self) -> Duration {
        match self {
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Self::Fixed(since_epoch) => since_epoch,
        }
    }
}

/// openraft's runtime: tokio, with tasks and random numbers of the node that runs ([`Tasks::current`]).
#[derive(Debug)]
pub struct NodeRuntime(TokioRuntime);

impl AsyncRuntime for NodeRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        match Tasks::current() {
            Some(tasks) => tasks.spawn(future),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        match Tasks::current() {
            Some(tasks) => tasks.rng(),
            None => rand::make_rng(),
        }
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    /// Runs the function where it is: openraft's own default would start a thread.
    async fn spawn_blocking<F, T>(f: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(f())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn abort_ends_tasks_of_openraft_too() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let ended = tasks.scope(async {
            let task = NodeRuntime::spawn(std::future::pending::<()>());
            tasks.abort();
            task.await
        });
        assert!(ended.await.expect_err("aborted").is_cancelled());
        assert!(tasks.spawn(async {}).await.expect_err("started after the abort").is_cancelled());
    }

    #[tokio::test]
    async fn a_paused_node_stands_still_and_goes_on() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let (step, steps) = tokio::sync::watch::channel(0);
        tasks.spawn(async move {
            loop {
                step.send_modify(|step| *step += 1);
                tokio::task::yield_now().await;
            }
        });
        let wait = || async {
            for _ in 0..10 {
                tokio::task::yield_now().await
            }
        };
        wait().await;
        tasks.pause();
        let at = *steps.borrow();
        assert!(at > 0);
        wait().await;
        assert_eq!(*steps.borrow(), at);
        tasks.resume();
        wait().await;
        assert!(*steps.borrow() > at);
        tasks.abort();
    }

    #[tokio::test]
    async fn random_numbers_follow_from_the_seed() {
        let draw = |seed| async move {
            let tasks = Tasks::new(seed, DiskTasks::Inline);
            tasks.scope(async { [NodeRuntime::thread_rng().next_u64(), NodeRuntime::thread_rng().next_u64()] }).await
        };
        assert_eq!(draw(7).await, draw(7).await);
        assert_ne!(draw(7).await, draw(8).await);
    }

    #[tokio::test]
    async fn disk_jobs_return_their_result() {
        for disk_tasks in [DiskTasks::Threads, DiskTasks::Inline] {
            let tasks = Tasks::new(1, disk_tasks);
            assert_eq!(tasks.run_disk("job", async { Ok(5) }).await.expect("job"), 5);
        }
    }
}
