//! What is planned, on a model of the nodes, their gossip and their membership.

mod histories;
mod model;
mod rules;
