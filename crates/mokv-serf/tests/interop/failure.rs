//! Those that disappear, and those that only seem to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mokv_serf::agent::{BoxFuture, BoxStream, Transport, UdpTcp};
use mokv_serf::serf::{Event, Status};
use rustix::process::Signal;

use crate::ours::{Ours, Recipe};
use crate::theirs::{Theirs, here};
use crate::{eventually, pair};

#[test]
fn we_fail_and_are_forced_out() {
    if !here("we_fail_and_are_forced_out") {
        return;
    }
    let (theirs, mut ours) = pair();
    ours.kill();
    let killed = Instant::now();
    theirs.sees("m", "failed");
    eprintln!("interop: taken for failed after {:?}", killed.elapsed());
    theirs.run("force-leave", &["m"]);
    theirs.sees("m", "left");
    theirs.run("force-leave", &["-prune", "m"]);
    eventually("it is forgotten", || theirs.member("m").map_or(Ok(()), Err));
}

#[test]
fn they_fail_and_are_forced_out() {
    if !here("they_fail_and_are_forced_out") {
        return;
    }
    let (mut theirs, ours) = pair();
    theirs.kill();
    ours.sees("a", Status::Failed);
    ours.run(ours.agent.force_leave("a".into(), false)).expect("it runs");
    ours.sees("a", Status::Left);
    ours.run(ours.agent.force_leave("a".into(), true)).expect("it runs");
    eventually("it is forgotten", || ours.member("a").map_or(Ok(()), Err));
}

/// A node that was away for a moment refutes what is said of it.
#[test]
fn we_pause_and_object() {
    if !here("we_pause_and_object") {
        return;
    }
    let (theirs, ours) = pair();
    let before = refutations(&ours);
    let pause = ours.pause();
    theirs.logs("Suspect m has failed, no acks received");
    thread::sleep(Duration::from_secs(1));
    drop(pause);
    eventually("we object", || {
        let now = refutations(&ours);
        if now > before { Ok(()) } else { Err(now) }
    });
    // Three times as long as the suspicion had to go on.
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert_eq!(theirs.member("m").expect("a member").status, "alive");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(!theirs.log().contains("EventMemberFailed"), "taken for failed");
}

fn refutations(ours: &Ours) -> u64 {
    ours.run(ours.agent.counters()).expect("it runs").gossip.refutations
}

#[test]
fn they_pause_and_object() {
    if !here("they_pause_and_object") {
        return;
    }
    let (theirs, ours) = pair();
    theirs.signal(Signal::STOP);
    eventually("they are suspected", || {
        let counters = ours.run(ours.agent.counters()).expect("it runs").gossip;
        if counters.suspicions > 0 { Ok(()) } else { Err("they are not") }
    });
    theirs.signal(Signal::CONT);
    theirs.logs("Refuting a suspect message");
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        ours.sees("a", Status::Alive);
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(ours.failed(), []);
}

#[test]
fn we_come_back_after_a_kill() {
    if !here("we_come_back_after_a_kill") {
        return;
    }
    let (theirs, mut ours) = pair();
    ours.kill();
    theirs.sees("m", "failed");
    let again = Recipe::at(ours.addr).start("m");
    again.join(theirs.addr);
    theirs.sees("m", "alive");
    again.sees("a", Status::Alive);
}

/// Before anybody has noticed that it was away: its new life has to overrule the old one, of which the others know more.
#[test]
fn we_come_back_at_once() {
    if !here("we_come_back_at_once") {
        return;
    }
    let (theirs, mut ours) = pair();
    ours.run(ours.agent.set_tags([("life".into(), "first".into())].into())).expect("tags that fit");
    eventually("the first life is known", || {
        let listed = theirs.sees("m", "alive");
        if listed.tags.get("life").is_some_and(|life| life == "first") { Ok(()) } else { Err(listed) }
    });
    ours.kill();
    let again = Recipe::at(ours.addr).start("m");
    again.join(theirs.addr);
    eventually("the second life is known", || {
        let listed = theirs.sees("m", "alive");
        if listed.tags.contains_key("rpc_addr") { Ok(()) } else { Err(listed) }
    });
}

