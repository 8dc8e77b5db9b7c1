//! The layer of compression (memberlist's util.go): a struct with the algorithm, which is always LZW, and the bytes.
//!
//! LZW as Go has it: least significant bit first, 8-bit literals, codes of 9 to 12 bits, as in GIF.

use std::borrow::Cow;

use bytes::Bytes;
use weezl::{BitOrder, LzwStatus};

use super::codec::OpenError;
use super::memberlist::codec::{COMPRESSED, struct_reader};
use super::msgpack::{DecodeError, Writer};

const LZW: u8 = 0;
const LITERAL_BITS: u8 = 8;

/// How much is decompressed before it is looked whether that is too much.
const CHUNK_BYTES: usize = 4096;

/// The type and the bytes, compressed: they may have become longer.
pub(super) fn compress(bytes: &[u8]) -> Bytes {
    let compressed = weezl::encode::Encoder::new(BitOrder::Lsb, LITERAL_BITS)
        .encode(bytes)
        .expect("each byte is a literal of 8 bits");
    Writer::new(COMPRESSED).map(2).key("Algo").uint(LZW).key("Buf").bytes(&compressed).finish()
}

/// What is in a compressed message, of which this is all but the type, with the number of bytes that it took. Neither the
/// compressed nor the decompressed bytes may be more than a maximum.
pub(super) fn decompress(body: &[u8], bytes_max: usize) -> Result<(Vec<u8>, usize), OpenError> {
    let (mut algorithm, mut compressed) = (0, Cow::Borrowed(&[][..]));
    let mut reader = struct_reader(body);
    reader.fields(|key, reader| {
        match key {
            b"Algo" => algorithm = reader.uint()?,
            b"Buf" => compressed = reader.bytes(bytes_max)?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    if algorithm != LZW {
        return Err(OpenError::Compression);
    }
    Ok((decode_lzw(&compressed, bytes_max)?, reader.position()))
}

fn decode_lzw(mut compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, OpenError> {
    let mut decoder = weezl::decode::Decoder::new(BitOrder::Lsb, LITERAL_BITS);
    let (mut bytes, mut chunk) = (Vec::new(), [0; CHUNK_BYTES]);
    loop {
        let step = decoder.decode_bytes(compressed, &mut chunk);
        compressed = &compressed[step.consumed_in..];
        bytes.extend_from_slice(&chunk[..step.consumed_out]);
        if bytes.len() > bytes_max {
            return Err(DecodeError::TooLarge.into());
        }
        match step.status {
            Ok(LzwStatus::Done) => return Ok(bytes),
            Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            // No end code in what there is, or a code that cannot be.
            Ok(_) | Err(_) => return Err(OpenError::Compression),
        }
    }
}
