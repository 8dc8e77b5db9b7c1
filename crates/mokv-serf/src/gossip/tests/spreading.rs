//! How news gets around.

use super::*;
use crate::wire::memberlist::{Ping, Source};

/// News of the layer above: 3 bytes longer than `len` on the wire.
fn user(len: usize) -> Bytes {
    Message::User(vec![7; len].into()).encode()
}

/// The datagrams of rounds of gossip: all that is no probe.
fn gossip(outputs: &[(Duration, Output)]) -> Vec<(Duration, SocketAddr, Vec<Bytes>, bool)> {
    let datagrams = outputs.iter().filter_map(|(at, output)| match output {
        Output::Send { to, messages, crc } if ping(output).is_none() => Some((*at, *to, messages.clone(), *crc)),
        _ => None,
    });
    datagrams.collect()
}

/// A bench that does not probe.
fn quiet(last: u8) -> Bench {
    let mut bench = Bench::knowing(last);
    bench.gossip.probe_at = Duration::MAX;
    bench.gossip.push_pull_at = Duration::MAX;
    bench
}

#[test]
fn news_goes_to_three_others_a_round_until_it_was_sent_often_enough() {
    let mut bench = quiet(9);
    bench.gossip.set_meta(bench.now, "tags".into());
    let news = Alive { meta: "tags".into(), ..alive(1, 2) };
    let out = gossip(&bench.run_for(ms(2000)));
    // 9 nodes: 4 sends, in rounds of 3, 200 ms apart.
    assert_eq!(out.len(), 4);
    for (i, (at, to, messages, crc)) in out.iter().enumerate() {
        assert_eq!(*at - out[0].0, ms(if i < 3 { 0 } else { 200 }));
        assert!(*to != addr(1) && *crc);
        assert_eq!(messages.iter().map(decode).collect::<Vec<_>>(), [Message::Alive(news.clone())]);
    }
    assert!(out[0].1 != out[1].1 && out[1].1 != out[2].1 && out[0].1 != out[2].1);
    assert_eq!(bench.gossip.queued(), 0);
}

#[test]
fn the_suspected_and_the_lately_dead_hear_it_too_but_not_those_who_left() {
    let receivers = |message: Option<Message>, wait: u64| {
        let mut bench = quiet(2);
        if let Some(message) = message {
            bench.receive(2, message);
        }
        // Not a jump of the clock: it would be taken for a stop.
        bench.run_for(ms(wait));
        bench.forget_news();
        bench.gossip.set_meta(bench.now, "tags".into());
        gossip(&bench.run_for(ms(200))).len()
    };
    assert_eq!(receivers(None, 0), 1);
    assert_eq!(receivers(Some(suspect(2, 1, 3)), 0), 1);
    assert_eq!(receivers(Some(dead(2, 1, 3)), 29_700), 1);
    assert_eq!(receivers(Some(dead(2, 1, 3)), 30_000), 0);
    assert_eq!(receivers(Some(dead(2, 1, 2)), 0), 0);
}

#[test]
fn old_nodes_get_no_checksum() {
    let mut bench = Bench::new();
    let versions = Versions { protocol_max: 4, ..Versions::OURS };
    bench.receive(2, Message::Alive(Alive { versions: Some(versions), ..alive(2, 1) }));
    let out = gossip(&bench.run_for(ms(200)));
    assert!(out.len() == 1 && !out[0].3, "{out:?}");
}

#[test]
fn the_own_news_goes_first_and_a_datagram_is_filled() {
    let mut bench = quiet(2);
    bench.gossip.set_meta(bench.now, "tags".into());
    bench.above.news = vec![user(1000), user(300), user(200), user(90), user(10), user(4)];
    let (_, _, messages, _) = gossip(&bench.run_for(ms(200))).remove(0);
    assert!(matches!(decode(&messages[0]), Message::Alive(_)));
    let size = COMPOUND_HEAD_BYTES + messages.iter().map(|m| COMPOUND_PART_BYTES + m.len()).sum::<usize>();
    assert!((1390..=1400).contains(&size), "{size}");
    // To the byte: what fits exactly is sent, one byte more is not.
    for (len, fits) in [(1395, true), (1396, false)] {
        let mut bench = quiet(2);
        bench.above.news = vec![user(len)];
        assert_eq!(gossip(&bench.run_for(ms(200))).len(), usize::from(fits));
    }
}

#[test]
fn pings_and_answers_carry_news() {
    let mut bench = quiet(2);
    bench.gossip.set_meta(bench.now, "tags".into());
    bench.above.news = vec![user(10)];
    let question = Message::Ping(Ping { seq_no: 1, node: name(1), source: Source::default() });
    let out = bench.receive(2, question);
    let kinds = sent(&out).into_iter().map(|(_, message)| message).collect::<Vec<_>>();
    assert!(matches!(kinds[..], [Message::Ack(_), Message::Alive(_), Message::User(_)]), "{kinds:?}");
    assert!(matches!(&out[..], [Output::Send { crc: false, .. }]));

    bench.gossip.probe_at = bench.now;
    bench.above.news = vec![user(1400), user(10)];
    let out = bench.tick();
    let kinds = sent(&out).into_iter().map(|(_, message)| message).collect::<Vec<_>>();
    assert!(matches!(kinds[..], [Message::Ping(_), Message::Alive(_), Message::User(_)]), "{kinds:?}");
}

#[test]
fn a_message_to_one_node_goes_alone() {
    let mut bench = quiet(2);
    bench.gossip.set_meta(bench.now, "tags".into());
    let mut out = Vec::new();
    bench.gossip.send_user(addr(5), "x".into(), &mut out);
    assert_eq!(out, [Output::Send { to: addr(5), messages: vec![Message::User("x".into()).encode()], crc: false }]);
}

#[test]
fn no_datagram_has_more_messages_than_it_can_count() {
    let mut bench = Bench::with(|config| config.packet_bytes_max = 60_000);
    bench.receive(2, Message::Alive(alive(2, 1)));
    bench.forget_news();
    bench.above.news = vec![user(1); 600];
    let out = bench.run_for(ms(200));
    assert_eq!(gossip(&out).iter().map(|(_, _, messages, _)| messages.len()).collect::<Vec<_>>(), [255, 255, 90]);
}

#[test]
fn a_new_node_tells_of_itself() {
    let mut bench = Bench::new();
    assert_eq!(bench.news(), [Message::Alive(alive(1, 1))]);
}

#[test]
fn nodes_that_start_together_do_not_act_together() {
    let phases = |seed| {
        let gossip = Gossip::new(Config::lan(name(1), addr(1)), Bytes::new(), StdRng::seed_from_u64(seed), INTERVAL);
        let times = [gossip.probe_at, gossip.gossip_at, gossip.push_pull_at].map(|at| at - INTERVAL);
        assert!(times[0] <= INTERVAL && times[1] <= ms(200) && times[2] <= ms(30_000));
        (times, gossip.next_seq_no)
    };
    let ((times, seq_no), (other_times, other_seq_no)) = (phases(1), phases(2));
    assert_ne!(times, other_times);
    assert_ne!(seq_no, other_seq_no, "an answer to one must not be taken for one to the other");
    assert_eq!(phases(1), (times, seq_no));
}
