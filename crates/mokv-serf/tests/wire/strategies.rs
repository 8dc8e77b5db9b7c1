//! Any message, for property tests.

use std::net::IpAddr;

use bytes::Bytes;
use mokv_serf::wire::Text;
use mokv_serf::wire::memberlist::{
    Ack, Alive, Dead, IndirectPing, Liveness, Message, Nack, NodeState, Ping, PushPull, Source, StreamMessage, Suspect,
    Versions,
};
use mokv_serf::wire::serf::{
    self, EventsAt, Filter, JoinIntent, KeyResponse, LeaveIntent, Member, Query, QueryResponse, Relay, Tags, UserEvent,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// Lengths on both sides of the limits of msgpack's forms.
pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
    let long = prop_oneof![Just(31_usize), Just(32), Just(255), Just(256), 300..2000_usize];
    prop_oneof![
        8 => vec(any::<u8>(), 0..20),
        1 => long.prop_flat_map(|length| vec(any::<u8>(), length)),
    ]
    .prop_map(Bytes::from)
}

/// UTF-8 or not.
pub(crate) fn text() -> impl Strategy<Value = Text> {
    prop_oneof![4 => "[a-z0-9.-]{0,12}".prop_map(Text::from), 1 => bytes().prop_map(Text::from)]
}

/// Numbers of all magnitudes.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
}

fn number_32() -> impl Strategy<Value = u32> {
    (any::<u32>(), 0..32_u32).prop_map(|(number, shift)| number >> shift)
}

/// Zero, which often is not written, more often than by chance.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![1 => Just(0), 4 => any::<u16>()]
}

fn addr() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|addr| addr.to_canonical())
}

fn source() -> impl Strategy<Value = Source> {
    (option::of(addr()), port(), text()).prop_map(|(addr, port, node)| Source { addr, port, node })
}

fn versions() -> impl Strategy<Value = Option<Versions>> {
    option::of(any::<[u8; 6]>()).prop_map(|versions| {
        let [protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate] = versions?;
        Some(Versions { protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate })
    })
}

fn liveness() -> impl Strategy<Value = Liveness> {
    prop_oneof![Just(Liveness::Alive), Just(Liveness::Suspect), Just(Liveness::Dead), Just(Liveness::Left)]
}

fn node() -> impl Strategy<Value = NodeState> {
    (text(), addr(), port(), bytes(), number_32(), liveness(), versions()).prop_map(
        |(name, addr, port, meta, incarnation, state, versions)| NodeState {
            name,
            addr,
            port,
            meta,
            incarnation,
            state,
            versions,
        },
    )
}

fn ping() -> impl Strategy<Value = Ping> {
    (number_32(), text(), source()).prop_map(|(seq_no, node, source)| Ping { seq_no, node, source })
}

fn ack() -> impl Strategy<Value = Ack> {
    (number_32(), bytes()).prop_map(|(seq_no, payload)| Ack { seq_no, payload })
}

fn indirect_ping() -> impl Strategy<Value = IndirectPing> {
    (number_32(), addr(), port(), text(), any::<bool>(), source()).prop_map(
        |(seq_no, target, port, node, nack, source)| IndirectPing { seq_no, target, port, node, nack, source },
    )
}

fn alive() -> impl Strategy<Value = Alive> {
    node().prop_map(|NodeState { name, addr, port, meta, incarnation, versions, .. }| Alive {
        incarnation,
        node: name,
        addr,
        port,
        meta,
        versions,
    })
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        ping().prop_map(Message::Ping),
        indirect_ping().prop_map(Message::IndirectPing),
        ack().prop_map(Message::Ack),
        number_32().prop_map(|seq_no| Message::Nack(Nack { seq_no })),
        (number_32(), text(), text()).prop_map(|(incarnation, node, from)| Message::Suspect(Suspect {
            incarnation,
            node,
            from
        })),
        alive().prop_map(Message::Alive),
        (number_32(), text(), text()).prop_map(|(incarnation, node, from)| Message::Dead(Dead {
            incarnation,
            node,
            from
        })),
        bytes().prop_map(Message::User),
    ]
}

