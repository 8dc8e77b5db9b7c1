//! Transactions: [`Txn`] says what to compare and what to do, [`Client::txn`] does it, all in one revision.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use mokv_proto::api::compare::{Operator, Target};
use mokv_proto::api::txn_op::Op;
use mokv_proto::api::txn_result::Result as Done;
use mokv_proto::api::{self, DeleteRequest, GetRequest, ListRequest, SetRequest, TxnRequest, TxnResponse};

use crate::client::{Client, Sent};
use crate::error::Error;
use crate::operation::{Answer, Operation, mismatch};
use crate::pair::{Deleted, DeletedRange, Pair, Written};
use crate::range::KeyRange;
use crate::write::ttl_millis;

/// Comparisons, and what to do if all of them hold, or otherwise.
///
/// ```no_run
/// # async fn example(client: mokv_client::Client) -> Result<(), mokv_client::Error> {
/// use mokv_client::{Compare, Txn, TxnOp};
///
/// // Moves a task from one list to another, if nobody has taken it.
/// let moving = Txn::new()
///     .when(Compare::present("todo/7"))
///     .then(TxnOp::delete("todo/7"))
///     .then(TxnOp::set("doing/7", "me"))
///     .otherwise(TxnOp::get("doing/7"));
/// let answer = client.txn(moving).await?;
/// println!("mine: {}", answer.succeeded);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Txn {
    request: TxnRequest,
}

impl Txn {
    /// A transaction that does nothing yet. Without comparisons it does its `then`.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more comparison that has to hold.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.request.compare.push(compare.0);
        self
    }

    /// One more operation to do if all comparisons hold.
    #[must_use]
    pub fn then(mut self, op: impl Into<TxnOp>) -> Self {
        self.request.then.push(op.into().into_proto());
        self
    }

    /// One more operation to do if a comparison does not hold.
    #[must_use]
    pub fn otherwise(mut self, op: impl Into<TxnOp>) -> Self {
        self.request.otherwise.push(op.into().into_proto());
        self
    }
}

/// A comparison of a [`Txn`].
#[derive(Debug, Clone, PartialEq)]
pub struct Compare(api::Compare);

impl Compare {
    /// Compares the value of a key. No comparison of it holds for a key without one.
    pub fn value(key: impl Into<String>) -> Comparing<Bytes> {
        Comparing::new(key, Target::Value)
    }

    /// Compares how many times a key was written since it came to be; 0 if it is absent.
    pub fn version(key: impl Into<String>) -> Comparing<u64> {
        Comparing::new(key, Target::Version)
    }

    /// Compares the revision at which a key came to be; 0 if it is absent.
    pub fn create_revision(key: impl Into<String>) -> Comparing<u64> {
        Comparing::new(key, Target::CreateRevision)
    }

    /// Compares the revision of the last write to a key; 0 if it is absent.
    pub fn mod_revision(key: impl Into<String>) -> Comparing<u64> {
        Comparing::new(key, Target::ModRevision)
    }

    /// Compares the lease that a key ends with; 0 if it has none.
    pub fn lease(key: impl Into<String>) -> Comparing<u64> {
        Comparing::new(key, Target::LeaseId)
    }

    /// Holds if a key has a value.
    pub fn present(key: impl Into<String>) -> Self {
        Self::version(key).greater_than(0)
    }

    /// Holds if a key has no value.
    pub fn absent(key: impl Into<String>) -> Self {
        Self::version(key).equals(0)
    }
}

/// Half a [`Compare`]: what is compared. With what is said by one of its methods.
#[derive(Debug, Clone)]
#[must_use = "say what it is compared with"]
pub struct Comparing<T> {
    key: String,
    range_end: String,
    target: fn(T) -> Target,
}

impl<T> Comparing<T> {
    fn new(key: impl Into<String>, target: fn(T) -> Target) -> Self {
        Self { key: key.into(), range_end: String::new(), target }
    }

    /// Compares every key from this one on and before `end`: it has to hold for each, and holds where there is none. An
    /// empty end is no bound.
    pub fn until(mut self, end: impl Into<String>) -> Self {
        self.range_end = end.into();
        if self.range_end.is_empty() {
            // So the contract says that there is no bound: an empty text says that it is one key.
            self.range_end.push('\0');
        }
        self
    }

    fn compare(self, operator: Operator, with: T) -> Compare {
        let target = Some((self.target)(with));
        Compare(api::Compare { key: self.key, range_end: self.range_end, operator: operator.into(), target })
    }
}

