//! The addresses through which a node joins gossip: resolved again for every try, all that a name stands for.
//!
//! A name may not be known yet, or stand for other machines by now (a restarted pod, a headless service that fills up). So
//! nothing is remembered but whether it works. Trying is somebody else's; this says whom, and when to try again.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

/// A name server that does not answer in this time is asked again with the next try.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// The first pause after a try that did not work; each further one is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// See [`PAUSE_MIN`]. Nodes that come back are found by then; they also look for this one.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Looks a host and port up, as [`tokio::net::lookup_host`] does.
pub type Lookup = dyn Fn(String) -> Found + Send + Sync;

/// What a lookup comes to.
pub type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The operating system's lookup.
pub fn system_lookup(address: String) -> Found {
    Box::pin(async move { Ok(tokio::net::lookup_host(address).await?.collect()) })
}

/// Addresses, and what could not be resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Each once, without those of the node itself; those that stand first in the configuration first.
    pub addresses: Vec<SocketAddr>,
    /// Whether the node itself was among them.
    pub has_itself: bool,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

impl Resolved {
    /// Whether there is nobody else to join, now or later: the node was told only itself, or nobody.
    pub fn is_alone(&self) -> bool {
        self.addresses.is_empty() && self.problems.is_empty()
    }
}

/// Resolves `addresses` (host:port each), all at once. Those for which `is_own` holds are this node's.
pub async fn resolve(addresses: &[String], is_own: impl Fn(&SocketAddr) -> bool, lookup: &Lookup) -> Resolved {
    let lookups = addresses.iter().map(|address| async move {
        let found = timeout(LOOKUP_TIMEOUT, lookup(address.clone())).await;
        found.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from the name server")))
    });
    let found = join_all(lookups).await;
    let (mut resolved, mut seen) = (Resolved::default(), BTreeSet::new());
    for (address, found) in addresses.iter().zip(found) {
        match found {
            Ok(found) if found.is_empty() => resolved.problems.push(format!("{address} stands for no address")),
            Err(error) => resolved.problems.push(format!("{address}: {error}")),
            Ok(found) => {
                for one in found.into_iter().filter(|one| seen.insert(*one)) {
                    if is_own(&one) {
                        resolved.has_itself = true;
                    } else {
                        resolved.addresses.push(one);
                    }
                }
            }
        }
    }
    resolved
}

/// Whether an address leads to the node that listens at `listening` and tells others `advertised`.
pub fn is_own(address: &SocketAddr, listening: &SocketAddr, advertised: &SocketAddr) -> bool {
    let is_here = listening.ip().is_unspecified() && address.ip().is_loopback() && address.port() == listening.port();
    address == listening || address == advertised || is_here
}

/// When to try again, and what to say: for ever, with longer and longer pauses, one line for each change.
#[derive(Debug, Default)]
pub struct Tries {
    failures: u32,
    last_problem: Option<String>,
}

impl Tries {
    /// A try did not work. How long to wait, and the problem if it is another one than last time.
    pub fn failed(&mut self, problem: String) -> (Duration, Option<String>) {
        let pause = PAUSE_MAX.min(PAUSE_MIN * 2_u32.pow(self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        let is_news = self.last_problem.as_ref() != Some(&problem);
        self.last_problem = Some(problem.clone());
        (pause, is_news.then_some(problem))
    }

    /// A try worked. Whether that is news.
    pub fn worked(&mut self) -> bool {
        let is_news = self.failures > 0;
        *self = Self::default();
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    fn lookup(address: String) -> Found {
        let found = match address.as_str() {
            "pool:1" => Ok(vec![addr("10.0.0.1:1"), addr("10.0.0.2:1"), addr("[fd00::1]:1")]),
            "one:1" => Ok(vec![addr("10.0.0.2:1")]),
            "me:1" => Ok(vec![addr("10.0.0.3:1")]),
            "nobody:1" => Ok(vec![]),
            "silent:1" => return Box::pin(std::future::pending()),
            _ => Err(io::Error::other("unknown host")),
        };
        Box::pin(std::future::ready(found))
    }

    async fn resolved(addresses: &[&str]) -> Resolved {
        let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        resolve(&addresses, |address| *address == addr("10.0.0.3:1"), &lookup).await
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_names_stand_for_is_tried_once_each() {
        let found = resolved(&["one:1", "pool:1", "me:1"]).await;
        assert_eq!(found.addresses, [addr("10.0.0.2:1"), addr("10.0.0.1:1"), addr("[fd00::1]:1")]);
        assert!(found.has_itself && found.problems.is_empty() && !found.is_alone());
    }

    #[tokio::test(start_paused = true)]
    async fn one_name_that_is_wrong_does_not_hide_the_others() {
        let found = resolved(&["wrong:1", "silent:1", "nobody:1", "one:1"]).await;
        assert_eq!(found.addresses, [addr("10.0.0.2:1")]);
        let problems =
            ["wrong:1: unknown host", "silent:1: no answer from the name server", "nobody:1 stands for no address"];
        assert_eq!(found.problems, problems);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_only_itself_is_alone_but_not_who_is_told_a_name_that_is_not_known_yet() {
        assert!(resolved(&[]).await.is_alone());
        assert!(resolved(&["me:1"]).await.is_alone());
        assert!(!resolved(&["me:1", "wrong:1"]).await.is_alone());
        assert!(!resolved(&["one:1"]).await.is_alone());
    }

    #[tokio::test]
    async fn the_system_knows_itself() {
        let found = resolve(&["localhost:8401".to_owned(), "127.0.0.1:1".to_owned()], |_| false, &system_lookup).await;
        assert!(found.addresses.iter().any(|address| address.ip().is_loopback() && address.port() == 8401));
        assert!(found.addresses.contains(&addr("127.0.0.1:1")));
    }

    #[test]
    fn a_node_knows_its_own_addresses() {
        let (wildcard, advertised) = (addr("0.0.0.0:1"), addr("10.0.0.3:1"));
        assert!(is_own(&addr("10.0.0.3:1"), &wildcard, &advertised));
        assert!(is_own(&addr("127.0.0.1:1"), &wildcard, &advertised));
        assert!(!is_own(&addr("127.0.0.1:2"), &wildcard, &advertised));
        assert!(!is_own(&addr("127.0.0.1:1"), &addr("10.0.0.3:1"), &advertised));
        assert!(is_own(&addr("[::1]:1"), &addr("[::]:1"), &advertised));
    }

    #[test]
    fn tries_go_on_for_ever_and_say_each_thing_once() {
        let mut tries = Tries::default();
        let millis: Vec<u64> =
            (0..40).map(|_| u64::try_from(tries.failed("refused".into()).0.as_millis()).expect("short")).collect();
        assert_eq!(millis[..8], [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert_eq!(millis[39], 15_000);
        assert_eq!(tries.failed("refused".into()).1, None);
        assert_eq!(tries.failed("timed out".into()).1, Some("timed out".into()));
        assert!(tries.worked());
        assert!(!tries.worked());
        assert_eq!(tries.failed("timed out".into()), (PAUSE_MIN, Some("timed out".into())));
    }
}
