//! Serf's gossip membership, wire-compatible with HashiCorp's (memberlist protocol 2 to 5, Serf protocol 2 to 5).
//!
//! Layers, each of which knows only those below it:
//!
//! - [`wire`]: messages and bytes, pure.
//! - [`gossip`]: who is there, as memberlist has it (SWIM with Lifeguard): probes, suspicion, refutation, dissemination. Pure:
//!   input and time go in, effects come out.
//! - [`serf`]: what Serf adds: intents to join and leave, Lamport clocks, reaping, reconnection, events and queries. Pure as well.
//! - [`agent`]: sockets and timers around them.

pub mod agent;
pub mod gossip;
pub mod serf;
pub mod wire;
