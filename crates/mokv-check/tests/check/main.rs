//! The checkers against histories whose verdict is known.

#![allow(missing_docs)]

mod command;
mod malformed;
mod model;
mod random;
mod search;
mod speed;
mod story;
mod unknown;
mod wrong_answers;
mod wrong_ends;
mod wrong_order;
mod wrong_times;
mod wrong_watches;
