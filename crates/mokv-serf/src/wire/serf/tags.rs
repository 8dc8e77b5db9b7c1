//! Tags, which memberlist carries as a node's meta data (serf/serf.go `encodeTags`, `decodeTags`).

use bytes::Bytes;

use super::Tags;
use crate::wire::Text;
use crate::wire::msgpack::{DecodeError, Reader, Writer};

/// Stands before the map. Nodes that speak Serf's protocol 2 send the tag `role` alone, without it.
const MAGIC: u8 = 0xff;

/// Values in a map of tags. Meta data has 512 bytes at most, hence fewer.
const VALUES_MAX: usize = 1024;

/// Tags as meta data. Other nodes refuse more than [`META_BYTES_MAX`](crate::wire::memberlist::META_BYTES_MAX).
pub fn encode_tags(tags: &Tags) -> Bytes {
    write_tags(Writer::new(MAGIC), tags).finish()
}

/// The tags in meta data; none in none, and in that of an old node its role.
pub fn decode_tags(meta: &[u8]) -> Result<Tags, DecodeError> {
    match meta.split_first() {
        None => Ok(Tags::new()),
        Some((&MAGIC, map)) => read_tags(&mut Reader::new(map, VALUES_MAX)),
        Some(_) => Ok(Tags::from([(Text::from("role"), Text::from(Bytes::copy_from_slice(meta)))])),
    }
}

pub(super) fn write_tags(writer: Writer, tags: &Tags) -> Writer {
    writer.map(tags.len()).each(tags, |writer, (tag, value)| writer.text(tag).text(value))
}

pub(super) fn read_tags(reader: &mut Reader<'_>) -> Result<Tags, DecodeError> {
    let mut tags = Tags::new();
    for _ in 0..reader.map()? {
        tags.insert(reader.text()?, reader.text()?);
    }
    Ok(tags)
}
