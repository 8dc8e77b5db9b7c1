//! How a node goes.

use super::*;
use crate::wire::memberlist::{Ping, Source};

fn leave(bench: &mut Bench) -> Vec<Output> {
    let mut out = Vec::new();
    bench.gossip.leave(bench.now, &mut bench.above, &mut out);
    out
}

#[test]
fn the_last_node_leaves_at_once() {
    let mut bench = Bench::knowing(3);
    bench.receive(3, dead(2, 1, 3));
    bench.receive(3, dead(3, 1, 3));
    assert_eq!(facts(&leave(&mut bench)), [&Fact::Left]);
    assert_eq!(leave(&mut bench), [], "once");
}

#[test]
fn leaving_is_told_as_often_as_any_news() {
    let mut bench = Bench::knowing(3);
    bench.gossip.probe_at = Duration::MAX;
    let out = leave(&mut bench);
    assert_eq!(bench.state(1), Some(Liveness::Left));
    // 3 nodes: 4 sends. Two at once, two in the next round.
    let says = |out: &[Output]| sent(out).iter().filter(|(_, message)| *message == dead(1, 1, 1)).count();
    assert_eq!((says(&out), facts(&out).len()), (2, 0));
    let out = bench.run_for(ms(200)).into_iter().map(|(_, output)| output).collect::<Vec<_>>();
    assert_eq!((says(&out), facts(&out)), (2, vec![&Fact::Left]));
    let out = bench.run_for(ms(1000)).into_iter().map(|(_, output)| output).collect::<Vec<_>>();
    assert_eq!((says(&out), facts(&out).len()), (0, 0));
}

#[test]
fn who_leaves_does_not_wait_for_the_dead() {
    let mut bench = Bench::knowing(2);
    bench.gossip.probe_at = Duration::MAX;
    assert_eq!(facts(&leave(&mut bench)).len(), 0);
    let out = bench.receive(3, dead(2, 1, 3));
    assert!(facts(&out).contains(&&Fact::Left), "{out:?}");
}

#[test]
fn who_leaves_does_not_object_but_answers() {
    let mut bench = Bench::knowing(3);
    leave(&mut bench);
    bench.forget_news();
    bench.receive(2, Message::Alive(alive(1, 9)));
    bench.receive(2, suspect(1, 9, 2));
    bench.receive(2, dead(1, 9, 2));
    assert_eq!((bench.state(1), bench.incarnation(1), bench.news()), (Some(Liveness::Left), 1, vec![]));
    bench.gossip.set_meta(bench.now, "tags".into());
    assert_eq!(bench.news(), []);

    let question = Message::Ping(Ping { seq_no: 1, node: name(1), source: Source::default() });
    let out = bench.receive(2, question);
    assert!(matches!(sent(&out)[..], [(_, Message::Ack(_))]), "{out:?}");
    // However long it stays.
    bench.receive(2, Message::Alive(alive(2, 2)));
    for _ in 0..100 {
        bench.run_for(INTERVAL);
    }
    assert_eq!(bench.state(1), Some(Liveness::Left));
}
