//! One node's process: started, started again when it dies, and stopped with `mokv dev`.
//!
//! The node's standard input is a pipe that is never written to. The node stops cleanly when it ends: when it is closed
//! here, or when this process is gone, whatever killed it.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mokv_server::departure;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::plan::NodePlan;
use crate::exit::Failure;
use crate::output::note;

/// A node that died at once would do so again and again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// More than a node's own grace period (10 s by default).
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What `mokv dev` wants of its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A node that gives up by itself, with an error, ends it all: it would not do better the next time.
    Forming,
    /// A node that ends for any reason is started again.
    Running,
    /// All nodes stop.
    Stopping,
}

/// Keeps one node running.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) node: NodePlan,
    pub(super) phase: watch::Receiver<Phase>,
    /// The process that runs now.
    pub(super) pid: watch::Sender<Option<u32>>,
}

impl Supervisor {
    /// Runs the node until [`Phase::Stopping`].
    ///
    /// Fails if the node can't be started, or gives up while the cluster is forming.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        let mut is_restart = false;
        loop {
            let (mut child, life_line) =
                spawn(&self.node).map_err(|error| Failure::error(format!("{}: {error}", self.node.name)))?;
            self.pid.send_replace(child.id());
            if is_restart {
                note(format_args!("{} runs again, pid {}", self.node.name, child.id().unwrap_or_default()));
            }
            let status = tokio::select! {
                biased;
                () = stopping(&mut self.phase) => return stop(child, life_line).await,
                status = child.wait() => status.map_err(Failure::error)?,
            };
            self.pid.send_replace(None);
            if *self.phase.borrow() == Phase::Forming && status.code().is_some_and(|code| code != 0) {
                return Err(Failure::error(format!("{} gave up: {}", self.node.name, last_words(&self.node))));
            }
            if self.node.data_dir.join(departure::FILE).exists() {
                note(format_args!("{} has left the cluster, and stays out", self.node.name));
                stopping(&mut self.phase).await;
                return Ok(());
            }
            note(format_args!("{} {}; starting it again in a second", self.node.name, end_of(status)));
            tokio::select! {
                biased;
                () = stopping(&mut self.phase) => return Ok(()),
                () = sleep(RESTART_PAUSE) => is_restart = true,
            }
        }
    }
}

/// How many threads tokio runs tasks on.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// A node's share of the machine, which it would take for its own. More threads than processors get in each other's way.
fn workers(nodes: usize) -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / nodes).max(1))
}

/// Starts the node. It runs as long as the pipe is open.
fn spawn(node: &NodePlan) -> io::Result<(Child, Option<ChildStdin>)> {
    let log = OpenOptions::new().append(true).create(true).open(&node.log_file)?;
    let mut child = command(node, log)?.spawn()?;
    // Taken out, because waiting for a child closes the pipe that it still holds.
    let life_line = child.stdin.take();
    Ok((child, life_line))
}

fn command(node: &NodePlan, log: File) -> io::Result<Command> {
    let threads = env::var(WORKER_THREADS).unwrap_or_else(|_| workers(node.expect.into()).to_string());
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["serve", "--exit-with-stdin", "--node-name", &node.name])
        .arg("--data-dir")
        .arg(&node.data_dir)
        .args(["--bind-addr", &format!("127.0.0.1:{}", node.gossip_port)])
        .args(["--rpc-port", &node.rpc_port.to_string()])
        .args(["--metrics-port", &node.metrics_port.to_string()])
        .args(["--advertise-addr", &node.rpc_addr()])
        .args(["--bootstrap-expect", &node.expect.to_string(), "--start-join-addrs", &node.join_addrs])
        .env(WORKER_THREADS, threads)
        // Meant for a node of its own, not for these.
        .env_remove("MOKV_CONFIG_FILE")
        .env_remove("MOKV_BOOTSTRAP")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // The terminal's Ctrl-C is for `mokv dev`, which then stops its nodes.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

async fn stopping(phase: &mut watch::Receiver<Phase>) {
    // A sender that is gone has stopped, too.
    drop(phase.wait_for(|phase| *phase == Phase::Stopping).await);
}

async fn stop(mut child: Child, life_line: Option<ChildStdin>) -> Result<(), Failure> {
    drop(life_line);
    match timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(ended) => ended.map(drop).map_err(Failure::error),
        Err(_) => child.kill().await.map_err(Failure::error),
    }
}

fn end_of(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(0)) => "stopped".to_owned(),
        (None, code) => format!("ended with exit code {}", code.unwrap_or_default()),
    }
}

/// The last line that the node logged, and where the others are.
fn last_words(node: &NodePlan) -> String {
    let log = fs::read(&node.log_file).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let last = log.lines().rev().find(|line| line.starts_with("error: ")).or(log.lines().last()).unwrap_or_default();
    format!("{} (see {})", last.trim_start_matches("error: "), node.log_file.display())
}
