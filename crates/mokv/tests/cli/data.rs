//! The commands of the data model, against a real cluster.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Dev, directory, free_ports};
use crate::{Ended, mokv, run_with_stdin, wait_until};

/// A cluster, and those who ask it.
struct Shell {
    dev: Dev,
    endpoints: String,
    dir: tempfile::TempDir,
}

impl Shell {
    fn start() -> Self {
        let dir = directory();
        let dev = Dev::start(&dir.path().join("cluster"), free_ports());
        let endpoints = dev.endpoints();
        Self { dev, endpoints, dir }
    }

    fn ask(&self, args: &[&str]) -> Ended {
        self.ask_with_stdin(args, b"")
    }

    fn ask_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Ended {
        run_with_stdin(&self.with_endpoints(args), stdin)
    }

    /// Asks, and checks the exit code and what was printed.
    fn expect(&self, args: &[&str], code: i32, out: &str) {
        let ended = self.ask(args);
        assert_eq!((ended.code, ended.out.as_str()), (code, out), "{args:?}: {}", ended.err);
    }

    fn json(&self, args: &[&str]) -> Value {
        let ended = self.ask(&[args, &["-o", "json"][..]].concat());
        serde_json::from_str(&ended.out)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {} {}", ended.out, ended.err))
    }

    fn begin(&self, args: &[&str]) -> Running {
        let mut child = mokv(&self.with_endpoints(args)).stderr(Stdio::inherit()).spawn().expect("mokv");
        let lines = BufReader::new(child.stdout.take().expect("stdout"));
        Running { child, lines }
    }

    /// Before a command of the user's.
    fn with_endpoints<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let split = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        [&args[..split], &["--endpoints", &self.endpoints], &args[split..]].concat()
    }
}

/// A command that goes on. Dropped, it is killed.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim_end_matches('\n').to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    fn code(mut self) -> i32 {
        self.child.wait().expect("mokv").code().expect("an exit code")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn writes_have_conditions_and_lives() {
    let shell = Shell::start();
    shell.expect(&["set", "a", "1", "--if-absent"], 0, "OK\n");
    let refused = shell.ask(&["set", "a", "2", "--if-absent"]);
    assert_eq!((refused.code, refused.out.as_str()), (5, ""), "{}", refused.err);
    let revision = shell.json(&["get", "a"])["mod_revision"].as_u64().expect("a revision");
    assert_eq!(refused.err, format!("error: the condition did not hold: a has mod_revision {revision}\n"));
    shell.expect(&["set", "a", "2", "--if-revision", &revision.to_string(), "--previous"], 0, "OK\n1\n");
    shell.expect(&["set", "b", "1", "--if-present"], 5, "");
    let refused = shell.json(&["set", "a", "3", "--if-revision", &revision.to_string()]);
    assert_eq!((&refused["ok"], &refused["version"]), (&Value::from(false), &Value::from(2)));
    shell.expect(&["get", "a", "--revision", &revision.to_string()], 0, "1");

    shell.expect(&["ttl", "a"], 0, "none\n");
    shell.expect(&["ttl", "a", "1h"], 0, "OK\n");
    let ttl = shell.json(&["ttl", "a"])["ttl_ms"].as_u64().expect("a ttl");
    assert!((3_000_000..=3_600_000).contains(&ttl), "{ttl}");
    shell.expect(&["set", "a", "4", "--keep-ttl"], 0, "OK\n");
    assert!(shell.json(&["get", "a"])["ttl_ms"].is_u64());
    shell.expect(&["ttl", "a", "none"], 0, "OK\n");
    shell.expect(&["ttl", "a"], 0, "none\n");
    shell.expect(&["ttl", "b", "1h"], 3, "");
    shell.expect(&["set", "short", "1", "--ttl", "1ms"], 0, "OK\n");
    wait_until("the key is gone", || shell.ask(&["get", "short"]).code == 3);

    shell.expect(&["incr", "n"], 0, "1\n");
    shell.expect(&["incr", "n", "-3", "--ttl", "1h"], 0, "-2\n");
    shell.expect(&["ttl", "n"], 0, "none\n");
    shell.expect(&["set", "text", "x"], 0, "OK\n");
    shell.expect(&["incr", "text"], 5, "");

    for key in ["p/1", "p/2", "p/3", "q"] {
        shell.expect(&["set", key, key], 0, "OK\n");
    }
    shell.expect(&["count"], 0, "7\n");
    shell.expect(&["count", "p/", "--start", "p/2", "--consistency", "lease"], 0, "2\n");
    shell.expect(&["list", "--prefix", "p/", "--reverse", "--limit", "2", "--keys-only"], 0, "p/3\np/2\n");
    shell.expect(&["delete", "q", "--if-revision", "1"], 5, "");
    shell.expect(&["delete", "q", "--previous"], 0, "deleted\nq\n");
    shell.expect(&["delete", "q", "--if-present"], 5, "");
    shell.expect(&["delete", "--prefix", "p/", "--end", "p/3"], 0, "deleted 2 keys\n");
    assert_eq!(shell.ask(&["delete", "--prefix", ""]).code, 2);
    assert_eq!(shell.json(&["delete", "--all"])["deleted"], 4);
    let local = shell.json(&["count", "--local", "--max-staleness", "1h"]);
    assert_eq!(local["served"], "local");
    assert_eq!(shell.ask(&["set", "a", "1", "-o", "table"]).out.lines().count(), 2);
    assert!(shell.ask(&["get", "a", "-o", "table"]).out.starts_with("CREATE REVISION  "));
}