impl Comparing<u64> {
    /// Holds where they are equal.
    pub fn equals(self, with: u64) -> Compare {
        self.compare(Operator::Equal, with)
    }

    /// Holds where they differ.
    pub fn differs_from(self, with: u64) -> Compare {
        self.compare(Operator::NotEqual, with)
    }

    /// Holds where the key's is greater than `with`.
    pub fn greater_than(self, with: u64) -> Compare {
        self.compare(Operator::Greater, with)
    }

    /// Holds where the key's is less than `with`.
    pub fn less_than(self, with: u64) -> Compare {
        self.compare(Operator::Less, with)
    }
}

impl Comparing<Bytes> {
    /// Holds where they are equal.
    pub fn equals(self, with: impl Into<Bytes>) -> Compare {
        self.compare(Operator::Equal, with.into())
    }

    /// Holds where they differ.
    pub fn differs_from(self, with: impl Into<Bytes>) -> Compare {
        self.compare(Operator::NotEqual, with.into())
    }

    /// Holds where the key's is greater than `with`.
    pub fn greater_than(self, with: impl Into<Bytes>) -> Compare {
        self.compare(Operator::Greater, with.into())
    }

    /// Holds where the key's is less than `with`.
    pub fn less_than(self, with: impl Into<Bytes>) -> Compare {
        self.compare(Operator::Less, with.into())
    }
}

/// An operation of a [`Txn`]. Each sees what those before it did.
#[derive(Debug, Clone, PartialEq)]
pub struct TxnOp(Op);

impl TxnOp {
    /// Sets a key.
    pub fn set(key: impl Into<String>, value: impl Into<Bytes>) -> TxnSet {
        TxnSet(SetRequest { key: key.into(), value: value.into(), ..SetRequest::default() })
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<String>) -> TxnDelete {
        TxnDelete(DeleteRequest { key: key.into(), ..DeleteRequest::default() })
    }

    /// Deletes every key of a range.
    pub fn delete_range(range: KeyRange) -> Self {
        Self(Op::DeleteRange(range.into_delete()))
    }

    /// Reads a key.
    pub fn get(key: impl Into<String>) -> Self {
        Self(Op::Get(GetRequest { key: key.into(), ..GetRequest::default() }))
    }

    /// Reads a range.
    pub fn list(range: KeyRange) -> TxnList {
        TxnList(range.to_list())
    }

    fn into_proto(self) -> api::TxnOp {
        api::TxnOp { op: Some(self.0) }
    }
}

/// A transaction within a transaction.
impl From<Txn> for TxnOp {
    fn from(txn: Txn) -> Self {
        Self(Op::Txn(txn.request))
    }
}

/// A set of a [`Txn`].
#[derive(Debug, Clone, PartialEq)]
#[must_use = "give it to a Txn"]
pub struct TxnSet(SetRequest);

impl TxnSet {
    /// As [`Set::ttl`](crate::Set::ttl).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl_ms = ttl_millis(ttl);
        self
    }

    /// As [`Set::lease`](crate::Set::lease).
    pub fn lease(mut self, lease_id: u64) -> Self {
        self.0.lease_id = lease_id;
        self
    }

    /// As [`Set::keep_ttl`](crate::Set::keep_ttl).
    pub fn keep_ttl(mut self) -> Self {
        self.0.keep_ttl = true;
        self
    }

    /// As [`Set::previous`](crate::Set::previous).
    pub fn previous(mut self) -> Self {
        self.0.return_previous = true;
        self
    }
}

impl From<TxnSet> for TxnOp {
    fn from(set: TxnSet) -> Self {
        Self(Op::Set(set.0))
    }
}

/// A delete of a [`Txn`].
#[derive(Debug, Clone, PartialEq)]
#[must_use = "give it to a Txn"]
pub struct TxnDelete(DeleteRequest);

impl TxnDelete {
    /// As [`Delete::previous`](crate::Delete::previous).
    pub fn previous(mut self) -> Self {
        self.0.return_previous = true;
        self
    }
}

impl From<TxnDelete> for TxnOp {
    fn from(delete: TxnDelete) -> Self {
        Self(Op::Delete(delete.0))
    }
}

/// A list of a [`Txn`].
#[derive(Debug, Clone, PartialEq)]
#[must_use = "give it to a Txn"]
pub struct TxnList(ListRequest);

impl TxnList {
    /// At most so many pairs; 0 means all.
    pub fn limit(mut self, limit: u64) -> Self {
        self.0.limit = limit;
        self
    }

