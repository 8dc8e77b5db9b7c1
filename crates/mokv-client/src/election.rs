//! Elections: [`Election`] names one, [`Leadership`] is to have won it, [`Observer`] watches who does. See
//! [`queue`](crate::queue) for how.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Client, Sent};
use crate::error::Error;
use crate::lease::Lease;
use crate::pair::Pair;
use crate::queue::{self, Backing, Place};
use crate::txn::{Compare, Txn, TxnOp};
use crate::watch::{Watch, WatchItem};

/// An election: one of many processes leads at a time. See [`Client::election`].
#[derive(Debug, Clone)]
pub struct Election {
    client: Client,
    name: String,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The key that stands for it.
    pub key: String,
    /// What it says of itself.
    pub value: Bytes,
    /// Its fencing token: see [`Leadership::token`].
    pub token: u64,
}

impl From<Pair> for Leader {
    fn from(pair: Pair) -> Self {
        Self { key: pair.key, value: pair.value, token: pair.create_revision }
    }
}

impl Client {
    /// An election of that name.
    ///
    /// ```no_run
    /// # async fn example(client: mokv_client::Client) -> Result<(), mokv_client::Error> {
    /// let election = client.election("scheduler");
    /// loop {
    ///     let leadership = election.campaign("10.0.0.7:9000").await?;
    ///     tokio::select! {
    ///         () = leadership.lost() => println!("somebody else may lead by now"),
    ///         () = lead(leadership.token()) => return leadership.resign().await,
    ///     }
    /// }
    /// # }
    /// # async fn lead(_: u64) {}
    /// ```
    pub fn election(&self, name: impl Into<String>) -> Election {
        Election { client: self.clone(), name: name.into() }
    }
}

impl Election {
    /// Stands for the election, and waits until it is won. Candidates win in the order in which they came. `value` is what
    /// the others see: an address, say.
    ///
    /// Waiting takes as long as it takes. [`tokio::time::timeout`] bounds it; given up, the candidate stands no more.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the candidacy was lost. For the rest see [`Error`].
    pub fn campaign(&self, value: impl Into<Bytes>) -> Campaign {
        Campaign { election: self.clone(), value: value.into(), backing: Backing::Own(queue::TTL) }
    }

    /// Who leads; `None` if nobody does.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        let candidates = queue::places(&self.client, &self.name).await?;
        Ok(candidates.into_iter().next().map(Leader::from))
    }

    /// Watches who leads.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn observe(&self) -> Result<Observer, Error> {
        let watch = self.client.watch_range(queue::range(&self.name)).list_first().await?;
        Ok(Observer { watch, candidates: Candidates::new(&self.name) })
    }
}

/// A candidate's way into the office. See [`Election::campaign`].
#[derive(Debug, Clone)]
#[must_use = "a campaign begins when it is awaited"]
pub struct Campaign {
    election: Election,
    value: Bytes,
    backing: Backing,
}

impl Campaign {
    /// How soon another leads when this process is gone. 10 s, if nothing is said.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.backing = Backing::Own(ttl);
        self
    }

    /// The leadership is held with this lease, and lost with it. A lease stands for an election once: [`Error::Refused`] if
    /// it does already.
    pub fn lease(mut self, lease: &Lease) -> Self {
        self.backing = Backing::Given(lease.clone());
        self
    }
}

impl IntoFuture for Campaign {
    type Output = Result<Leadership, Error>;
    type IntoFuture = Sent<Leadership>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { election: Election { client, name }, value, backing } = self;
        Box::pin(async move {
            let place = Place::take(&client, &name, value, backing).await?;
            place.wait_until_first().await?;
            Ok(Leadership { client, place })
        })
    }
}

/// An election that was won. Dropped, it is resigned from by a task of the runtime; [`Leadership::resign`] says when that
/// is done.
#[derive(Debug)]
#[must_use = "dropped, it is resigned from"]
pub struct Leadership {
    client: Client,
    place: Place,
}

impl Leadership {
    /// The fencing token: greater than that of all who have led before. See [`LockGuard::token`](crate::LockGuard::token).
    pub fn token(&self) -> u64 {
        self.place.token()
    }

    /// The key that stands for it.
    pub fn key(&self) -> &str {
        self.place.key()
    }

    /// For a [`Txn`] that is to happen only while this one leads.
    pub fn is_held(&self) -> Compare {
        self.place.is_held()
    }

