//! Faults of system calls, injected into a running process by `strace`.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::eventually;
use crate::node::Node;

/// While it lives, the calls of a process fail as was asked for.
pub(crate) struct Strace {
    child: Child,
}

impl Strace {
    /// Injects a fault, in the words of `strace -e inject=`. A count (`when=N`) counts the calls of each thread from now on.
    pub(crate) async fn inject(node: &Node, fault: &str) -> Self {
        let (call, _) = fault.split_once(':').expect("call:fault");
        let pid = node.pid();
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={fault}")])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        let mut strace = Self { child };
        eventually("strace has all threads", async || {
            // What is injected may have ended the process already.
            if strace.child.try_wait().expect("wait").is_some() { Ok(()) } else { all_traced(pid) }
        })
        .await;
        strace
    }
}

fn all_traced(pid: u32) -> Result<(), String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(()) };
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        if status.contains("TracerPid:\t0\n") {
            return Err(format!("{} is not traced", task.path().display()));
        }
    }
    Ok(())
}

impl Drop for Strace {
    /// SIGTERM: it lets the process go on.
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It ends by itself with the process that it traces.
            let _ = kill_process(pid, Signal::TERM);
        }
        drop(self.child.wait());
    }
}
