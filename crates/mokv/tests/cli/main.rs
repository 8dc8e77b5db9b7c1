//! The real binary, as a user or a script meets it.

#![allow(missing_docs)]

mod backup;
mod cluster;
mod commands;
mod config;
mod data;
mod dev;
mod serve;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a machine that is busy with other tests.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// `mokv` with these arguments, in an environment of its own.
fn mokv(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What came of a run.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code().expect("an exit code"), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Waits until `reached` says so, but not for ever.
fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let started = Instant::now();
    while !reached() {
        assert!(started.elapsed() < WAIT_MAX, "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn run(args: &[&str]) -> Ended {
    mokv(args).output().expect("mokv").into()
}

fn run_with_stdin(args: &[&str], stdin: &[u8]) -> Ended {
    let mut child = mokv(args).stdin(Stdio::piped()).spawn().expect("mokv");
    // A command that fails early does not read all.
    drop(child.stdin.take().expect("stdin").write_all(stdin));
    child.wait_with_output().expect("mokv").into()
}

/// A port where nobody listens, as long as nobody else takes it.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("address").port()
}
