//! A service that takes up a new configuration as soon as somebody sets it.
//!
//! ```text
//! mokv dev
//! cargo run --example config_reload
//! mokv set config/log-level debug
//! mokv delete config/log-level
//! ```

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::env;

use mokv_client::{Client, Error, KeyRange, WatchItem};

const PREFIX: &str = "config/";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoints = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8400".into());
    let client = Client::connect(&endpoints)?;
    let mut settings = BTreeMap::new();
    // First what there is, then what changes after it, with no gap between; also while nodes come and go.
    let mut watch = client.watch_range(KeyRange::prefix(PREFIX)).list_first().await?;
    loop {
        match watch.next().await {
            Ok(WatchItem::Listed { pairs, .. }) => {
                settings = pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
            }
            // A revision comes whole: settings that were changed in one transaction are never seen half changed.
            Ok(WatchItem::Changes(changes)) => {
                for event in changes.events {
                    match event.pair {
                        Some(pair) => settings.insert(pair.key, pair.value),
                        None => settings.remove(&event.key),
                    };
                }
            }
            Err(Error::Unavailable(reason)) => {
                println!("going on with what is known: {reason}");
                continue;
            }
            Err(error) => return Err(error),
        }
        println!("as of revision {}:", watch.revision());
        for (key, value) in &settings {
            println!("  {} = {}", key.trim_start_matches(PREFIX), String::from_utf8_lossy(value));
        }
    }
}
