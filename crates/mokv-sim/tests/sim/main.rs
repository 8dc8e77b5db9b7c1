//! The simulator's own promise (a seed is a run), a range of seeds, and named scenarios, each with seeds of its own.

mod full_disk;
mod hand_over;
mod repeatable;
mod scenario;
mod scenarios;
mod swarm;
