//! What happened so far, in numbers.

use crate::gossip;

/// Counts since the start. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams that were not for us, or not understood: another label, another key, garbage.
    pub datagrams_refused: u64,
    /// Messages of this layer that were not understood.
    pub messages_refused: u64,
    /// Times that were not believed.
    pub times_refused: u64,
    /// Intents about this node that it objected to.
    pub intents_refuted: u64,
    /// Answers of others that were passed on.
    pub relayed: u64,
    /// Failed members that were looked for.
    pub reconnects: u64,
    /// Those of the layer below.
    pub gossip: gossip::Counters,
}
