//! Whatever others send, in whatever order: no panic, and what the module promises holds.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::memberlist::{IndirectPing, Nack, NodeState, Ping, PushPull, Source};

/// How many names there are in the messages.
const NAMES: usize = 8;

/// Few names and numbers, so that the messages have to do with each other.
fn incarnation() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0u32..5, 1 => Just(u32::MAX)]
}

fn versions() -> impl Strategy<Value = Option<Versions>> {
    let any = (0u8..7, 0u8..7, 0u8..7, 0u8..7, 0u8..7, 0u8..7);
    prop_oneof![
        6 => Just(Some(Versions::OURS)),
        1 => Just(None),
        1 => any.prop_map(|(protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate)| {
            Some(Versions { protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate })
        }),
    ]
}

fn any_alive() -> impl Strategy<Value = Alive> {
    let meta = prop_oneof![8 => 0usize..3, 1 => 500usize..520];
    (1u8..9, incarnation(), prop_oneof![8 => Just(7946u16), 1 => 0u16..3], meta, versions()).prop_map(
        |(n, incarnation, port, meta, versions)| Alive {
            port,
            meta: vec![0; meta].into(),
            versions,
            ..alive(n, incarnation)
        },
    )
}

fn state() -> impl Strategy<Value = Liveness> {
    prop_oneof![Just(Liveness::Alive), Just(Liveness::Suspect), Just(Liveness::Dead), Just(Liveness::Left)]
}

fn any_push_pull() -> impl Strategy<Value = PushPull> {
    let node = (any_alive(), state()).prop_map(|(alive, state)| {
        let Alive { node: name, addr, port, meta, incarnation, versions } = alive;
        NodeState { name, addr, port, meta, incarnation, state, versions }
    });
    (any::<bool>(), vec(node, 0..6), any::<bool>()).prop_map(|(join, nodes, more)| PushPull {
        join,
        nodes,
        user_state: if more { "theirs".into() } else { Bytes::new() },
    })
}

fn source() -> impl Strategy<Value = Source> {
    let addr = proptest::option::of((1u8..9).prop_map(|n| addr(n).ip()));
    (addr, 0u16..3, 1u8..9).prop_map(|(addr, port, n)| Source { addr, port, node: name(n) })
}

/// A message; the sequence number counts back from the newest of the node.
fn any_message() -> impl Strategy<Value = (u32, Message)> {
    let n = || 1u8..9;
    let message = prop_oneof![
        (n(), source()).prop_map(|(n, source)| Message::Ping(Ping { seq_no: 0, node: name(n), source })),
        (n(), any::<bool>(), 0u16..2, source()).prop_map(|(n, nack, port, source)| {
            Message::IndirectPing(IndirectPing { seq_no: 0, target: addr(n).ip(), port, node: name(n), nack, source })
        }),
        Just(Message::Ack(Ack { seq_no: 0, payload: Bytes::new() })),
        Just(Message::Nack(Nack { seq_no: 0 })),
        (n(), incarnation(), n()).prop_map(|(n, incarnation, from)| suspect(n, incarnation, from)),
        (n(), incarnation(), n()).prop_map(|(n, incarnation, from)| dead(n, incarnation, from)),
        any_alive().prop_map(Message::Alive),
        Just(Message::User("x".into())),
    ];
    (0u32..4, message)
}

#[derive(Debug, Clone)]
enum Step {
    Receive(u32, Message),
    Answer(StreamMessage),
    /// A stream that was asked for ends, the oldest first.
    Finish(Result<Option<StreamMessage>, String>),
    Run(Duration),
    /// No tick meanwhile.
    Stop(Duration),
    SetMeta,
    Join,
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    let stream_message = || {
        prop_oneof![
            4 => any_push_pull().prop_map(StreamMessage::PushPull),
            1 => Just(StreamMessage::Error("no".into())),
            1 => Just(StreamMessage::Ack(Ack { seq_no: 1, payload: Bytes::new() })),
        ]
    };
    prop_oneof![
        20 => any_message().prop_map(|(back, message)| Step::Receive(back, message)),
        3 => stream_message().prop_map(Step::Answer),
        3 => stream_message().prop_map(|message| Step::Finish(Ok(Some(message)))),
        1 => Just(Step::Finish(Err("refused".into()))),
        8 => (0u64..3000).prop_map(|n| Step::Run(ms(n))),
        1 => (0u64..100_000).prop_map(|n| Step::Run(ms(n))),
        1 => (0u64..60_000).prop_map(|n| Step::Stop(ms(n))),
        1 => Just(Step::SetMeta),
        1 => Just(Step::Join),
        1 => prop_oneof![9 => Just(Step::SetMeta), 1 => Just(Step::Leave)],
    ]
}

