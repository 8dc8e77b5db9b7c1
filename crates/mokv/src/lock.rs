//! `mokv lock`

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use mokv_client::{Lock, LockGuard};
use mokv_server::config::parse_duration;
use serde::Serialize;
use tokio::time::timeout;

use crate::child::Run;
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat};
use crate::serve::Signals;

const EXAMPLES: &str = "\
Examples:
  mokv lock jobs/nightly -- ./nightly.sh           one at a time, in the order in which they came
  mokv lock jobs/nightly --try -- ./nightly.sh     or exit code 5
  mokv lock jobs/nightly                           prints the key and the fencing token, and holds it until Ctrl-C

The command finds MOKV_LOCK_KEY and MOKV_LOCK_TOKEN in its environment. If the lock is lost while it runs, it gets SIGTERM, and
mokv ends with exit code 5.";

/// Hold a lock, while a command runs or until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LockArgs {
    /// The lock's name
    name: String,

    /// The command to run
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// How soon others get the lock when this process is gone
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    ttl: Duration,

    /// Don't wait: exit code 5 if somebody has it
    #[arg(long = "try")]
    is_try: bool,

    /// How long to wait for it, then exit code 5
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "is_try")]
    wait: Option<Duration>,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is held.
#[derive(Debug, Serialize)]
struct Held<'a> {
    key: &'a str,
    token: u64,
}

impl LockArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let lock = self.cluster.lasting_client().await?.lock(&self.name).ttl(self.ttl).value(holder());
        let guard = tokio::select! {
            biased;
            () = signals.next() => return Err(Failure::error("given up")),
            guard = self.take(lock) => guard?,
        };
        let lost = async {
            guard.lost().await;
            Failure::refused(format!("the lock {} is lost", self.name))
        };
        let ended = if self.command.is_empty() {
            print_held(&guard, self.output.format)?;
            tokio::select! {
                biased;
                () = signals.next() => Ok(()),
                failure = lost => Err(failure),
            }
        } else {
            let token = guard.token().to_string();
            let variables = vec![("MOKV_LOCK_KEY", guard.key().into()), ("MOKV_LOCK_TOKEN", token.into())];
            Run { command: &self.command, variables, stdin: None }.while_held(lost).await
        };
        // Nobody waits longer for an answer than for the lease to run out.
        let released = timeout(self.ttl, guard.unlock()).await.unwrap_or(Ok(()));
        ended.and(released.map_err(Failure::from))
    }

    async fn take(&self, lock: Lock) -> Result<LockGuard, Failure> {
        let busy = || Failure::refused(format!("somebody else has the lock {}", self.name));
        if self.is_try {
            return lock.try_lock().await?.ok_or_else(busy);
        }
        match self.wait {
            Some(wait) => Ok(timeout(wait, lock.into_future()).await.map_err(|_| busy())??),
            None => Ok(lock.await?),
        }
    }
}

/// What the key says: who to look for.
pub(crate) fn holder() -> String {
    let host = rustix::system::uname();
    format!("{} pid {}", host.nodename().to_string_lossy(), std::process::id())
}

fn print_held(guard: &LockGuard, format: TableFormat) -> Result<(), Failure> {
    let held = Held { key: guard.key(), token: guard.token() };
    Ok(output::answer(format, format_args!("{}\t{}", held.key, held.token), &held)?)
}
