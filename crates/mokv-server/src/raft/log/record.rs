//! The bytes of a log segment: writer and reader of the format.
//!
//! All numbers are little-endian. A segment is a file of a fixed size that was filled with zeros before its first use:
//!
//! ```text
//! offset  bytes  segment header, alone in the first 512 bytes
//!      0      8  magic, "mokv-log"
//!      8      4  format version, 1
//!     12      4  CRC-32 of bytes 0..12 and 16..32
//!     16      8  sequence: 1 for a log's first segment, one more for each that follows
//!     24      8  salt: random
//!
//! offset  bytes  record, from 512 on, one directly after the other
//!      0      4  CRC-32 of the segment's salt and bytes 4..48
//!      4      4  length of the payload
//!      8      4  CRC-32 of the segment's salt, the payload and its padding
//!     12      1  kind: 1 entry, 2 truncation, 3 state
//!     13      3  zeros
//!     16      8  number: 1 for a log's first record, one more for each that follows
//!     24      8  synced: the number of the last record that was durable when this one was written
//!     32      8  entry: its index; truncation: the first index that is dropped; state: 0
//!     40      8  entry: its term; otherwise 0
//!     48         payload, then zeros up to a multiple of 8
//! ```
//!
//! The payload of an entry is a protobuf `mokv.internal.v1.Entry`, that of a truncation is empty, that of a state is:
//!
//! ```text
//!      0      8  flags: 1 there is a vote, 2 it is a committed one, 4 there is a committed position
//!      8     16  vote: term, node id
//!     24     16  committed position: term, index
//! ```
//!
//! The segment header keeps this form in all versions to come. Records end where 48 zeros follow, or where fewer than 48 bytes are left.
//!
//! The salt keeps values that clients store from being mistaken for records, when recovery looks for records behind a
//! damaged place: nobody outside knows it.

use mokv_proto::internal;
use prost::Message;

use crate::raft::types::{self, Entry, LogId, Malformed, Vote};

/// Where the records begin.
pub(super) const RECORDS_AT: u64 = 512;

/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 48;

const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"mokv-log";
const SEGMENT_HEADER_BYTES: usize = 32;
const STATE_BYTES: usize = 40;
const ALIGNMENT: usize = 8;

const KIND_ENTRY: u8 = 1;
const KIND_TRUNCATION: u8 = 2;
const KIND_STATE: u8 = 3;

const FLAG_VOTE: u64 = 1;
const FLAG_VOTE_COMMITTED: u64 = 2;
const FLAG_COMMITTED: u64 = 4;
const FLAGS: u64 = FLAG_VOTE | FLAG_VOTE_COMMITTED | FLAG_COMMITTED;

/// What the log knows beside its entries. A record of it replaces the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
}

/// A record to write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    Entry {
        log_id: LogId,
        payload: internal::Entry,
    },
    /// Entries from this index on are dropped.
    Truncation(u64),
    State(State),
}

impl Record {
    pub(super) fn entry(entry: &Entry) -> Self {
        Self::Entry { log_id: entry.log_id, payload: types::entry_to_proto(entry) }
    }

    /// The bytes that the record takes in its segment.
    pub(super) fn bytes(&self) -> usize {
        record_bytes(match self {
            Self::Entry { payload, .. } => payload.encoded_len(),
            Self::Truncation(_) => 0,
            Self::State(_) => STATE_BYTES,
        })
    }
}

/// What a record stands for, as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Entry(Entry),
    Truncation(u64),
    State(State),
}

/// The checked header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) synced: u64,
    kind: u8,
    index: u64,
    term: u64,
    payload_bytes: usize,
    payload_crc: u32,
}

/// A checked record and the bytes that it takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    pub(super) header: Header,
    pub(super) content: Content,
    pub(super) bytes: usize,
}

