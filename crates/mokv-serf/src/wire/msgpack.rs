//! MessagePack as go-msgpack writes it, the encoding of both layers' messages.
//!
//! Written is what go-msgpack 0.5.5 writes (memberlist until 0.5.0): the old specification, which knows neither `str8` nor
//! `bin`, the shortest form of each integer, structs as maps with sorted keys; a caller adds the keys in that order. Read is
//! whatever go-msgpack and newer writers may send: any width of integer that fits, strings as bytes and bytes as strings or
//! arrays of integers, keys in any order, unknown keys.
//!
//! What is read comes from strangers. A [`Reader`] never allocates by what a length claims, goes into unknown values without
//! recursion, and gives up after a number of values and at a length that no honest message reaches.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::Text;

/// The longest string or bytes within a message. All of them have to fit into a datagram at some point in their life.
pub(super) const FIELD_BYTES_MAX: usize = 64 * 1024;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is less than what was announced. More bytes of a stream may mend it.
    #[error("the message ends too early")]
    Truncated,
    /// The first byte of a message, or its use here.
    #[error("no message of type {0} is known here")]
    UnknownType(u8),
    /// A value of the wrong kind, by its first byte.
    #[error("a value begins with {found:#04x} where there should be {wanted}")]
    Unexpected {
        /// The first byte.
        found: u8,
        /// What should be there.
        wanted: &'static str,
    },
    /// A number that does not fit its field.
    #[error("the number is out of range")]
    OutOfRange,
    /// An address that is neither 4 nor 16 bytes long, or missing.
    #[error("{0} bytes are no address")]
    Address(usize),
    /// Something is longer, or there are more of something, than any honest message has.
    #[error("the message is too large")]
    TooLarge,
}

/// Writes values one after the other.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(message_type: u8) -> Self {
        Self(vec![message_type])
    }

    /// Bytes as they are, without a length.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn nil(mut self) -> Self {
        self.0.push(0xc0);
        self
    }

    pub(super) fn bool(mut self, value: bool) -> Self {
        self.0.push(if value { 0xc3 } else { 0xc2 });
        self
    }

    pub(super) fn uint(mut self, value: impl Into<u64>) -> Self {
        match value.into() {
            value @ 0..=0x7f => self.0.push(value as u8),
            value @ 0x80..=0xff => self.0.extend([0xcc, value as u8]),
            value @ 0x100..=0xffff => self.prefixed(0xcd, &(value as u16).to_be_bytes()),
            value @ 0x1_0000..=0xffff_ffff => self.prefixed(0xce, &(value as u32).to_be_bytes()),
            value => self.prefixed(0xcf, &value.to_be_bytes()),
        }
        self
    }

    /// A signed number: one that is not negative is written as if it were unsigned.
    pub(super) fn int(mut self, value: i64) -> Self {
        match value {
            0.. => return self.uint(value as u64),
            -32..0 => self.0.push(value as u8),
            -0x80..-32 => self.0.extend([0xd0, value as u8]),
            -0x8000..-0x80 => self.prefixed(0xd1, &(value as i16).to_be_bytes()),
            -0x8000_0000..-0x8000 => self.prefixed(0xd2, &(value as i32).to_be_bytes()),
            _ => self.prefixed(0xd3, &value.to_be_bytes()),
        }
        self
    }

    pub(super) fn len(self, length: usize) -> Self {
        self.uint(length as u64)
    }

    /// A string.
    pub(super) fn text(mut self, text: &Text) -> Self {
        self.string(text.as_bytes());
        self
    }

    /// Bytes. What is empty is nil: Go's nil slice, as in all that was seen of the real one.
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return self.nil();
        }
        self.string(bytes);
        self
    }

    /// The 4 or 16 bytes of an address. One of IPv4 never takes 16: Go compares the bytes.
    pub(super) fn addr(self, addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => self.bytes(&addr.octets()),
            IpAddr::V6(addr) => self.bytes(&addr.octets()),
        }
    }

    pub(super) fn array(mut self, length: usize) -> Self {
        self.container(length, 0x90, 0xdc);
        self
    }

    /// The number of pairs that follow.
    pub(super) fn map(mut self, length: usize) -> Self {
        self.container(length, 0x80, 0xde);
        self
    }

    pub(super) fn key(mut self, key: &str) -> Self {
        self.string(key.as_bytes());
        self
    }

    /// Each item, by a function that continues the writing.
    pub(super) fn each<T>(self, items: impl IntoIterator<Item = T>, write: impl Fn(Self, T) -> Self) -> Self {
        items.into_iter().fold(self, write)
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }

    fn prefixed(&mut self, marker: u8, bytes: &[u8]) {
        self.0.push(marker);
        self.0.extend_from_slice(bytes);
    }

    fn string(&mut self, bytes: &[u8]) {
        match bytes.len() {
            length @ 0..=31 => self.0.push(0xa0 | length as u8),
            length @ 32..=0xffff => self.prefixed(0xda, &(length as u16).to_be_bytes()),
            length => self.prefixed(0xdb, &(length as u32).to_be_bytes()),
        }
        self.0.extend_from_slice(bytes);
    }

    fn container(&mut self, length: usize, fixed: u8, wide: u8) {
        match length {
            0..=15 => self.0.push(fixed | length as u8),
            16..=0xffff => self.prefixed(wide, &(length as u16).to_be_bytes()),
            _ => self.prefixed(wide + 1, &(length as u32).to_be_bytes()),
        }
    }
}