pub(crate) fn stream_message() -> impl Strategy<Value = StreamMessage> {
    prop_oneof![
        (any::<bool>(), vec(node(), 0..20), bytes())
            .prop_map(|(join, nodes, user_state)| { StreamMessage::PushPull(PushPull { join, nodes, user_state }) }),
        ping().prop_map(StreamMessage::Ping),
        ack().prop_map(StreamMessage::Ack),
        bytes().prop_map(StreamMessage::User),
        text().prop_map(StreamMessage::Error),
    ]
}

pub(crate) fn tags() -> impl Strategy<Value = Tags> {
    btree_map(text(), text(), 0..20)
}

fn push_pull() -> impl Strategy<Value = serf::PushPull> {
    let events = (number(), vec((text(), bytes()), 0..3)).prop_map(|(time, events)| EventsAt { time, events });
    (number(), btree_map(text(), number(), 0..20), vec(text(), 0..20), number(), vec(events, 0..20), number()).prop_map(
        |(time, status_times, left_members, event_time, events, query_time)| serf::PushPull {
            time,
            status_times,
            left_members,
            event_time,
            events,
            query_time,
        },
    )
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        vec(text(), 0..20).prop_map(Filter::Nodes),
        (text(), text()).prop_map(|(tag, expr)| Filter::Tag { tag, expr }),
        vec(any::<u8>(), 0..20).prop_map(|mut bytes| {
            bytes.insert(0, 2);
            Filter::Unknown(bytes.into())
        }),
        Just(Filter::Unknown(Bytes::new())),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    let from = (addr(), port(), text());
    let how = (vec(filter(), 0..5), number_32(), any::<u8>(), any::<i64>(), 0..63_u32);
    (number(), number_32(), from, how, text(), bytes()).prop_map(
        |(time, id, (addr, port, source_node), (filters, flags, relay_factor, timeout, shift), name, payload)| Query {
            time,
            id,
            addr,
            port,
            source_node,
            filters,
            flags,
            relay_factor,
            timeout: timeout >> shift,
            name,
            payload,
        },
    )
}

fn member() -> impl Strategy<Value = Member> {
    (text(), addr(), port(), tags(), any::<u8>(), any::<[u8; 3]>(), any::<[u8; 3]>()).prop_map(
        |(name, addr, port, tags, status, protocol, delegate)| Member {
            name,
            addr,
            port,
            tags,
            status,
            protocol,
            delegate,
        },
    )
}

pub(crate) fn serf_message() -> impl Strategy<Value = serf::Message> {
    use serf::Message;
    prop_oneof![
        (number(), text(), any::<bool>()).prop_map(|(time, node, prune)| Message::Leave(LeaveIntent {
            time,
            node,
            prune
        })),
        (number(), text()).prop_map(|(time, node)| Message::Join(JoinIntent { time, node })),
        push_pull().prop_map(Message::PushPull),
        (number(), text(), bytes(), any::<bool>()).prop_map(|(time, name, payload, coalesce)| {
            Message::UserEvent(UserEvent { time, name, payload, coalesce })
        }),
        query().prop_map(Message::Query),
        (number(), number_32(), text(), number_32(), bytes()).prop_map(|(time, id, from, flags, payload)| {
            Message::QueryResponse(QueryResponse { time, id, from, flags, payload })
        }),
        option::of(member()).prop_map(Message::ConflictResponse),
        bytes().prop_map(Message::KeyRequest),
        (any::<bool>(), text(), vec(text(), 0..20), text()).prop_map(|(result, message, keys, primary_key)| {
            Message::KeyResponse(KeyResponse { result, message, keys, primary_key })
        }),
        (addr(), port(), text(), bytes()).prop_map(|(addr, port, node, message)| Message::Relay(Relay {
            addr,
            port,
            node,
            message
        })),
    ]
}
