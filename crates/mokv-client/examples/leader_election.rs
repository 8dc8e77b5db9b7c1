//! One of many processes does the work; another takes over within seconds when it dies.
//!
//! ```text
//! mokv dev
//! cargo run --example leader_election -- one &
//! cargo run --example leader_election -- two &
//! kill %1
//! ```

#![allow(clippy::print_stdout)]

use std::env;
use std::time::Duration;

use mokv_client::{Client, Error, Leadership, Txn, TxnOp};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let name = env::args().nth(1).unwrap_or_else(|| std::process::id().to_string());
    let endpoints = env::args().nth(2).unwrap_or_else(|| "127.0.0.1:8400".into());
    let client = Client::connect(&endpoints)?;
    let election = client.election("example/worker");
    loop {
        match election.leader().await? {
            Some(leader) => println!("{name}: {} leads", String::from_utf8_lossy(&leader.value)),
            None => println!("{name}: nobody leads"),
        }
        let leadership = election.campaign(name.clone()).ttl(Duration::from_secs(5)).await?;
        println!("{name}: I lead, with token {}", leadership.token());
        tokio::select! {
            () = leadership.lost() => println!("{name}: I don't lead any more"),
            worked = work(&client, &leadership) => match worked {
                Err(Error::Unavailable(reason)) => println!("{name}: {reason}"),
                worked => return worked,
            }
        }
    }
}

/// Counts. A leader that was deposed without noticing it (because the process stood still, say) can do no harm: each step is
/// done only if it still leads.
async fn work(client: &Client, leadership: &Leadership) -> Result<(), Error> {
    loop {
        let done = client.get("example/steps").await?;
        let done = done.and_then(|pair| std::str::from_utf8(&pair.value).ok()?.parse::<u64>().ok()).unwrap_or(0);
        let step = Txn::new().when(leadership.is_held()).then(TxnOp::set("example/steps", (done + 1).to_string()));
        if !client.txn(step).await?.succeeded {
            return Err(Error::Unavailable("somebody else leads".into()));
        }
        println!("step {}", done + 1);
        sleep(Duration::from_secs(1)).await;
    }
}
