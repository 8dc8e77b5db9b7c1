//! Exchanges of whole states.

use super::*;
use crate::wire::memberlist::{NodeState, PushPull};

fn node(n: u8, state: Liveness, incarnation: u32) -> NodeState {
    let Alive { node: name, addr, port, meta, versions, .. } = alive(n, incarnation);
    NodeState { name, addr, port, meta, incarnation, state, versions }
}

fn push_pull(join: bool, nodes: Vec<NodeState>) -> StreamMessage {
    StreamMessage::PushPull(PushPull { join, nodes, user_state: Bytes::from_static(b"theirs") })
}

fn remote_state(join: bool) -> Fact {
    Fact::RemoteState { join, state: Bytes::from_static(b"theirs") }
}

fn dial(outputs: &[Output]) -> (DialId, SocketAddr, StreamMessage, Duration) {
    let dials = outputs.iter().filter_map(|output| match output {
        Output::Dial { id, to, message, awaits_answer: true, timeout } => Some((*id, *to, message.clone(), *timeout)),
        _ => None,
    });
    let [dial] = &dials.collect::<Vec<_>>()[..] else { panic!("one stream: {outputs:?}") };
    dial.clone()
}

fn join(bench: &mut Bench) -> (DialId, Vec<Output>) {
    let mut out = Vec::new();
    let id = bench.gossip.join(bench.now, addr(2), &mut bench.above, &mut out);
    (id, out)
}

#[test]
fn large_pools_exchange_rarely() {
    let times = [1, 32, 33, 64, 65, 128, 129, 1000].map(|nodes| super::super::exchange::interval(ms(1), nodes));
    assert_eq!(times, [1, 1, 2, 2, 3, 3, 4, 6].map(ms));
}

#[test]
fn the_answer_is_what_was_known_before() {
    let mut bench = Bench::knowing(3);
    bench.receive(3, dead(3, 1, 3));
    for joining in [true, false] {
        let (answer, out) = bench.answer(push_pull(joining, vec![node(4, Liveness::Alive, 1)]));
        let Some(StreamMessage::PushPull(answer)) = answer else { panic!("{answer:?}") };
        let mut nodes = vec![node(1, Liveness::Alive, 1), node(2, Liveness::Alive, 1), node(3, Liveness::Left, 1)];
        if !joining {
            nodes.push(node(4, Liveness::Alive, 1));
        }
        assert_eq!((answer.join, answer.nodes), (joining, nodes));
        assert_eq!(answer.user_state, if joining { "joining" } else { "state" });
        let facts = facts(&out);
        assert_eq!(facts.last(), Some(&&remote_state(joining)));
        assert_eq!(facts.len(), if joining { 2 } else { 1 });
    }
}

#[test]
fn joining_learns_what_the_other_knows() {
    let mut bench = Bench::new();
    let (id, out) = join(&mut bench);
    let (dialled, to, message, timeout) = dial(&out);
    assert_eq!((dialled, to, timeout), (id, addr(2), ms(10_000)));
    let user_state = Bytes::from_static(b"joining");
    assert_eq!(
        message,
        StreamMessage::PushPull(PushPull { join: true, nodes: vec![node(1, Liveness::Alive, 1)], user_state })
    );
    let theirs = vec![
        node(1, Liveness::Alive, 1),
        node(2, Liveness::Alive, 4),
        node(3, Liveness::Left, 1),
        node(4, Liveness::Suspect, 1),
        node(5, Liveness::Dead, 1),
    ];
    let out = bench.dial_finished(id, Ok(Some(push_pull(false, theirs))));
    let facts = facts(&out);
    assert!(matches!(facts[0], Fact::Joined(node) if node.name == name(2)));
    assert_eq!(facts[1..], [&remote_state(true), &Fact::JoinFinished { id, result: Ok(5) }]);
    // Of the others it is only known that they are not well.
    assert_eq!(bench.gossip.nodes().map(|node| &node.name).collect::<Vec<_>>(), [&name(1), &name(2)]);
    assert_eq!(bench.dial_finished(id, Ok(None)), [], "once");
}

#[test]
fn a_join_that_fails_says_why() {
    let versionless = NodeState { versions: None, ..node(3, Liveness::Alive, 1) };
    let cases = [
        (Err("refused".into()), "refused"),
        (Ok(None), "no answer"),
        (Ok(Some(StreamMessage::Error("not encrypted".into()))), "not encrypted"),
        (Ok(Some(StreamMessage::User("x".into()))), "the answer is none to an exchange of states"),
        (
            Ok(Some(push_pull(false, vec![node(2, Liveness::Alive, 1), versionless]))),
            "n3 speaks memberlist protocol 0, not one of 1 to 5",
        ),
    ];
    for (result, why) in cases {
        let mut bench = Bench::new();
        let (id, _) = join(&mut bench);
        let out = bench.dial_finished(id, result);
        assert_eq!(out, [Output::Fact(Fact::JoinFinished { id, result: Err(why.into()) })]);
        assert_eq!(bench.gossip.nodes().count(), 1);
    }
}

