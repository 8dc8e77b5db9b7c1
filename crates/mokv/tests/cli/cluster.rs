//! Whole clusters, run by `mokv dev`, used and mistreated as a person would.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Ended, mokv, run_with_stdin, wait_until};

/// Ports of the tests' clusters: below those that the system gives to connections.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// A cluster's ports, and as many for its metrics.
const PORTS_EACH: u16 = 30;

/// A running `mokv dev` with three nodes. Dropped, it is killed; its nodes end by themselves.
pub(crate) struct Dev {
    child: Child,
    /// Open as long as somebody may print on it.
    _stdout: BufReader<ChildStdout>,
    nodes: Vec<Value>,
}

impl Dev {
    /// Starts a cluster and waits until it says that it serves.
    pub(crate) fn start(dir: &Path, port: u16) -> Self {
        let mut command = mokv(&["dev", "--nodes", "3", "-o", "json", "--rpc-port", &port.to_string()]);
        command.args(["--metrics-port", &(port + PORTS_EACH).to_string(), "--data-dir"]).arg(dir);
        let mut child = command.stderr(Stdio::inherit()).spawn().expect("mokv");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).expect("one JSON object");
        let nodes = ready["nodes"].as_array().expect("nodes").clone();
        assert_eq!(nodes.len(), 3);
        Self { child, _stdout: stdout, nodes }
    }

    pub(crate) fn address(&self, node: usize) -> &str {
        self.nodes[node]["rpc_addr"].as_str().expect("an address")
    }

    pub(crate) fn endpoints(&self) -> String {
        (0..3).map(|node| self.address(node)).collect::<Vec<_>>().join(",")
    }

    /// A client command, asked of these endpoints.
    pub(crate) fn ask(&self, endpoints: &str, args: &[&str]) -> Ended {
        run_with_stdin(&[args, &["--endpoints", endpoints][..]].concat(), b"")
    }

    fn status(&self) -> Vec<Value> {
        let ended = self.ask(&self.endpoints(), &["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&ended.out).expect("JSON");
        status.as_array().expect("nodes").clone()
    }

    /// Waits until every node serves and has the same state as the others.
    pub(crate) fn wait_until_whole(&self) {
        wait_until("three nodes are ready and equal", || {
            let status = self.status();
            let first = (&status[0]["applied_index"], &status[0]["state_hash"]);
            let is_whole =
                |node: &Value| node["ready"] == true && (&node["applied_index"], &node["state_hash"]) == first;
            status.len() == 3 && status.iter().all(is_whole)
        });
    }

    pub(crate) fn leader(&self) -> usize {
        let status = self.status();
        status.iter().position(|node| node["state"] == "leader").expect("a leader")
    }

    /// Kills the process that is the node at the moment.
    pub(crate) fn kill_node(&self, node: usize) {
        kill_process(self.pid_of(node), Signal::KILL).expect("a signal");
    }

    /// Among the children of `mokv dev`, the one that was given the node's name.
    fn pid_of(&self, node: usize) -> Pid {
        // The kernel lists them by the thread that started them.
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("threads");
        let children = threads.map(|thread| {
            let file = thread.expect("a thread").path().join("children");
            fs::read_to_string(file).unwrap_or_default()
        });
        let children = children.collect::<Vec<_>>().join(" ");
        let name = format!("\0node-{node}\0");
        let is_node =
            |pid: &&str| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&name));
        let pid = children.split_whitespace().find(is_node).expect("the node's process");
        Pid::from_raw(pid.parse().expect("a pid")).expect("a pid")
    }

    pub(crate) fn stop(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
        assert_eq!(self.child.wait().expect("mokv").code(), Some(0));
        for node in 0..3 {
            assert!(TcpStream::connect(self.address(node)).is_err(), "node-{node} still listens");
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The first of `2 * PORTS_EACH` ports that nobody uses.
pub(crate) fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let slots = (PORTS.end - PORTS.start) / (2 * PORTS_EACH);
    let start = u16::try_from(std::process::id() % u32::from(slots)).expect("a slot");
    loop {
        let slot = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % slots;
        let first = PORTS.start + slot * 2 * PORTS_EACH;
        let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (first..first + 2 * PORTS_EACH).all(is_free) {
            return first;
        }
    }
}

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().expect("directory")
}

