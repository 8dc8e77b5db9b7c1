//! `mokv incr`

use std::time::Duration;

use clap::Args;
use mokv_server::config::parse_duration;

use crate::answer::IncrementAnswer;
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput};

const EXAMPLES: &str = "\
Examples:
  mokv incr visits
  mokv incr stock/7 -3
  mokv incr rate/alice --ttl 1m        a window that begins with the first one";

/// Add to a number, and print the sum
///
/// The number is kept as decimal text; a key without a value counts as 0. A value that is no 64-bit signed number is exit code
/// 5, and nothing is written.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct IncrArgs {
    /// The key
    key: String,

    /// What to add
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    delta: i64,

    /// If the key comes to be, it is deleted so long after this write
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl IncrArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        // One write is not worth a place among the clients that the cluster remembers.
        let client = self.cluster.client()?.at_most_once();
        let mut increment = client.increment(&self.key, self.delta);
        if let Some(ttl) = self.ttl {
            increment = increment.ttl(ttl);
        }
        let incremented = increment.await?;
        let plain = incremented.value;
        Ok(output::answer(self.output.format, format_args!("{plain}"), &IncrementAnswer::from(incremented))?)
    }
}
