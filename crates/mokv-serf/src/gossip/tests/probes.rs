//! Who is asked, how, and what follows from silence.

use super::*;
use crate::wire::memberlist::{IndirectPing, Nack, Ping, Source};

/// The next probe of a node that is thought to be alive.
fn next_ping(bench: &mut Bench) -> (SocketAddr, Ping) {
    bench.run_until(ping)
}

fn ack(seq_no: u32) -> Message {
    Message::Ack(Ack { seq_no, payload: Bytes::new() })
}

fn number(addr: SocketAddr) -> u8 {
    (2..=9).find(|n| super::addr(*n) == addr).expect("one of the others")
}

fn indirect(outputs: &[(Duration, Output)]) -> Vec<(Duration, SocketAddr, IndirectPing)> {
    let requests = outputs.iter().flat_map(|(at, output)| {
        sent([output]).into_iter().filter_map(|(to, message)| match message {
            Message::IndirectPing(request) => Some((*at, to, request)),
            _ => None,
        })
    });
    requests.collect()
}

fn dials(outputs: &[(Duration, Output)]) -> Vec<(Duration, DialId, SocketAddr, StreamMessage)> {
    let dials = outputs.iter().filter_map(|(at, output)| match output {
        Output::Dial { id, to, message: message @ StreamMessage::Ping(_), awaits_answer: true, .. } => {
            Some((*at, *id, *to, message.clone()))
        }
        _ => None,
    });
    dials.collect()
}

#[test]
fn each_node_is_probed_in_turn_and_an_answer_ends_the_probe() {
    let mut bench = Bench::knowing(5);
    let mut probed = Vec::new();
    let mut last = None;
    for _ in 0..4 {
        let (to, ping) = next_ping(&mut bench);
        assert_eq!(ping.node, name(number(to)));
        assert_eq!(ping.source, Source { addr: Some(addr(1).ip()), port: 7946, node: name(1) });
        assert!(last.is_none_or(|last| bench.now - last == INTERVAL));
        last = Some(bench.now);
        probed.push(number(to));
        bench.now += ms(30);
        bench.receive(number(to), ack(ping.seq_no));
    }
    probed.sort_unstable();
    assert_eq!(probed, [2, 3, 4, 5]);
    assert_eq!((bench.gossip.counters().probes, bench.gossip.counters().suspicions), (4, 0));
    assert_eq!(bench.gossip.counters().probes_failed, 0);
}

#[test]
fn silence_is_asked_about_and_then_suspected() {
    let mut bench = Bench::knowing(6);
    let (to, ping) = next_ping(&mut bench);
    let (begin, target) = (bench.now, number(to));
    let out = bench.run_for(ms(999));

    let requests = indirect(&out);
    assert_eq!(requests.len(), 3);
    for (at, to, request) in &requests {
        assert_eq!(*at - begin, ms(500));
        assert!(number(*to) != target);
        let source = Source { addr: Some(addr(1).ip()), port: 7946, node: name(1) };
        let (target, port, node) = (addr(target).ip(), 7946, name(target));
        assert_eq!(*request, IndirectPing { seq_no: ping.seq_no, target, port, node, nack: true, source });
    }
    let dials = dials(&out);
    assert_eq!(dials.len(), 1);
    assert_eq!((dials[0].0 - begin, dials[0].2, &dials[0].3), (ms(500), to, &StreamMessage::Ping(ping)));

    assert_eq!(bench.state(target), Some(Liveness::Alive));
    bench.run_for(ms(1));
    assert_eq!(bench.state(target), Some(Liveness::Suspect));
    assert!(bench.news().contains(&suspect(target, 1, 1)));
    // Three nacks were expected, and none came: something is wrong here.
    assert_eq!(bench.gossip.health_score(), 3);
    assert_eq!((bench.gossip.counters().probes_failed, bench.gossip.counters().suspicions), (1, 1));
}

