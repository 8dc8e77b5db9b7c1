//! What happened so far, in numbers.

/// Counts since the start. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that came in datagrams.
    pub messages_received: u64,
    /// Messages that could not be true, came from nodes that are too many, or were more than can be kept.
    pub messages_ignored: u64,
    /// Datagrams that were sent.
    pub datagrams_sent: u64,
    /// Messages in these.
    pub messages_sent: u64,
    /// Probes of other nodes.
    pub probes: u64,
    /// Those that no way brought an answer to.
    pub probes_failed: u64,
    /// Those that only a stream brought an answer to: datagrams get lost.
    pub probes_by_stream: u64,
    /// Those given up because this process did not run meanwhile.
    pub probes_abandoned: u64,
    /// Probes that others asked for.
    pub relays: u64,
    /// Those that brought no answer, and whose asker was told so.
    pub nacks_sent: u64,
    /// Nodes that became suspected, because of a probe or by hearsay.
    pub suspicions: u64,
    /// Suspicions that another node confirmed in time.
    pub confirmations: u64,
    /// Suspected nodes that this node declared dead.
    pub deaths: u64,
    /// Rumours about this node that it objected to.
    pub refutations: u64,
    /// Claims to a name of a node at another address.
    pub conflicts: u64,
    /// Whole states that were merged.
    pub merges: u64,
    /// Whole states that were not, because of the versions in them.
    pub merges_refused: u64,
}