#[test]
fn a_cluster_survives_a_killed_leader_and_a_restart() {
    let dir = directory();
    let port = free_ports();
    let dev = Dev::start(dir.path(), port);

    let set = dev.ask(dev.address(0), &["set", "greeting", "hello"]);
    assert_eq!((set.code, set.out.as_str()), (0, "OK\n"), "{}", set.err);
    for node in 0..3 {
        let get = dev.ask(dev.address(node), &["get", "greeting"]);
        assert_eq!((get.code, get.out.as_str()), (0, "hello"), "node-{node}: {}", get.err);
    }

    let leader = dev.leader();
    dev.kill_node(leader);
    let endpoints = dev.endpoints();
    wait_until("a write after the leader's death", || dev.ask(&endpoints, &["set", "after", "death"]).code == 0);
    dev.wait_until_whole();
    assert_eq!(dev.ask(dev.address(leader), &["get", "after"]).out, "death");

    dev.stop(Signal::INT);
    let dev = Dev::start(dir.path(), port);
    assert_eq!(dev.ask(dev.address(1), &["get", "greeting"]).out, "hello");
    dev.stop(Signal::TERM);
}

#[test]
fn every_command_does_what_it_says() {
    let dir = directory();
    let dev = Dev::start(dir.path(), free_ports());
    let all = dev.endpoints();
    let ask = |args: &[&str]| dev.ask(&all, args);

    let missing = ask(&["get", "nothing"]);
    assert_eq!(
        (missing.code, missing.out.as_str(), missing.err.as_str()),
        (3, "", "error: no value for key: nothing\n")
    );
    let empty = ask(&["set", "", "x"]);
    assert_eq!(empty.code, 1, "{}", empty.err);

    let file = dir.path().join("value");
    fs::write(&file, "from a file").expect("file");
    assert_eq!(ask(&["set", "b", &format!("@{}", file.display())]).code, 0);
    let piped = ["set", "a", "-", "-o", "json", "--endpoints", &all];
    let set: Value = serde_json::from_str(&run_with_stdin(&piped, b"\xff\0").out).expect("JSON");
    let revision = set["revision"].as_u64().expect("a revision");
    assert_eq!(set["version"], 1);

    let local = ask(&["get", "b", "--local", "--min-revision", &revision.to_string()]);
    assert_eq!(local.out, "from a file", "{}", local.err);
    let late = ask(&["get", "b", "--local", "--min-revision", "999999", "--timeout", "200ms"]);
    assert_eq!(late.code, 4, "{}", late.err);
    let found: Value = serde_json::from_str(&ask(&["get", "a", "-o", "json"]).out).expect("JSON");
    assert_eq!((&found["value_base64"], &found["mod_revision"]), (&Value::from("/wA="), &Value::from(revision)));

    assert_eq!(ask(&["list", "--keys-only"]).out, "a\nb\n");
    assert_eq!(ask(&["list", "b"]).out, "b\tfrom a file\n");
    assert_eq!(ask(&["list", "--start", "a", "--limit", "1", "--keys-only", "--local"]).out, "a\n");
    assert_eq!(ask(&["list", "-o", "json", "--keys-only", "--end", "b"]).out, "{\"key\":\"a\"}\n");
    assert!(ask(&["list", "-o", "table"]).out.starts_with("KEY  VALUE"));

    assert_eq!(ask(&["delete", "a"]).out, "deleted\n");
    let again = ask(&["delete", "a"]);
    assert_eq!((again.code, again.out.as_str()), (0, "there was no such key\n"));

    assert_eq!(ask(&["servers", "-o", "plain"]).out.lines().count(), 3);
    let unknown = ask(&["member", "remove", "node-9", "--yes"]);
    assert_eq!(unknown.code, 3, "{}", unknown.err);
    let target = if dev.leader() == 1 { "node-2" } else { "node-1" };
    let transfer = ask(&["member", "transfer", target]);
    assert_eq!((transfer.code, transfer.out), (0, format!("{target} leads\n")), "{}", transfer.err);
    let nodes: Value = serde_json::from_str(&ask(&["members", "-o", "json"]).out).expect("JSON");
    let roles = nodes.as_array().expect("nodes").iter().map(|node| node["role"].as_str().expect("a role"));
    let mut roles: Vec<&str> = roles.collect();
    roles.sort_unstable();
    assert_eq!(roles, ["leader", "voter", "voter"], "{nodes}");
    assert!(nodes.as_array().expect("nodes").iter().all(|node| node["gossip"].is_string()), "{nodes}");
    assert_eq!(ask(&["leave", "--node", "node-9", "--yes"]).code, 3);
    let endpoints = dev.endpoints();
    assert_eq!(dev.ask(&endpoints, &["leave", "--yes"]).code, 2, "which one is not said");
    assert_eq!(ask(&["member", "remove", "node-0", "--yes"]).code, 0);
    // The one that was removed may never hear of it.
    wait_until("a member knows that it is gone", || {
        let members = dev.ask(dev.address(1), &["member", "list", "-o", "json"]);
        let members: Value = serde_json::from_str(&members.out).expect("JSON");
        members.as_array().expect("members").len() == 2
    });
    dev.stop(Signal::TERM);
}