#[test]
fn nacks_say_that_this_node_is_well() {
    for (nacks, score) in [(0, 3), (1, 2), (3, 0), (5, 0)] {
        let mut bench = Bench::knowing(6);
        let (to, ping) = next_ping(&mut bench);
        let out = bench.run_for(ms(700));
        assert_eq!(indirect(&out).len(), 3);
        for n in 0..nacks {
            bench.receive(n + 2, Message::Nack(Nack { seq_no: ping.seq_no }));
            bench.receive(n + 2, Message::Nack(Nack { seq_no: ping.seq_no.wrapping_add(1) }));
        }
        bench.run_for(ms(300));
        assert_eq!(bench.state(number(to)), Some(Liveness::Suspect));
        assert_eq!(bench.gossip.health_score(), score, "{nacks} nacks");
    }
}

#[test]
fn old_nodes_are_asked_only_what_they_understand() {
    let with_protocols = |target: u8, others: u8| {
        let mut bench = Bench::new();
        let versions = |protocol_max| Some(Versions { protocol_max, ..Versions::OURS });
        for n in 2..=5 {
            let protocol_max = if n == 2 { target } else { others };
            bench.receive(n, Message::Alive(Alive { versions: versions(protocol_max), ..alive(n, 1) }));
        }
        loop {
            let (to, ping) = next_ping(&mut bench);
            if to == addr(2) {
                let out = bench.run_for(ms(999));
                bench.run_for(ms(1));
                return (indirect(&out), dials(&out).len(), bench.gossip.health_score());
            }
            bench.receive(number(to), ack(ping.seq_no));
        }
    };
    let (requests, dials, score) = with_protocols(2, 3);
    assert!(requests.len() == 3 && requests.iter().all(|(.., request)| !request.nack));
    assert_eq!((dials, score), (0, 1));
    let (requests, dials, score) = with_protocols(3, 4);
    assert!(requests.len() == 3 && requests.iter().all(|(.., request)| request.nack));
    assert_eq!((dials, score), (1, 3));
}

#[test]
fn a_node_that_is_not_well_waits_longer() {
    let mut bench = Bench::knowing(6);
    bench.gossip.awareness.change(2);
    let (to, _) = next_ping(&mut bench);
    let begin = bench.now;
    let out = bench.run_for(ms(2999));
    assert_eq!(indirect(&out).iter().map(|(at, ..)| *at - begin).collect::<Vec<_>>(), [ms(500); 3]);
    assert_eq!(out.iter().filter_map(|(_, output)| ping(output)).count(), 0, "one probe at a time");
    assert_eq!(bench.state(number(to)), Some(Liveness::Alive));
    let out = bench.run_for(ms(1));
    assert_eq!(bench.state(number(to)), Some(Liveness::Suspect));
    assert_eq!(out.iter().filter_map(|(_, output)| ping(output)).count(), 1, "and the next follows at once");
    assert_eq!(bench.gossip.health_score(), 5);
}

#[test]
fn an_answer_makes_this_node_feel_better() {
    let mut bench = Bench::knowing(3);
    bench.gossip.awareness.change(5);
    for score in [4, 3] {
        let (to, ping) = next_ping(&mut bench);
        bench.receive(number(to), ack(ping.seq_no.wrapping_add(7)));
        assert_eq!(bench.gossip.health_score(), score + 1, "not what was asked");
        bench.receive(number(to), ack(ping.seq_no));
        assert_eq!(bench.gossip.health_score(), score);
        bench.receive(number(to), ack(ping.seq_no));
        assert_eq!(bench.gossip.health_score(), score, "only once");
    }
}

#[test]
fn an_answer_through_another_node_counts() {
    let mut bench = Bench::knowing(6);
    let (to, ping) = next_ping(&mut bench);
    bench.run_for(ms(900));
    let other = if number(to) == 2 { 3 } else { 2 };
    bench.receive(other, ack(ping.seq_no));
    bench.run_for(ms(50));
    assert_eq!((bench.state(number(to)), bench.gossip.health_score()), (Some(Liveness::Alive), 0));
    assert_eq!(bench.gossip.counters().probes_failed, 0);
}

