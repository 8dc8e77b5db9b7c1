//! Messages as they are on the wire.
//!
//! [`memberlist`] and [`serf`] have the messages, `msgpack` the encoding that both are written in.

pub mod memberlist;
mod msgpack;
pub mod serf;
mod text;

pub use msgpack::DecodeError;
pub use text::Text;
