//! The bytes of a snapshot file: what a state becomes on disk and on the way to a node that lags.
//!
//! No I/O: [`Encoder`] turns items into finished blocks, [`Decoder`] turns bytes, as they come, into blocks of items and
//! refuses whatever an encoder did not write, naming the offset. Both use memory for about one block at a time.
//! What the items mean is the business of the store.
//!
//! # Format, version 1
//!
//! Integers are little-endian. A file is a header, then blocks up to and including the end block, then nothing.
//!
//! ```text
//! header   0   8  magic "mokvsnap"
//!          8   4  format version
//!         12   4  checksum
//!
//! block    0   1  kind: 1 head, 2 sessions, 3 pairs, 4 end
//!          1   4  length n of the payload, at most 16 MiB
//!          5   n  payload: items, each a protobuf message preceded by its length as a varint
//!        5+n   4  checksum
//! ```
//!
//! - The head block holds one `SnapshotHead` of `internal/command.proto` and comes first. Any number of blocks of
//!   `Session`s (by ascending client id) follows, then any number of blocks of `Pair`s (by ascending key), then the end
//!   block, which has no payload.
//! - Writers close a block at about 256 KiB, so that a reader needs little memory; readers take any length allowed.
//! - Each checksum is the CRC-32 (IEEE, as in zlib) of **everything** before it in the file but the other checksums. A
//!   block that was lost, repeated, or put in another's place is therefore found where it stands, and the checksum of
//!   the end block covers the whole file, which is why there are no counts. (Checksums are left out because data
//!   followed by its own CRC has the same CRC whatever the data: the chain would break at each block.)
//! - A file without an end block was cut.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, Bytes, BytesMut};
use mokv_proto::internal::{LogId, Pair, Session, SnapshotHead};
use prost::Message;

const MAGIC: [u8; 8] = *b"mokvsnap";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 4;
const HEADER_BYTES: usize = MAGIC.len() + 4 + CHECKSUM_BYTES;
/// Kind and length, which precede a payload.
const FRAME_BYTES: usize = 5;

/// A block is closed when it has grown to this: large enough for the disk, small enough to hold a few in memory.
const BLOCK_BYTES: usize = 256 << 10;

/// The largest payload that a decoder takes, which bounds the memory that a hostile length can claim.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// The largest item, encoded. Far above the limits of keys and values.
pub const ITEM_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - BLOCK_BYTES - MAX_VARINT_BYTES;
const MAX_VARINT_BYTES: usize = 10;

/// Kinds of blocks, in the order in which they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Head = 1,
    Sessions = 2,
    Pairs = 3,
    End = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Head, Self::Sessions, Self::Pairs, Self::End].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether a block of this kind may come after one of `last`.
    fn may_follow(self, last: Option<Self>) -> bool {
        match last {
            None => self == Self::Head,
            Some(last) => self >= last && self != Self::Head && last != Self::End,
        }
    }
}

/// The item is larger than [`ITEM_BYTES_MAX`] and can't be part of a snapshot. Nothing was added; the limits of keys and
/// values are set too high.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an item of {len} bytes is larger than a snapshot can hold ({ITEM_BYTES_MAX})")]
pub struct ItemTooLarge {
    /// Its encoded length.
    pub len: usize,
}

/// Turns a state into the bytes of a snapshot: the head, then the sessions, then the pairs.
#[derive(Debug)]
pub struct Encoder {
    /// Finished bytes, and the open block from `open` on.
    out: Vec<u8>,
    /// The block that takes items: its kind, and where it begins in `out`.
    open: Option<(Kind, usize)>,
    /// The checksum of all that is finished.
    checksum: u32,
    block_bytes: usize,
}

impl Encoder {
    /// An encoder of a state with this head.
    ///
    /// # Errors
    ///
    /// The head is too large.
    pub fn new(head: &SnapshotHead) -> Result<Self, ItemTooLarge> {
        Self::with_block_bytes(head, BLOCK_BYTES)
    }

    fn with_block_bytes(head: &SnapshotHead, block_bytes: usize) -> Result<Self, ItemTooLarge> {
        let mut encoder = Self { out: Vec::new(), open: None, checksum: 0, block_bytes };
        encoder.out.extend_from_slice(&MAGIC);
        encoder.out.extend_from_slice(&VERSION.to_le_bytes());
        encoder.put_checksum(0);
        encoder.put_item(Kind::Head, head)?;
        encoder.close_block();
        Ok(encoder)
    }