#[test]
fn an_answer_over_a_stream_counts_at_the_end() {
    let answer = |result: fn(u32) -> Result<Option<StreamMessage>, String>| {
        let mut bench = Bench::knowing(6);
        let (to, ping) = next_ping(&mut bench);
        let out = bench.run_for(ms(600));
        let [(_, id, ..)] = dials(&out)[..] else { panic!("one stream") };
        bench.dial_finished(id, result(ping.seq_no));
        bench.run_for(ms(399));
        assert_eq!(bench.gossip.counters().probes_by_stream, 0, "a datagram may still come");
        bench.run_for(ms(1));
        (bench.state(number(to)).expect("it is known"), bench.gossip.counters().probes_by_stream)
    };
    fn ack(seq_no: u32) -> StreamMessage {
        StreamMessage::Ack(Ack { seq_no, payload: Bytes::new() })
    }
    assert_eq!(answer(|seq_no| Ok(Some(ack(seq_no)))), (Liveness::Alive, 1));
    assert_eq!(answer(|seq_no| Ok(Some(ack(seq_no.wrapping_add(1))))), (Liveness::Suspect, 0));
    assert_eq!(answer(|_| Ok(None)), (Liveness::Suspect, 0));
    assert_eq!(answer(|_| Err("refused".into())), (Liveness::Suspect, 0));
}

#[test]
fn a_suspected_node_is_told_what_is_said_of_it() {
    let mut bench = Bench::knowing(2);
    bench.receive(3, suspect(2, 1, 3));
    let (to, messages, crc) = bench.run_until(|output| match output {
        Output::Send { to, messages, crc } if ping(output).is_some() => Some((*to, messages.clone(), *crc)),
        _ => None,
    });
    assert!(to == addr(2) && crc);
    let messages = messages.iter().map(decode).collect::<Vec<_>>();
    assert!(matches!(&messages[..], [Message::Ping(_), accusation] if *accusation == suspect(2, 1, 1)), "{messages:?}");
}

#[test]
fn what_a_node_says_of_itself_during_a_probe_is_an_answer_too() {
    let mut bench = Bench::knowing(2);
    next_ping(&mut bench);
    bench.receive(2, Message::Alive(alive(2, 2)));
    bench.run_for(INTERVAL);
    assert_eq!((bench.state(2), bench.gossip.counters().probes_failed), (Some(Liveness::Alive), 1));
}

#[test]
fn a_ping_is_answered_at_once_if_it_is_meant_for_us() {
    let mut bench = Bench::knowing(2);
    let ping = |node: Text, source| Message::Ping(Ping { seq_no: 77, node, source });
    let elsewhere = Source { addr: Some(addr(9).ip()), port: 99, node: name(9) };
    for node in [name(1), Text::default()] {
        let out = bench.receive(2, ping(node.clone(), Source::default()));
        assert_eq!(sent(&out), [(addr(2), ack(77))]);
        let out = bench.receive(2, ping(node, elsewhere.clone()));
        assert_eq!(sent(&out), [((addr(9).ip(), 99).into(), ack(77))]);
    }
    assert_eq!(bench.receive(2, ping(name(2), Source::default())), []);

    let stream = |node| StreamMessage::Ping(Ping { seq_no: 77, node, source: Source::default() });
    let answer = StreamMessage::Ack(Ack { seq_no: 77, payload: Bytes::new() });
    assert_eq!(bench.answer(stream(name(1))), (Some(answer.clone()), vec![]));
    assert_eq!(bench.answer(stream(Text::default())), (Some(answer), vec![]));
    assert_eq!(bench.answer(stream(name(2))), (None, vec![]));
}

fn request(seq_no: u32, nack: bool, port: u16, source: Source) -> Message {
    Message::IndirectPing(IndirectPing { seq_no, target: addr(3).ip(), port, node: name(3), nack, source })
}

/// Lets node 1 ping node 3 for node 2, and returns the number that it uses.
fn relay(bench: &mut Bench, message: Message) -> (SocketAddr, u32) {
    let out = bench.receive(2, message);
    let [(to, Message::Ping(ping))] = &sent(&out)[..] else { panic!("one ping: {out:?}") };
    assert_eq!((&ping.node, &ping.source.node), (&name(3), &name(1)));
    (*to, ping.seq_no)
}

