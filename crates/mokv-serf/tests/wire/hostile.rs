//! What strangers may send: nothing panics, and memory is bounded by what they send, not by what they claim.

use std::slice;

use bytes::Bytes;
use mokv_serf::wire::memberlist::{Message, StreamMessage};
use mokv_serf::wire::serf::{self, decode_tags};
use mokv_serf::wire::{Codec, DecodeError, OpenError, Side};
use proptest::collection::vec;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::captures;
use crate::layers::codec;

const MIB: u64 = 1024 * 1024;

/// The most memory that it held at one time.
fn memory(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).bytes_max
}

/// Gives the bytes to every decoder.
fn decode_all(codec: &Codec, bytes: &[u8]) {
    drop((Message::decode(bytes), serf::Message::decode(bytes), decode_tags(bytes)));
    if let Ok(messages) = codec.open(bytes) {
        for message in messages {
            if let Message::User(message) = message {
                drop(serf::Message::decode(&message));
            }
        }
    }
    for side in [Side::Initiator, Side::Acceptor] {
        let mut decoder = codec.stream(side);
        for piece in bytes.chunks(50) {
            decoder.push(piece);
            while let Ok(Some(message)) = decoder.next() {
                if let StreamMessage::PushPull(state) = message {
                    drop(serf::Message::decode(&state.user_state));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_survived(codec in codec(), first in 0..20_u8, bytes in vec(any::<u8>(), 0..300)) {
        let bytes = [&[first], &*bytes].concat();
        prop_assert!(memory(|| decode_all(&codec, &bytes)) < MIB);
    }

    /// Mostly right, hence deeper into the decoders.
    #[test]
    fn altered_captures_are_survived(
        capture in prop::sample::select(captures::all()),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = captures::read(&capture);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        prop_assert!(memory(|| decode_all(&captures::codec(&capture), &bytes)) < MIB);
    }

    /// Behind intact encryption, and behind compression.
    #[test]
    fn altered_plaintexts_are_survived(
        codec in codec(),
        capture in prop::sample::select(captures::all()),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let mut plain = captures::read(&capture);
        for (at, byte) in changes {
            let at = at.index(plain.len());
            plain[at] = byte;
        }
        let datagram = codec.seal(&[Bytes::from(plain)], true, &mut StdRng::from_seed([3; 32]));
        prop_assert!(memory(|| decode_all(&codec, &datagram)) < MIB);
    }
}

/// Lengths of 4 GiB and numbers of 2^32, wherever one stands.
#[test]
fn claims_take_no_memory() {
    let claims: &[&[u8]] =
        &[b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"];
    let places: &[&[u8]] = &[
        b"\x00",
        b"\x00\x81",
        b"\x00\x81\xa4Node",
        b"\x00\x81\xa1x",
        b"\x04\x81\xa4Meta",
        b"\x04\x81\xa3Vsn",
        b"\x09\x81\xa3Buf",
        b"\x06",
        b"\x06\x81\xa5Nodes\x01",
        b"\x06\x81\xa5Nodes\x01\x81\xa4Meta",
        b"\x0d\x81\xa5Error",
        // Serf's messages.
        b"\x02\x81\xa6Events",
        b"\x02\x81\xa6Events\x91\x81\xa6Events",
        b"\x02\x81\xacStatusLTimes",
        b"\x02\x81\xabLeftMembers",
        b"\x04\x81\xa7Filters",
        b"\x04\x81\xa7Filters\x91\xa6\x00",
        b"\x06\x81\xa4Tags",
        b"\x08\x81\xa4Keys",
        b"\x09\x81\xa8DestAddr",
        // Tags.
        b"\xff",
        b"\xff\x81\xa4role",
    ];
    for claim in claims {
        for place in places {
            let bytes = [*place, *claim].concat();
            let held = memory(|| decode_all(&Codec::default(), &bytes));
            assert!(held < 64 * 1024, "{held} bytes for {bytes:?}");
        }
    }
}

#[test]
fn claims_of_a_stream_are_refused_at_once() {
    let refused = |codec: &Codec, bytes: &[u8]| {
        let mut decoder = codec.stream(Side::Acceptor);
        decoder.push(bytes);
        assert_eq!(decoder.next(), Err(DecodeError::TooLarge.into()), "{bytes:?}");
        // It stays so, and nothing more is held.
        let held = memory(|| decoder.push(&[0; 100_000]));
        assert_eq!(held, 0);
        assert_eq!(decoder.next(), Err(DecodeError::TooLarge.into()));
    };
    let (plain, encrypted) = (Codec::default(), captures::codec("enc"));
    refused(&encrypted, b"\x0a\xff\xff\xff\xff");
    refused(&encrypted, b"\x0a\x01\x40\x00\x01");
    refused(&plain, b"\x06\x81\xa5Nodes\xce\x00\x01\x00\x01");
    refused(&plain, b"\x06\x81\xacUserStateLen\xce\x01\x40\x00\x01");
    refused(&plain, b"\x08\x81\xaaUserMsgLen\xcf\xff\xff\xff\xff\xff\xff\xff\xff");
    refused(&plain, b"\x09\x81\xa3Buf\xdb\xff\xff\xff\xff");
    refused(&plain, b"\x0d\x81\xa5Error\xdb\x00\x01\x00\x01");
}

/// A message that never ends is given up, in its nodes and in an unknown value.
#[test]
fn a_stream_without_end_is_given_up() {
    let node = [b"\x82\xa4Addr\xa4\x7f\0\0\x01\xa4Name\xda\xff\xff".as_slice(), &[b'n'; 0xffff]].concat();
    let unknown = b"\x00\x81\xa1x\xdb\xff\xff\xff\xff".as_slice();
    let nodes = b"\x06\x81\xa5Nodes\xcd\xff\xff".as_slice();
    for (begin, more) in [(nodes, node.as_slice()), (unknown, &[0; 0x10000])] {
        let held = memory(|| {
            let mut decoder = Codec::default().stream(Side::Acceptor);
            decoder.push(begin);
            let mut pushed = 0;
            let error = loop {
                decoder.push(more);
                pushed += more.len();
                match decoder.next() {
                    Ok(None) => assert!(pushed < 41 << 20, "it goes on"),
                    Ok(Some(message)) => panic!("{message:?}"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error, DecodeError::TooLarge.into());
            assert!(pushed > 39 << 20, "given up early, at {pushed}");
        });
        assert!(held < 200 * MIB, "{held}");
    }
}

/// The values of a struct are bounded, so that a piece of a stream never costs more than a look at some thousand of them.
#[test]
fn values_are_bounded() {
    let bytes = [b"\x00\x81\xa1x\xdd\x00\x10\x00\x00".as_slice(), &[0xc0; 5000]].concat();
    assert_eq!(Message::decode(&bytes), Err(DecodeError::TooLarge));
    // Without recursion: as deep as the datagram is long.
    let deep = [b"\x00\x81\xa1x".as_slice(), &[0x91; 60_000]].concat();
    assert_eq!(Message::decode(&deep), Err(DecodeError::TooLarge));
    // A state of a megabyte of empty names: 32 bytes each in memory, and no more than a million.
    let names = [b"\x02\x81\xabLeftMembers\xdd\x00\x20\x00\x00".as_slice(), &[0xa0; 0x20_0000]].concat();
    let held = memory(|| assert_eq!(serf::Message::decode(&names), Err(DecodeError::TooLarge)));
    assert!(held < 100 * MIB, "{held}");
}

#[test]
fn bombs_do_not_unfold() {
    let (codec, rng) = (Codec { compression: true, ..Codec::default() }, &mut StdRng::from_seed([3; 32]));
    // 16 MiB of zeros in a datagram: some 10 KiB compressed.
    let bomb = codec.seal(&[vec![0; 16 << 20].into()], false, rng);
    assert!(bomb.len() < 60_000, "{}", bomb.len());
    let held = memory(|| assert_eq!(codec.open(&bomb), Err(DecodeError::TooLarge.into())));
    assert!(held < MIB, "{held}");

    // 41 MiB in a stream.
    let bomb = codec.seal_stream(&StreamMessage::User(vec![0; 41 << 20].into()), Side::Acceptor, rng);
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    let mut decoder = codec.stream(Side::Acceptor);
    decoder.push(&bomb);
    let held = memory(|| assert_eq!(decoder.next(), Err(DecodeError::TooLarge.into())));
    assert!(held < 110 * MIB, "{held}");
}

#[test]
fn layers_do_not_nest() {
    let (plain, rng) = (Codec::default(), &mut StdRng::from_seed([3; 32]));
    let packing = Codec { compression: true, ..Codec::default() };
    let message = Message::User(vec![b'x'; 1000].into()).encode();
    let compound = plain.seal(&[message.clone(), message.clone()], false, rng);
    let compressed = packing.seal(&[message], false, rng);
    let checked = plain.seal(slice::from_ref(&compound), true, rng);
    let refused = |datagram: &Bytes, inner| {
        let error = OpenError::Decode(DecodeError::UnknownType(inner));
        assert_eq!(plain.open(datagram), Err(error), "{datagram:?}");
    };
    let twice = |inner: &Bytes| plain.seal(&[inner.clone(), inner.clone()], false, &mut StdRng::from_seed([3; 32]));
    assert_eq!(compressed[0], 9);
    refused(&twice(&compound), 7);
    refused(&twice(&compressed), 9);
    refused(&twice(&checked), 12);
    let repeated: Bytes = compressed.repeat(20).into();
    let compressed_twice = packing.seal(&[repeated], false, rng);
    assert_eq!(compressed_twice[0], 9);
    refused(&compressed_twice, 9);
    refused(&plain.seal(&[checked], true, rng), 12);
}
