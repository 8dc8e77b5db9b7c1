//! What is believed of what is said.

use super::*;

fn known(bench: &Bench, n: u8) -> Node {
    bench.gossip.node(&name(n)).expect("it is known").clone()
}

#[test]
fn an_unknown_node_is_added_told_and_passed_on() {
    let mut bench = Bench::knowing(1);
    let out = bench.receive(3, Message::Alive(alive(2, 7)));
    assert_eq!(out, [Output::Fact(Fact::Joined(known(&bench, 2)))]);
    assert_eq!((bench.state(2), bench.incarnation(2)), (Some(Liveness::Alive), 7));
    assert_eq!(bench.news(), [Message::Alive(alive(2, 7))]);
}

#[test]
fn only_a_higher_incarnation_is_news() {
    let mut bench = Bench::knowing(1);
    bench.receive(2, Message::Alive(alive(2, 7)));
    bench.forget_news();
    for incarnation in [6, 7] {
        let out = bench.receive(2, Message::Alive(Alive { meta: "x".into(), ..alive(2, incarnation) }));
        assert_eq!((out, bench.news()), (vec![], vec![]));
    }
    // Nothing changed but the incarnation.
    assert_eq!(bench.receive(2, Message::Alive(alive(2, 8))), []);
    assert_eq!(bench.news(), [Message::Alive(alive(2, 8))]);
    let out = bench.receive(2, Message::Alive(Alive { meta: "x".into(), ..alive(2, 9) }));
    assert_eq!(out, [Output::Fact(Fact::Updated(known(&bench, 2)))]);
    assert_eq!(known(&bench, 2).meta, "x");
}

#[test]
fn impossible_versions_and_addresses_are_not_believed() {
    let mut bench = Bench::knowing(1);
    let versions = |change: fn(&mut Versions)| {
        let mut versions = Versions::OURS;
        change(&mut versions);
        Alive { versions: Some(versions), ..alive(2, 1) }
    };
    let claims = [
        Alive { versions: None, ..alive(2, 1) },
        versions(|v| v.protocol_min = 0),
        versions(|v| v.protocol_max = 0),
        versions(|v| (v.protocol_min, v.protocol_max) = (4, 3)),
        versions(|v| v.protocol = 6),
        versions(|v| v.delegate = 1),
        Alive { port: 0, ..alive(2, 1) },
        Alive { node: Text::default(), ..alive(2, 1) },
        Alive { node: "x".repeat(257).into(), ..alive(2, 1) },
        Alive { meta: vec![0; 513].into(), ..alive(2, 1) },
        alive(2, 0),
    ];
    let count = claims.len();
    for claim in claims {
        assert_eq!(bench.receive(2, Message::Alive(claim)), []);
    }
    assert_eq!(bench.gossip.nodes().count(), 1);
    assert_eq!(bench.gossip.counters().messages_ignored, count as u64);
    // The longest that are.
    let longest = Alive { node: "x".repeat(256).into(), meta: vec![0; 512].into(), ..alive(2, 1) };
    bench.receive(2, Message::Alive(longest));
    assert_eq!(bench.gossip.nodes().count(), 2);
}

