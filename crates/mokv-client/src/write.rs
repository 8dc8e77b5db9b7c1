//! Writes of one key or one range: [`Set`], [`Delete`], [`DeleteRange`], [`Increment`].

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use mokv_proto::api::condition::Is;
use mokv_proto::api::{Condition, DeleteRangeRequest, DeleteRequest, IncrementRequest, SetRequest};

use crate::client::{Client, Sent, millis};
use crate::error::Error;
use crate::operation::{Answer, Operation, mismatch};
use crate::pair::{Deleted, DeletedRange, Incremented, Written};

/// A set of a key. See [`Client::set`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct Set {
    client: Client,
    request: SetRequest,
}

impl Set {
    pub(crate) fn new(client: &Client, key: String, value: Bytes) -> Self {
        Self { client: client.clone(), request: SetRequest { key, value, ..SetRequest::default() } }
    }

    pub(crate) fn keeping_value(client: &Client, key: String) -> Self {
        let request = SetRequest { key, keep_value: true, ..SetRequest::default() };
        Self { client: client.clone(), request }
    }

    /// The key is deleted so long after this write, at least a millisecond. It lives at least so long, whatever becomes of
    /// leaders.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl_ms = ttl_millis(ttl);
        self
    }

    /// The key is deleted with this lease.
    pub fn lease(mut self, lease_id: u64) -> Self {
        self.request.lease_id = lease_id;
        self
    }

    /// The ttl or the lease that the key has stays what it is. Otherwise a set without them takes them away.
    pub fn keep_ttl(mut self) -> Self {
        self.request.keep_ttl = true;
        self
    }

    /// Only if the key has no value; else [`Written::ok`] is false.
    pub fn if_absent(self) -> Self {
        self.condition(Is::Absent(true))
    }

    /// Only if the key has a value; else [`Written::ok`] is false.
    pub fn if_present(self) -> Self {
        self.condition(Is::Present(true))
    }

    /// Only if the key's last write has this revision; else [`Written::ok`] is false.
    pub fn if_revision(self, mod_revision: u64) -> Self {
        self.condition(Is::ModRevision(mod_revision))
    }

    fn condition(mut self, is: Is) -> Self {
        self.request.condition = Some(Condition { is: Some(is) });
        self
    }

    /// Answer with what the key had before.
    pub fn previous(mut self) -> Self {
        self.request.return_previous = true;
        self
    }

    /// How long the call may take, all attempts included, instead of the client's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }
}

impl IntoFuture for Set {
    type Output = Result<Written, Error>;
    type IntoFuture = Sent<Written>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { client, request } = self;
        Box::pin(async move {
            match client.operate(Operation::Set(request)).await? {
                Answer::Set(answer) => Ok(answer.into()),
                _ => Err(mismatch()),
            }
        })
    }
}

/// A delete of a key. See [`Client::delete`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct Delete {
    client: Client,
    request: DeleteRequest,
}

impl Delete {
    pub(crate) fn new(client: &Client, key: String) -> Self {
        Self { client: client.clone(), request: DeleteRequest { key, ..DeleteRequest::default() } }
    }

    /// Only if the key has a value; else [`Deleted::ok`] is false.
    pub fn if_present(self) -> Self {
        self.condition(Is::Present(true))
    }

    /// Only if the key's last write has this revision; else [`Deleted::ok`] is false.
    pub fn if_revision(self, mod_revision: u64) -> Self {
        self.condition(Is::ModRevision(mod_revision))
    }

    fn condition(mut self, is: Is) -> Self {
        self.request.condition = Some(Condition { is: Some(is) });
        self
    }

    /// Answer with what the key had.
    pub fn previous(mut self) -> Self {
        self.request.return_previous = true;
        self
    }

    /// How long the call may take, all attempts included, instead of the client's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }
}

impl IntoFuture for Delete {
    type Output = Result<Deleted, Error>;
    type IntoFuture = Sent<Deleted>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.client.operate(Operation::Delete(self.request)).await? {
                Answer::Delete(answer) => Ok(answer.into()),
                _ => Err(mismatch()),
            }
        })
    }
}

/// A delete of a range of keys. See [`Client::delete_range`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct DeleteRange {
    client: Client,
    request: DeleteRangeRequest,
}

impl DeleteRange {
    pub(crate) fn new(client: &Client, request: DeleteRangeRequest) -> Self {
        Self { client: client.clone(), request }
    }

    /// How long the call may take, all attempts included, instead of the client's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }
}

impl IntoFuture for DeleteRange {
    type Output = Result<DeletedRange, Error>;
    type IntoFuture = Sent<DeletedRange>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.client.operate(Operation::DeleteRange(self.request)).await? {
                Answer::DeleteRange(answer) => Ok(answer.into()),
                _ => Err(mismatch()),
            }
        })
    }
}

/// An addition to a number. See [`Client::increment`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct Increment {
    client: Client,
    request: IncrementRequest,
}

impl Increment {
    pub(crate) fn new(client: &Client, key: String, delta: i64) -> Self {
        let request = IncrementRequest { key, delta, ..IncrementRequest::default() };
        Self { client: client.clone(), request }
    }

    /// If the key comes to be, it is deleted so long after this write. A key that is there keeps what it has.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl_ms = ttl_millis(ttl);
        self
    }

    /// How long the call may take, all attempts included, instead of the client's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }
}

impl IntoFuture for Increment {
    type Output = Result<Incremented, Error>;
    type IntoFuture = Sent<Incremented>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { client, request } = self;
        Box::pin(async move {
            match client.operate(Operation::Increment(request)).await? {
                Answer::Increment(answer) => Ok(answer.into()),
                _ => Err(mismatch()),
            }
        })
    }
}

/// A ttl as the contract has it, where 0 says that there is none.
pub(crate) fn ttl_millis(ttl: Duration) -> u64 {
    millis(ttl).max(1)
}
