//! The options that say which keys a command is about.

use clap::Args;
use mokv_client::KeyRange;

/// Which keys.
#[derive(Debug, Args)]
pub(crate) struct RangeArgs {
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,

    /// Only keys at or after this
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    start: String,

    /// Only keys before this
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    end: String,
}

impl RangeArgs {
    pub(crate) fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.prefix).from(&self.start).before(&self.end)
    }

    /// Whether nothing was said: that is every key.
    pub(crate) fn is_all(&self) -> bool {
        self.prefix.is_empty() && self.start.is_empty() && self.end.is_empty()
    }
}

/// Which keys, of a command whose argument is a prefix.
#[derive(Debug, Args)]
pub(crate) struct PrefixArgs {
    /// Only keys that begin with this; without it, every key
    #[arg(value_name = "PREFIX", conflicts_with = "prefix")]
    argument: Option<String>,

    #[command(flatten)]
    range: RangeArgs,
}

impl PrefixArgs {
    pub(crate) fn range(self) -> KeyRange {
        let Self { argument, mut range } = self;
        range.prefix = argument.unwrap_or(range.prefix);
        range.range()
    }
}
