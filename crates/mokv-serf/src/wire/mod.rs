//! Messages as they are on the wire.
//!
//! [`memberlist`] and [`serf`] have the messages, `msgpack` the encoding that both are written in, [`Codec`] the layers
//! around them in a datagram, [`StreamDecoder`] those in a TCP connection, [`keyring`] the keys of the encryption.
//!
//! Everything that is read here was written by strangers. Nothing panics, nesting and lengths are bounded, and memory is
//! taken for what is there, not for what is claimed.

mod codec;
mod compression;
mod encryption;
pub mod keyring;
pub mod memberlist;
mod msgpack;
pub mod serf;
mod stream;
mod text;

pub use codec::{Codec, OpenError};
pub use msgpack::DecodeError;
pub use stream::{Side, StreamDecoder};
pub use text::Text;