    /// Leave the values out.
    pub fn keys_only(mut self) -> Self {
        self.0.keys_only = true;
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.0.reverse = true;
        self
    }
}

impl From<TxnList> for TxnOp {
    fn from(list: TxnList) -> Self {
        Self(Op::List(list.0))
    }
}

/// A transaction that is sent. See [`Client::txn`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct Transact {
    client: Client,
    txn: Txn,
}

impl Transact {
    pub(crate) fn new(client: &Client, txn: Txn) -> Self {
        Self { client: client.clone(), txn }
    }

    /// How long the call may take, all attempts included, instead of the client's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.client.timeout = timeout;
        self
    }
}

impl IntoFuture for Transact {
    type Output = Result<TxnAnswer, Error>;
    type IntoFuture = Sent<TxnAnswer>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.client.operate(Operation::Txn(self.txn.request)).await? {
                Answer::Txn(answer) => answer.try_into(),
                _ => Err(mismatch()),
            }
        })
    }
}

/// What a transaction has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// The revision of this write, or of the store where nothing was changed.
    pub revision: u64,
    /// Of the operations that were done, one each.
    pub results: Vec<TxnResult>,
}

/// What one operation of a transaction has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnResult {
    /// Of [`TxnOp::set`].
    Set(Written),
    /// Of [`TxnOp::delete`].
    Delete(Deleted),
    /// Of [`TxnOp::delete_range`].
    DeleteRange(DeletedRange),
    /// Of [`TxnOp::get`]: `None` if the key has no value.
    Get(Option<Pair>),
    /// Of [`TxnOp::list`].
    List {
        /// In the order of their keys, or against it.
        pairs: Vec<Pair>,
        /// There are more: the limit was reached, or the answers of this transaction are as large as they get.
        more: bool,
    },
    /// Of a transaction within this one.
    Txn(TxnAnswer),
}

impl TryFrom<TxnResponse> for TxnAnswer {
    type Error = Error;

    fn try_from(answer: TxnResponse) -> Result<Self, Error> {
        let results = answer.results.into_iter().map(TxnResult::try_from).collect::<Result<_, _>>()?;
        Ok(Self { succeeded: answer.succeeded, revision: answer.revision, results })
    }
}

impl TryFrom<api::TxnResult> for TxnResult {
    type Error = Error;

    fn try_from(result: api::TxnResult) -> Result<Self, Error> {
        Ok(match result.result.ok_or_else(mismatch)? {
            Done::Set(answer) => Self::Set(answer.into()),
            Done::Delete(answer) => Self::Delete(answer.into()),
            Done::DeleteRange(answer) => Self::DeleteRange(answer.into()),
            Done::Get(answer) => Self::Get(answer.pair.map(Pair::from)),
            Done::List(answer) => {
                Self::List { pairs: answer.pairs.into_iter().map(Pair::from).collect(), more: answer.more }
            }
            Done::Txn(answer) => Self::Txn(answer.try_into()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_what_was_said() {
        let inner = Txn::new().then(TxnOp::delete_range(KeyRange::all()));
        let Txn { request } = Txn::new()
            .when(Compare::value("a").equals("1"))
            .when(Compare::mod_revision("a").until("b").less_than(7))
            .when(Compare::lease("a").until("").differs_from(0))
            .then(TxnOp::set("a", "2").ttl(Duration::from_micros(1)).previous())
            .otherwise(TxnOp::list(KeyRange::prefix("a")).limit(3).reverse())
            .otherwise(inner);
        let compared: Vec<_> = request.compare.iter().map(|it| (it.range_end.as_str(), it.operator())).collect();
        assert_eq!(compared, [("", Operator::Equal), ("b", Operator::Less), ("\0", Operator::NotEqual)]);
        assert_eq!(request.compare[1].target, Some(Target::ModRevision(7)));
        let Some(Op::Set(set)) = &request.then[0].op else { panic!("{request:?}") };
        assert_eq!((set.ttl_ms, set.return_previous), (1, true));
        let Some(Op::Txn(inner)) = &request.otherwise[1].op else { panic!("{request:?}") };
        assert!(matches!(&inner.then[0].op, Some(Op::DeleteRange(range)) if range.all), "{inner:?}");
    }

    #[test]
    fn an_answer_without_a_result_is_no_answer() {
        let answer = TxnResponse { results: vec![api::TxnResult::default()], ..TxnResponse::default() };
        assert!(matches!(TxnAnswer::try_from(answer), Err(Error::Unexpected { .. })));
    }
}