/// The message, with a sequence number that the node may be waiting for.
fn numbered(seq_no: u32, mut message: Message) -> Message {
    match &mut message {
        Message::Ack(ack) => ack.seq_no = seq_no,
        Message::Nack(nack) => nack.seq_no = seq_no,
        _ => {}
    }
    message
}

fn take_step(bench: &mut Bench, dials: &mut Vec<DialId>, step: Step) -> Vec<Output> {
    let mut out = Vec::new();
    match step {
        Step::Receive(back, message) => {
            let seq_no = bench.gossip.next_seq_no.wrapping_sub(back);
            return bench.receive(2, numbered(seq_no, message));
        }
        Step::Answer(message) => return bench.answer(message).1,
        Step::Finish(_) if dials.is_empty() => {}
        Step::Finish(result) => {
            let id = dials.remove(0);
            return bench.dial_finished(id, result);
        }
        Step::Run(time) => return bench.run_for(time).into_iter().map(|(_, output)| output).collect(),
        Step::Stop(time) => bench.now += time,
        Step::SetMeta => bench.gossip.set_meta(bench.now, "tags".into()),
        Step::Join => {
            bench.gossip.join(bench.now, addr(2), &mut bench.above, &mut out);
        }
        Step::Leave => bench.gossip.leave(bench.now, &mut bench.above, &mut out),
    }
    out
}

/// What must hold after each step. `present` has whom the layer above was told of.
fn check(bench: &Bench, out: &[Output], present: &mut BTreeSet<Text>) {
    let gossip = &bench.gossip;
    let left = gossip.leaving != Leaving::No;
    assert_eq!(gossip.nodes.me().state, if left { Liveness::Left } else { Liveness::Alive });
    for node in gossip.nodes() {
        assert_eq!(gossip.suspicions.contains(&node.name), node.state == Liveness::Suspect, "{node:?}");
    }
    assert!(gossip.queued() <= NAMES, "one message a node");
    assert!(gossip.health_score() < gossip.config.health_score_max);
    for output in out {
        match output {
            Output::Send { messages, .. } => {
                let size = messages.iter().map(|message| message.len() + COMPOUND_PART_BYTES).sum::<usize>();
                assert!(!messages.is_empty() && size + COMPOUND_HEAD_BYTES <= gossip.config.packet_bytes_max);
            }
            // Nobody joins twice, and nobody goes who is not there.
            Output::Fact(Fact::Joined(node)) => assert!(present.insert(node.name.clone()), "{node:?}"),
            Output::Fact(Fact::Gone(node)) => assert!(present.remove(&node.name), "{node:?}"),
            Output::Fact(Fact::Updated(node)) => assert!(present.contains(&node.name), "{node:?}"),
            _ => {}
        }
    }
    let known = gossip.nodes().filter(|node| !node.is_gone() && !gossip.nodes.is_me(&node.name));
    assert!(known.map(|node| &node.name).eq(present.iter()), "the layer above knows who is there");
}

proptest! {
    #[test]
    fn nothing_that_others_send_breaks_a_promise(steps in vec(step(), 0..60)) {
        let (mut bench, mut dials, mut present) = (Bench::new(), Vec::new(), BTreeSet::new());
        for step in steps {
            let out = take_step(&mut bench, &mut dials, step);
            dials.extend(out.iter().filter_map(|output| match output {
                Output::Dial { id, .. } => Some(*id),
                _ => None,
            }));
            check(&bench, &out, &mut present);
        }
    }
}