#[test]
fn transactions_are_read_from_text() {
    let shell = Shell::start();
    let script = b"absent(lock)\n\nset lock me\nset \"log/\\x01\" \"\\xff\\x00\"\n\nget lock\n";
    let won = shell.ask_with_stdin(&["txn"], script);
    assert_eq!((won.code, won.out.as_str()), (0, "SUCCESS\nOK\nOK\n"), "{}", won.err);
    assert_eq!(shell.json(&["get", "log/\u{1}"])["value_base64"], "/wA=");
    let lost = shell.ask_with_stdin(&["txn"], script);
    assert_eq!((lost.code, lost.out.as_str()), (5, "FAILURE\nlock\tme\n"), "{}", lost.err);

    let all =
        ["txn", "--if", "value(lock) = me", "--if", "version(lock, \"\") > 0", "--then", "delete lock --previous"];
    let all = [&all[..], &["--then", "list", "--then", "get nothing", "--then", "delete --prefix log/"]].concat();
    let answer = shell.json(&all);
    let results = &answer["results"];
    assert_eq!(answer["succeeded"], true, "{answer}");
    assert_eq!(results[0]["delete"]["previous"]["value"], "me");
    assert_eq!(results[1]["list"]["pairs"].as_array().map(Vec::len), Some(1));
    assert_eq!(results[2]["get"], Value::Null);
    assert_eq!(results[3]["delete_range"]["deleted"], 1);
    let wrong = shell.ask_with_stdin(&["txn"], b"\nset a 1\nset a 2\n");
    assert_eq!(wrong.code, 1, "a key twice: {}", wrong.err);
}

#[test]
fn watches_print_what_changes_or_run_a_command() {
    let shell = Shell::start();
    let set = |key: &str, value: &str| {
        let set = shell.json(&["set", key, value]);
        set["revision"].as_u64().expect("a revision")
    };
    let first = set("k/a", "1");
    let mut plain = shell.begin(&["watch", "--prefix", "k/", "--list-first", "--count", "3"]);
    assert_eq!(plain.line(), format!("{first}\thave\tk/a\t1"));
    assert_eq!(plain.line(), format!("{first}\tlisted"));
    let second = set("k/b", "two words");
    assert_eq!(plain.line(), format!("{second}\tput\tk/b\ttwo words"));
    shell.dev.kill_node(shell.dev.leader());
    wait_until("a write after the leader's death", || shell.ask(&["delete", "k/a"]).code == 0);
    let deleted = plain.line();
    assert!(deleted.ends_with("\tdelete\tk/a"), "{deleted}");
    let third = set("k/b", "3");
    assert_eq!(plain.line(), format!("{third}\tput\tk/b\t3"));
    assert_eq!(plain.code(), 0);

    let from = second.to_string();
    let json = shell.ask(&["watch", "k/b", "--from", &from, "--count", "2", "--previous", "-o", "json"]);
    let lines: Vec<Value> = json.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["kind"], &lines[0]["value"]), (&"put".into(), &"two words".into()), "{}", json.err);
    assert_eq!((&lines[1]["revision"], &lines[1]["previous"]["value"]), (&third.into(), &"two words".into()));

    let file = shell.dir.path().join("out");
    let command = format!(
        "echo $MOKV_WATCH_EVENT $MOKV_WATCH_KEY $MOKV_WATCH_REVISION >> {0}; cat >> {0}; exit 7",
        file.display()
    );
    let ran = shell.ask(&["watch", "k/b", "--from", &from, "--", "sh", "-c", &command]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "", ""));
    assert_eq!(fs::read_to_string(&file).expect("file"), format!("put k/b {second}\ntwo words"));
    assert_eq!(shell.ask(&["watch"]).code, 2);

    let mut table = shell.begin(&["watch", "--all", "--list-first", "-o", "table"]);
    assert!(table.line().contains("have"), "from here on it listens to signals");
    table.signal(Signal::INT);
    assert_eq!(table.code(), 0);
}