    /// Adds a session. Returns finished bytes when there is a block of them; they are the next ones of the file.
    ///
    /// # Errors
    ///
    /// The session is too large.
    ///
    /// # Panics
    ///
    /// A pair was added before.
    pub fn session(&mut self, session: &Session) -> Result<Option<Vec<u8>>, ItemTooLarge> {
        self.add(Kind::Sessions, session)
    }

    /// Adds a pair. Returns finished bytes when there is a block of them; they are the next ones of the file.
    ///
    /// # Errors
    ///
    /// The pair is too large.
    pub fn pair(&mut self, pair: &Pair) -> Result<Option<Vec<u8>>, ItemTooLarge> {
        self.add(Kind::Pairs, pair)
    }

    /// Returns the last bytes of the file.
    pub fn finish(mut self) -> Vec<u8> {
        self.close_block();
        self.open_block(Kind::End);
        self.close_block();
        self.out
    }

    fn add(&mut self, kind: Kind, item: &impl Message) -> Result<Option<Vec<u8>>, ItemTooLarge> {
        self.put_item(kind, item)?;
        if self.out.len() < self.block_bytes {
            return Ok(None);
        }
        self.close_block();
        // With room for the item that closes the next block, mostly: no growing, no copying.
        let next = Vec::with_capacity(self.block_bytes + self.block_bytes / 8);
        Ok(Some(std::mem::replace(&mut self.out, next)))
    }

    fn put_item(&mut self, kind: Kind, item: &impl Message) -> Result<(), ItemTooLarge> {
        let len = item.encoded_len();
        if len > ITEM_BYTES_MAX {
            return Err(ItemTooLarge { len });
        }
        match self.open {
            Some((open, _)) if open == kind => {}
            open => {
                assert!(open.is_none_or(|(open, _)| open < kind), "{kind:?} after {open:?}");
                self.close_block();
                self.open_block(kind);
            }
        }
        item.encode_length_delimited(&mut self.out).expect("a Vec grows as needed");
        Ok(())
    }

    fn open_block(&mut self, kind: Kind) {
        self.open = Some((kind, self.out.len()));
        self.out.push(kind as u8);
        self.out.extend_from_slice(&[0; 4]);
    }

    fn close_block(&mut self) {
        let Some((_, start)) = self.open.take() else { return };
        let payload_bytes = self.out.len() - start - FRAME_BYTES;
        debug_assert!(payload_bytes <= PAYLOAD_BYTES_MAX);
        self.out[start + 1..start + FRAME_BYTES].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        self.put_checksum(start);
    }

    /// Ends what begins at `start` with the checksum of all up to here.
    fn put_checksum(&mut self, start: usize) {
        self.checksum = checksum(self.checksum, &self.out[start..]);
        self.out.extend_from_slice(&self.checksum.to_le_bytes());
    }
}

/// The checksum of what `before` is the checksum of, followed by `bytes`.
fn checksum(before: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(bytes);
    hasher.finalize()
}

/// The bytes are not those of a whole, undamaged snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset}: {problem}")]
pub struct DecodeError {
    /// Where in the file: the beginning of the block or item that is wrong, or the end of a file that was cut.
    pub offset: u64,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with the bytes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It does not begin like one.
    #[error("this is not the beginning of a snapshot")]
    NotASnapshot,
    /// A later release wrote it; use that one.
    #[error("format version {0} is newer than this release reads ({VERSION})")]
    NewerVersion(u32),
    /// Other bytes than were written.
    #[error("the checksum does not fit")]
    Checksum,
    /// No block of this kind belongs here.
    #[error("unexpected block of kind {0}")]
    UnexpectedBlock(u8),
    /// No encoder writes blocks of this size.
    #[error("a block of {0} bytes, more than the {PAYLOAD_BYTES_MAX} allowed")]
    BlockTooLarge(u32),
    /// The checksum fits, yet the items don't decode: a faulty program wrote it.
    #[error("malformed item: {0}")]
    MalformedItem(prost::DecodeError),
    /// There is no end block.
    #[error("the snapshot ends here, before its end block")]
    Cut,
    /// Something stands behind the end block.
    #[error("bytes after the end block")]
    BytesAfterEnd,
}