#[test]
fn they_come_back_after_a_kill() {
    if !here("they_come_back_after_a_kill") {
        return;
    }
    let (mut theirs, ours) = pair();
    theirs.kill();
    ours.sees("a", Status::Failed);
    let again = Theirs::start_at(theirs.addr, "a", &[]);
    again.run("join", &[&ours.addr.to_string()]);
    ours.sees("a", Status::Alive);
    again.sees("m", "alive");
    let joined = ours.happened(|event| match event {
        Event::Joined(member) if member.addr == theirs.addr => Some(()),
        _ => None,
    });
    assert_eq!(joined.len(), 2);
}

/// Nobody tells either of the other: we look for those that we miss.
#[test]
fn we_find_them_again() {
    if !here("we_find_them_again") {
        return;
    }
    let mut theirs = Theirs::start("a", &[]);
    let ours = Recipe { reconnect_interval: Some(Duration::from_secs(1)), ..Recipe::new() }.start("m");
    ours.join(theirs.addr);
    theirs.kill();
    ours.sees("a", Status::Failed);
    let again = Theirs::start_at(theirs.addr, "a", &[]);
    again.sees("m", "alive");
    ours.sees("a", Status::Alive);
}

/// A node of theirs that remembers whom it knew.
#[test]
fn they_find_us_again() {
    if !here("they_find_us_again") {
        return;
    }
    let dir = tempfile::tempdir().expect("directory");
    let snapshot = format!("-snapshot={}", dir.path().join("snapshot").display());
    let mut theirs = Theirs::start("a", &[&snapshot]);
    let ours = Recipe::new().start("m");
    ours.join(theirs.addr);
    theirs.run("event", &["deploy", "v1"]);
    eventually("the event arrives", || if ours.events_named("deploy") == 1 { Ok(()) } else { Err("it does not") });
    eventually("it writes down whom it knows", || {
        // It writes with the next line what waited for half a second.
        theirs.run("event", &["tick"]);
        let written = std::fs::read_to_string(dir.path().join("snapshot")).unwrap_or_default();
        if written.contains(&format!("alive: m {}", ours.addr)) { Ok(()) } else { Err(written) }
    });
    theirs.kill();
    ours.sees("a", Status::Failed);
    let again = Theirs::start_at(theirs.addr, "a", &[&snapshot]);
    ours.sees("a", Status::Alive);
    again.sees("m", "alive");
    again.run("event", &["deploy", "v2"]);
    eventually("the next event arrives", || if ours.events_named("deploy") == 2 { Ok(()) } else { Err("it does not") });
}

/// A network that loses all datagrams which arrive, and no connection.
struct Deaf(UdpTcp);

impl Transport for Deaf {
    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    fn send_to(&self, to: SocketAddr, datagram: Bytes) {
        self.0.send_to(to, datagram);
    }

    fn recv_from(&self) -> BoxFuture<'_, io::Result<(SocketAddr, Bytes)>> {
        Box::pin(async {
            loop {
                self.0.recv_from().await?;
            }
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.0.connect(to)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        self.0.accept()
    }
}

#[test]
fn connections_help_where_datagrams_get_lost() {
    if !here("connections_help_where_datagrams_get_lost") {
        return;
    }
    let theirs = Theirs::start("a", &[]);
    let ours = Recipe { wrap: |transport| Arc::new(Deaf(transport)), ..Recipe::new() }.start("m");
    ours.join(theirs.addr);
    theirs.sees("m", "alive");
    theirs.logs("Was able to connect to m");
    eventually("a few probes work that way", || {
        let times = theirs.log().matches("Was able to connect to m").count();
        if times >= 3 { Ok(()) } else { Err(times) }
    });
    assert_eq!(theirs.sees("m", "alive").status, "alive");
    assert_eq!(ours.sees("a", Status::Alive).status, Status::Alive);
    assert!(!theirs.log().contains("EventMemberFailed") && ours.failed().is_empty());
}
