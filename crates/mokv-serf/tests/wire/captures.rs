//! What real processes sent (testdata/README.md): each file means what it is known to mean, and where the encoding is determined,
//! we write the same bytes.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use bytes::Bytes;
use mokv_serf::wire::keyring::Keyring;
use mokv_serf::wire::memberlist::{
    Ack, Alive, Dead, IndirectPing, Liveness, Message, Nack, NodeState, Ping, PushPull, Source, StreamMessage, Suspect,
    Versions,
};
use mokv_serf::wire::serf::{
    self, EventsAt, Filter, JoinIntent, KeyResponse, LeaveIntent, Member, Query, QueryResponse,
};
use mokv_serf::wire::serf::{Relay, UserEvent, decode_tags, encode_tags};
use mokv_serf::wire::{Codec, OpenError, Side, Text};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

const PORT: u16 = 7946;
/// The key of configuration B.
const KEY: &str = "cg8StVXbQJ0gPvMd9o7yrg==";
/// The key that is installed in `enc-udp-install-key`, and in use in `enc-tcp-error`.
const NEW_KEY: &str = "T9jncgl9mbLus+baTTa7q7nPSUrXwbDi2dhbtqir37s=";
const LABEL: &[u8] = b"mokv";

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "testdata", file].iter().collect()
}

pub(crate) fn read(file: &str) -> Vec<u8> {
    fs::read(path(&format!("{file}.bin"))).expect("a capture")
}

/// The names of all captures, without their ending.
pub(crate) fn all() -> Vec<String> {
    let files = fs::read_dir(path("")).expect("the captures").map(|entry| entry.expect("a file").path());
    let captures = files.filter(|path| path.extension().is_some_and(|extension| extension == "bin"));
    let mut names: Vec<String> =
        captures.map(|path| path.file_stem().expect("a name").to_str().expect("ASCII").into()).collect();
    names.sort();
    names
}

/// What the nodes of a capture were configured with, except compression.
pub(crate) fn codec(file: &str) -> Codec {
    let label = if file.starts_with("label") { Bytes::from_static(LABEL) } else { Bytes::new() };
    let keys = match file.split('-').collect::<Vec<_>>()[..] {
        ["enc", "tcp", "error", ..] => Some(vec![key(NEW_KEY), key(KEY)]),
        ["enc", ..] => Some(vec![key(KEY)]),
        ["encv0", ..] | ["label", "enc", ..] => Some(vec![b"0123456789abcdef".to_vec()]),
        _ => None,
    };
    Codec { label, compression: false, keyring: keys.map(|keys| Keyring::new(keys).expect("keys")) }
}

pub(crate) fn sender(file: &str) -> Side {
    let answers = ["response", "ack", "error"];
    if answers.iter().any(|word| file.contains(word)) { Side::Acceptor } else { Side::Initiator }
}

fn key(text: &str) -> Vec<u8> {
    mokv_serf::wire::keyring::key_from_text(text).expect("base64")
}

/// What is in a datagram: memberlist's messages, or Serf's in one of them.
#[derive(Debug, PartialEq)]
enum Content {
    Gossip(Message),
    Serf(serf::Message),
}

use Content::{Gossip, Serf};

/// Whether we write the same bytes.
#[derive(PartialEq)]
enum Form {
    /// Yes, with a checksum.
    Checked,
    /// Yes, without one.
    Bare,
    /// No: nonces are random, compressed bytes may differ, and go-msgpack 2 writes signed numbers its own way.
    Free,
}

use Form::{Bare, Checked, Free};

