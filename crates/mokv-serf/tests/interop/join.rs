//! Coming together.

use std::net::{Ipv6Addr, SocketAddr};

use mokv_serf::agent::{Transport, UdpTcp};
use mokv_serf::serf::Status;
use mokv_serf::wire::Text;

use crate::eventually;
use crate::ours::{Ours, Recipe, rpc_addr};
use crate::theirs::{Theirs, here};

/// Both list both, with all that can be said of a member.
fn know_each_other(ours: &Ours, theirs: &Theirs) {
    let listed = theirs.sees("m", "alive");
    assert_eq!(listed.addr, ours.addr.to_string());
    assert_eq!(listed.tags, [("rpc_addr".to_owned(), rpc_addr(ours.addr))].into());
    assert_eq!(listed.protocol, [2, 5, 5]);

    let member = ours.sees("a", Status::Alive);
    assert_eq!(member.addr, theirs.addr);
    assert_eq!(member.tags, [("role".into(), "db".into())].into());
}

#[test]
fn we_join_them() {
    if !here("we_join_them") {
        return;
    }
    let theirs = Theirs::start("a", &["-tag", "role=db"]);
    let ours = Recipe::new().start("m");
    ours.join(theirs.addr);
    know_each_other(&ours, &theirs);
    let detailed = theirs.run("members", &["-detailed"]);
    let line = detailed.lines().find(|line| line.starts_with("m ")).expect("a line of m");
    assert!(line.contains("Protocol Version: 5") && line.contains("Available Protocol Range: [2, 5]"), "{line}");
}

#[test]
fn they_join_us() {
    if !here("they_join_us") {
        return;
    }
    let theirs = Theirs::start("a", &["-tag", "role=db"]);
    let ours = Recipe::new().start("m");
    let said = theirs.run("join", &[&ours.addr.to_string()]);
    assert_eq!(said.trim(), "Successfully joined cluster by contacting 1 nodes.");
    know_each_other(&ours, &theirs);
}

/// Their default is to compress, ours here is not; and the other way round. Each understands either.
#[test]
fn compression_is_up_to_each() {
    if !here("compression_is_up_to_each") {
        return;
    }
    for (args, compression) in [(&["-tag", "role=db"][..], false), (&["-tag", "role=db", "-disable-compression"], true)]
    {
        let theirs = Theirs::start("a", args);
        let ours = Recipe { compression, ..Recipe::new() }.start("m");
        ours.join(theirs.addr);
        know_each_other(&ours, &theirs);
        theirs.run("event", &["deploy", &"again and ".repeat(20)]);
        eventually("the event arrives", || if ours.events_named("deploy") == 1 { Ok(()) } else { Err("it did not") });
    }
}

/// An older protocol of theirs, whose nodes know nothing of queries.
#[test]
fn protocol_4_is_understood() {
    if !here("protocol_4_is_understood") {
        return;
    }
    let theirs = Theirs::start("a", &["-tag", "role=db", "-protocol=4"]);
    let ours = Recipe::new().start("m");
    ours.join(theirs.addr);
    know_each_other(&ours, &theirs);
}

/// There is one address of loopback only, so ports tell the nodes apart.
#[test]
fn ipv6_is_spoken() {
    let Some([one, other]) = ipv6_addrs() else {
        eprintln!("interop: SKIPPED: ipv6_is_spoken: there is no IPv6 here");
        return;
    };
    if !here("ipv6_is_spoken") {
        return;
    }
    let theirs = Theirs::start_at(one, "a", &["-tag", "role=db"]);
    let ours = Recipe::at(other).start("m");
    ours.join(theirs.addr);
    know_each_other(&ours, &theirs);
    let said = theirs.run("reachability", &[]);
    assert!(said.contains("Successfully contacted all live nodes"), "{said}");
}

/// Two that are free for both protocols.
fn ipv6_addrs() -> Option<[SocketAddr; 2]> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("runtime");
    runtime.block_on(async {
        let any = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0);
        let (one, other) = (UdpTcp::bind(any).await.ok()?, UdpTcp::bind(any).await.ok()?);
        Some([one.local_addr(), other.local_addr()])
    })
}

#[test]
fn a_join_that_reaches_nobody_says_why() {
    let ours = Recipe::new().start("m");
    let nobody = crate::theirs::fresh_addr();
    let error = ours.run(ours.agent.join(&[nobody])).expect_err("nobody is there");
    assert_eq!(error.failures.len(), 1);
    assert!(error.to_string().contains("refused") && error.to_string().contains(&nobody.to_string()), "{error}");
    assert_eq!(ours.agent.members().borrow().keys().collect::<Vec<_>>(), [&Text::from("m")]);
}
