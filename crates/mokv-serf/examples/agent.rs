//! A member of a Serf pool, for the command line. It says what happens, until Ctrl-C: then it leaves.
//!
//!     cargo run -p mokv-serf --example agent -- --name a --bind 127.0.0.1:7946
//!     cargo run -p mokv-serf --example agent -- --name b --bind 127.0.0.2:7946 --join 127.0.0.1:7946 --tag role=web
//!
//! HashiCorp's `serf` can be any of the others.

// This is a program: it starts tasks by itself.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use mokv_serf::agent::{Agent, Transport, UdpTcp};
use mokv_serf::gossip;
use mokv_serf::serf::{Config, Event, Member};
use mokv_serf::wire::keyring::{Keyring, key_from_text};
use mokv_serf::wire::{Codec, Text};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::sync::broadcast::error::RecvError;

/// A member of a Serf pool
#[derive(Debug, Parser)]
struct Args {
    /// Its name: no other member may have it
    #[arg(long)]
    name: String,
    /// Where to listen; the others find it there
    #[arg(long)]
    bind: SocketAddr,
    /// A member to join; may be repeated
    #[arg(long)]
    join: Vec<SocketAddr>,
    /// Something to say of itself; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    tag: Vec<(Text, Text)>,
    /// The key of the pool in base64, as `serf keygen` makes it
    #[arg(long)]
    encrypt: Option<String>,
}

fn tag(text: &str) -> Result<(Text, Text), String> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let transport = UdpTcp::bind(args.bind).await?;
    let keyring = match &args.encrypt {
        Some(key) => Some(Keyring::new([key_from_text(key)?.as_slice()])?),
        None => None,
    };
    let codec = Codec { keyring, compression: true, ..Codec::default() };
    let mut config = Config::new(gossip::Config::lan(args.name.into(), transport.local_addr()), codec);
    config.tags = args.tag.into_iter().collect();
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed)?;

    let agent = Agent::spawn(config, Arc::new(transport), seed, |task| {
        tokio::spawn(task);
    })?;
    let mut events = agent.events();
    if !args.join.is_empty() {
        println!("joined {} of {}", agent.join(&args.join).await?, args.join.len());
    }
    loop {
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                agent.leave().await;
                agent.shutdown();
                println!("left");
                return Ok(());
            }
            reason = agent.stopped() => return Err(format!("stopped: {reason:?}").into()),
            event = events.recv() => match event {
                Ok(event) => println!("{}", describe(&event)),
                Err(RecvError::Lagged(missed)) => println!("missed {missed} events"),
                Err(RecvError::Closed) => {}
            },
        }
    }
}

fn describe(event: &Event) -> String {
    let member =
        |what: &str, Member { name, addr, tags, .. }: &Member| format!("{what} {name} at {addr}, tags {tags:?}");
    match event {
        Event::Joined(joined) => member("joined", joined),
        Event::Updated(updated) => member("updated", updated),
        Event::Leaving(leaving) => member("leaving", leaving),
        Event::Left(left) => member("left", left),
        Event::Failed(failed) => member("failed", failed),
        Event::Reaped(reaped) => member("forgotten", reaped),
        Event::User(event) => format!("event {} with {} bytes", event.name, event.payload.len()),
        Event::Query(query) => format!("query {} of {}", query.query.name, query.query.source_node),
    }
}