/// Every datagram: its file, whether its bytes are determined, what is in it.
fn datagrams() -> Vec<(&'static str, Form, Vec<Content>)> {
    let joined = || vec![alive("a", 1, 1, &[]), alive("b", 2, 1, &[]), join(1, "b")];
    let both_tags = || alive("b", 2, 1, &[("id", "b")]);
    vec![
        ("udp-ping", Bare, vec![ping(2, "b")]),
        ("udp-ack-coordinate", Bare, vec![ack(2, coordinates())]),
        ("udp-compound-alive-alive-join-crc", Checked, vec![both_tags(), alive("a", 1, 1, &[]), join(1, "b")]),
        (
            "udp-compound-ping-alive-alive-join",
            Bare,
            vec![ping(1, "b"), both_tags(), alive("a", 1, 1, &[]), join(1, "b")],
        ),
        ("udp-alive-crc", Checked, vec![alive("c", 3, 1, &[])]),
        ("udp-alive-tags-changed-crc", Checked, vec![alive("b", 2, 2, &[("id", "b"), ("role", "web")])]),
        ("udp-indirect-ping", Bare, vec![indirect_ping()]),
        ("udp-nack", Bare, vec![Gossip(Message::Nack(Nack { seq_no: 21 }))]),
        ("udp-compound-ping-suspect-crc", Checked, vec![ping(23, "c"), suspect("c", "a")]),
        ("udp-suspect-crc", Checked, vec![suspect("c", "a")]),
        ("udp-dead-failed-crc", Checked, vec![dead("c", 1, "a")]),
        ("udp-refute-alive-crc", Checked, vec![alive_bare("a", addr("127.0.0.1"), PORT, 2)]),
        ("udp-leave-intent-crc", Checked, vec![leave(4, "b", false)]),
        ("udp-dead-left-crc", Checked, vec![dead("b", 2, "b")]),
        ("udp-force-leave-crc", Checked, vec![leave(3, "c", false)]),
        ("udp-force-leave-prune-crc", Checked, vec![leave(22, "f", true)]),
        ("udp-refute-join-crc", Checked, vec![join(21, "a")]),
        (
            "udp-rejoin-compound-crc",
            Checked,
            vec![alive("b", 2, 3, &[]), alive("a", 1, 1, &[]), alive("b", 2, 1, &[]), join(6, "b"), join(6, "b")],
        ),
        ("udp-event-crc", Checked, vec![event(true, "v1".into())]),
        ("udp-event-compressed-crc", Free, vec![event(false, "x".repeat(200).into())]),
        ("udp-query-crc", Checked, vec![query(Query { payload: "x".into(), relay_factor: 1, ..load(1697419236) })]),
        ("udp-query-filters-crc", Checked, vec![query(filtered())]),
        ("udp-query-ping-crc", Checked, vec![query(internal(3, 694490631, 2, "_serf_ping", Bytes::new()))]),
        (
            "udp-query-go-msgpack-v2-crc",
            Free,
            vec![query(Query {
                addr: addr("127.0.0.1"),
                source_node: "a".into(),
                payload: "x".into(),
                relay_factor: 1,
                timeout: 2_000_000_000,
                ..load(1422716905)
            })],
        ),
        ("udp-query-response-ack", Bare, vec![Serf(acknowledged(1697419236, "b"))]),
        ("udp-query-relay", Bare, vec![relay("127.0.0.2", "b", acknowledged(1697419236, "b"))]),
        ("udp-query-relay-go-msgpack-v2", Free, vec![relay("127.0.0.1", "a", acknowledged(1422716905, "a"))]),
        ("udp-conflict-response", Bare, vec![response(61157894, conflict())]),
        (
            "udp-alive-protocol2",
            Checked,
            vec![Gossip(Message::Alive(Alive {
                incarnation: 1,
                node: "old".into(),
                addr: addr("127.0.0.4"),
                port: PORT,
                meta: "web".into(),
                versions: Some(Versions { delegate: 2, ..Versions::OURS }),
            }))],
        ),
        (
            "udp-ipv6-alive-join-crc",
            Checked,
            vec![alive_bare("a", addr("::1"), PORT, 1), alive_bare("b", addr("::1"), 7947, 1), join(1, "b")],
        ),
        ("udp-compressed-compound-crc", Free, joined()),
        ("enc-udp-compound", Free, joined()),
        ("enc-udp-ping", Free, vec![ping(1, "b")]),
        ("enc-udp-install-key", Free, vec![query(install_key()), query(list_keys())]),
        ("enc-udp-list-keys-response", Free, vec![response(732833166, listed_keys())]),
        ("encv0-udp-compound", Free, vec![alive_library("a", 1, 1), alive_library("b", 2, 1)]),
        ("encv0-udp-ack", Free, vec![ack(1, Bytes::new())]),
        ("label-udp-ping", Bare, vec![ping(1, "b")]),
        ("label-udp-compound-crc", Checked, vec![alive_library("b", 2, 2), alive_library("a", 1, 2)]),
        ("label-enc-udp-ping", Free, vec![ping(1, "b")]),
    ]
}

