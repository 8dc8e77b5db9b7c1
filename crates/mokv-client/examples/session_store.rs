//! Sessions of a web site: each lives half an hour from its last use on, and is gone by itself after that.
//!
//! ```text
//! mokv dev
//! cargo run --example session_store
//! ```

#![allow(clippy::print_stdout)]

use std::env;
use std::time::Duration;

use mokv_client::{Client, Error};

const IDLE: Duration = Duration::from_secs(30 * 60);

/// The sessions, in any number of processes.
struct Sessions {
    client: Client,
}

impl Sessions {
    /// Begins a session, unless there is one of that id.
    async fn begin(&self, id: &str, user: &str) -> Result<bool, Error> {
        let set = self.client.set(key(id), user.to_owned()).ttl(IDLE).if_absent();
        Ok(set.await?.ok)
    }

    /// Whose session it is. Using it lets it live on.
    async fn user(&self, id: &str) -> Result<Option<String>, Error> {
        let Some(pair) = self.client.get(key(id)).await? else { return Ok(None) };
        // Without the value: a session that ends meanwhile does not come back.
        self.client.touch(key(id)).ttl(IDLE).await?;
        Ok(Some(String::from_utf8_lossy(&pair.value).into_owned()))
    }

    async fn end(&self, id: &str) -> Result<(), Error> {
        self.client.delete(key(id)).await.map(drop)
    }
}

fn key(id: &str) -> String {
    format!("sessions/{id}")
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoints = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8400".into());
    let sessions = Sessions { client: Client::connect(&endpoints)? };
    // Chosen by chance in a real one.
    let id = std::process::id().to_string();

    println!("begun: {}", sessions.begin(&id, "alice").await?);
    println!("begun twice: {}", sessions.begin(&id, "mallory").await?);
    println!("whose it is: {:?}", sessions.user(&id).await?);
    let pair = sessions.client.get(key(&id)).await?;
    println!("it lives for: {:?}", pair.and_then(|pair| pair.ttl));
    sessions.end(&id).await?;
    println!("after its end: {:?}", sessions.user(&id).await?);
    Ok(())
}
