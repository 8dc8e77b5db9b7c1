//! Nothing happens where nothing happens.

use std::thread;
use std::time::{Duration, Instant};

use mokv_serf::serf::{Event, Status};

use crate::encryption::KEY_1;
use crate::eventually;
use crate::ours::{Ours, Recipe};
use crate::theirs::{Theirs, here};

/// Long enough for each to have probed each some fifteen times, and for two exchanges of whole states.
const IDLE: Duration = Duration::from_secs(60);

/// Three of ours and two of theirs, each mode at the same time.
#[test]
fn a_pool_of_five_is_quiet() {
    if !here("a_pool_of_five_is_quiet") {
        return;
    }
    let modes = [(None, true), (Some(KEY_1), true), (None, false)];
    let pools = modes.map(|(key, compression)| thread::spawn(move || pool_is_quiet(key, compression)));
    for pool in pools {
        if let Err(panic) = pool.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn pool_is_quiet(key: Option<&'static str>, compression: bool) {
    let mut args = Vec::new();
    if let Some(key) = key {
        args.extend(["-encrypt", key]);
    }
    if !compression {
        args.push("-disable-compression");
    }
    let theirs = ["a", "b"].map(|name| Theirs::start(name, &args));
    let ours = ["m", "n", "o"].map(|name| Recipe { key, compression, ..Recipe::new() }.start(name));
    // Some by us, some by them.
    ours[0].join(theirs[0].addr);
    ours[1].join(ours[0].addr);
    theirs[1].run("join", &[&ours[1].addr.to_string()]);
    theirs[0].run("join", &[&ours[2].addr.to_string()]);
    for name in ["a", "b", "m", "n", "o"] {
        theirs.iter().for_each(|node| drop(node.sees(name, "alive")));
        ours.iter().for_each(|node| drop(node.sees(name, Status::Alive)));
    }

    let until = Instant::now() + IDLE;
    while Instant::now() < until {
        assert_all_is_well(&theirs, &ours);
        thread::sleep(Duration::from_millis(500));
    }
    eventually("no probe is under way for long", || {
        let scores: Vec<_> = ours.iter().map(|node| counters(node).probes).collect();
        if scores.iter().all(|probes| *probes > 30) { Ok(()) } else { Err(scores) }
    });
}

fn assert_all_is_well(theirs: &[Theirs], ours: &[Ours]) {
    for node in theirs {
        assert_eq!(node.complaints(), [""; 0], "{}", node.name);
        let members = node.members().expect("members");
        assert!(members.len() == 5 && members.values().all(|member| member.status == "alive"), "{members:?}");
    }
    for node in ours {
        let members = node.agent.members().borrow().clone();
        assert!(members.len() == 5 && members.values().all(|member| member.status == Status::Alive), "{members:?}");
        let gone = node.happened(|event| match event {
            Event::Leaving(member) | Event::Left(member) | Event::Failed(member) => Some(member.name.clone()),
            _ => None,
        });
        assert_eq!(gone, [], "{}", node.name);
        let counters = counters(node);
        assert_eq!((counters.suspicions, counters.refutations), (0, 0), "{}: {counters:?}", node.name);
    }
}

fn counters(node: &Ours) -> mokv_serf::gossip::Counters {
    node.run(node.agent.counters()).expect("it runs").gossip
}
