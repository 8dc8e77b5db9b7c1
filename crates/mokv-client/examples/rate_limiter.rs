//! At most so many requests of one user a minute, over all processes of a service.
//!
//! ```text
//! mokv dev
//! cargo run --example rate_limiter
//! ```

#![allow(clippy::print_stdout)]

use std::env;
use std::time::Duration;

use mokv_client::{Client, Error};

const WINDOW: Duration = Duration::from_secs(60);
const REQUESTS_MAX: i64 = 3;

/// Whether one more request may be served. The window begins with the first request in it, and counts exactly: a retry after
/// a lost answer counts once.
async fn is_allowed(client: &Client, user: &str) -> Result<bool, Error> {
    let counted = client.increment(format!("rate/{user}"), 1).ttl(WINDOW).await?;
    Ok(counted.value <= REQUESTS_MAX)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoints = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8400".into());
    let client = Client::connect(&endpoints)?;
    let user = format!("user-{}", std::process::id());
    for request in 1..=REQUESTS_MAX + 2 {
        println!("request {request}: {}", if is_allowed(&client, &user).await? { "served" } else { "too many" });
    }
    let pair = client.get(format!("rate/{user}")).await?;
    println!("again in {:?}", pair.and_then(|pair| pair.ttl));
    Ok(())
}