    /// Says something else of itself, without another election.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the leadership is lost. For the rest see [`Client::set`].
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<(), Error> {
        let set = TxnOp::set(self.key(), value).lease(self.place.lease().id());
        let answer = self.client.txn(Txn::new().when(self.is_held()).then(set)).await;
        match answer {
            Ok(answer) if answer.succeeded => Ok(()),
            Ok(_) | Err(Error::NotFound(_)) => Err(self.place.lost()),
            Err(error) => Err(error),
        }
    }

    /// Whether it is no longer certain that this one leads. That does not change any more.
    pub fn is_lost(&self) -> bool {
        self.place.lease().is_lost()
    }

    /// Completes when the leadership is lost, as [`Lease::lost`] does.
    pub async fn lost(&self) {
        self.place.lease().lost().await;
    }

    /// Lets the next candidate lead. Done when it can.
    ///
    /// # Errors
    ///
    /// As [`Client::set`]. Whatever comes of it, the leadership ends at the latest with its lease.
    pub async fn resign(self) -> Result<(), Error> {
        self.place.leave().await
    }
}

/// Watches who leads. See [`Election::observe`].
#[derive(Debug)]
pub struct Observer {
    watch: Watch,
    candidates: Candidates,
}

impl Observer {
    /// Who leads: first whoever does now, then whenever that, or what the leader says of itself, has changed; `None` while
    /// nobody does. May be given up and called again.
    ///
    /// # Errors
    ///
    /// As [`Watch::next`].
    pub async fn next(&mut self) -> Result<Option<Leader>, Error> {
        loop {
            let item = self.watch.next().await?;
            if let Some(leader) = self.candidates.take(item) {
                return Ok(leader);
            }
        }
    }
}

/// Those who stand for an election, and whom of them the observer knows to lead.
#[derive(Debug)]
struct Candidates {
    name: String,
    /// By their keys.
    standing: BTreeMap<String, Pair>,
    told: Option<Option<Leader>>,
}

impl Candidates {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), standing: BTreeMap::new(), told: None }
    }

    /// Takes in what has happened. The leader, if that is news.
    fn take(&mut self, item: WatchItem) -> Option<Option<Leader>> {
        match item {
            WatchItem::Listed { pairs, .. } => {
                self.standing.clear();
                pairs.into_iter().for_each(|pair| self.stand(pair));
            }
            WatchItem::Changes(changes) => {
                for event in changes.events {
                    match event.pair {
                        Some(pair) => self.stand(pair),
                        None => drop(self.standing.remove(&event.key)),
                    }
                }
            }
        }
        let leader = self.standing.values().min_by_key(|pair| pair.create_revision).cloned().map(Leader::from);
        let is_news = self.told.as_ref() != Some(&leader);
        is_news.then(|| self.told.insert(leader).clone())
    }

    fn stand(&mut self, pair: Pair) {
        if queue::is_place(&self.name, &pair.key) {
            self.standing.insert(pair.key.clone(), pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use mokv_proto::api::GetResponse;

    use super::*;
    use crate::watch::{Changes, Event};

    fn pair(key: &str, value: &'static str, token: u64) -> Pair {
        let value = value.into();
        Pair::from(GetResponse { key: key.into(), value, create_revision: token, ..GetResponse::default() })
    }

    fn listed(pairs: Vec<Pair>) -> WatchItem {
        WatchItem::Listed { revision: 1, pairs, again: false }
    }

    fn set(pair: Pair) -> Event {
        Event { key: pair.key.clone(), pair: Some(pair), previous: None }
    }

    fn gone(key: &str) -> Event {
        Event { key: key.into(), pair: None, previous: None }
    }

    fn changes(events: Vec<Event>) -> WatchItem {
        WatchItem::Changes(Changes { revision: 2, events })
    }

    #[test]
    fn the_first_leads_and_only_news_are_told() {
        let mut candidates = Candidates::new("e");
        assert_eq!(candidates.take(listed(vec![])), Some(None));
        assert_eq!(candidates.take(changes(vec![set(pair("e/x/1", "other election", 1))])), None);
        let leader =
            |key: &str, value: &'static str, token| Some(Some(Leader { key: key.into(), value: value.into(), token }));
        assert_eq!(candidates.take(changes(vec![set(pair("e/9", "a", 5))])), leader("e/9", "a", 5));
        assert_eq!(candidates.take(changes(vec![set(pair("e/10", "b", 7))])), None, "second");
        assert_eq!(candidates.take(changes(vec![set(pair("e/9", "A", 5))])), leader("e/9", "A", 5));
        assert_eq!(candidates.take(changes(vec![gone("e/9")])), leader("e/10", "b", 7));
        assert_eq!(candidates.take(listed(vec![pair("e/10", "b", 7)])), None);
        assert_eq!(candidates.take(listed(vec![])), Some(None));
    }
}
