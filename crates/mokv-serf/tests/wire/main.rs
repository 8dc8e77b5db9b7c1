//! The bytes of Serf's gossip: what real nodes sent, every message there and back, every layer, and what strangers may send.

mod captures;
mod hostile;
mod layers;
mod messages;
mod strategies;