#[test]
fn an_import_goes_on_while_nodes_die() {
    let dir = directory();
    let dev = Dev::start(dir.path(), free_ports());
    let file = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (input, acks, output) = (file("in.jsonl"), file("acks"), file("out.jsonl"));
    let mut lines = String::new();
    let mut expected = BTreeMap::new();
    for n in 0..10_000 {
        // Every second line is of a key that has been there before.
        let key = if n % 2 == 0 { format!("key-{n}") } else { format!("often-{}", n % 7) };
        writeln!(lines, "{{\"key\":\"{key}\",\"value\":\"{n}\"}}").expect("text");
        expected.insert(key, n.to_string());
    }
    fs::write(&input, lines).expect("file");

    let args = ["import", &input, "--ack-log", &acks, "--endpoints", &dev.endpoints()];
    let import = mokv(&args).spawn().expect("mokv");
    let acknowledged = || fs::read_to_string(&acks).map_or(0, |keys| keys.lines().count());
    wait_until("the import is under way", || acknowledged() >= 1_000);
    dev.kill_node(dev.leader());
    let ended: Ended = import.wait_with_output().expect("mokv").into();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.starts_with("imported 10000 pairs in "), "{}", ended.err);
    assert_eq!(acknowledged(), 10_000);

    // What is acknowledged survives all of them at once.
    for node in 0..3 {
        wait_until("the node runs", || TcpStream::connect(dev.address(node)).is_ok());
        dev.kill_node(node);
    }
    dev.wait_until_whole();
    let export = dev.ask(&dev.endpoints(), &["export", &output]);
    assert_eq!(export.code, 0, "{}", export.err);
    let pairs = fs::read_to_string(&output).expect("file");
    let pairs: BTreeMap<String, String> = pairs.lines().map(pair).collect();
    assert_eq!(pairs, expected);
    let again = dev.ask(&dev.endpoints(), &["import", &output]);
    assert_eq!(again.code, 0, "{}", again.err);
}

fn pair(line: &str) -> (String, String) {
    let pair: Value = serde_json::from_str(line).expect("JSON");
    (pair["key"].as_str().expect("a key").to_owned(), pair["value"].as_str().expect("a value").to_owned())
}

#[test]
fn nodes_end_with_dev_even_when_it_is_killed() {
    let dir = directory();
    let port = free_ports();
    let mut dev = Dev::start(dir.path(), port);
    assert_eq!(dev.ask(dev.address(0), &["set", "a", "1"]).code, 0);
    dev.child.kill().expect("a signal");
    for node in 0..3 {
        wait_until("the node has ended", || TcpStream::connect(dev.address(node)).is_err());
    }

    // And the next one takes over what they left.
    wait_until("the ports are free", || {
        let is_free = |node: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port + PORTS_EACH + 10 * node)).is_ok();
        (0..3).all(is_free)
    });
    let dev = Dev::start(dir.path(), port);
    assert_eq!(dev.ask(dev.address(2), &["get", "a"]).out, "1");
}
