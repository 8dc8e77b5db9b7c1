//! The options that every read has: how fresh the answer has to be.

use std::time::Duration;

use clap::{Args, ValueEnum};
use mokv_client::Consistency;
use mokv_server::config::parse_duration;

use crate::exit::Failure;

/// How fresh an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Reflects every write that was acknowledged, to anybody, before
    Linearizable,
    /// The same, as long as the leader's clock runs right; cheaper, where the nodes allow it
    Lease,
    /// From the asked node's memory: never wrong, possibly old
    Local,
}

/// How fresh the answer has to be.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// How fresh the answer has to be
    #[arg(long, value_name = "LEVEL", default_value = "linearizable")]
    consistency: Level,

    /// The same as --consistency local
    #[arg(long, conflicts_with = "consistency")]
    local: bool,

    /// Not older than this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(crate) min_revision: u64,

    /// With local: at most about so old, or the node asks the leader
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) max_staleness: Option<Duration>,

    /// As of this revision, if the nodes remember it
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(crate) revision: u64,
}

impl ReadArgs {
    pub(crate) fn consistency(&self) -> Result<Consistency, Failure> {
        let level = if self.local { Level::Local } else { self.consistency };
        if self.max_staleness.is_some() && level != Level::Local {
            return Err(Failure::usage("--max-staleness is for --consistency local: the others are never old"));
        }
        Ok(match level {
            Level::Linearizable => Consistency::Linearizable,
            Level::Lease => Consistency::Lease,
            Level::Local => Consistency::Local,
        })
    }
}

/// Tells a read of the client what the options say.
macro_rules! with_read_args {
    ($read:expr, $args:expr) => {{
        let args = &$args;
        let mut read = $read.consistency(args.consistency()?).min_revision(args.min_revision);
        if let Some(staleness) = args.max_staleness {
            read = read.max_staleness(staleness);
        }
        if args.revision > 0 {
            read = read.at_revision(args.revision);
        }
        read
    }};
}
pub(crate) use with_read_args;

/// What a level is called.
pub(crate) fn level_name(level: Consistency) -> &'static str {
    match level {
        Consistency::Linearizable => "linearizable",
        Consistency::Lease => "lease",
        Consistency::Local => "local",
    }
}
