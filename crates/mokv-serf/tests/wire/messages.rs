//! Every message there and back, and what newer or older nodes may write differently.

use mokv_serf::wire::memberlist::{Liveness, Message, Nack, Ping, Source, StreamMessage, Versions};
use mokv_serf::wire::serf::{self, Tags, decode_tags, encode_tags};
use mokv_serf::wire::{Codec, DecodeError, Side, Text};
use proptest::prelude::*;

use crate::strategies::{message, serf_message, tags};

proptest! {
    #[test]
    fn messages_of_memberlist_return(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn messages_of_serf_return(message in serf_message()) {
        prop_assert_eq!(serf::Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn tags_return(tags in tags()) {
        prop_assert_eq!(decode_tags(&encode_tags(&tags)), Ok(tags));
    }

    /// What is cut off is an error, never another message: no field is optional by its place.
    #[test]
    fn no_message_of_serf_is_the_beginning_of_another(message in serf_message(), at in any::<prop::sample::Index>()) {
        let bytes = message.encode();
        let beginning = &bytes[..at.index(bytes.len())];
        // A relay ends with bytes of any number.
        if !matches!(message, serf::Message::Relay(_)) {
            prop_assert_eq!(serf::Message::decode(beginning), Err(DecodeError::Truncated));
        }
    }
}

#[test]
fn tags_are_what_serf_writes() {
    let tags = Tags::from([("role".into(), "web".into())]);
    assert_eq!(encode_tags(&tags), b"\xff\x81\xa4role\xa3web".as_slice());
    assert_eq!(encode_tags(&Tags::new()), b"\xff\x80".as_slice());
    assert_eq!(decode_tags(b""), Ok(Tags::new()));
    assert_eq!(decode_tags(b"web"), Ok(tags), "of a node that speaks Serf's protocol 2");
    assert_eq!(decode_tags(b"\xff\x81\xa4role"), Err(DecodeError::Truncated));
}

#[test]
fn fields_may_come_in_any_form_that_fits() {
    let expected = Ok(Message::Nack(Nack { seq_no: 21 }));
    let forms: [&[u8]; 9] = [
        b"\x15",
        b"\xcc\x15",
        b"\xcd\0\x15",
        b"\xce\0\0\0\x15",
        b"\xcf\0\0\0\0\0\0\0\x15",
        b"\xd0\x15",
        b"\xd1\0\x15",
        b"\xd2\0\0\0\x15",
        b"\xd3\0\0\0\0\0\0\0\x15",
    ];
    for form in forms {
        assert_eq!(Message::decode(&[b"\x0b\x81\xa5SeqNo", form].concat()), expected);
        // Keys as str8 and bin8, unknown keys with values of all kinds.
        assert_eq!(Message::decode(&[b"\x0b\x81\xd9\x05SeqNo", form].concat()), expected);
        assert_eq!(Message::decode(&[b"\x0b\x81\xc4\x05SeqNo", form].concat()), expected);
        let unknown = b"\x93\x81\xa1a\xcb\0\0\0\0\0\0\0\0\xd6\x01abcd\xc7\x02\x01ab";
        assert_eq!(Message::decode(&[b"\x0b\x82\xa3New".as_slice(), unknown, b"\xa5SeqNo", form].concat()), expected);
    }
    assert_eq!(Message::decode(b"\x0b\x81\xa5SeqNo\xff"), Err(DecodeError::OutOfRange));
    assert_eq!(Message::decode(b"\x0b\x81\xa5SeqNo\xcf\0\0\0\x01\0\0\0\0"), Err(DecodeError::OutOfRange));
    let wrong = DecodeError::Unexpected { found: 0xa1, wanted: "a number" };
    assert_eq!(Message::decode(b"\x0b\x81\xa5SeqNo\xa1a"), Err(wrong));
}

#[test]
fn addresses_and_versions_are_normalised() {
    let alive = |addr: &[u8], versions: &[u8]| {
        let message = [b"\x04\x83\xa4Addr".as_slice(), addr, b"\xa4Node\xa1b\xa3Vsn", versions].concat();
        Message::decode(&message).map(|message| match message {
            Message::Alive(alive) => (alive.addr.to_string(), alive.versions),
            other => panic!("{other:?}"),
        })
    };
    let ours = b"\xa6\x01\x05\x02\x02\x05\x05";
    let mapped = b"\xb0\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x02";
    let expected = Ok(("127.0.0.2".to_owned(), Some(Versions::OURS)));
    assert_eq!(alive(b"\xa4\x7f\0\0\x02", ours), expected);
    assert_eq!(alive(mapped, ours), expected);
    assert_eq!(alive(b"\x94\x7f\0\0\x02", ours), expected, "an array of integers");
    assert_eq!(alive(b"\xc4\x04\x7f\0\0\x02", b"\x96\x01\x05\x02\x02\x05\x05"), expected);
    assert_eq!(alive(b"\xa4\x7f\0\0\x02", b"\xc0"), Ok(("127.0.0.2".to_owned(), None)));
    assert_eq!(alive(b"\xa4\x7f\0\0\x02", b"\xa3\x01\x05\x02"), Ok(("127.0.0.2".to_owned(), None)));
    assert_eq!(alive(b"\xc0", ours), Err(DecodeError::Address(0)));
    assert_eq!(alive(b"\xa3\x7f\0\0", ours), Err(DecodeError::Address(3)));
}

#[test]
fn text_that_is_not_utf_8_stays_as_it_is() {
    let join = b"\x01\x82\xa5LTime\x01\xa4Node\xa3a\xff\xfe";
    let message = serf::Message::decode(join).expect("a message");
    assert_eq!(message.encode(), join.as_slice());
    let serf::Message::Join(intent) = message else { panic!("{message:?}") };
    assert_eq!((intent.node.as_bytes(), intent.node.as_str()), (b"a\xff\xfe".as_slice(), None));
}

#[test]
fn what_a_source_does_not_say_is_left_out() {
    let ping = |source| Message::Ping(Ping { seq_no: 1, node: "b".into(), source });
    let silent = ping(Source::default());
    assert_eq!(silent.encode(), b"\x00\x82\xa4Node\xa1b\xa5SeqNo\x01".as_slice());
    assert_eq!(Message::decode(&silent.encode()), Ok(silent));
    let named = ping(Source { node: "a".into(), ..Source::default() });
    assert_eq!(named.encode(), b"\x00\x83\xa4Node\xa1b\xa5SeqNo\x01\xaaSourceNode\xa1a".as_slice());
}

#[test]
fn what_is_absent_is_zero() {
    assert_eq!(Message::decode(b"\x0b\x80"), Ok(Message::Nack(Nack { seq_no: 0 })));
    assert_eq!(Message::decode(b"\x0b\xc0"), Ok(Message::Nack(Nack { seq_no: 0 })));
    let empty = serf::Message::PushPull(serf::PushPull::default());
    assert_eq!(serf::Message::decode(b"\x02\x80"), Ok(empty));
    let mut decoder = Codec::default().stream(Side::Acceptor);
    decoder.push(b"\x06\x81\xa5Nodes\x01\x81\xa4Addr\xa4\x7f\0\0\x02");
    let Ok(Some(StreamMessage::PushPull(state))) = decoder.next() else { panic!("no state") };
    let node = &state.nodes[0];
    assert_eq!((state.join, &node.name, node.port, node.state), (false, &Text::default(), 0, Liveness::Alive));
}

#[test]
fn a_filter_that_is_not_understood_does_not_cost_the_query() {
    let query = b"\x04\x82\xa4Addr\xa4\x7f\0\0\x02\xa7Filters\x93\xa3\x07ab\xa0\xa2\0\xa1";
    let Ok(serf::Message::Query(query)) = serf::Message::decode(query) else { panic!("no query") };
    let unknown = |bytes: &'static [u8]| serf::Filter::Unknown(bytes.into());
    assert_eq!(query.filters, [unknown(b"\x07ab"), unknown(b""), unknown(b"\0\xa1")]);
}