#[test]
fn a_name_belongs_to_its_address_until_its_node_leaves() {
    let mut bench = Bench::knowing(3);
    let moved = |n: u8, incarnation: u32| Alive { addr: addr(9).ip(), ..alive(n, incarnation) };
    let conflict = |bench: &Bench, n, other: Alive| [Output::Fact(Fact::Conflict { known: known(bench, n), other })];

    // Alive, suspected, dead: a conflict. So is another port.
    for (message, state) in [(suspect(2, 1, 3), Liveness::Suspect), (dead(2, 1, 3), Liveness::Dead)] {
        let out = bench.receive(9, Message::Alive(moved(2, 5)));
        assert_eq!(out, conflict(&bench, 2, moved(2, 5)));
        bench.receive(3, message);
        assert_eq!(bench.state(2), Some(state));
    }
    let port = Alive { port: 1, ..alive(2, 5) };
    assert_eq!(bench.receive(9, Message::Alive(port.clone())), conflict(&bench, 2, port));
    assert_eq!(bench.receive(9, Message::Alive(moved(2, 5))), conflict(&bench, 2, moved(2, 5)));
    assert_eq!(known(&bench, 2).addr, addr(2).ip());

    // It left: free at once, with whatever incarnation.
    bench.receive(3, Message::Alive(alive(3, 8)));
    bench.receive(3, dead(3, 8, 3));
    bench.forget_news();
    let out = bench.receive(9, Message::Alive(moved(3, 1)));
    assert_eq!(out, [Output::Fact(Fact::Joined(known(&bench, 3)))]);
    assert_eq!((known(&bench, 3).addr, known(&bench, 3).incarnation), (addr(9).ip(), 1));
    assert_eq!(bench.news(), [Message::Alive(moved(3, 1))]);

    // Our own name.
    assert_eq!(bench.receive(9, Message::Alive(moved(1, 5))), conflict(&bench, 1, moved(1, 5)));
    assert_eq!(bench.incarnation(1), 1);
    assert_eq!(bench.gossip.counters().conflicts, 5);
}

#[test]
fn the_name_of_a_dead_node_is_free_after_a_time_if_so_configured() {
    let mut bench = Bench::with(|config| config.dead_reclaim = Some(ms(5000)));
    let moved = Alive { addr: addr(9).ip(), ..alive(2, 1) };
    bench.receive(2, Message::Alive(alive(2, 1)));
    bench.receive(3, dead(2, 1, 3));
    bench.now += ms(5000);
    let out = bench.receive(9, Message::Alive(moved.clone()));
    assert!(matches!(facts(&out)[..], [Fact::Conflict { .. }]));
    bench.now += ms(1);
    let out = bench.receive(9, Message::Alive(moved));
    assert!(matches!(facts(&out)[..], [Fact::Joined(_)]));
}

#[test]
fn what_is_said_of_this_node_is_put_right() {
    // Nothing to put right.
    let mut bench = Bench::knowing(2);
    bench.gossip.nodes.me_mut().incarnation = 5;
    for claim in [alive(1, 4), alive(1, 5), Alive { meta: "old".into(), ..alive(1, 4) }] {
        bench.receive(2, Message::Alive(claim));
    }
    bench.receive(2, suspect(1, 4, 2));
    bench.receive(2, dead(1, 4, 2));
    assert_eq!((bench.incarnation(1), bench.news()), (5, vec![]));

    let slow = Versions { protocol_max: 3, ..Versions::OURS };
    let cases = [
        (Message::Alive(alive(1, 9)), 10),
        (Message::Alive(Alive { meta: "old".into(), ..alive(1, 5) }), 6),
        (Message::Alive(Alive { versions: Some(slow), ..alive(1, 5) }), 6),
        (suspect(1, 5, 2), 6),
        (suspect(1, 9, 2), 10),
        (dead(1, 5, 2), 6),
        (dead(1, 9, 1), 10),
    ];
    for (claim, incarnation) in cases {
        let mut bench = Bench::knowing(2);
        bench.gossip.nodes.me_mut().incarnation = 5;
        assert_eq!(bench.receive(2, claim.clone()), [], "{claim:?}");
        assert_eq!(bench.news(), [Message::Alive(alive(1, incarnation))], "{claim:?}");
        assert_eq!((bench.state(1), bench.incarnation(1)), (Some(Liveness::Alive), incarnation));
        assert_eq!((bench.gossip.health_score(), bench.gossip.counters().refutations), (1, 1));
    }
}