/// A block of a snapshot. Its checksum was fine; its items are decoded as they are taken.
#[derive(Debug)]
pub enum Block {
    /// The first one: what the snapshot is of.
    Head(SnapshotHead),
    /// Some of the sessions.
    Sessions(Items<Session>),
    /// Some of the pairs.
    Pairs(Items<Pair>),
}

/// The items of a block: an iterator. Keys and values are slices of the block's memory: copy what is kept.
pub struct Items<T> {
    payload: Bytes,
    /// Where the rest of the payload stands in the file.
    offset: u64,
    item: PhantomData<T>,
}

impl<T> Items<T> {
    fn new(payload: Bytes, offset: u64) -> Self {
        Self { payload, offset, item: PhantomData }
    }
}

impl<T: Message + Default> Iterator for Items<T> {
    type Item = Result<T, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.payload.is_empty() {
            return None;
        }
        let before = self.payload.len();
        let item = T::decode_length_delimited(&mut self.payload).map_err(|error| {
            // Nothing behind it can be found.
            self.payload.clear();
            DecodeError { offset: self.offset, problem: Problem::MalformedItem(error) }
        });
        self.offset += (before - self.payload.len()) as u64;
        Some(item)
    }
}

impl<T> fmt::Debug for Items<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "items of {} bytes at {}", self.payload.len(), self.offset)
    }
}

/// Turns the bytes of a snapshot into its blocks. After an error it is of no more use.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What was pushed and not yet decoded: less than a block, once [`Decoder::next_block`] has returned `None`.
    buffer: BytesMut,
    /// Where `buffer` begins in the file.
    offset: u64,
    /// The checksum of all before `buffer`.
    checksum: u32,
    header_seen: bool,
    last: Option<Kind>,
}

impl Decoder {
    /// A decoder at the beginning of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the file. Take the blocks with [`Decoder::next_block`] before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next block, or `None` if that takes more bytes.
    ///
    /// # Errors
    ///
    /// The bytes are not those of a snapshot.
    pub fn next_block(&mut self) -> Result<Option<Block>, DecodeError> {
        if !self.header_seen && !self.take_header()? {
            return Ok(None);
        }
        let start = self.offset;
        let Some((kind, payload)) = self.take_frame()? else { return Ok(None) };
        let offset = start + FRAME_BYTES as u64;
        match kind {
            Kind::Head => match SnapshotHead::decode_length_delimited(payload) {
                Ok(head) => Ok(Some(Block::Head(head))),
                Err(error) => Err(DecodeError { offset, problem: Problem::MalformedItem(error) }),
            },
            Kind::Sessions => Ok(Some(Block::Sessions(Items::new(payload, offset)))),
            Kind::Pairs => Ok(Some(Block::Pairs(Items::new(payload, offset)))),
            // Nothing may follow, which the attempt to read it says.
            Kind::End => self.next_block(),
        }
    }

    /// Confirms, after the last bytes of the file and the last block, that it was whole.
    ///
    /// # Errors
    ///
    /// The file was cut.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.last == Some(Kind::End) {
            return Ok(());
        }
        let offset = self.offset + self.buffer.len() as u64;
        Err(DecodeError { offset, problem: Problem::Cut })
    }

    fn take_header(&mut self) -> Result<bool, DecodeError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(false);
        }
        if self.buffer[..MAGIC.len()] != MAGIC {
            return Err(self.error(Problem::NotASnapshot));
        }
        let version = u32_at(&self.buffer, MAGIC.len());
        self.take_checked(HEADER_BYTES - CHECKSUM_BYTES)?;
        if version != VERSION {
            return Err(DecodeError { offset: MAGIC.len() as u64, problem: Problem::NewerVersion(version) });
        }
        self.header_seen = true;
        Ok(true)
    }

    /// The next whole block: its kind and its payload.
    fn take_frame(&mut self) -> Result<Option<(Kind, Bytes)>, DecodeError> {
        let Some(byte) = self.buffer.first().copied() else { return Ok(None) };
        if self.last == Some(Kind::End) {
            return Err(self.error(Problem::BytesAfterEnd));
        }
        let kind = Kind::from_byte(byte).filter(|kind| kind.may_follow(self.last));
        let kind = kind.ok_or_else(|| self.error(Problem::UnexpectedBlock(byte)))?;
        if self.buffer.len() < FRAME_BYTES {
            return Ok(None);
        }
        let len = u32_at(&self.buffer, 1);
        if len as usize > PAYLOAD_BYTES_MAX {
            return Err(self.error(Problem::BlockTooLarge(len)));
        }
        let bytes = FRAME_BYTES + len as usize;
        if self.buffer.len() < bytes + CHECKSUM_BYTES {
            return Ok(None);
        }
        let mut payload = self.take_checked(bytes)?;
        payload.advance(FRAME_BYTES);
        self.last = Some(kind);
        Ok(Some((kind, payload)))
    }

    /// Takes `len` bytes that are followed by their checksum.
    fn take_checked(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        let sum = checksum(self.checksum, &self.buffer[..len]);
        if sum != u32_at(&self.buffer, len) {
            return Err(self.error(Problem::Checksum));
        }
        let taken = self.buffer.split_to(len).freeze();
        self.buffer.advance(CHECKSUM_BYTES);
        self.checksum = sum;
        self.offset += (len + CHECKSUM_BYTES) as u64;
        Ok(taken)
    }

    fn error(&self, problem: Problem) -> DecodeError {
        DecodeError { offset: self.offset, problem }
    }
}