#[test]
fn a_ping_for_another_node_is_answered_with_its_number() {
    let mut bench = Bench::new();
    bench.forget_news();
    let elsewhere = Source { addr: Some(addr(9).ip()), port: 99, node: name(9) };
    for (source, asker) in [(Source::default(), addr(2)), (elsewhere, (addr(9).ip(), 99).into())] {
        let (to, seq_no) = relay(&mut bench, request(5, true, 8000, source));
        assert_eq!(to, (addr(3).ip(), 8000).into());
        assert_ne!(seq_no, 5);
        bench.now += ms(100);
        assert_eq!(bench.receive(3, ack(5)), [], "not what was asked");
        assert_eq!(sent(&bench.receive(3, ack(seq_no))), [(asker, ack(5))]);
        assert_eq!(bench.receive(3, ack(seq_no)), [], "once");
        assert_eq!(bench.run_for(ms(500)), [], "no nack");
    }
    let (to, _) = relay(&mut bench, request(5, true, 0, Source::default()));
    assert_eq!(to, addr(3), "our own port");
}

#[test]
fn a_ping_for_another_node_that_brings_no_answer_is_told_if_asked_for() {
    for nack in [true, false] {
        let mut bench = Bench::new();
        bench.forget_news();
        let (begin, (_, seq_no)) = (bench.now, relay(&mut bench, request(5, nack, 7946, Source::default())));
        let out = bench.run_for(ms(600));
        let nacks = out.iter().flat_map(|(at, output)| sent([output]).into_iter().map(|sent| (*at - begin, sent)));
        let expected = [(ms(500), (addr(2), Message::Nack(Nack { seq_no: 5 })))];
        assert_eq!(nacks.collect::<Vec<_>>(), if nack { &expected[..] } else { &[] });
        assert_eq!(bench.receive(3, ack(seq_no)), [], "too late");
    }
}

#[test]
fn only_so_many_pings_for_others_go_on() {
    let mut bench = Bench::new();
    for _ in 0..probe::RELAYS_MAX {
        bench.receive(2, request(5, true, 7946, Source::default()));
    }
    assert_eq!(bench.receive(2, request(5, true, 7946, Source::default())), []);
    assert_eq!(bench.gossip.counters().messages_ignored, 1);
    bench.run_for(ms(500));
    relay(&mut bench, request(5, true, 7946, Source::default()));
}

#[test]
fn the_others_get_their_time_if_this_node_is_late() {
    let mut bench = Bench::knowing(6);
    let (to, ping) = next_ping(&mut bench);
    // Late for both steps, but not so late that the probe is given up.
    bench.now += ms(1100);
    bench.tick();
    assert_eq!(bench.state(number(to)), Some(Liveness::Alive));
    bench.run_for(ms(499));
    bench.receive(2, ack(ping.seq_no));
    assert_eq!((bench.state(number(to)), bench.gossip.counters().probes_failed), (Some(Liveness::Alive), 0));
}

#[test]
fn having_been_stopped_is_no_evidence_against_others() {
    let mut bench = Bench::knowing(2);
    let begin = bench.now;
    bench.receive(3, suspect(2, 1, 3));
    bench.run_until(ping);
    let left = begin + ms(4000) - bench.now;
    let due = bench.gossip.next_tick();
    bench.now += ms(60_000);
    // What arrived meanwhile comes before the clock is looked at.
    bench.receive(3, Message::Nack(Nack { seq_no: 0 }));
    bench.receive(3, Message::Nack(Nack { seq_no: 0 }));
    let late = bench.now - due;
    let deadline = begin + ms(4000) + late;
    assert_eq!(bench.gossip.suspicions.next_deadline(), Some(deadline), "{left:?} left, {late:?} late");
    bench.tick();
    assert_eq!((bench.state(2), bench.gossip.counters().probes_abandoned), (Some(Liveness::Suspect), 1));
    bench.now = deadline - ms(1);
    bench.gossip.ran_at = bench.now;
    bench.tick();
    assert_eq!(bench.state(2), Some(Liveness::Suspect));
    bench.now = deadline;
    bench.tick();
    assert_eq!(bench.state(2), Some(Liveness::Dead));
}