#[test]
fn leases_keep_keys() {
    let shell = Shell::start();
    let granted = shell.ask(&["lease", "grant", "60s"]);
    assert_eq!(granted.code, 0, "{}", granted.err);
    let id = granted.out.trim();
    shell.expect(&["lease", "grant", "60s", "--id", id], 5, "");
    shell.expect(&["set", "w", "1", "--lease", id], 0, "OK\n");
    shell.expect(&["ttl", "w"], 0, &format!("lease {id}\n"));
    shell.expect(&["lease", "list", "-o", "plain"], 0, &format!("{id}\n"));
    assert_eq!(shell.json(&["lease", "ttl", id, "--keys"])["keys"], serde_json::json!(["w"]));
    shell.expect(&["lease", "keep-alive", id, "--once"], 0, "60000ms\n");
    let kept = shell.begin(&["lease", "keep-alive", id]);
    shell.expect(&["lease", "revoke", id], 0, "deleted 1 key\n");
    drop(kept);
    for args in [["lease", "revoke", id], ["lease", "ttl", id], ["lease", "keep-alive", id]] {
        shell.expect(&args, 3, "");
    }
    shell.expect(&["set", "w", "1", "--lease", id], 3, "");
    shell.expect(&["lease", "grant", "1ms"], 1, "");

    shell.expect(&["lease", "grant", "5s", "--id", "5"], 0, "5\n");
    let granted = Instant::now();
    let kept = shell.begin(&["lease", "keep-alive", "5"]);
    let is_over = || granted.elapsed() > Duration::from_secs(6);
    wait_until("somebody keeps it", || is_over() && shell.ask(&["lease", "ttl", "5"]).code == 0);
    kept.signal(Signal::INT);
    assert_eq!(kept.code(), 0);
    wait_until("it runs out", || shell.ask(&["lease", "ttl", "5"]).code == 3);
}

#[test]
fn locks_and_elections_are_held_while_a_command_runs() {
    let shell = Shell::start();
    let mut held = shell.begin(&["lock", "l", "-o", "json"]);
    let first: Value = serde_json::from_str(&held.line()).expect("JSON");
    shell.expect(&["lock", "l", "--try", "--", "true"], 5, "");
    shell.expect(&["lock", "l", "--wait", "100ms", "--", "true"], 5, "");
    let echo = ["lock", "l", "--", "sh", "-c", "echo $MOKV_LOCK_KEY $MOKV_LOCK_TOKEN; exit 9"];
    let mut waiting = shell.begin(&echo);
    wait_until("it waits", || shell.ask(&["count", "l/"]).out == "2\n");
    held.signal(Signal::TERM);
    assert_eq!(held.code(), 0);
    let line = waiting.line();
    let (key, token) = line.split_once(' ').expect("two words");
    assert!(
        key.starts_with("l/") && token.parse::<u64>().expect("a token") > first["token"].as_u64().expect("a token")
    );
    assert_eq!(waiting.code(), 9);
    shell.expect(&["count", "l/"], 0, "0\n");
    shell.expect(&["lock", "l", "--try", "--", "sh", "-c", "kill -9 $$"], 137, "");

    // A lock that is lost ends the command.
    let mut losing = shell.begin(&["lock", "l", "--", "sh", "-c", "echo begun; exec sleep 600"]);
    assert_eq!(losing.line(), "begun");
    let lease = shell.ask(&["lease", "list", "-o", "plain"]).out;
    shell.expect(&["lease", "revoke", lease.trim()], 0, "deleted 1 key\n");
    assert_eq!(losing.code(), 5);

    shell.expect(&["elect", "e", "--leader"], 3, "");
    let mut observer = shell.begin(&["elect", "e", "--observe"]);
    assert_eq!(observer.line(), "-");
    let leader = shell.begin(&["elect", "e", "one"]);
    let seen = observer.line();
    assert!(seen.starts_with("one\t"), "{seen}");
    assert_eq!(shell.json(&["elect", "e", "--leader"])["value"], "one");
    leader.signal(Signal::INT);
    assert_eq!(leader.code(), 0);
    assert_eq!(observer.line(), "-");
    shell.expect(&["elect", "e", "two", "--", "sh", "-c", "exit 4"], 4, "");
}