/// Every stream: its file, whether its bytes are determined, what is in it; the state of the layer above apart.
fn streams() -> Vec<(&'static str, Form, StreamMessage, Option<serf::PushPull>)> {
    let (a, b) = (node("a", 1, &[]), node("b", 2, &[]));
    let joining = |state: &NodeState| push_pull(true, vec![state.clone()]);
    let lone = |name: &str| Some(state(1, &[(name, 0)]));
    let b_tags = node("b", 2, &[("id", "b")]);
    let c_dead = NodeState { state: Liveness::Dead, ..node("c", 3, &[]) };
    let b_web = NodeState { incarnation: 2, ..node("b", 2, &[("id", "b"), ("role", "web")]) };
    let library = NodeState { meta: "m".into(), versions: library_versions(2), ..b.clone() };
    let library_old = NodeState { versions: library_versions(1), ..library.clone() };
    let deployed = vec![EventsAt { time: 1, events: vec![("deploy".into(), "v1".into())] }];
    let synced = serf::PushPull {
        events: deployed.clone(),
        event_time: 2,
        query_time: 4,
        ..state(3, &[("a", 0), ("b", 1), ("c", 2)])
    };
    let left = serf::PushPull {
        left_members: vec!["c".into(), "b".into()],
        events: deployed,
        event_time: 2,
        query_time: 4,
        ..state(5, &[("a", 0), ("b", 4), ("c", 3)])
    };
    let rejoined = vec![c_dead.clone(), a.clone(), NodeState { state: Liveness::Left, ..b_web.clone() }];
    let fallback = |seq_no, node: &str, from, source: &str| {
        let source = Source { addr: Some(addr(from)), port: PORT, node: source.into() };
        StreamMessage::Ping(Ping { seq_no, node: node.into(), source })
    };
    let user = UserEvent { time: 5, name: "tcpev".into(), payload: "p".into(), coalesce: false };
    let error = "Encryption is configured but remote state is not encrypted";
    vec![
        ("tcp-join-request", Bare, joining(&b_tags), lone("b")),
        ("tcp-join-response", Bare, joining(&a), lone("a")),
        (
            "tcp-join-response-2-nodes",
            Bare,
            push_pull(true, vec![b_tags, a.clone()]),
            Some(state(2, &[("a", 0), ("b", 1)])),
        ),
        ("tcp-join-response-go-msgpack-v2", Free, joining(&a), lone("a")),
        ("tcp-sync-dead-node-event", Bare, push_pull(false, vec![b_web, a.clone(), c_dead]), Some(synced)),
        ("tcp-rejoin-response-left-nodes", Bare, push_pull(true, rejoined), Some(left)),
        ("tcp-join-request-compressed", Free, joining(&b), lone("b")),
        ("tcp-join-response-compressed", Free, joining(&a), lone("a")),
        ("tcp-ping", Bare, fallback(77, "a", "127.0.0.11", "f"), None),
        ("tcp-ping-ack", Bare, StreamMessage::Ack(Ack { seq_no: 77, payload: Bytes::new() }), None),
        ("tcp-ping-compressed", Free, fallback(13, "old", "127.0.0.1", "a"), None),
        ("tcp-user-message-event", Bare, StreamMessage::User(serf::Message::UserEvent(user).encode()), None),
        ("enc-tcp-join-request", Free, joining(&b), lone("b")),
        ("enc-tcp-join-response", Free, joining(&a), lone("a")),
        ("enc-tcp-error", Free, StreamMessage::Error(error.into()), None),
        ("encv0-tcp-join-request", Free, joining(&library_old), None),
        ("label-tcp-join-request", Bare, joining(&library), None),
        ("label-enc-tcp-join-request", Free, joining(&library), None),
        ("label-tcp-user-message", Bare, StreamMessage::User("hello".into()), None),
    ]
}

#[test]
fn every_capture_is_in_the_tables() {
    let mut known: Vec<&str> = datagrams().iter().map(|row| row.0).chain(streams().iter().map(|row| row.0)).collect();
    known.sort_unstable();
    assert_eq!(all(), known);
    assert_eq!(known.len(), 59);
}