/// What is wrong with bytes that should be a segment or a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("it does not begin as a log segment")]
    Magic,
    #[error("it has format version {0}, this mökv reads version {FORMAT_VERSION}")]
    NewerVersion(u32),
    #[error("the segment's header does not match its checksum")]
    SegmentHeader,
    #[error("it is segment {found} by its header, not {expected} as its name says")]
    Sequence { found: u64, expected: u64 },
    #[error("the mark does not match its checksum")]
    Mark,
    #[error("a record's header does not match its checksum")]
    Header,
    #[error("a record is longer than its segment")]
    Length,
    #[error("a record's payload does not match its checksum")]
    Payload,
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    #[error("a record of a state that makes no sense")]
    State,
    #[error("an entry that does not decode: {0}")]
    Entry(#[from] prost::DecodeError),
    #[error("an entry that does not decode: {0}")]
    Malformed(#[from] Malformed),
    #[error("an entry whose position is not the one in its record's header")]
    Position,
    #[error("record {found} where record {expected} belongs")]
    Number { found: u64, expected: u64 },
    #[error("entry {found} where entry {expected} belongs")]
    Index { found: u64, expected: u64 },
    #[error("entry {committed} was committed, but the log ends before entry {end}")]
    Committed { committed: u64, end: u64 },
    #[error("a truncation from entry {found} on of a log that ends before entry {expected}")]
    Truncation { found: u64, expected: u64 },
}

/// Checksums of one segment, which begin with its salt.
#[derive(Debug, Clone)]
pub(super) struct Salt(crc32fast::Hasher);

impl Salt {
    pub(super) fn new(salt: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt.to_le_bytes());
        Self(hasher)
    }

    fn crc(&self, bytes: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// The header of a segment.
pub(super) fn encode_segment_header(sequence: u64, salt: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(salt.to_le_bytes());
    let crc = segment_header_crc(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks the header at the beginning of a segment that should have this sequence, and returns its salt.
pub(super) fn decode_segment_header(segment: &[u8], expected: u64) -> Result<Salt, Damage> {
    let bytes = segment.get(..SEGMENT_HEADER_BYTES).ok_or(Damage::Magic)?;
    if bytes[..8] != MAGIC {
        return Err(Damage::Magic);
    }
    if read_u32(bytes, 12) != segment_header_crc(bytes) {
        return Err(Damage::SegmentHeader);
    }
    let version = read_u32(bytes, 8);
    if version != FORMAT_VERSION {
        return Err(Damage::NewerVersion(version));
    }
    let found = read_u64(bytes, 16);
    if found != expected {
        return Err(Damage::Sequence { found, expected });
    }
    Ok(Salt::new(read_u64(bytes, 24)))
}

fn segment_header_crc(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..12]);
    hasher.update(&header[16..SEGMENT_HEADER_BYTES]);
    hasher.finalize()
}

fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + payload_bytes.next_multiple_of(ALIGNMENT)
}

/// Appends a record to `buffer`.
pub(super) fn encode(buffer: &mut Vec<u8>, salt: &Salt, number: u64, synced: u64, record: &Record) {
    let begin = buffer.len();
    buffer.resize(begin + RECORD_HEADER_BYTES, 0);
    let (kind, index, term) = match record {
        Record::Entry { log_id, payload } => {
            payload.encode_raw(buffer);
            (KIND_ENTRY, log_id.index, log_id.leader_id.term)
        }
        Record::Truncation(from) => (KIND_TRUNCATION, *from, 0),
        Record::State(state) => {
            encode_state(buffer, state);
            (KIND_STATE, 0, 0)
        }
    };
    let payload_bytes = buffer.len() - begin - RECORD_HEADER_BYTES;
    buffer.resize(begin + record_bytes(payload_bytes), 0);
    let (header, payload) = buffer[begin..].split_at_mut(RECORD_HEADER_BYTES);
    // A payload is at most a few MiB: requests are limited, batches too.
    header[4..8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    header[8..12].copy_from_slice(&salt.crc(payload).to_le_bytes());
    header[12] = kind;
    header[16..24].copy_from_slice(&number.to_le_bytes());
    header[24..32].copy_from_slice(&synced.to_le_bytes());
    header[32..40].copy_from_slice(&index.to_le_bytes());
    header[40..48].copy_from_slice(&term.to_le_bytes());
    let crc = salt.crc(&header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Decodes the record at the beginning of `bytes`, which run to the end of the segment. `None` where the records end.
pub(super) fn decode(bytes: &[u8], salt: &Salt) -> Result<Option<Decoded>, Damage> {
    let Some(header) = bytes.get(..RECORD_HEADER_BYTES) else {
        return Ok(None);
    };
    if header.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let header = decode_header(header, salt).ok_or(Damage::Header)?;
    let len = record_bytes(header.payload_bytes);
    let padded = bytes.get(RECORD_HEADER_BYTES..len).ok_or(Damage::Length)?;
    if salt.crc(padded) != header.payload_crc {
        return Err(Damage::Payload);
    }
    let content = decode_content(&header, &padded[..header.payload_bytes])?;
    Ok(Some(Decoded { header, content, bytes: len }))
}

/// The header at the beginning of `bytes`, if there is an intact one.
pub(super) fn decode_header(bytes: &[u8], salt: &Salt) -> Option<Header> {
    let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
    if salt.crc(&bytes[4..]) != read_u32(bytes, 0) {
        return None;
    }
    Some(Header {
        payload_bytes: read_u32(bytes, 4) as usize,
        payload_crc: read_u32(bytes, 8),
        kind: bytes[12],
        number: read_u64(bytes, 16),
        synced: read_u64(bytes, 24),
        index: read_u64(bytes, 32),
        term: read_u64(bytes, 40),
    })
}

/// All intact record headers in `bytes`, which begin where a record could: also those behind damage that hides where the
/// next record begins.
pub(super) fn headers<'a>(bytes: &'a [u8], salt: &'a Salt) -> impl Iterator<Item = Header> + 'a {
    let places = (0..bytes.len()).step_by(ALIGNMENT).map(move |at| &bytes[at..]);
    // Kinds begin at 1, so no header begins with 16 zeros; most of a segment is zeros.
    let plausible = places.filter(|bytes| bytes.get(..16).is_some_and(|begin| begin != [0; 16]));
    plausible.filter_map(move |bytes| decode_header(bytes, salt))
}

fn decode_content(header: &Header, payload: &[u8]) -> Result<Content, Damage> {
    match header.kind {
        KIND_ENTRY => {
            // A copy of its own: a slice would keep the whole segment in memory.
            let payload = bytes::Bytes::copy_from_slice(payload);
            let entry = types::entry_from_proto(internal::Entry::decode(payload)?)?;
            if entry.log_id != types::log_id(header.term, header.index) {
                return Err(Damage::Position);
            }
            Ok(Content::Entry(entry))
        }
        KIND_TRUNCATION => Ok(Content::Truncation(header.index)),
        KIND_STATE => decode_state(payload).map(Content::State).ok_or(Damage::State),
        kind => Err(Damage::Kind(kind)),
    }
}

fn encode_state(buffer: &mut Vec<u8>, state: &State) {
    let mut flags = 0;
    let mut numbers = [0; 4];
    if let Some(vote) = &state.vote {
        flags |= FLAG_VOTE | if vote.committed { FLAG_VOTE_COMMITTED } else { 0 };
        numbers[..2].copy_from_slice(&[vote.leader_id.term, vote.leader_id.voted_for]);
    }
    if let Some(committed) = &state.committed {
        flags |= FLAG_COMMITTED;
        numbers[2..].copy_from_slice(&[committed.leader_id.term, committed.index]);
    }
    buffer.extend(flags.to_le_bytes());
    buffer.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
}

fn decode_state(payload: &[u8]) -> Option<State> {
    if payload.len() != STATE_BYTES {
        return None;
    }
    let flags = read_u64(payload, 0);
    if flags & !FLAGS != 0 {
        return None;
    }
    let has = |flag| flags & flag != 0;
    let vote = internal::Vote {
        term: read_u64(payload, 8),
        node_id: read_u64(payload, 16),
        committed: has(FLAG_VOTE_COMMITTED),
    };
    Some(State {
        vote: has(FLAG_VOTE).then(|| types::vote_from_proto(&vote)),
        committed: has(FLAG_COMMITTED).then(|| types::log_id(read_u64(payload, 24), read_u64(payload, 32))),
    })
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::command::Batch;
    use crate::raft::types::{MemberInfo, Membership};

    fn log_ids() -> impl Strategy<Value = LogId> {
        any::<(u64, u64)>().prop_map(|(term, index)| types::log_id(term, index))
    }

    fn memberships() -> impl Strategy<Value = Membership> {
        proptest::collection::btree_map(any::<u64>(), ("[a-z]{0,9}", "[a-z]{0,9}:1"), 1..4).prop_map(|nodes| {
            let voters = BTreeSet::from_iter(nodes.keys().copied());
            let nodes = nodes.into_iter().map(|(id, (name, rpc_addr))| (id, MemberInfo { name, rpc_addr }));
            Membership::new(vec![voters], nodes.collect::<BTreeMap<_, _>>()).expect("every voter is a node")
        })
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let payloads = prop_oneof![
            Just(openraft::EntryPayload::Blank),
            proptest::collection::vec(any::<u8>(), 0..600)
                .prop_map(|bytes| openraft::EntryPayload::Normal(Batch::from_encoded(bytes.into()))),
            memberships().prop_map(openraft::EntryPayload::Membership),
        ];
        (log_ids(), payloads).prop_map(|(log_id, payload)| Entry { log_id, payload })
    }

    fn contents() -> impl Strategy<Value = Content> {
        let votes = any::<(u64, u64, bool)>().prop_map(|(term, node_id, committed)| {
            types::vote_from_proto(&internal::Vote { term, node_id, committed })
        });
        let states = (proptest::option::of(votes), proptest::option::of(log_ids()));
        prop_oneof![
            entries().prop_map(Content::Entry),
            any::<u64>().prop_map(Content::Truncation),
            states.prop_map(|(vote, committed)| Content::State(State { vote, committed })),
        ]
    }

    fn record(content: &Content) -> Record {
        match content {
            Content::Entry(entry) => Record::entry(entry),
            Content::Truncation(from) => Record::Truncation(*from),
            Content::State(state) => Record::State(*state),
        }
    }

    fn written(salt: u64, number: u64, content: &Content) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, &Salt::new(salt), number, number / 2, &record(content));
        bytes
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were(
            salt: u64,
            first in 0..u64::MAX / 2,
            contents in proptest::collection::vec(contents(), 0..5),
            zeros in 0..100_usize,
        ) {
            let mut bytes = Vec::new();
            for (number, content) in (first..).zip(&contents) {
                let begin = bytes.len();
                encode(&mut bytes, &Salt::new(salt), number, number / 2, &record(content));
                prop_assert_eq!(bytes.len() - begin, record(content).bytes());
            }
            bytes.resize(bytes.len() + zeros, 0);
            let mut rest = &bytes[..];
            for (number, content) in (first..).zip(&contents) {
                let decoded = decode(rest, &Salt::new(salt)).expect("intact").expect("a record");
                prop_assert_eq!((decoded.header.number, decoded.header.synced), (number, number / 2));
                prop_assert_eq!(&decoded.content, content);
                rest = &rest[decoded.bytes..];
            }
            prop_assert_eq!(decode(rest, &Salt::new(salt)), Ok(None));
            let numbers: Vec<u64> = headers(&bytes, &Salt::new(salt)).map(|header| header.number).collect();
            prop_assert_eq!(numbers, (first..first + contents.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn a_changed_byte_is_noticed(salt: u64, content in contents(), at: prop::sample::Index, change in 1..=255_u8) {
            let mut bytes = written(salt, 5, &content);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(decode(&bytes, &Salt::new(salt)).is_err());
        }

        #[test]
        fn a_cut_record_is_noticed(content in contents(), len: prop::sample::Index) {
            let bytes = written(1, 5, &content);
            let cut = &bytes[..len.index(bytes.len())];
            prop_assert!(matches!(decode(cut, &Salt::new(1)), Ok(None) | Err(_)));
            let mut torn = cut.to_vec();
            torn.resize(bytes.len(), 0);
            prop_assert!(torn == bytes || !matches!(decode(&torn, &Salt::new(1)), Ok(Some(_))));
        }

        #[test]
        fn a_record_of_another_segment_is_noticed(salts: (u64, u64), content in contents()) {
            prop_assume!(salts.0 != salts.1);
            prop_assert!(decode(&written(salts.0, 5, &content), &Salt::new(salts.1)).is_err());
        }

        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, &Salt::new(0));
            let _ = decode_segment_header(&bytes, 1);
            let _ = headers(&bytes, &Salt::new(0)).count();
        }

        #[test]
        fn a_changed_byte_of_a_segment_header_is_noticed(salt: u64, at in 0..SEGMENT_HEADER_BYTES, change in 1..=255_u8) {
            let mut bytes = encode_segment_header(3, salt);
            prop_assert!(decode_segment_header(&bytes, 3).is_ok());
            prop_assert_eq!(decode_segment_header(&bytes, 4).err(), Some(Damage::Sequence { found: 3, expected: 4 }));
            bytes[at] ^= change;
            prop_assert!(decode_segment_header(&bytes, 3).is_err());
        }
    }

    /// Changing these bytes means changing the format: give it a new version, and keep reading this one.
    #[test]
    fn the_bytes_are_those_of_version_1() {
        let entry = Entry { log_id: types::log_id(2, 7), payload: openraft::EntryPayload::Blank };
        let bytes = written(9, 4, &Content::Entry(entry));
        let expected = [
            &[0x78, 0x38, 0x77, 0xce, 6, 0, 0, 0, 0x47, 0xed, 0x8a, 0x97, 1, 0, 0, 0][..],
            &[4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[10, 4, 8, 2, 16, 7, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());

        let expected =
            [&b"mokv-log"[..], &[1, 0, 0, 0, 11, 0x8b, 0x89, 15], &[3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]];
        assert_eq!(encode_segment_header(3, 9), expected.concat());
    }
}