#[test]
fn what_another_knows_is_merged_as_if_it_had_been_said() {
    let mut bench = Bench::knowing(5);
    let theirs = vec![
        node(2, Liveness::Left, 1),
        node(3, Liveness::Dead, 1),
        node(4, Liveness::Suspect, 1),
        node(5, Liveness::Alive, 1),
        node(6, Liveness::Alive, 2),
    ];
    bench.answer(push_pull(false, theirs));
    let states = [2, 3, 4, 5, 6].map(|n| bench.state(n).expect("it is known"));
    // Dead is no more than suspected: it may object.
    let expected = [Liveness::Left, Liveness::Suspect, Liveness::Suspect, Liveness::Alive, Liveness::Alive];
    assert_eq!(states, expected);
    let news = bench.news();
    assert_eq!(news.len(), 4);
    for message in [dead(2, 1, 2), suspect(3, 1, 1), suspect(4, 1, 1), Message::Alive(alive(6, 2))] {
        assert!(news.contains(&message), "{message:?} in {news:?}");
    }
}

#[test]
fn a_restarted_node_overrules_what_is_remembered_of_it() {
    let old = |meta: &'static str, state, incarnation| NodeState { meta: meta.into(), ..node(1, state, incarnation) };
    let cases = [
        (old("", Liveness::Alive, 1), 1),
        (old("old", Liveness::Alive, 1), 2),
        (old("", Liveness::Alive, 7), 8),
        (old("", Liveness::Dead, 7), 8),
        (old("", Liveness::Suspect, 7), 8),
        (old("", Liveness::Left, 1), 2),
    ];
    for (remembered, incarnation) in cases {
        let mut bench = Bench::new();
        bench.forget_news();
        let (id, _) = join(&mut bench);
        bench.dial_finished(id, Ok(Some(push_pull(false, vec![remembered.clone()]))));
        assert_eq!(bench.incarnation(1), incarnation, "{remembered:?}");
        let news = if incarnation == 1 { vec![] } else { vec![Message::Alive(alive(1, incarnation))] };
        assert_eq!(bench.news(), news);
    }
}

#[test]
fn versions_that_do_not_fit_together_stop_the_merge() {
    let versions = |n, state, change: fn(&mut Versions)| {
        let mut versions = Versions::OURS;
        change(&mut versions);
        NodeState { versions: Some(versions), ..node(n, state, 1) }
    };
    // Node 3 would be new each time.
    let cases = [
        (versions(3, Liveness::Alive, |_| ()), true),
        (versions(3, Liveness::Alive, |v| v.protocol = 6), false),
        (versions(3, Liveness::Alive, |v| v.protocol_max = 1), false),
        (versions(3, Liveness::Dead, |v| v.protocol_max = 1), true),
        (versions(3, Liveness::Alive, |v| v.protocol_min = 3), false),
        (versions(3, Liveness::Alive, |v| v.delegate = 1), false),
        (versions(3, Liveness::Alive, |v| v.delegate_max = 4), false),
        (versions(3, Liveness::Alive, |v| v.delegate_min = 6), false),
        (versions(3, Liveness::Dead, |v| v.delegate = 6), false),
        (NodeState { versions: None, ..node(3, Liveness::Left, 1) }, false),
    ];
    for (theirs, merged) in cases {
        let mut bench = Bench::knowing(2);
        let (answer, out) = bench.answer(push_pull(false, vec![theirs.clone()]));
        assert!(answer.is_some());
        assert_eq!(facts(&out).contains(&&remote_state(false)), merged, "{theirs:?}");
        assert_eq!(bench.state(3).is_some(), merged && theirs.state == Liveness::Alive, "{theirs:?}");
        let counters = bench.gossip.counters();
        assert_eq!((counters.merges, counters.merges_refused), (merged.into(), (!merged).into()));
    }
}

#[test]
fn states_are_exchanged_from_time_to_time_one_after_the_other() {
    let mut bench = Bench::knowing(3);
    bench.receive(3, dead(3, 1, 2));
    bench.gossip.probe_at = Duration::MAX;
    let exchange = |output: &Output| match output {
        Output::Dial { id, to, message: StreamMessage::PushPull(state), .. } => Some((*id, *to, state.join)),
        _ => None,
    };
    let (first, to, joining) = bench.run_until(exchange);
    let begin = bench.now;
    assert_eq!((to, joining), (addr(2), false), "the only other that is alive");
    let out = bench.run_for(ms(60_000));
    assert_eq!(out.iter().filter_map(|(_, output)| exchange(output)).count(), 0, "the first one is not over");
    assert_eq!(bench.dial_finished(first, Ok(Some(push_pull(false, vec![node(4, Liveness::Alive, 1)])))).len(), 2);
    bench.run_until(exchange);
    assert_eq!(bench.now - begin, ms(90_000));
}

#[test]
fn a_message_for_the_layer_above_is_handed_up() {
    let mut bench = Bench::new();
    let fact = [Output::Fact(Fact::User("x".into()))];
    assert_eq!(bench.answer(StreamMessage::User("x".into())), (None, fact.to_vec()));
    assert_eq!(bench.receive(2, Message::User("x".into())), fact);
    assert_eq!(bench.answer(StreamMessage::Error("x".into())), (None, vec![]));
    assert_eq!(bench.answer(StreamMessage::Ack(Ack { seq_no: 1, payload: Bytes::new() })), (None, vec![]));
}
