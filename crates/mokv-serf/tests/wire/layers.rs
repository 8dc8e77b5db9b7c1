//! Every combination of layers there and back, in datagrams and streams; and keys.

use bytes::Bytes;
use mokv_serf::wire::keyring::{Keyring, KeyringError, key_from_text, key_to_text};
use mokv_serf::wire::memberlist::{Message, StreamMessage};
use mokv_serf::wire::{Codec, DecodeError, OpenError, Side};
use proptest::collection::vec;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::strategies::{message, stream_message};

fn rng() -> StdRng {
    StdRng::from_seed([7; 32])
}

fn keyring(lengths: &[usize]) -> Keyring {
    Keyring::new(lengths.iter().map(|&length| vec![length as u8; length])).expect("keys")
}

pub(crate) fn codec() -> impl Strategy<Value = Codec> {
    let label = prop_oneof![Just(0_usize), Just(1), Just(4), Just(255), Just(300)];
    let keys = prop_oneof![Just(vec![]), Just(vec![16]), Just(vec![24]), Just(vec![32]), Just(vec![32, 16, 24])];
    (label, any::<bool>(), keys).prop_map(|(label, compression, keys)| Codec {
        label: vec![b'l'; label].into(),
        compression,
        keyring: (!keys.is_empty()).then(|| keyring(&keys)),
    })
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Initiator), Just(Side::Acceptor)]
}