/// The last log entry in the state that this is the head of.
///
/// # Errors
///
/// The head says nothing that could be a log position.
pub fn last_log_id(head: &SnapshotHead) -> Result<LogId, DecodeError> {
    LogId::decode(&head.last_log_id[..]).map_err(|error| {
        let offset = (HEADER_BYTES + FRAME_BYTES) as u64;
        DecodeError { offset, problem: Problem::MalformedItem(error) }
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A state, as far as the codec sees it.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct State {
        head: SnapshotHead,
        sessions: Vec<Session>,
        pairs: Vec<Pair>,
    }

    fn encode(state: &State, block_bytes: usize) -> Vec<u8> {
        let mut encoder = Encoder::with_block_bytes(&state.head, block_bytes).expect("head");
        let mut bytes = Vec::new();
        for session in &state.sessions {
            bytes.extend(encoder.session(session).expect("session").unwrap_or_default());
        }
        for pair in &state.pairs {
            bytes.extend(encoder.pair(pair).expect("pair").unwrap_or_default());
        }
        bytes.extend(encoder.finish());
        bytes
    }

    fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Result<State, DecodeError> {
        let mut state = State::default();
        let mut decoder = Decoder::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(block) = decoder.next_block()? {
                match block {
                    Block::Head(head) => state.head = head,
                    Block::Sessions(sessions) => state.sessions.extend(sessions.collect::<Result<Vec<_>, _>>()?),
                    Block::Pairs(pairs) => state.pairs.extend(pairs.collect::<Result<Vec<_>, _>>()?),
                }
            }
        }
        decoder.finish()?;
        Ok(state)
    }

    fn states() -> impl Strategy<Value = State> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let head = (any::<u64>(), bytes(), ".{0,9}").prop_map(|(revision, membership, cluster_id)| SnapshotHead {
            membership,
            revision,
            cluster_id,
            ..Default::default()
        });
        let session = any::<(u64, u64, u64)>().prop_map(|(client_id, last_used, first_unanswered)| Session {
            client_id,
            last_used,
            first_unanswered,
            answers: Vec::new(),
        });
        let pair = (bytes(), bytes(), any::<(u64, u64, u64)>()).prop_map(|(key, value, numbers)| Pair {
            key,
            value,
            create_revision: numbers.0,
            mod_revision: numbers.1,
            version: numbers.2,
            ..Default::default()
        });
        let sessions = prop::collection::vec(session, 0..20);
        let pairs = prop::collection::vec(pair, 0..60);
        (head, sessions, pairs).prop_map(|(head, sessions, pairs)| State { head, sessions, pairs })
    }

    fn example() -> Vec<u8> {
        let pair = |n: u64| Pair { key: format!("key-{n}").into(), value: "value".into(), ..Default::default() };
        let session = Session { client_id: 7, ..Default::default() };
        let head = SnapshotHead { revision: 3, ..Default::default() };
        encode(&State { head, sessions: vec![session], pairs: (0..8).map(pair).collect() }, 48)
    }

    proptest! {
        #[test]
        fn states_come_back_as_they_were(state in states(), block_bytes in 1_usize..600, chunk in 1_usize..700) {
            let bytes = encode(&state, block_bytes);
            prop_assert_eq!(decode(bytes.chunks(chunk)).expect("decode"), state);
        }

        #[test]
        fn other_bytes_are_refused(noise in prop::collection::vec(any::<u8>(), 0..200), keep in 0_usize..60) {
            let mut bytes = example();
            bytes.truncate(keep);
            bytes.extend(noise);
            prop_assume!(!example().starts_with(&bytes) && bytes != example());
            prop_assert!(decode(bytes.chunks(7)).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_is_found_where_it_is() {
        let bytes = example();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = decode(flipped.chunks(64)).expect_err("flipped");
            // A length that became larger makes the rest of the file the block's, and the file too short.
            assert!(error.offset <= (bit / 8) as u64 || error.problem == Problem::Cut, "bit {bit}: {error}");
        }
    }

    #[test]
    fn a_cut_file_is_refused_at_its_end() {
        let bytes = example();
        for len in 0..bytes.len() {
            let cut = DecodeError { offset: len as u64, problem: Problem::Cut };
            assert_eq!(decode(bytes[..len].chunks(64)).expect_err("cut"), cut);
        }
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut bytes = example();
        let offset = bytes.len() as u64;
        bytes.push(Kind::Pairs as u8);
        for chunk in [1, 64, bytes.len()] {
            let error = DecodeError { offset, problem: Problem::BytesAfterEnd };
            assert_eq!(decode(bytes.chunks(chunk)).expect_err("longer"), error);
        }
    }

    #[test]
    fn a_block_can_be_neither_lost_nor_repeated_nor_moved() {
        let bytes = example();
        let mut blocks = blocks(&bytes);
        let pairs: Vec<usize> = (0..blocks.len()).filter(|n| blocks[*n][0] == Kind::Pairs as u8).collect();
        assert!(pairs.len() >= 3);

        let join = |blocks: &[Vec<u8>]| [&bytes[..HEADER_BYTES], &blocks.concat()].concat();
        assert_eq!(join(&blocks), bytes);
        let refused = |blocks: &[Vec<u8>]| decode(join(blocks).chunks(64)).expect_err("other blocks").problem;

        let mut lost = blocks.clone();
        lost.remove(pairs[1]);
        assert_eq!(refused(&lost), Problem::Checksum);
        let mut repeated = blocks.clone();
        repeated.insert(pairs[1], blocks[pairs[1]].clone());
        assert_eq!(refused(&repeated), Problem::Checksum);
        blocks.swap(pairs[0], pairs[1]);
        assert_eq!(refused(&blocks), Problem::Checksum);
    }

    /// The blocks of a file, each with its checksum.
    fn blocks(file: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = &file[HEADER_BYTES..];
        let mut blocks = Vec::new();
        while !rest.is_empty() {
            let (block, behind) = rest.split_at(FRAME_BYTES + u32_at(rest, 1) as usize + CHECKSUM_BYTES);
            blocks.push(block.to_vec());
            rest = behind;
        }
        blocks
    }

    #[test]
    fn lengths_and_versions_beyond_the_known_are_refused() {
        let mut decoder = Decoder::new();
        let header_and_head = &example()[..HEADER_BYTES + 1];
        decoder.push(header_and_head);
        decoder.push(&u32::MAX.to_le_bytes());
        let error = decoder.next_block().expect_err("too large");
        assert_eq!(error, DecodeError { offset: HEADER_BYTES as u64, problem: Problem::BlockTooLarge(u32::MAX) });

        let mut header = [&MAGIC[..], &(VERSION + 1).to_le_bytes()].concat();
        header.extend(checksum(0, &header).to_le_bytes());
        let error = decode([&header[..]].into_iter()).expect_err("newer");
        assert_eq!(error, DecodeError { offset: MAGIC.len() as u64, problem: Problem::NewerVersion(VERSION + 1) });
    }

    #[test]
    fn items_that_no_reader_would_take_are_refused() {
        let mut encoder = Encoder::new(&SnapshotHead::default()).expect("head");
        let pair = Pair { value: vec![0; ITEM_BYTES_MAX].into(), ..Default::default() };
        assert!(encoder.pair(&pair).expect_err("too large").len > ITEM_BYTES_MAX);
        let pair = Pair { value: vec![0; ITEM_BYTES_MAX - 8].into(), ..Default::default() };
        let mut bytes = encoder.pair(&pair).expect("largest").expect("a block");
        bytes.extend(encoder.finish());
        assert_eq!(decode(bytes.chunks(1 << 20)).expect("decode").pairs, [pair]);
    }
}
