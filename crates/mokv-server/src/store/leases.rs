//! Leases: what keys can be bound to, so that they go together when nobody keeps them alive.
//!
//! The state knows which leases there are, which keys each has, and how long it was granted for. How often one was kept
//! alive is known to the leader alone ([`lease_keeper`](crate::lease_keeper)), which has those revoked that were not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mokv_proto::internal;

use super::hash;
use super::key::Key;
use super::log_time::LogTime;
use super::memory::map_entry_bytes;
use crate::command::Rejection;

/// How many leases there may be. Part of the state machine: all nodes of a cluster must agree on it.
pub const LEASES_MAX: usize = 100_000;

const LEASE_BYTES: usize = map_entry_bytes(size_of::<(u64, Granted)>());
const ATTACHED_BYTES: usize = map_entry_bytes(size_of::<Key>());

/// A lease, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its id, never 0.
    pub id: u64,
    /// How long it lives unless it is kept alive.
    pub ttl: Duration,
    /// When it ends if it never is: from its granting on.
    pub deadline: LogTime,
    /// How many keys end with it.
    pub keys: usize,
}

struct Granted {
    ttl_ms: u64,
    deadline: LogTime,
    keys: BTreeSet<Key>,
}

/// All leases.
pub(super) struct Leases {
    by_id: BTreeMap<u64, Granted>,
    /// The id that the next one gets that has no wish, unless it is taken.
    next_id: u64,
    hash: u128,
    memory_bytes: usize,
}

impl Default for Leases {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), next_id: 1, hash: 0, memory_bytes: 0 }
    }
}

impl Leases {
    /// The leases of a snapshot, without their keys, which [`Leases::attach`] themselves. `Err` says what is wrong.
    pub(super) fn load(next_id: u64, leases: &[internal::Lease]) -> Result<Self, &'static str> {
        let mut loaded = Self { next_id: next_id.max(1), ..Self::default() };
        for lease in leases {
            if lease.lease_id == 0 || loaded.by_id.contains_key(&lease.lease_id) {
                return Err("a lease without an id, or there twice");
            }
            loaded.insert(lease.lease_id, lease.ttl_ms, LogTime::from_millis(lease.deadline_ms));
        }
        Ok(loaded)
    }

    /// Grants a lease that ends at `now` and its ttl. Id 0 takes the next one that is free.
    pub(super) fn grant(&mut self, id: u64, ttl_ms: u64, now: LogTime) -> Result<u64, Rejection> {
        if self.by_id.contains_key(&id) {
            return Err(Rejection::LeaseExists);
        }
        if self.by_id.len() >= LEASES_MAX {
            return Err(Rejection::TooManyLeases);
        }
        let id = if id == 0 { self.choose() } else { id };
        self.insert(id, ttl_ms, now.after(ttl_ms));
        Ok(id)
    }

    fn choose(&mut self) -> u64 {
        loop {
            let id = self.next_id;
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }

    fn insert(&mut self, id: u64, ttl_ms: u64, deadline: LogTime) {
        self.hash = self.hash.wrapping_add(hash::lease(id, ttl_ms, deadline.as_millis()));
        self.memory_bytes += LEASE_BYTES;
        self.by_id.insert(id, Granted { ttl_ms, deadline, keys: BTreeSet::new() });
    }

    /// Ends a lease, whose keys are returned in their order. `None` if there is no such lease.
    pub(super) fn revoke(&mut self, id: u64) -> Option<BTreeSet<Key>> {
        let granted = self.by_id.remove(&id)?;
        self.hash = self.hash.wrapping_sub(hash::lease(id, granted.ttl_ms, granted.deadline.as_millis()));
        let keys: usize = granted.keys.iter().map(|key| ATTACHED_BYTES + key.heap_bytes()).sum();
        self.memory_bytes -= LEASE_BYTES + keys;
        Some(granted.keys)
    }

    /// A key ends with a lease from now on. False if there is no such lease.
    pub(super) fn attach(&mut self, id: u64, key: &Key) -> bool {
        let Some(granted) = self.by_id.get_mut(&id) else { return false };
        if granted.keys.insert(key.clone()) {
            self.memory_bytes += ATTACHED_BYTES + key.heap_bytes();
        }
        true
    }

    /// A key does not end with a lease any more. The lease may be gone.
    pub(super) fn detach(&mut self, id: u64, key: &Key) {
        if self.by_id.get_mut(&id).is_some_and(|granted| granted.keys.remove(key)) {
            self.memory_bytes -= ATTACHED_BYTES + key.heap_bytes();
        }
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn get(&self, id: u64) -> Option<Lease> {
        self.by_id.get(&id).map(|granted| granted.describe(id))
    }

    /// The keys of a lease, in order.
    pub(super) fn keys(&self, id: u64) -> Option<&BTreeSet<Key>> {
        self.by_id.get(&id).map(|granted| &granted.keys)
    }

    /// All leases, by ascending id.
    pub(super) fn iter(&self) -> impl Iterator<Item = Lease> {
        self.by_id.iter().map(|(id, granted)| granted.describe(*id))
    }

    /// As a snapshot has them.
    pub(super) fn export(&self) -> Vec<internal::Lease> {
        let leases = self.by_id.iter().map(|(id, granted)| internal::Lease {
            lease_id: *id,
            ttl_ms: granted.ttl_ms,
            deadline_ms: granted.deadline.as_millis(),
        });
        leases.collect()
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// [`Leases::hash`] and [`Leases::memory_bytes`], counted anew.
    #[cfg(test)]
    pub(super) fn recount(&self) -> (u128, usize) {
        let mut anew = Self::load(self.next_id, &self.export()).expect("leases that can be loaded");
        for (id, granted) in &self.by_id {
            for key in &granted.keys {
                assert!(anew.attach(*id, key));
            }
        }
        (anew.hash, anew.memory_bytes)
    }
}

impl Granted {
    fn describe(&self, id: u64) -> Lease {
        Lease { id, ttl: Duration::from_millis(self.ttl_ms), deadline: self.deadline, keys: self.keys.len() }
    }
}
