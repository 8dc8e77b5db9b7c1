//! HashiCorp's `serf`, as a process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::eventually;

/// Where Debian's package puts it, and the search path finds it.
const PROGRAM: &str = "serf";

/// The port of gossip, at an address that each node has for itself.
const PORT: u16 = 7946;

const RPC_PORT: u16 = 7373;

/// Whether `test` can run here. If not, that was said loudly, or fails under `MOKV_SERF_STRICT=1`.
#[must_use]
pub(crate) fn here(test: &str) -> bool {
    if Command::new(PROGRAM).arg("version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let line = format!("SKIPPED: {test}: no serf: apt-get install serf");
    // Past the test harness, which swallows what passing tests print. Nobody to tell is no reason to fail.
    drop(writeln!(io::stderr(), "interop: {line}"));
    assert!(std::env::var_os("MOKV_SERF_STRICT").is_none_or(|strict| strict != "1"), "{line}");
    false
}

/// An address of loopback that no other node of this process has, nor those of most others.
pub(crate) fn fresh_addr() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let host = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(host < u8::MAX, "more nodes than addresses");
    SocketAddr::new(Ipv4Addr::new(127, 64 | (high & 0x3f), low, host).into(), PORT)
}

/// What `serf members` says of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) addr: String,
    pub(crate) status: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// Lowest, highest, spoken.
    pub(crate) protocol: [u64; 3],
}

/// A running `serf agent`. Dropped, it is killed; if its test fails, it says what it logged.
pub(crate) struct Theirs {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    rpc_addr: SocketAddr,
    child: Child,
    log: PathBuf,
    _dir: TempDir,
}

impl Theirs {
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        Self::start_at(fresh_addr(), name, args)
    }

    /// Returns when its gossip and its commands work.
    pub(crate) fn start_at(addr: SocketAddr, name: &str, args: &[&str]) -> Self {
        let rpc_addr = match addr {
            SocketAddr::V4(addr) => SocketAddr::new((*addr.ip()).into(), RPC_PORT),
            // There is one address only: commands take another way.
            SocketAddr::V6(_) => SocketAddr::new(fresh_addr().ip(), RPC_PORT),
        };
        let dir = tempfile::tempdir().expect("directory");
        let log = dir.path().join("log");
        let output = File::create(&log).expect("log");
        let child = Command::new(PROGRAM)
            .arg("agent")
            .args([format!("-node={name}"), format!("-bind={addr}"), format!("-rpc-addr={rpc_addr}")])
            .arg("-log-level=debug")
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("log"))
            .stderr(output)
            .spawn()
            .expect("serf");
        let mut theirs = Self { name: name.to_owned(), addr, rpc_addr, child, log, _dir: dir };
        eventually("serf answers", || {
            if let Some(status) = theirs.child.try_wait().expect("wait") {
                panic!("serf ended: {status}");
            }
            theirs.try_run("info", &[])
        });
        theirs
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("pid")).expect("pid")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signal");
    }

    /// SIGKILL, and the end of the process.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Waits until the process ends by itself.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        eventually("serf ends", || self.child.try_wait().expect("wait").ok_or("it runs"))
    }

    /// Runs a command of `serf` on this node. What it prints, if it succeeds; all that it says, if not.
    pub(crate) fn try_run(&self, command: &str, args: &[&str]) -> Result<String, String> {
        let output = Command::new(PROGRAM)
            .arg(command)
            .arg(format!("-rpc-addr={}", self.rpc_addr))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(said)
        } else {
            Err(format!("serf {command}: {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub(crate) fn run(&self, command: &str, args: &[&str]) -> String {
        self.try_run(command, args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// All that it lists.
    pub(crate) fn members(&self) -> Result<BTreeMap<String, Listed>, String> {
        let said = self.try_run("members", &["-format=json"])?;
        let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let member = |member: &Value| {
            let protocol = ["min", "max", "version"].map(|field| member["protocol"][field].as_u64().expect("a number"));
            let tags = member["tags"].as_object().expect("tags");
            let tags = tags.iter().map(|(tag, value)| (tag.clone(), text(value))).collect();
            let listed = Listed { addr: text(&member["addr"]), status: text(&member["status"]), tags, protocol };
            (text(&member["name"]), listed)
        };
        Ok(said["members"].as_array().expect("members").iter().map(member).collect())
    }

    /// What it lists of a member, if it does.
    pub(crate) fn member(&self, name: &str) -> Option<Listed> {
        self.members().ok()?.remove(name)
    }

    /// Waits until it lists a member with this status.
    pub(crate) fn sees(&self, name: &str, status: &str) -> Listed {
        eventually(&format!("{} sees {name} {status}", self.name), || {
            let members = self.members()?;
            members.get(name).filter(|member| member.status == status).cloned().ok_or_else(|| format!("{members:?}"))
        })
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("log")).into_owned()
    }

    /// Waits until it has logged a line with this in it.
    pub(crate) fn logs(&self, what: &str) {
        eventually(&format!("{} logs {what}", self.name), || {
            if self.log().contains(what) { Ok(()) } else { Err("it does not") }
        });
    }

    /// The lines that it logged as a warning or an error.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complains = |line: &&str| line.contains("[WARN]") || line.contains("[ERR]");
        self.log().lines().filter(complains).map(str::to_owned).collect()
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("agent.ipc")).collect();
            eprintln!("--- {} logged last:\n{}", self.name, lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
