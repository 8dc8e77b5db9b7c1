//! Whole pools under virtual time: each node is a [`Serf`](mokv_serf::serf::Serf), the network between them carries the very
//! bytes that sockets would, and loses and delays them as a seed says. A failure prints its seed; `MOKV_SERF_SEED=n` runs
//! only that one, `MOKV_SERF_SEEDS=n` that many.

mod chaos;
mod conflicts;
mod events;
mod hostile;
mod keys;
mod membership;
mod pool;
mod queries;
