//! Places in a queue that many processes stand in, which is what locks and elections are made of (etcd's recipe).
//!
//! A place is a key `name/<lease id>`, set with that lease. The keys' create revisions are the order: the lowest is first.
//! Whoever is not waits until the one right before it is gone, so that one goes and one wakes. A place is given up when
//! its value here is dropped, at any moment, and at the latest with its lease.

use std::mem;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::Client;
use crate::error::Error;
use crate::lease::Lease;
use crate::pair::{Pair, Written};
use crate::range::KeyRange;
use crate::txn::{Compare, Txn, TxnOp};
use crate::watch::WatchItem;

/// How soon others go on when a process is gone, unless it says otherwise.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// Before the cluster is asked again when no node was there.
const PAUSE: Duration = Duration::from_millis(100);

/// With which lease a place is taken.
#[derive(Debug, Clone)]
pub(crate) enum Backing {
    /// One of its own, with this ttl, which ends with it.
    Own(Duration),
    /// The caller's.
    Given(Lease),
}

/// The keys of a queue.
pub(crate) fn range(name: &str) -> KeyRange {
    KeyRange::prefix(format!("{name}/"))
}

/// Whether a key in the [`range`] is a place: there may be another queue whose name begins with this one's.
pub(crate) fn is_place(name: &str, key: &str) -> bool {
    let lease_id = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('/'));
    lease_id.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The places of a queue, and the revision of each: the first in front.
pub(crate) async fn places(client: &Client, name: &str) -> Result<Vec<Pair>, Error> {
    let mut places = client.list(range(name)).await?.all().await?;
    places.retain(|pair| is_place(name, &pair.key));
    places.sort_unstable_by_key(|pair| pair.create_revision);
    Ok(places)
}

/// Where somebody stands.
#[derive(Debug, PartialEq, Eq)]
enum Position<'a> {
    First,
    /// Right after this place.
    Behind(&'a Pair),
    /// Nowhere any more.
    Gone,
}

/// `places` in their order.
fn position(places: &[Pair], token: u64) -> Position<'_> {
    match places.iter().position(|place| place.create_revision == token) {
        Some(0) => Position::First,
        Some(index) => Position::Behind(&places[index - 1]),
        None => Position::Gone,
    }
}

/// A place in a queue.
#[derive(Debug)]
pub(crate) struct Place {
    client: Client,
    name: String,
    key: String,
    lease: Lease,
    owns_lease: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Being taken, by a task: a caller who gives up midway still has to know what came of it.
    Taking(JoinHandle<Result<Written, Error>>),
    /// The create revision of its key.
    Taken {
        token: u64,
    },
    Left,
}

impl Place {
    /// Takes the last place.
    pub(crate) async fn take(client: &Client, name: &str, value: Bytes, backing: Backing) -> Result<Self, Error> {
        let (lease, owns_lease) = match backing {
            Backing::Own(ttl) => (client.grant_lease(ttl).await?, true),
            Backing::Given(lease) => (lease, false),
        };
        let key = format!("{name}/{}", lease.id());
        let set = client.set(key.clone(), value).lease(lease.id()).if_absent();
        let state = State::Taking(tokio::spawn(set.into_future()));
        let mut place = Self { client: client.clone(), name: name.to_owned(), key, lease, owns_lease, state };
        place.finish_taking().await?;
        Ok(place)
    }

