//! Commands that `lock`, `elect` and `watch` run: they get the terminal, their environment says what it is about, and
//! what they exit with is what `mokv` exits with.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::exit::Failure;

/// How long a command that is told to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// A command and what it is told.
pub(crate) struct Run<'a> {
    pub(crate) command: &'a [OsString],
    pub(crate) variables: Vec<(&'static str, OsString)>,
    /// What it reads; `None`: whatever `mokv` would.
    pub(crate) stdin: Option<Vec<u8>>,
}

impl Run<'_> {
    /// Runs it to its end. If `lost` completes before, it is told to end, and that is what is told.
    ///
    /// SIGTERM goes on to it. SIGINT does not: a terminal sends it to both, and both are to take their time.
    pub(crate) async fn while_held(self, lost: impl Future<Output = Failure>) -> Result<(), Failure> {
        let cannot_listen = |error| Failure::error(format!("can't listen to signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot_listen)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_listen)?;
        let mut child = self.start()?;
        let fed = feed(&mut child, self.stdin);
        tokio::pin!(fed, lost);
        let mut is_fed = false;
        loop {
            tokio::select! {
                biased;
                status = child.wait() => return ended(status.map_err(Failure::error)?),
                _ = terminate.recv() => tell_to_end(&child),
                _ = interrupt.recv() => {}
                failure = &mut lost => {
                    tell_to_end(&child);
                    if timeout(GRACE, child.wait()).await.is_err() {
                        child.kill().await.map_err(Failure::error)?;
                    }
                    return Err(failure);
                }
                () = &mut fed, if !is_fed => is_fed = true,
            }
        }
    }

    fn start(&self) -> Result<Child, Failure> {
        let [program, args @ ..] = self.command else { return Err(Failure::usage("there is no command to run")) };
        let mut command = Command::new(program);
        command.args(args).envs(self.variables.iter().cloned()).kill_on_drop(true);
        if self.stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        command.spawn().map_err(|error| Failure::error(format!("can't run {}: {error}", program.display())))
    }
}

/// A command that does not read all of it has its reasons.
fn feed(child: &mut Child, stdin: Option<Vec<u8>>) -> impl Future<Output = ()> + use<> {
    let pipe = child.stdin.take();
    async move {
        if let (Some(mut pipe), Some(bytes)) = (pipe, stdin) {
            drop(pipe.write_all(&bytes).await);
        }
    }
}

fn tell_to_end(child: &Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // Perhaps it has just ended.
        kill_process(pid, Signal::TERM).unwrap_or_default();
    }
}

/// As a shell has it: who is killed by a signal has exit code 128 and the signal's number.
fn ended(status: ExitStatus) -> Result<(), Failure> {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    match u8::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::of_command(code)),
        Err(_) => Err(Failure::of_command(1)),
    }
}