proptest! {
    #[test]
    fn datagrams_return(codec in codec(), messages in vec(message(), 1..8), crc in any::<bool>()) {
        let encoded: Vec<Bytes> = messages.iter().map(Message::encode).collect();
        let datagram = codec.seal(&encoded, crc, &mut rng());
        prop_assert_eq!(codec.open(&datagram), Ok(messages));

        let compound = if encoded.len() == 1 { 0 } else { 2 + 2 * encoded.len() };
        let length = encoded.iter().map(Bytes::len).sum::<usize>();
        let most = codec.overhead() + if crc { 5 } else { 0 } + compound + length;
        if codec.compression {
            prop_assert!(datagram.len() <= most, "{} > {most}", datagram.len());
        } else {
            prop_assert_eq!(datagram.len(), most);
        }
    }

    #[test]
    fn streams_return(
        codec in codec(),
        side in side(),
        messages in vec(stream_message(), 1..4),
        pieces in vec(1..300_usize, 1..50),
    ) {
        let mut bytes = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            let sealed = codec.seal_stream(message, side, &mut rng());
            // The label goes once.
            let label = if at > 0 && side == Side::Initiator { label_length(&codec) } else { 0 };
            bytes.extend_from_slice(&sealed[label..]);
        }
        let (mut decoder, mut decoded, mut rest) = (codec.stream(side), Vec::new(), &bytes[..]);
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            decoder.push(now);
            rest = later;
            while let Some(message) = decoder.next().expect("our own") {
                decoded.push(message);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(decoded, messages);
    }

    /// Nothing that was altered is taken for what it was: encryption vouches for all of it, the label included.
    #[test]
    fn what_was_encrypted_cannot_be_altered(message in message(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let codec = Codec { label: "mokv".into(), compression: true, keyring: Some(keyring(&[16])) };
        let mut datagram = codec.seal(&[message.encode()], true, &mut rng()).to_vec();
        let at = at.index(datagram.len());
        datagram[at] ^= 1_u8 << bit;
        prop_assert!(codec.open(&datagram).is_err());
    }

    #[test]
    fn what_was_checked_cannot_be_altered(message in message(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let codec = Codec::default();
        let mut datagram = codec.seal(&[message.encode()], true, &mut rng()).to_vec();
        // The type of the checksum itself is vouched for by nothing.
        let at = 1 + at.index(datagram.len() - 1);
        datagram[at] ^= 1_u8 << bit;
        prop_assert_eq!(codec.open(&datagram), Err(OpenError::Checksum));
    }

    #[test]
    fn an_encrypted_stream_cannot_be_altered(message in stream_message(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let codec = Codec { label: "mokv".into(), compression: false, keyring: Some(keyring(&[32])) };
        for side in [Side::Initiator, Side::Acceptor] {
            let mut bytes = codec.seal_stream(&message, side, &mut rng()).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let mut decoder = codec.stream(side);
            decoder.push(&bytes);
            // A length that grew waits for what does not come.
            prop_assert!(!matches!(decoder.next(), Ok(Some(_))));
        }
    }
}

fn label_length(codec: &Codec) -> usize {
    codec.overhead() - Codec { label: Bytes::new(), ..codec.clone() }.overhead()
}

#[test]
fn nonces_differ() {
    let (codec, rng) = (Codec { keyring: Some(keyring(&[16])), ..Codec::default() }, &mut rng());
    let message = [Message::User("x".into()).encode()];
    assert_ne!(codec.seal(&message, false, rng), codec.seal(&message, false, rng));
}

#[test]
fn the_label_of_the_answer_is_vouched_for() {
    let ours = Codec { label: "mokv".into(), compression: false, keyring: Some(keyring(&[16])) };
    let other = Codec { label: "other".into(), ..ours.clone() };
    let answer = other.seal_stream(&StreamMessage::Error("no".into()), Side::Acceptor, &mut rng());
    let mut decoder = ours.stream(Side::Acceptor);
    decoder.push(&answer);
    assert_eq!(decoder.next(), Err(OpenError::Decryption));
}

#[test]
fn the_good_parts_of_a_compound_are_used() {
    let message = Message::User("x".into());
    let parts = [message.encode(), Bytes::from_static(b"\x63"), message.encode()];
    let whole = Codec::default().seal(&parts, false, &mut rng());
    assert_eq!(Codec::default().open(&whole), Ok(vec![message.clone(), message.clone()]));
    assert_eq!(Codec::default().open(&whole[..whole.len() - 1]), Ok(vec![message]), "the tail is cut off");
    let bad = Codec::default().seal(&[parts[1].clone(), parts[1].clone()], false, &mut rng());
    assert!(Codec::default().open(&bad).is_err());
}

#[test]
fn what_cannot_be_decompressed_is_refused() {
    let codec = Codec { compression: true, ..Codec::default() };
    let datagram = codec.seal(&[Message::User(vec![b'x'; 100].into()).encode()], false, &mut rng()).to_vec();
    let begin = b"\x09\x82\xa4Algo\x00\xa3Buf";
    assert!(datagram.starts_with(begin));
    assert!(codec.open(&datagram).is_ok());
    let refused = |datagram: &[u8]| assert_eq!(codec.open(datagram), Err(OpenError::Compression));
    let mut other_algorithm = datagram.clone();
    other_algorithm[7] = 1;
    refused(&other_algorithm);
    // No end, no beginning, and a code that cannot be yet.
    refused(b"\x09\x82\xa4Algo\x00\xa3Buf\xa2\x78\xf0");
    refused(b"\x09\x82\xa4Algo\x00\xa3Buf\xc0");
    refused(b"\x09\x82\xa4Algo\x00\xa3Buf\xa4\xff\xff\xff\xff");
    let error = OpenError::Decode(DecodeError::Truncated);
    assert_eq!(codec.open(&datagram[..datagram.len() - 1]), Err(error));
}

#[test]
fn what_does_not_fit_a_datagram_is_left_out() {
    let message = Message::User("x".into());
    let mut parts = vec![message.encode(); 300];
    parts[7] = Message::User(vec![0; 0x10000].into()).encode();
    let messages = Codec::default().open(&Codec::default().seal(&parts, false, &mut rng())).expect("our own");
    assert_eq!(messages, vec![message; Codec::MESSAGES_MAX]);
}

#[test]
fn a_key_is_changed_without_a_pause() {
    let (old, new) = (vec![1; 16], vec![2; 32]);
    let codec = |keyring: &Keyring| Codec { keyring: Some(keyring.clone()), ..Codec::default() };
    let message = Message::User("x".into());
    let mut behind = Keyring::new([&old]).expect("a key");
    let mut ahead = behind.clone();
    ahead.install(&new).expect("a key");
    behind.install(&new).expect("a key");
    ahead.use_key(&new).expect("installed");
    assert_eq!(ahead.primary(), new);
    for (from, to) in [(&behind, &ahead), (&ahead, &behind)] {
        let datagram = codec(from).seal(&[message.encode()], true, &mut rng());
        assert_eq!(codec(to).open(&datagram), Ok(vec![message.clone()]));
    }
    assert_eq!(ahead.remove(&new), Err(KeyringError::Primary));
    ahead.remove(&old).expect("not the primary");
    assert_eq!(ahead.use_key(&old), Err(KeyringError::NotInstalled));
    let datagram = codec(&behind).seal(&[message.encode()], true, &mut rng());
    assert_eq!(codec(&ahead).open(&datagram), Err(OpenError::Decryption));
}

#[test]
fn a_keyring_has_keys_that_can_be_used() {
    assert_eq!(Keyring::new(Vec::<Vec<u8>>::new()), Err(KeyringError::Empty));
    assert_eq!(Keyring::new([[0; 15]]), Err(KeyringError::Length(15)));
    let twice = Keyring::new([[1; 16], [2; 16], [1; 16]]).expect("keys");
    assert_eq!(twice.keys().collect::<Vec<_>>(), [[1; 16], [2; 16]]);
    assert_eq!(format!("{twice:?}"), "Keyring(2 keys)", "no key in a log");
}

#[test]
fn a_keyring_file_is_that_of_serf() {
    let text = "[\n  \"cg8StVXbQJ0gPvMd9o7yrg==\",\n  \"AgICAgICAgICAgICAgICAg==\"\n]";
    let keyring = Keyring::from_file(text).expect("keys");
    assert_eq!(keyring.primary(), key_from_text("cg8StVXbQJ0gPvMd9o7yrg==").expect("base64"));
    assert_eq!(key_to_text(keyring.keys().nth(1).expect("two")), "AgICAgICAgICAgICAgICAg==");
    assert_eq!(keyring.to_file(), text);
    assert_eq!(Keyring::from_file("[]"), Err(KeyringError::Empty));
    assert_eq!(Keyring::from_file("[\"?\"]"), Err(KeyringError::Base64));
    assert!(matches!(Keyring::from_file("{}"), Err(KeyringError::File(_))));
}
