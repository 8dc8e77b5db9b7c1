//! What Serf adds to membership: tags, events, queries.

use std::collections::BTreeSet;

use bytes::Bytes;
use mokv_serf::serf::{Event, QueryAnswer, QueryOptions, Status};
use mokv_serf::wire::Text;

use crate::theirs::{Theirs, here};
use crate::{eventually, pair};

#[test]
fn tags_change_on_either_side() {
    if !here("tags_change_on_either_side") {
        return;
    }
    let (theirs, ours) = pair();
    theirs.run("tags", &["-set", "role=web"]);
    eventually("their tag arrives", || {
        let member = ours.sees("a", Status::Alive);
        if member.tags == [("role".into(), "web".into())].into() { Ok(()) } else { Err(member) }
    });

    ours.run(ours.agent.set_tags([("zone".into(), "east".into())].into())).expect("tags that fit");
    eventually("our tag arrives", || {
        let listed = theirs.sees("m", "alive");
        if listed.tags == [("zone".to_owned(), "east".to_owned())].into() { Ok(()) } else { Err(listed) }
    });
}

#[test]
fn events_are_told_once() {
    if !here("events_are_told_once") {
        return;
    }
    let (theirs, ours) = pair();
    theirs.run("event", &["deploy", "v1"]);
    eventually("their event arrives", || if ours.events_named("deploy") > 0 { Ok(()) } else { Err("it does not") });

    ours.run(ours.agent.user_event("restart".into(), Bytes::from_static(b"now"), false)).expect("an event that fits");
    theirs.logs("Received event: user-event: restart");

    // A later event has overtaken nothing: what was gossiped of the first is through when the second has gone round.
    theirs.run("event", &["again", "v2"]);
    eventually("the next event arrives", || if ours.events_named("again") > 0 { Ok(()) } else { Err("it does not") });
    assert_eq!(["deploy", "restart", "again"].map(|name| ours.events_named(name)), [1; 3]);
    let payload = ours.happened(|event| match event {
        Event::User(event) if event.name == Text::from("deploy") => Some(event.payload.clone()),
        _ => None,
    });
    assert_eq!(payload, [Bytes::from_static(b"v1")]);
}

#[test]
fn we_are_reachable() {
    if !here("we_are_reachable") {
        return;
    }
    let (theirs, _ours) = pair();
    let said = theirs.run("reachability", &[]);
    assert!(said.contains("Successfully contacted all live nodes"), "{said}");
}

#[test]
fn their_queries_are_answered() {
    if !here("their_queries_are_answered") {
        return;
    }
    let (theirs, ours) = pair();
    let (agent, mut events) = (ours.agent.clone(), ours.agent.events());
    let answering = ours.spawn(async move {
        while let Ok(event) = events.recv().await {
            if let Event::Query(query) = event {
                agent.respond(query, Bytes::from_static(b"0.7")).await.expect("an answer in time");
            }
        }
    });
    let said = theirs.run("query", &["-timeout=3s", "load", "x"]);
    answering.abort();
    for line in ["Ack from 'm'", "Response from 'm': 0.7", "Ack from 'a'", "Total Acks: 2", "Total Responses: 1"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // Those that are not meant don't answer.
    let said = theirs.run("query", &["-timeout=1s", "-node=a", "load", "x"]);
    assert!(said.contains("Total Acks: 1"), "{said}");
    let said = theirs.run("query", &["-timeout=1s", "-tag", "rpc_addr=^127.*8400$", "load", "x"]);
    assert!(said.contains("Total Acks: 1") && said.contains("Ack from 'm'"), "{said}");
}

/// Their answers come directly, and through a third node where that is asked for.
#[test]
fn our_queries_are_answered() {
    if !here("our_queries_are_answered") {
        return;
    }
    let (theirs, ours) = pair();
    let other = Theirs::start("b", &[]);
    other.run("join", &[&ours.addr.to_string()]);
    theirs.sees("b", "alive");
    for relay_factor in [0, 1] {
        let options = QueryOptions { ack: true, relay_factor, ..QueryOptions::default() };
        let acks = ours.run(async {
            let asked = ours.agent.query("load".into(), Bytes::new(), options).await;
            let mut answers = asked.expect("a query that fits");
            let mut acks = Vec::new();
            while let Some(answer) = answers.recv().await {
                if let QueryAnswer::Ack(from) = answer {
                    acks.push(from);
                }
            }
            acks
        });
        assert_eq!(acks.len(), 3, "{acks:?}");
        assert_eq!(acks.into_iter().collect::<BTreeSet<_>>(), ["a", "b", "m"].map(Text::from).into());
    }
}

/// Their answers to each other go through us as well, where that is asked for.
#[test]
fn we_pass_answers_on() {
    if !here("we_pass_answers_on") {
        return;
    }
    let (theirs, ours) = pair();
    let other = Theirs::start("b", &[]);
    other.run("join", &[&ours.addr.to_string()]);
    theirs.sees("b", "alive");
    eventually("an answer is passed on", || {
        let said = theirs.run("query", &["-timeout=1s", "-relay-factor=2", "load", "x"]);
        assert!(said.contains("Total Acks: 3"), "{said}");
        let counters = ours.run(ours.agent.counters()).expect("it runs");
        if counters.relayed > 0 { Ok(()) } else { Err(counters.relayed) }
    });
}
