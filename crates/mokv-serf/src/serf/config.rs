//! How Serf behaves.

use std::time::Duration;

use crate::gossip;
use crate::wire::Codec;
use crate::wire::serf::Tags;

/// Serf's settings; see [`Config::new`] for the usual ones.
#[derive(Debug, Clone)]
pub struct Config {
    /// Those of the layer below, the node's name and address among them.
    pub gossip: gossip::Config,
    /// What this node says of itself; see [`super::TAGS_BYTES_MAX`].
    pub tags: Tags,
    /// The layers around each message: label, encryption, compression.
    pub codec: Codec,
    /// How often it is looked who is gone for so long that it is forgotten.
    pub reap_interval: Duration,
    /// How often it is tried to reach a failed member again.
    pub reconnect_interval: Duration,
    /// How long a failed member is remembered.
    pub reconnect_timeout: Duration,
    /// How long a member that left is remembered.
    pub tombstone_timeout: Duration,
    /// How long an intent is remembered of a node that is not known (yet).
    pub recent_intent_timeout: Duration,
    /// How long each step of leaving may take.
    pub broadcast_timeout: Duration,
    /// How long a node that leaves goes on answering, for the word to get round.
    pub leave_propagate_delay: Duration,
    /// Whether a node that joins is not told the events that were before it.
    pub ignore_old_events: bool,
}

impl Config {
    /// What Serf's agent does in a local network.
    pub fn new(gossip: gossip::Config, codec: Codec) -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            gossip,
            tags: Tags::new(),
            codec,
            reap_interval: Duration::from_secs(15),
            reconnect_interval: Duration::from_secs(30),
            reconnect_timeout: day,
            tombstone_timeout: day,
            recent_intent_timeout: Duration::from_secs(5 * 60),
            broadcast_timeout: Duration::from_secs(5),
            leave_propagate_delay: Duration::from_secs(1),
            ignore_old_events: true,
        }
    }
}
