//! Messages as they are on the wire.
//!
//! [`memberlist`] and [`serf`] have the messages, [`msgpack`] the encoding that both are written in, [`packet`] the layers
//! around them in a datagram, [`stream`] those in a TCP connection, [`keyring`] the encryption.

pub mod memberlist;
pub mod serf;
mod text;

pub use text::Text;