#[test]
fn datagrams_mean_what_they_are_known_to_mean() {
    for (file, _, expected) in datagrams() {
        let messages = codec(file).open(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let content: Vec<Content> = messages.into_iter().map(content).collect();
        assert_eq!(content, expected, "{file}");
    }
}

#[test]
fn datagrams_are_written_as_they_were() {
    for (file, form, expected) in datagrams() {
        let (codec, bytes) = (codec(file), read(file));
        let written: Vec<Bytes> = codec.open(&bytes).expect("known").into_iter().map(rewrite).collect();
        let again = codec.seal(&written, form == Checked, &mut StdRng::from_seed([1; 32]));
        match form {
            Bare | Checked => assert_eq!(again, bytes, "{file}"),
            Free => {
                let content: Vec<Content> = codec.open(&again).expect("our own").into_iter().map(content).collect();
                assert_eq!(content, expected, "{file}");
            }
        }
    }
}

#[test]
fn streams_mean_what_they_are_known_to_mean() {
    for (file, _, message, state) in streams() {
        // As a whole, and byte for byte.
        for piece in [usize::MAX, 1] {
            let (decoded, user_state) = without_state(decode_stream(file, &read(file), piece));
            assert_eq!(decoded, message, "{file}");
            let user_state = (!user_state.is_empty()).then(|| serf::Message::decode(&user_state).expect("Serf's"));
            assert_eq!(user_state, state.clone().map(serf::Message::PushPull), "{file}");
        }
    }
}

#[test]
fn streams_are_written_as_they_were() {
    for (file, form, ..) in streams() {
        let (codec, bytes) = (codec(file), read(file));
        let message = decode_stream(file, &bytes, usize::MAX);
        let again = codec.seal_stream(&message, sender(file), &mut StdRng::from_seed([1; 32]));
        match form {
            Bare => assert_eq!(again, bytes, "{file}"),
            _ => assert_eq!(decode_stream(file, &again, usize::MAX), message, "{file}"),
        }
        if let StreamMessage::PushPull(PushPull { user_state, .. }) = message
            && !user_state.is_empty()
        {
            let state = serf::Message::decode(&user_state).expect("Serf's");
            assert_eq!(serf::Message::decode(&state.encode()), Ok(state), "{file}");
        }
    }
}

/// Go's compressed bytes and ours are the same so far; if that changes, nothing is lost.
#[test]
fn compression_is_written_as_it_was() {
    for file in ["udp-compressed-compound-crc", "udp-event-compressed-crc"] {
        let (codec, bytes) = (Codec { compression: true, ..codec(file) }, read(file));
        let written: Vec<Bytes> = codec.open(&bytes).expect("known").iter().map(Message::encode).collect();
        assert_eq!(codec.seal(&written, true, &mut StdRng::from_seed([1; 32])), bytes, "{file}");
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let open = |file: &str, codec: &Codec| codec.open(&read(file));
    let (plain, labelled, encrypted) = (codec("udp"), codec("label"), codec("enc"));
    let other = Codec { label: "other".into(), ..Codec::default() };
    assert_eq!(open("label-udp-ping", &plain), Err(OpenError::Label));
    assert_eq!(open("label-udp-ping", &other), Err(OpenError::Label));
    assert_eq!(open("udp-ping", &labelled), Err(OpenError::Label));
    assert_eq!(open("udp-alive-crc", &encrypted), Err(OpenError::Plaintext));
    assert_eq!(open("udp-ping", &encrypted), Err(OpenError::Decryption));
    assert_eq!(open("enc-udp-ping", &codec("encv0")), Err(OpenError::Decryption));

    let stream = |file: &str, codec: &Codec| {
        let mut decoder = codec.stream(sender(file));
        decoder.push(&read(file));
        decoder.next()
    };
    assert_eq!(stream("label-tcp-join-request", &plain), Err(OpenError::Label));
    assert_eq!(stream("label-tcp-join-request", &other), Err(OpenError::Label));
    assert_eq!(stream("tcp-join-request", &labelled), Err(OpenError::Label));
    assert_eq!(stream("tcp-join-request", &encrypted), Err(OpenError::Plaintext));
    assert_eq!(stream("tcp-join-request-compressed", &encrypted), Err(OpenError::Plaintext));
    assert_eq!(stream("enc-tcp-join-request", &plain), Err(OpenError::Encrypted));
    assert_eq!(stream("enc-tcp-join-request", &codec("encv0")), Err(OpenError::Decryption));
}

fn decode_stream(file: &str, bytes: &[u8], piece: usize) -> StreamMessage {
    let mut decoder = codec(file).stream(sender(file));
    let mut messages = Vec::new();
    for piece in bytes.chunks(piece.min(bytes.len())) {
        decoder.push(piece);
        messages.extend(decoder.next().unwrap_or_else(|error| panic!("{file}: {error}")));
    }
    assert_eq!(messages.len(), 1, "{file}");
    assert_eq!(decoder.next(), Ok(None), "{file}");
    messages.remove(0)
}

/// The message with its tags in our order, and the state of the layer above.
fn without_state(message: StreamMessage) -> (StreamMessage, Bytes) {
    let StreamMessage::PushPull(PushPull { join, nodes, user_state }) = message else {
        return (message, Bytes::new());
    };
    let nodes = nodes.into_iter().map(|node| NodeState { meta: ordered(node.meta), ..node }).collect();
    (push_pull(join, nodes), user_state)
}

fn content(message: Message) -> Content {
    match message {
        Message::User(message) => Serf(serf::Message::decode(&message).expect("a message of Serf's")),
        Message::Alive(alive) => Gossip(Message::Alive(Alive { meta: ordered(alive.meta), ..alive })),
        message => Gossip(message),
    }
}

/// Decoded and encoded, Serf's messages and those within them too.
fn rewrite(message: Message) -> Bytes {
    match message {
        Message::User(message) => {
            let message = serf::Message::decode(&message).expect("a message of Serf's");
            Message::User(rewrite_nested(message).encode()).encode()
        }
        message => message.encode(),
    }
}

fn rewrite_nested(message: serf::Message) -> serf::Message {
    let nested = |bytes: Bytes| serf::Message::decode(&bytes).expect("a message of Serf's").encode();
    match message {
        serf::Message::Relay(relay) => serf::Message::Relay(Relay { message: nested(relay.message), ..relay }),
        serf::Message::QueryResponse(response) if response.flags == 0 => {
            serf::Message::QueryResponse(QueryResponse { payload: nested(response.payload), ..response })
        }
        message => message,
    }
}

/// Go writes tags in a random order.
fn ordered(meta: Bytes) -> Bytes {
    if meta.first() == Some(&0xff) { encode_tags(&decode_tags(&meta).expect("tags")) } else { meta }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node(name: &str, last_octet: u8, more_tags: &[(&str, &str)]) -> NodeState {
    let rpc_addr = format!("127.0.0.{last_octet}:8400");
    let tags = more_tags.iter().copied().chain([("rpc_addr", &*rpc_addr)]);
    NodeState {
        name: name.into(),
        addr: IpAddr::from([127, 0, 0, last_octet]),
        port: PORT,
        meta: encode_tags(&tags.map(|(tag, value)| (tag.into(), value.into())).collect()),
        incarnation: 1,
        state: Liveness::Alive,
        versions: Some(Versions::OURS),
    }
}

fn alive(name: &str, last_octet: u8, incarnation: u32, more_tags: &[(&str, &str)]) -> Content {
    let NodeState { name: node, addr, port, meta, versions, .. } = node(name, last_octet, more_tags);
    Gossip(Message::Alive(Alive { incarnation, node, addr, port, meta, versions }))
}

/// Without tags.
fn alive_bare(name: &str, addr: IpAddr, port: u16, incarnation: u32) -> Content {
    let (meta, versions) = (Bytes::from_static(&[0xff, 0x80]), Some(Versions::OURS));
    Gossip(Message::Alive(Alive { incarnation, node: name.into(), addr, port, meta, versions }))
}

/// Of a program that uses memberlist without Serf.
fn alive_library(name: &str, last_octet: u8, protocol: u8) -> Content {
    let (addr, meta, versions) = ([127, 0, 0, last_octet].into(), "m".into(), library_versions(protocol));
    Gossip(Message::Alive(Alive { incarnation: 1, node: name.into(), addr, port: PORT, meta, versions }))
}

fn library_versions(protocol: u8) -> Option<Versions> {
    Some(Versions { protocol, delegate_min: 0, delegate_max: 0, delegate: 0, ..Versions::OURS })
}

fn of_a() -> Source {
    Source { addr: Some(addr("127.0.0.1")), port: PORT, node: "a".into() }
}

fn ping(seq_no: u32, node: &str) -> Content {
    Gossip(Message::Ping(Ping { seq_no, node: node.into(), source: of_a() }))
}

fn indirect_ping() -> Content {
    let (target, node) = (addr("127.0.0.3"), "c".into());
    Gossip(Message::IndirectPing(IndirectPing { seq_no: 21, target, port: PORT, node, nack: true, source: of_a() }))
}

fn ack(seq_no: u32, payload: Bytes) -> Content {
    Gossip(Message::Ack(Ack { seq_no, payload }))
}

/// Random by nature, and looked at by nobody.
fn coordinates() -> Bytes {
    let capture = read("udp-ack-coordinate");
    let begin = capture.windows(2).position(|bytes| bytes == [0x01, 0x84]).expect("a map of four fields");
    Bytes::copy_from_slice(&capture[begin..begin + 130])
}

fn suspect(node: &str, from: &str) -> Content {
    Gossip(Message::Suspect(Suspect { incarnation: 1, node: node.into(), from: from.into() }))
}

fn dead(node: &str, incarnation: u32, from: &str) -> Content {
    Gossip(Message::Dead(Dead { incarnation, node: node.into(), from: from.into() }))
}

fn join(time: u64, node: &str) -> Content {
    Serf(serf::Message::Join(JoinIntent { time, node: node.into() }))
}

fn leave(time: u64, node: &str, prune: bool) -> Content {
    Serf(serf::Message::Leave(LeaveIntent { time, node: node.into(), prune }))
}

fn event(coalesce: bool, payload: Bytes) -> Content {
    Serf(serf::Message::UserEvent(UserEvent { time: 1, name: "deploy".into(), payload, coalesce }))
}

fn query(query: Query) -> Content {
    Serf(serf::Message::Query(query))
}

fn load(id: u32) -> Query {
    Query {
        time: 1,
        id,
        addr: addr("127.0.0.2"),
        port: PORT,
        source_node: "b".into(),
        filters: Vec::new(),
        flags: Query::ACK,
        relay_factor: 0,
        timeout: 3_000_000_000,
        name: "load".into(),
        payload: Bytes::new(),
    }
}

fn filtered() -> Query {
    let tag = Filter::Tag { tag: "rpc_addr".into(), expr: "127.*".into() };
    let filters = vec![Filter::Nodes(vec!["a".into()]), tag];
    Query { time: 2, filters, flags: 0, timeout: 2_000_000_000, name: "load2".into(), ..load(1554400558) }
}

fn internal(time: u64, id: u32, last_octet: u8, name: &str, payload: Bytes) -> Query {
    let addr = IpAddr::from([127, 0, 0, last_octet]);
    Query { time, addr, timeout: 3_200_000_000, name: name.into(), payload, ..load(id) }
}

fn install_key() -> Query {
    let payload = serf::Message::KeyRequest(key(NEW_KEY).into()).encode();
    Query { flags: 0, source_node: "a".into(), ..internal(2, 700019283, 1, "_serf_install-key", payload) }
}

fn list_keys() -> Query {
    let payload = serf::Message::KeyRequest(Bytes::new()).encode();
    Query { flags: 0, source_node: "a".into(), ..internal(1, 732833166, 1, "_serf_list-keys", payload) }
}

fn listed_keys() -> serf::Message {
    let (keys, primary_key) = (vec![Text::from(KEY)], KEY.into());
    serf::Message::KeyResponse(KeyResponse { result: true, message: Text::default(), keys, primary_key })
}

fn response(id: u32, payload: serf::Message) -> Content {
    let payload = payload.encode();
    Serf(serf::Message::QueryResponse(QueryResponse { time: 1, id, from: "b".into(), flags: 0, payload }))
}

fn acknowledged(id: u32, from: &str) -> serf::Message {
    let flags = QueryResponse::ACK;
    serf::Message::QueryResponse(QueryResponse { time: 1, id, from: from.into(), flags, payload: Bytes::new() })
}

fn relay(to: &str, node: &str, message: serf::Message) -> Content {
    let (addr, node, message) = (addr(to), node.into(), message.encode());
    Serf(serf::Message::Relay(Relay { addr, port: PORT, node, message }))
}

fn conflict() -> serf::Message {
    serf::Message::ConflictResponse(Some(Member {
        name: "a".into(),
        addr: addr("127.0.0.1"),
        port: PORT,
        tags: [("rpc_addr".into(), "127.0.0.1:8400".into())].into(),
        status: 1,
        protocol: [1, 5, 2],
        delegate: [2, 5, 5],
    }))
}

fn push_pull(join: bool, nodes: Vec<NodeState>) -> StreamMessage {
    StreamMessage::PushPull(PushPull { join, nodes, user_state: Bytes::new() })
}

fn state(time: u64, status_times: &[(&str, u64)]) -> serf::PushPull {
    let status_times = status_times.iter().map(|&(node, time)| (node.into(), time)).collect();
    serf::PushPull { time, status_times, event_time: 1, query_time: 1, ..serf::PushPull::default() }
}
