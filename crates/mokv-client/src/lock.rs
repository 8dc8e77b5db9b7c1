//! Locks: [`Lock`] waits for one, [`LockGuard`] holds it. See [`queue`](crate::queue) for how.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Client, Sent};
use crate::error::Error;
use crate::lease::Lease;
use crate::queue::{self, Backing, Place};
use crate::txn::Compare;

/// A lock that is to be taken. See [`Client::lock`].
#[derive(Debug, Clone)]
#[must_use = "a lock is taken when it is awaited"]
pub struct Lock {
    client: Client,
    name: String,
    value: Bytes,
    backing: Backing,
}

impl Client {
    /// A lock that one process at a time holds, of all that share the cluster. Who waits for it gets it in the order in
    /// which they came.
    ///
    /// ```no_run
    /// # async fn example(client: mokv_client::Client) -> Result<(), mokv_client::Error> {
    /// use mokv_client::{Txn, TxnOp};
    ///
    /// let guard = client.lock("jobs/nightly").await?;
    /// tokio::select! {
    ///     () = guard.lost() => println!("somebody else may be at it by now: stop"),
    ///     () = do_the_work() => {
    ///         // Written only if the lock is still held, whatever delays there were on the way.
    ///         let txn = Txn::new().when(guard.is_held()).then(TxnOp::set("nightly/done", "today"));
    ///         println!("counted: {}", client.txn(txn).await?.succeeded);
    ///     }
    /// }
    /// guard.unlock().await?;
    /// # Ok(())
    /// # }
    /// # async fn do_the_work() {}
    /// ```
    ///
    /// A lock can be lost: a process that stands still, or is cut off, for longer than the ttl, has lost it, and may learn
    /// of that late. So what it protects has to be written with [`LockGuard::is_held`], if it is in the same cluster, or
    /// else with the [`LockGuard::token`], for the other system to refuse all that comes with a lower one.
    ///
    /// Waiting takes as long as it takes. [`tokio::time::timeout`] bounds it; given up, it leaves the queue.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the place in the queue was lost. For the rest see [`Error`].
    pub fn lock(&self, name: impl Into<String>) -> Lock {
        let backing = Backing::Own(queue::TTL);
        Lock { client: self.clone(), name: name.into(), value: Bytes::new(), backing }
    }
}

impl Lock {
    /// How soon others get the lock when this process is gone. 10 s, if nothing is said.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.backing = Backing::Own(ttl);
        self
    }

    /// The lock is held with this lease, and lost with it. A lease holds a lock once: [`Error::Refused`] if it has it, or
    /// waits for it, already.
    pub fn lease(mut self, lease: &Lease) -> Self {
        self.backing = Backing::Given(lease.clone());
        self
    }

    /// What its key says to those who look: who holds it, or why.
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = value.into();
        self
    }

    /// Takes the lock if nobody has it and nobody waits for it; else `None`.
    ///
    /// # Errors
    ///
    /// As [`Client::lock`].
    pub async fn try_lock(self) -> Result<Option<LockGuard>, Error> {
        if !queue::places(&self.client, &self.name).await?.is_empty() {
            return Ok(None);
        }
        let place = Place::take(&self.client, &self.name, self.value, self.backing).await?;
        if place.is_first().await? {
            return Ok(Some(LockGuard { place }));
        }
        // Somebody else has tried at the same time.
        place.leave().await?;
        Ok(None)
    }
}

impl IntoFuture for Lock {
    type Output = Result<LockGuard, Error>;
    type IntoFuture = Sent<LockGuard>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let place = Place::take(&self.client, &self.name, self.value, self.backing).await?;
            place.wait_until_first().await?;
            Ok(LockGuard { place })
        })
    }
}

/// A lock that is held. Dropped, it is released by a task of the runtime; [`LockGuard::unlock`] says when that is done.
#[derive(Debug)]
#[must_use = "dropped, it is released"]
pub struct LockGuard {
    place: Place,
}

impl LockGuard {
    /// The fencing token: greater than that of all who have held the lock before. A system that remembers the greatest
    /// token that it has seen, and refuses lower ones, is safe from those who don't know that they have lost the lock.
    pub fn token(&self) -> u64 {
        self.place.token()
    }

    /// The key that stands for it.
    pub fn key(&self) -> &str {
        self.place.key()
    }

    /// For a [`Txn`](crate::Txn) that is to happen only while the lock is held.
    pub fn is_held(&self) -> Compare {
        self.place.is_held()
    }

    /// Whether it is no longer certain that the lock is held. That does not change any more.
    pub fn is_lost(&self) -> bool {
        self.place.lease().is_lost()
    }

    /// Completes when the lock is lost, as [`Lease::lost`] does.
    pub async fn lost(&self) {
        self.place.lease().lost().await;
    }

    /// Releases the lock. Done when others can have it.
    ///
    /// # Errors
    ///
    /// As [`Client::set`]. Whatever comes of it, the lock is released at the latest with its lease.
    pub async fn unlock(self) -> Result<(), Error> {
        self.place.leave().await
    }
}
