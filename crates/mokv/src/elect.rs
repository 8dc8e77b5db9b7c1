//! `mokv elect`

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use mokv_client::{Election, Error, Leader, Leadership};
use mokv_server::config::parse_duration;
use serde::Serialize;
use tokio::time::timeout;

use crate::child::Run;
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat};
use crate::pair::{Pair, readable};
use crate::serve::Signals;
use crate::value;

const EXAMPLES: &str = "\
Examples:
  mokv elect scheduler 10.0.0.7:9000 -- ./scheduler     runs it once the election is won
  mokv elect scheduler 10.0.0.7:9000                    prints the key and the fencing token, and leads until Ctrl-C
  mokv elect scheduler --observe                        prints who leads, whenever that changes
  mokv elect scheduler --leader                         prints who leads now, or exit code 3

The command finds MOKV_ELECTION_KEY and MOKV_ELECTION_TOKEN in its environment. If the leadership is lost while it runs, it gets
SIGTERM, and mokv ends with exit code 5.";

/// Lead, while a command runs or until Ctrl-C; or watch who leads
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ElectArgs {
    /// The election's name
    name: String,

    /// What the others see of the leader; @FILE reads it from a file, - from standard input
    #[arg(value_name = "VALUE|@FILE|-", required_unless_present_any = ["observe", "leader"])]
    value: Option<OsString>,

    /// The command to run
    #[arg(last = true, value_name = "COMMAND", requires = "value")]
    command: Vec<OsString>,

    /// Print who leads, whenever that changes
    #[arg(long, conflicts_with_all = ["value", "leader"])]
    observe: bool,

    /// Print who leads now
    #[arg(long, conflicts_with = "value")]
    leader: bool,

    /// How soon another leads when this process is gone
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    ttl: Duration,

    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What is held.
#[derive(Debug, Serialize)]
struct Held<'a> {
    key: &'a str,
    token: u64,
}

/// Who leads.
#[derive(Debug, Serialize)]
struct Led {
    #[serde(flatten)]
    pair: Pair,
    token: u64,
}

impl ElectArgs {
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let election = self.cluster.lasting_client().await?.election(&self.name);
        match self.value.take() {
            Some(value) => self.lead(&election, value::read(value)?).await,
            None if self.observe => self.watch(&election).await,
            None => match election.leader().await? {
                Some(leader) => print_leader(Some(leader), self.output.format),
                None => Err(Failure::not_found(format!("nobody leads {}", self.name))),
            },
        }
    }

    async fn lead(self, election: &Election, value: Vec<u8>) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let leadership = tokio::select! {
            biased;
            () = signals.next() => return Err(Failure::error("given up")),
            leadership = election.campaign(value).ttl(self.ttl) => leadership?,
        };
        let lost = async {
            leadership.lost().await;
            Failure::refused(format!("the leadership of {} is lost", self.name))
        };
        let ended = if self.command.is_empty() {
            print_held(&leadership, self.output.format)?;
            tokio::select! {
                biased;
                () = signals.next() => Ok(()),
                failure = lost => Err(failure),
            }
        } else {
            let token = leadership.token().to_string();
            let variables = vec![("MOKV_ELECTION_KEY", leadership.key().into()), ("MOKV_ELECTION_TOKEN", token.into())];
            Run { command: &self.command, variables, stdin: None }.while_held(lost).await
        };
        // Nobody waits longer for an answer than for the lease to run out.
        let resigned = timeout(self.ttl, leadership.resign()).await.unwrap_or(Ok(()));
        ended.and(resigned.map_err(Failure::from))
    }

    async fn watch(self, election: &Election) -> Result<(), Failure> {
        let mut observer = election.observe().await?;
        loop {
            match observer.next().await {
                Ok(leader) => print_leader(leader, self.output.format)?,
                Err(error @ Error::Unavailable(_)) => output::note(format_args!("{error}; still trying")),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn print_held(leadership: &Leadership, format: TableFormat) -> Result<(), Failure> {
    let held = Held { key: leadership.key(), token: leadership.token() };
    Ok(output::answer(format, format_args!("{}\t{}", held.key, held.token), &held)?)
}

/// One line: nobody is `null`, or `-` for people.
fn print_leader(leader: Option<Leader>, format: TableFormat) -> Result<(), Failure> {
    let Some(leader) = leader else {
        return Ok(match format {
            TableFormat::Json => output::json(&())?,
            TableFormat::Plain | TableFormat::Table => output::line(format_args!("-"))?,
        });
    };
    Ok(match format {
        TableFormat::Json => {
            output::json(&Led { pair: Pair::new(leader.key, &leader.value), token: leader.token })?;
        }
        TableFormat::Plain | TableFormat::Table => {
            output::line(format_args!("{}\t{}", readable(&leader.value), leader.token))?;
        }
    })
}