/// What the first bytes of a value announce. Lengths are claims.
enum Head {
    Nil,
    Bool(bool),
    Uint(u64),
    Negative(i64),
    Float,
    Bytes(usize),
    Array(usize),
    Map(usize),
    Extension(usize),
}

/// Reads values one after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values_left: usize,
}

impl<'a> Reader<'a> {
    /// Reads at most so many values, those within others included.
    pub(super) fn new(bytes: &'a [u8], values_max: usize) -> Self {
        Self { bytes, at: 0, values_left: values_max }
    }

    /// How many bytes have been read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// A struct: calls for each key, with the reader at its value, which is to be read or [skipped](Self::skip).
    pub(super) fn fields(
        &mut self,
        mut field: impl FnMut(&[u8], &mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        for _ in 0..self.map()? {
            let key = self.bytes(FIELD_BYTES_MAX)?;
            field(&key, self)?;
        }
        Ok(())
    }

    /// An array: calls for each element, with the reader at it.
    pub(super) fn elements(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let found = self.peek()?;
        let length = match self.head()? {
            Head::Nil => 0,
            Head::Array(length) => length,
            _ => return Err(DecodeError::Unexpected { found, wanted: "an array" }),
        };
        for _ in 0..length {
            element(self)?;
        }
        Ok(())
    }

    /// The number of pairs that follow.
    pub(super) fn map(&mut self) -> Result<usize, DecodeError> {
        let found = self.peek()?;
        match self.head()? {
            Head::Nil => Ok(0),
            Head::Map(length) => Ok(length),
            _ => Err(DecodeError::Unexpected { found, wanted: "a map" }),
        }
    }

    /// Whether nil comes next; then it has been read.
    pub(super) fn nil(&mut self) -> Result<bool, DecodeError> {
        if self.peek()? != 0xc0 {
            return Ok(false);
        }
        self.head()?;
        Ok(true)
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeError> {
        let found = self.peek()?;
        match self.head()? {
            Head::Nil => Ok(false),
            Head::Bool(value) => Ok(value),
            Head::Uint(value @ 0..=1) => Ok(value == 1),
            _ => Err(DecodeError::Unexpected { found, wanted: "true or false" }),
        }
    }

    /// A number that is not negative, of any width that fits.
    pub(super) fn uint<T: TryFrom<u64>>(&mut self) -> Result<T, DecodeError> {
        let found = self.peek()?;
        let value = match self.head()? {
            Head::Nil => 0,
            Head::Uint(value) => value,
            Head::Negative(_) => return Err(DecodeError::OutOfRange),
            _ => return Err(DecodeError::Unexpected { found, wanted: "a number" }),
        };
        T::try_from(value).map_err(|_| DecodeError::OutOfRange)
    }

    pub(super) fn int(&mut self) -> Result<i64, DecodeError> {
        let found = self.peek()?;
        match self.head()? {
            Head::Nil => Ok(0),
            Head::Uint(value) => i64::try_from(value).map_err(|_| DecodeError::OutOfRange),
            Head::Negative(value) => Ok(value),
            _ => Err(DecodeError::Unexpected { found, wanted: "a number" }),
        }
    }

    pub(super) fn text(&mut self) -> Result<Text, DecodeError> {
        Ok(Text::from(self.owned_bytes()?))
    }

    /// Copied, so that what is kept of a message does not keep all of it.
    pub(super) fn owned_bytes(&mut self) -> Result<Bytes, DecodeError> {
        Ok(self.bytes(FIELD_BYTES_MAX)?.into_owned().into())
    }

    /// Bytes or a string, up to a length.
    pub(super) fn bytes(&mut self, bytes_max: usize) -> Result<Cow<'a, [u8]>, DecodeError> {
        let found = self.peek()?;
        match self.head()? {
            Head::Nil => Ok(Cow::Borrowed(&[])),
            Head::Bytes(length) if length <= bytes_max => Ok(Cow::Borrowed(self.take(length)?)),
            Head::Array(length) if length <= bytes_max => {
                let mut bytes = Vec::new();
                for _ in 0..length {
                    bytes.push(self.uint::<u8>()?);
                }
                Ok(Cow::Owned(bytes))
            }
            Head::Bytes(_) | Head::Array(_) => Err(DecodeError::TooLarge),
            _ => Err(DecodeError::Unexpected { found, wanted: "a string" }),
        }
    }

    /// An address, in the shorter form if it has one; none if there are no bytes.
    pub(super) fn addr(&mut self) -> Result<Option<IpAddr>, DecodeError> {
        let bytes = self.bytes(FIELD_BYTES_MAX)?;
        if let Ok(octets) = <[u8; 4]>::try_from(&*bytes) {
            return Ok(Some(Ipv4Addr::from(octets).into()));
        }
        match <[u8; 16]>::try_from(&*bytes) {
            Ok(octets) => Ok(Some(Ipv6Addr::from(octets).to_canonical())),
            Err(_) if bytes.is_empty() => Ok(None),
            Err(_) => Err(DecodeError::Address(bytes.len())),
        }
    }

    /// Passes over one value, with all that is within it.
    pub(super) fn skip(&mut self) -> Result<(), DecodeError> {
        let mut pending: usize = 1;
        while pending > 0 {
            pending -= 1;
            match self.head()? {
                Head::Bytes(length) | Head::Extension(length) => drop(self.take(length)?),
                // Two counts of 32 bits add up to less than 64 bits hold, and the number of values is bounded.
                Head::Array(length) => pending = pending.saturating_add(length),
                Head::Map(length) => pending = pending.saturating_add(length.saturating_mul(2)),
                Head::Nil | Head::Bool(_) | Head::Uint(_) | Head::Negative(_) | Head::Float => {}
            }
        }
        Ok(())
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        self.bytes.get(self.at).copied().ok_or(DecodeError::Truncated)
    }

    fn head(&mut self) -> Result<Head, DecodeError> {
        self.values_left = self.values_left.checked_sub(1).ok_or(DecodeError::TooLarge)?;
        let [marker] = self.number()?;
        let head = match marker {
            0x00..=0x7f => Head::Uint(marker.into()),
            0x80..=0x8f => Head::Map((marker & 0x0f).into()),
            0x90..=0x9f => Head::Array((marker & 0x0f).into()),
            0xa0..=0xbf => Head::Bytes((marker & 0x1f).into()),
            0xc0 => Head::Nil,
            0xc1 => return Err(DecodeError::Unexpected { found: marker, wanted: "a value" }),
            0xc2 | 0xc3 => Head::Bool(marker == 0xc3),
            0xc4 | 0xd9 => Head::Bytes(self.length_8()?),
            0xc5 | 0xda => Head::Bytes(self.length_16()?),
            0xc6 | 0xdb => Head::Bytes(self.length_32()?),
            0xc7 => Head::Extension(1 + self.length_8()?),
            0xc8 => Head::Extension(1 + self.length_16()?),
            0xc9 => Head::Extension(1 + self.length_32()?),
            0xca => drop_float(self.number::<4>()?),
            0xcb => drop_float(self.number::<8>()?),
            0xcc => Head::Uint(u8::from_be_bytes(self.number()?).into()),
            0xcd => Head::Uint(u16::from_be_bytes(self.number()?).into()),
            0xce => Head::Uint(u32::from_be_bytes(self.number()?).into()),
            0xcf => Head::Uint(u64::from_be_bytes(self.number()?)),
            0xd0 => signed(i8::from_be_bytes(self.number()?).into()),
            0xd1 => signed(i16::from_be_bytes(self.number()?).into()),
            0xd2 => signed(i32::from_be_bytes(self.number()?).into()),
            0xd3 => signed(i64::from_be_bytes(self.number()?)),
            // One byte of type, and 1, 2, 4, 8 or 16 of data.
            0xd4..=0xd8 => Head::Extension(1 + (1 << (marker - 0xd4))),
            0xdc => Head::Array(self.length_16()?),
            0xdd => Head::Array(self.length_32()?),
            0xde => Head::Map(self.length_16()?),
            0xdf => Head::Map(self.length_32()?),
            0xe0..=0xff => Head::Negative((marker as i8).into()),
        };
        Ok(head)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.rest().get(..length).ok_or(DecodeError::Truncated)?;
        self.at += length;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = *self.rest().first_chunk().ok_or(DecodeError::Truncated)?;
        self.at += N;
        Ok(taken)
    }

    fn length_8(&mut self) -> Result<usize, DecodeError> {
        Ok(u8::from_be_bytes(self.number()?).into())
    }

    fn length_16(&mut self) -> Result<usize, DecodeError> {
        Ok(u16::from_be_bytes(self.number()?).into())
    }

    fn length_32(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(u32::from_be_bytes(self.number()?)).map_err(|_| DecodeError::TooLarge)
    }
}

fn signed(value: i64) -> Head {
    u64::try_from(value).map_or(Head::Negative(value), Head::Uint)
}

/// No field is one: floats occur in network coordinates, which nobody looks at.
fn drop_float<const N: usize>(_: [u8; N]) -> Head {
    Head::Float
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind a byte for the type.
    fn written(write: impl FnOnce(Writer) -> Writer) -> Vec<u8> {
        write(Writer::new(0)).finish()[1..].to_vec()
    }

    #[test]
    fn integers_take_the_shortest_form() {
        let forms: [(u64, &[u8]); 10] = [
            (0, b"\x00"),
            (0x7f, b"\x7f"),
            (0x80, b"\xcc\x80"),
            (0xff, b"\xcc\xff"),
            (0x100, b"\xcd\x01\x00"),
            (0xffff, b"\xcd\xff\xff"),
            (0x1_0000, b"\xce\x00\x01\x00\x00"),
            (0xffff_ffff, b"\xce\xff\xff\xff\xff"),
            (0x1_0000_0000, b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00"),
            (u64::MAX, b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
        ];
        for (value, form) in forms {
            assert_eq!(written(|writer| writer.uint(value)), form);
            assert_eq!(Reader::new(form, 1).uint(), Ok(value));
        }
        let forms: [(i64, &[u8]); 9] = [
            (0x80, b"\xcc\x80"),
            (-1, b"\xff"),
            (-32, b"\xe0"),
            (-33, b"\xd0\xdf"),
            (-0x80, b"\xd0\x80"),
            (-0x81, b"\xd1\xff\x7f"),
            (-0x8001, b"\xd2\xff\xff\x7f\xff"),
            (-0x8000_0001, b"\xd3\xff\xff\xff\xff\x7f\xff\xff\xff"),
            (i64::MIN, b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
        ];
        for (value, form) in forms {
            assert_eq!(written(|writer| writer.int(value)), form);
            assert_eq!(Reader::new(form, 1).int(), Ok(value));
        }
        assert_eq!(Reader::new(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 1).int(), Err(DecodeError::OutOfRange));
    }

    #[test]
    fn strings_and_containers_take_the_shortest_form_of_the_old_specification() {
        let heads: [(usize, [&[u8]; 3]); 6] = [
            (0, [b"\xa0", b"\x90", b"\x80"]),
            (15, [b"\xaf", b"\x9f", b"\x8f"]),
            (31, [b"\xbf", b"\xdc\x00\x1f", b"\xde\x00\x1f"]),
            (32, [b"\xda\x00\x20", b"\xdc\x00\x20", b"\xde\x00\x20"]),
            (0xffff, [b"\xda\xff\xff", b"\xdc\xff\xff", b"\xde\xff\xff"]),
            (0x1_0000, [b"\xdb\x00\x01\x00\x00", b"\xdd\x00\x01\x00\x00", b"\xdf\x00\x01\x00\x00"]),
        ];
        for (length, [string, array, map]) in heads {
            let text = Text::from("x".repeat(length));
            let bytes = written(|writer| writer.text(&text));
            assert_eq!((&bytes[..string.len()], bytes.len()), (string, string.len() + length));
            assert_eq!(Reader::new(&bytes, 1).text(), Ok(text));
            assert_eq!(written(|writer| writer.array(length)), array);
            assert_eq!(written(|writer| writer.map(length)), map);
            assert_eq!(Reader::new(map, 1).map(), Ok(length));
        }
        let long = [b"\xdb\x00\x01\x00\x01", &[b'x'; FIELD_BYTES_MAX + 1][..]].concat();
        assert_eq!(Reader::new(&long, 1).text(), Err(DecodeError::TooLarge));
    }

    #[test]
    fn no_more_values_are_read_than_allowed() {
        let mut reader = Reader::new(b"\x93\x01\x02\x03", 4);
        assert_eq!(reader.skip(), Ok(()));
        assert_eq!(Reader::new(b"\x93\x01\x02\x03", 3).skip(), Err(DecodeError::TooLarge));
        assert_eq!(Reader::new(b"\x93\x01\x02", 4).skip(), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(b"\x81\xa1a\x92\xc3\xcb\0\0\0\0\0\0\0\0\x05", 9).skip(), Ok(()));
    }
}
