//! `mokv lease`

use std::time::Duration;

use clap::{Args, Subcommand};
use mokv_client::Client;
use mokv_server::config::parse_duration;
use serde::Serialize;

use crate::answer::deleted_keys;
use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output::{self, ResultOutput, TableFormat, note};
use crate::pair::millis;
use crate::serve::Signals;

const EXAMPLES: &str = "\
Examples:
  id=$(mokv lease grant 30s)
  mokv set workers/7 10.0.0.7:9000 --lease $id
  mokv lease keep-alive $id            until Ctrl-C; then it runs out
  mokv lease revoke $id                its keys are gone at once";

/// Leases: keys that are set with one are deleted when it ends
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LeaseArgs {
    #[command(subcommand)]
    command: LeaseCommand,
}

#[derive(Debug, Subcommand)]
enum LeaseCommand {
    /// Grant a lease, and print its id
    Grant {
        /// How long it lives without being renewed; at least 1s
        #[arg(value_parser = parse_duration)]
        ttl: Duration,

        /// The id; otherwise the cluster chooses
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        id: Option<u64>,

        #[command(flatten)]
        common: Common,
    },
    /// End a lease, and delete its keys
    Revoke {
        id: u64,

        #[command(flatten)]
        common: Common,
    },
    /// Keep a lease alive until Ctrl-C; exit code 3 when there is no such lease any more
    KeepAlive {
        id: u64,

        /// Renew it, and end
        #[arg(long)]
        once: bool,

        #[command(flatten)]
        common: Common,
    },
    /// Show how long a lease has still to live
    Ttl {
        id: u64,

        /// Also its keys
        #[arg(long)]
        keys: bool,

        #[command(flatten)]
        common: Common,
    },
    /// List the ids of all leases
    List {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    output: ResultOutput,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A lease and its times.
#[derive(Debug, Serialize)]
struct Lease {
    id: u64,
    ttl_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct Revoked {
    id: u64,
    deleted: u64,
}

#[derive(Debug, Serialize)]
struct Leases {
    ids: Vec<u64>,
}

impl LeaseArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.command {
            LeaseCommand::Grant { ttl, id, common } => grant(ttl, id, &common).await,
            LeaseCommand::Revoke { id, common } => revoke(id, &common).await,
            LeaseCommand::KeepAlive { id, once: true, common } => renew(id, &common).await,
            LeaseCommand::KeepAlive { id, once: false, common } => keep_alive(id, &common).await,
            LeaseCommand::Ttl { id, keys, common } => show(id, keys, &common).await,
            LeaseCommand::List { common } => list(&common).await,
        }
    }
}

async fn grant(ttl: Duration, id: Option<u64>, common: &Common) -> Result<(), Failure> {
    let client = common.cluster.client()?;
    let mut grant = client.grant_lease(ttl);
    if let Some(id) = id {
        grant = grant.id(id);
    }
    // Dropped at the end: it is kept alive by those who are told the id.
    let lease = grant.await?;
    let answer = Lease { id: lease.id(), ttl_ms: millis(lease.ttl()), remaining_ms: None, keys: None };
    Ok(output::answer(common.output.format, format_args!("{}", answer.id), &answer)?)
}

async fn revoke(id: u64, common: &Common) -> Result<(), Failure> {
    let deleted = common.cluster.client()?.revoke_lease(id).await?.ok_or_else(|| missing(id))?;
    let plain = deleted_keys(deleted);
    Ok(output::answer(common.output.format, format_args!("{plain}"), &Revoked { id, deleted })?)
}

async fn renew(id: u64, common: &Common) -> Result<(), Failure> {
    let ttl = common.cluster.client()?.renew_lease(id).await?.ok_or_else(|| missing(id))?;
    let answer = Lease { id, ttl_ms: millis(ttl), remaining_ms: None, keys: None };
    Ok(output::answer(common.output.format, format_args!("{}ms", answer.ttl_ms), &answer)?)
}

async fn keep_alive(id: u64, common: &Common) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let client = common.cluster.lasting_client().await?;
    tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        ended = keep(&client, id) => ended?,
    }
    Err(missing(id))
}

/// Until the lease is lost, or it can't be said whether it is.
async fn keep(client: &Client, id: u64) -> Result<(), Failure> {
    let ttl = client.renew_lease(id).await?.ok_or_else(|| missing(id))?;
    let lease = client.keep_lease_alive(id).await?;
    note(format_args!("lease {id} is kept alive, {}ms at a time; Ctrl-C ends that", ttl.as_millis()));
    lease.lost().await;
    Ok(())
}

async fn show(id: u64, keys: bool, common: &Common) -> Result<(), Failure> {
    let client = common.cluster.client()?;
    let time = if keys { client.lease_keys(id).await? } else { client.lease_time(id).await? };
    let time = time.ok_or_else(|| missing(id))?;
    let answer = Lease {
        id,
        ttl_ms: millis(time.ttl),
        remaining_ms: Some(millis(time.remaining)),
        keys: keys.then_some(time.keys),
    };
    if common.output.format != TableFormat::Plain {
        return Ok(output::document(common.output.format, &answer)?);
    }
    output::line(format_args!("{}ms", millis(time.remaining)))?;
    for key in answer.keys.iter().flatten() {
        output::line(format_args!("{key}"))?;
    }
    Ok(())
}

async fn list(common: &Common) -> Result<(), Failure> {
    let ids = common.cluster.client()?.leases().await?;
    if common.output.format == TableFormat::Json {
        return Ok(output::json(&Leases { ids })?);
    }
    let rows: Vec<_> = ids.iter().map(|id| [id.to_string()]).collect();
    Ok(output::rows(["LEASE"], &rows, common.output.format)?)
}

fn missing(id: u64) -> Failure {
    Failure::not_found(format!("there is no lease {id}"))
}