#[test]
fn a_suspicion_is_passed_on_confirmed_and_refuted() {
    let mut bench = Bench::knowing(6);
    assert_eq!(bench.receive(3, suspect(9, 1, 3)), [], "unknown");
    bench.receive(2, Message::Alive(alive(2, 3)));
    bench.forget_news();
    bench.receive(3, suspect(2, 2, 3));
    assert_eq!((bench.state(2), bench.news()), (Some(Liveness::Alive), vec![]), "out of date");

    bench.receive(3, suspect(2, 4, 3));
    assert_eq!((bench.state(2), bench.incarnation(2)), (Some(Liveness::Suspect), 4));
    assert_eq!(bench.news(), [suspect(2, 4, 3)]);
    bench.forget_news();
    bench.receive(3, suspect(2, 4, 3));
    assert_eq!(bench.news(), [], "not new");
    bench.receive(3, suspect(2, 4, 4));
    assert_eq!(bench.news(), [suspect(2, 4, 4)]);
    assert_eq!((bench.gossip.counters().suspicions, bench.gossip.counters().confirmations), (1, 1));

    assert_eq!(bench.receive(2, Message::Alive(alive(2, 4))), [], "no objection: the incarnation is the same");
    assert_eq!(bench.state(2), Some(Liveness::Suspect));
    assert_eq!(bench.receive(2, Message::Alive(alive(2, 5))), [], "no event: it was never gone");
    assert_eq!(bench.state(2), Some(Liveness::Alive));
    assert_eq!(bench.gossip.suspicions.next_deadline(), None);
}

#[test]
fn whoever_does_not_object_in_time_is_dead() {
    // Alone with the accused, and in a pool that could confirm: 4 s; 24 s; 4 s with two confirmations.
    for (last, accusers, seconds) in [(3, vec![3], 4), (6, vec![3], 24), (6, vec![3, 4, 5], 4)] {
        let mut bench = Bench::knowing(last);
        let begin = bench.now;
        for accuser in accusers {
            bench.receive(3, suspect(2, 1, accuser));
        }
        // Nobody answers probes here: the others are suspected and die later.
        let died = |output: &Output| match output {
            Output::Fact(Fact::Gone(node)) if node.name == name(2) => Some(node.clone()),
            _ => None,
        };
        // Its own probes must not confirm it.
        bench.gossip.probe_at = Duration::MAX;
        let node = bench.run_until(died);
        assert_eq!((node.state, node.since), (Liveness::Dead, bench.now));
        assert_eq!(bench.now - begin, Duration::from_secs(seconds));
        assert!(bench.news().contains(&dead(2, 1, 1)), "said in our name");
        assert_eq!(bench.gossip.counters().deaths, 1);
    }
}

#[test]
fn death_is_told_once_and_leaving_is_what_a_node_says_itself() {
    let mut bench = Bench::knowing(4);
    for message in [dead(9, 1, 3), dead(2, 0, 3)] {
        assert_eq!(bench.receive(3, message), [], "unknown, out of date");
    }
    bench.receive(3, suspect(2, 1, 3));
    bench.forget_news();
    bench.now += ms(10);
    let out = bench.receive(3, dead(2, 2, 3));
    assert_eq!(out, [Output::Fact(Fact::Gone(known(&bench, 2)))]);
    assert_eq!((bench.state(2), bench.incarnation(2), known(&bench, 2).since), (Some(Liveness::Dead), 2, bench.now));
    assert_eq!(bench.news(), [dead(2, 2, 3)]);
    assert_eq!(bench.gossip.suspicions.next_deadline(), None);
    bench.forget_news();
    for message in [dead(2, 3, 4), dead(2, 3, 2), suspect(2, 3, 4)] {
        assert_eq!((bench.receive(4, message), bench.news()), (vec![], vec![]));
    }
    assert_eq!(bench.state(2), Some(Liveness::Dead));

    let out = bench.receive(3, dead(3, 1, 3));
    assert_eq!(out, [Output::Fact(Fact::Gone(known(&bench, 3)))]);
    assert_eq!(bench.state(3), Some(Liveness::Left));

    // Back again, each with a higher incarnation only.
    assert_eq!(bench.receive(2, Message::Alive(alive(2, 2))), []);
    assert_eq!(bench.receive(2, Message::Alive(alive(2, 3))), [Output::Fact(Fact::Joined(known(&bench, 2)))]);
    assert_eq!(bench.receive(3, Message::Alive(alive(3, 2))), [Output::Fact(Fact::Joined(known(&bench, 3)))]);
}

#[test]
fn an_incarnation_that_cannot_grow_stays() {
    let mut bench = Bench::knowing(2);
    bench.receive(2, suspect(1, u32::MAX, 2));
    assert_eq!(bench.incarnation(1), u32::MAX);
}