    async fn finish_taking(&mut self) -> Result<(), Error> {
        let State::Taking(set) = &mut self.state else { return Ok(()) };
        let written = set.await.unwrap_or_else(|_| Err(self.lost()))?;
        if written.ok {
            self.state = State::Taken { token: written.create_revision };
            return Ok(());
        }
        // Somebody else's, who has the same lease.
        self.state = State::Left;
        Err(Error::Refused(format!("lease {} has a place in {} already", self.lease.id(), self.name)))
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Grows from one who is first to the next.
    pub(crate) fn token(&self) -> u64 {
        match self.state {
            State::Taken { token } => token,
            State::Taking(_) | State::Left => 0,
        }
    }

    /// Holds as long as the place is not given up or lost.
    pub(crate) fn is_held(&self) -> Compare {
        Compare::create_revision(&self.key).equals(self.token())
    }

    pub(crate) fn lost(&self) -> Error {
        Error::Refused(format!("{} is lost: lease {} has ended, or its key was deleted", self.name, self.lease.id()))
    }

    /// Whether everybody who came before has gone.
    pub(crate) async fn is_first(&self) -> Result<bool, Error> {
        match position(&places(&self.client, &self.name).await?, self.token()) {
            Position::First => Ok(true),
            Position::Behind(_) => Ok(false),
            Position::Gone => Err(self.lost()),
        }
    }

    /// Waits until everybody who came before has gone. As long as that takes: the lease ends it if the cluster is away.
    pub(crate) async fn wait_until_first(&self) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = self.lease.lost() => Err(self.lost()),
            first = self.advance() => first,
        }
    }

    async fn advance(&self) -> Result<(), Error> {
        loop {
            let places = match places(&self.client, &self.name).await {
                Err(Error::Unavailable(_)) => {
                    sleep(PAUSE).await;
                    continue;
                }
                places => places?,
            };
            match position(&places, self.token()) {
                Position::First => return Ok(()),
                Position::Behind(ahead) => self.wait_until_gone(ahead).await?,
                Position::Gone => return Err(self.lost()),
            }
        }
    }

    async fn wait_until_gone(&self, ahead: &Pair) -> Result<(), Error> {
        let is_there = |pair: Option<&Pair>| pair.is_some_and(|pair| pair.create_revision == ahead.create_revision);
        let mut watch = match self.client.watch(&ahead.key).list_first().keys_only().await {
            Err(Error::Unavailable(_)) => return Ok(()),
            watch => watch?,
        };
        loop {
            let still_there = match watch.next().await {
                Ok(WatchItem::Listed { pairs, .. }) => is_there(pairs.first()),
                Ok(WatchItem::Changes(changes)) => changes.events.iter().all(|event| is_there(event.pair.as_ref())),
                Err(Error::Unavailable(_)) => continue,
                Err(error) => return Err(error),
            };
            if !still_there {
                return Ok(());
            }
        }
    }

    /// Gives the place up.
    pub(crate) async fn leave(mut self) -> Result<(), Error> {
        match self.begin_to_leave() {
            // A task: it comes to its end also if the caller gives up midway.
            Some(leaving) => tokio::spawn(leaving).await.unwrap_or_else(|_| Err(self.lost())),
            None => Ok(()),
        }
    }

    /// What is to be done to give the place up; `None` if there is nothing.
    fn begin_to_leave(&mut self) -> Option<impl Future<Output = Result<(), Error>> + Send + use<>> {
        let state = mem::replace(&mut self.state, State::Left);
        if let State::Left = state {
            return None;
        }
        let (client, key, lease, owns_lease) =
            (self.client.clone(), self.key.clone(), self.lease.clone(), self.owns_lease);
        Some(async move {
            if owns_lease {
                return lease.revoke().await.map(drop);
            }
            let token = match state {
                State::Taken { token } => token,
                State::Taking(set) => match set.await {
                    Ok(Ok(written)) if written.ok => written.create_revision,
                    _ => return Ok(()),
                },
                State::Left => return Ok(()),
            };
            let is_held = Compare::create_revision(&key).equals(token);
            client.txn(Txn::new().when(is_held).then(TxnOp::delete(&key))).await.map(drop)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without a runtime there is nobody to do it: the lease is kept alive no more, and ends it.
        if let (Some(leaving), Ok(runtime)) = (self.begin_to_leave(), Handle::try_current()) {
            runtime.spawn(leaving);
        }
    }
}

#[cfg(test)]
mod tests {
    use mokv_proto::api::GetResponse;

    use super::*;

    #[test]
    fn a_place_is_a_lease_right_under_the_name() {
        assert!(is_place("a", "a/7") && is_place("a/b", "a/b/7"));
        for key in ["a/b/7", "a/", "a", "ab/7", "a/7x", "a/-7"] {
            assert!(!is_place("a", key), "{key}");
        }
    }

    #[test]
    fn each_waits_for_the_one_before() {
        let place = |token| Pair::from(GetResponse { create_revision: token, ..GetResponse::default() });
        let places = [place(3), place(5), place(9)];
        assert_eq!(position(&places, 3), Position::First);
        assert_eq!(position(&places, 5), Position::Behind(&places[0]));
        assert_eq!(position(&places, 9), Position::Behind(&places[1]));
        assert_eq!(position(&places, 4), Position::Gone);
        assert_eq!(position(&[], 4), Position::Gone);
    }
}
