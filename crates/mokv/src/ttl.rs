//! `mokv ttl`

use std::time::Duration;

use clap::Args;
use mokv_client::Client;
use mokv_server::config::parse_duration;
use serde::Serialize;

use crate::answer::SetAnswer;
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput};
use crate::pair::millis;

const EXAMPLES: &str = "\
Examples:
  mokv ttl sessions/7                  how long it has still to live
  mokv ttl sessions/7 30m              so long from now on
  mokv ttl sessions/7 none             for ever";

/// Show or change how long a key has still to live
///
/// The value stays what it is. A key without a value is exit code 3.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TtlArgs {
    /// The key
    key: String,

    /// How long from now on, or none for ever
    #[arg(value_name = "DURATION|none", value_parser = parse_life)]
    ttl: Option<Life>,

    /// The key is deleted with this lease
    #[arg(long, value_name = "ID", conflicts_with = "ttl")]
    lease: Option<u64>,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How long a key shall live.
#[derive(Debug, Clone, Copy)]
enum Life {
    For(Duration),
    Ever,
}

fn parse_life(text: &str) -> Result<Life, String> {
    if text == "none" { Ok(Life::Ever) } else { parse_duration(text).map(Life::For) }
}

#[derive(Debug, Serialize)]
struct Answer {
    key: String,
    ttl_ms: Option<u64>,
    lease_id: Option<u64>,
    revision: u64,
}

impl TtlArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let client = self.cluster.client()?.at_most_once();
        if self.ttl.is_none() && self.lease.is_none() { self.show(&client).await } else { self.change(&client).await }
    }

    async fn show(self, client: &Client) -> Result<(), Failure> {
        let pair = client.get(&self.key).await?.ok_or_else(|| self.missing())?;
        let plain = match (pair.ttl, pair.lease_id) {
            (Some(ttl), _) => format!("{}ms", ttl.as_millis()),
            (None, Some(lease)) => format!("lease {lease}"),
            (None, None) => "none".to_owned(),
        };
        let answer =
            Answer { key: pair.key, ttl_ms: pair.ttl.map(millis), lease_id: pair.lease_id, revision: pair.revision };
        Ok(output::answer(self.output.format, format_args!("{plain}"), &answer)?)
    }

    async fn change(self, client: &Client) -> Result<(), Failure> {
        let mut touch = client.touch(&self.key);
        if let Some(Life::For(ttl)) = self.ttl {
            touch = touch.ttl(ttl);
        }
        if let Some(lease) = self.lease {
            touch = touch.lease(lease);
        }
        let written = touch.await?;
        if !written.ok {
            return Err(self.missing());
        }
        Ok(output::answer(self.output.format, format_args!("OK"), &SetAnswer::from(written))?)
    }

    fn missing(&self) -> Failure {
        Failure::not_found(format!("no value for key: {}", self.key))
    }
}
