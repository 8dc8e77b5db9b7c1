//! Transactions: checked as a whole before anything of them is done, and told as they went.
//!
//! Pure. Promises that no list of operations writes a key twice, which the history of a revision relies on, and that what
//! is nested stays far from the depth at which protobuf decoders give up: a command that was committed has to be readable.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use mokv_proto::{api, internal};
use tonic::Status;

use super::convert::{self, Invalid};
use super::status;
use crate::command::{Command, Op};
use crate::node::Limits;
use crate::store::LogTime;

/// Comparisons of a transaction, and operations, with all that is nested in it: one lock is held for them.
const TXN_PARTS_MAX: usize = 128;

/// Transactions within one another. Each takes two levels of messages in requests, the log and answers, and decoders stop
/// at a hundred.
const TXN_DEPTH_MAX: usize = 16;

pub(super) fn txn(request: api::TxnRequest, limits: &Limits) -> Result<Command, Invalid> {
    let id = convert::id(request.request_id)?;
    let request = api::TxnRequest { request_id: None, ..request };
    let mut reading = Reading { limits, compares: 0, operations: 0, depth: 0 };
    let txn = reading.txn(request)?;
    Writes::of_txn(&txn)?;
    Ok(Command { id, op: Some(Op::Txn(txn)) })
}

/// How much of a transaction was read.
struct Reading<'a> {
    limits: &'a Limits,
    compares: usize,
    operations: usize,
    depth: usize,
}

impl Reading<'_> {
    fn txn(&mut self, request: api::TxnRequest) -> Result<internal::Txn, Invalid> {
        if request.request_id.is_some() {
            return Err(Invalid::new("request_id", "it belongs to the whole transaction"));
        }
        self.depth += 1;
        if self.depth > TXN_DEPTH_MAX {
            return Err(Invalid::new("", format!("at most {TXN_DEPTH_MAX} transactions can be within one another")));
        }
        self.compares += request.compare.len();
        if self.compares > TXN_PARTS_MAX {
            return Err(Invalid::new("compare", format!("more than {TXN_PARTS_MAX} in all")));
        }
        let compare = request.compare.into_iter().enumerate().map(|(number, compare)| {
            self.compare(compare).map_err(|invalid| invalid.within(format_args!("compare[{number}]")))
        });
        let compare = compare.collect::<Result<_, _>>()?;
        let then = self.operations("then", request.then)?;
        let otherwise = self.operations("otherwise", request.otherwise)?;
        self.depth -= 1;
        Ok(internal::Txn { compare, then, otherwise })
    }

    fn compare(&self, compare: api::Compare) -> Result<internal::Compare, Invalid> {
        use api::compare::Target as Asked;
        use internal::compare::Target;
        let api::Compare { key, range_end, operator, target } = compare;
        let range_end = self.range_end(&key, range_end)?;
        if range_end.is_none() {
            convert::check_key(&key, self.limits)?;
        }
        let operator = match api::compare::Operator::try_from(operator) {
            Ok(api::compare::Operator::Equal) => internal::compare::Operator::Equal,
            Ok(api::compare::Operator::Greater) => internal::compare::Operator::Greater,
            Ok(api::compare::Operator::Less) => internal::compare::Operator::Less,
            Ok(api::compare::Operator::NotEqual) => internal::compare::Operator::NotEqual,
            Err(_) => return Err(Invalid::new("operator", format!("{operator} is none that this node knows"))),
        };
        let target = match target {
            Some(Asked::Version(version)) => Target::Version(version),
            Some(Asked::CreateRevision(revision)) => Target::CreateRevision(revision),
            Some(Asked::ModRevision(revision)) => Target::ModRevision(revision),
            Some(Asked::LeaseId(lease_id)) => Target::LeaseId(lease_id),
            Some(Asked::Value(value)) => {
                convert::check_size("value", value.len(), self.limits.value_bytes_max)?;
                Target::Value(value)
            }
            None => return Err(Invalid::new("target", "there is nothing to compare with that this node knows")),
        };
        Ok(internal::Compare { key: key.into(), range_end, operator: operator.into(), target: Some(target) })
    }

    /// `None` if it is one key that is compared.
    fn range_end(&self, key: &str, range_end: String) -> Result<Option<Bytes>, Invalid> {
        if range_end.is_empty() {
            return Ok(None);
        }
        convert::check_bound("key", key, self.limits)?;
        if range_end == "\0" {
            return Ok(Some(Bytes::new()));
        }
        convert::check_bound("range_end", &range_end, self.limits)?;
        match range_end.as_str() < key {
            true => Err(Invalid::new("range_end", "it is before the key")),
            false => Ok(Some(range_end.into())),
        }
    }

    fn operations(&mut self, list: &str, operations: Vec<api::TxnOp>) -> Result<Vec<internal::TxnOp>, Invalid> {
        self.operations += operations.len();
        if self.operations > TXN_PARTS_MAX {
            return Err(Invalid::new("", format!("more than {TXN_PARTS_MAX} in all")).within(list));
        }
        let operations = operations.into_iter().enumerate().map(|(number, operation)| {
            self.operation(operation).map_err(|invalid| invalid.within(format_args!("{list}[{number}]")))
        });
        operations.collect()
    }

    fn operation(&mut self, operation: api::TxnOp) -> Result<internal::TxnOp, Invalid> {
        use api::txn_op::Op as Asked;
        use internal::txn_op::Op;
        let op = match operation.op {
            Some(Asked::Set(set)) => self.set(set).map(Op::Set).map_err(|invalid| invalid.within("set"))?,
            Some(Asked::Delete(delete)) => {
                self.delete(delete).map(Op::Delete).map_err(|invalid| invalid.within("delete"))?
            }
            Some(Asked::DeleteRange(delete)) => {
                let deleted = refuse_id(delete.request_id.is_some());
                let deleted = deleted.and_then(|()| convert::delete_range_op(delete, self.limits));
                Op::DeleteRange(deleted.map_err(|invalid| invalid.within("delete_range"))?)
            }
            Some(Asked::Get(get)) => self.get(get).map(Op::Get).map_err(|invalid| invalid.within("get"))?,
            Some(Asked::List(list)) => self.list(list).map(Op::Scan).map_err(|invalid| invalid.within("list"))?,
            Some(Asked::Txn(txn)) => self.txn(txn).map(Op::Txn).map_err(|invalid| invalid.within("txn"))?,
            None => return Err(Invalid::new("", "no operation that this node knows")),
        };
        Ok(internal::TxnOp { op: Some(op) })
    }

    fn set(&self, set: api::SetRequest) -> Result<internal::Set, Invalid> {
        refuse_id(set.request_id.is_some())?;
        refuse_condition(set.condition.is_some())?;
        if set.keep_value {
            return Err(Invalid::new("keep_value", "not in a transaction"));
        }
        convert::set_op(set, self.limits)
    }

    fn delete(&self, delete: api::DeleteRequest) -> Result<internal::Delete, Invalid> {
        refuse_id(delete.request_id.is_some())?;
        refuse_condition(delete.condition.is_some())?;
        convert::delete_op(delete, self.limits)
    }

    fn get(&self, get: api::GetRequest) -> Result<internal::Get, Invalid> {
        let api::GetRequest { key, consistency, min_revision, max_staleness_ms, revision } = get;
        refuse_freshness(consistency, min_revision, max_staleness_ms, revision)?;
        convert::check_key(&key, self.limits)?;
        Ok(internal::Get { key: key.into() })
    }

    fn list(&self, list: api::ListRequest) -> Result<internal::Scan, Invalid> {
        let api::ListRequest { prefix, start, end, limit, keys_only, reverse, .. } = list;
        refuse_freshness(list.consistency, list.min_revision, list.max_staleness_ms, list.revision)?;
        let (start, end) = convert::bounds(&convert::range(prefix, start, end, self.limits)?);
        Ok(internal::Scan { start, end, limit, keys_only, reverse })
    }
}

fn refuse_id(there: bool) -> Result<(), Invalid> {
    match there {
        true => Err(Invalid::new("request_id", "it belongs to the whole transaction")),
        false => Ok(()),
    }
}

fn refuse_condition(there: bool) -> Result<(), Invalid> {
    match there {
        true => Err(Invalid::new("condition", "a transaction compares, then does all of a list")),
        false => Ok(()),
    }
}

/// A transaction reads the state that it changes.
fn refuse_freshness(consistency: i32, min_revision: u64, max_staleness_ms: u64, revision: u64) -> Result<(), Invalid> {
    let given = [
        ("consistency", consistency != 0),
        ("min_revision", min_revision != 0),
        ("max_staleness_ms", max_staleness_ms != 0),
        ("revision", revision != 0),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(Invalid::new(field, "a transaction reads what there is when it is applied")),
        None => Ok(()),
    }
}

/// What a list of operations may write. Deleting a key twice is no conflict: the second time there is nothing.
#[derive(Default)]
struct Writes<'a> {
    sets: BTreeSet<&'a Bytes>,
    deletes: Vec<Deleted<'a>>,
}

/// From the first key on, before the second; without that: one key. An empty end is none.
#[derive(Clone, Copy)]
struct Deleted<'a> {
    start: &'a Bytes,
    end: Option<&'a Bytes>,
}

impl Deleted<'_> {
    fn covers(&self, key: &Bytes) -> bool {
        match self.end {
            None => self.start == key,
            Some(end) => self.start <= key && (end.is_empty() || key < end),
        }
    }

    fn covers_any(&self, keys: &BTreeSet<&Bytes>) -> bool {
        keys.range::<&Bytes, _>(self.start..).next().is_some_and(|key| self.covers(key))
    }
}

impl<'a> Writes<'a> {
    /// Of either list: only one is done.
    fn of_txn(txn: &'a internal::Txn) -> Result<Self, Invalid> {
        let mut writes = Self::of_list("then", &txn.then)?;
        writes.join(Self::of_list("otherwise", &txn.otherwise)?);
        Ok(writes)
    }

    fn of_list(list: &str, operations: &'a [internal::TxnOp]) -> Result<Self, Invalid> {
        let mut writes = Self::default();
        for (number, operation) in operations.iter().enumerate() {
            let within = |invalid: Invalid| invalid.within(format_args!("{list}[{number}]"));
            let more = Self::of_operation(operation).map_err(within)?;
            if writes.conflict_with(&more) {
                return Err(within(Invalid::new("", "a key that it may write is written before in the same list")));
            }
            writes.join(more);
        }
        Ok(writes)
    }

    fn of_operation(operation: &'a internal::TxnOp) -> Result<Self, Invalid> {
        use internal::txn_op::Op;
        let mut writes = Self::default();
        match &operation.op {
            Some(Op::Set(set)) => drop(writes.sets.insert(&set.key)),
            Some(Op::Delete(delete)) => writes.deletes.push(Deleted { start: &delete.key, end: None }),
            Some(Op::DeleteRange(range)) => {
                writes.deletes.push(Deleted { start: &range.start, end: Some(&range.end) });
            }
            Some(Op::Txn(txn)) => return Self::of_txn(txn).map_err(|invalid| invalid.within("txn")),
            Some(Op::Get(_) | Op::Scan(_)) | None => {}
        }
        Ok(writes)
    }

    fn conflict_with(&self, more: &Self) -> bool {
        !self.sets.is_disjoint(&more.sets)
            || self.deletes.iter().any(|deleted| deleted.covers_any(&more.sets))
            || more.deletes.iter().any(|deleted| deleted.covers_any(&self.sets))
    }

    fn join(&mut self, mut more: Self) {
        self.sets.append(&mut more.sets);
        self.deletes.append(&mut more.deletes);
    }
}

pub(super) fn txn_response(
    outcome: internal::TxnOutcome,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<api::TxnResponse, Status> {
    let internal::TxnOutcome { succeeded, revision, results, truncated } = outcome;
    let results = results.into_iter().map(|result| txn_result(result, revision, remaining));
    Ok(api::TxnResponse { succeeded, revision, results: results.collect::<Result<_, _>>()?, truncated })
}

fn txn_result(
    result: internal::TxnResult,
    revision: u64,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<api::TxnResult, Status> {
    use api::txn_result::Result as Told;
    use internal::txn_result::Result as Outcome;
    let pair = |pair| convert::pair(pair, revision, remaining);
    let told = match result.result {
        Some(Outcome::Set(set)) => Told::Set(convert::set_response(set, remaining)?),
        Some(Outcome::Delete(delete)) => Told::Delete(convert::delete_response(delete, remaining)?),
        Some(Outcome::DeleteRange(range)) => Told::DeleteRange(convert::delete_range_response(range)),
        Some(Outcome::Get(get)) => Told::Get(api::TxnGetResult { pair: get.pair.map(pair).transpose()? }),
        Some(Outcome::Scan(scan)) => {
            let pairs = scan.pairs.into_iter().map(pair).collect::<Result<_, _>>()?;
            Told::List(api::TxnListResult { pairs, more: scan.more })
        }
        Some(Outcome::Txn(txn)) => Told::Txn(txn_response(txn, remaining)?),
        None => return Err(status::internal("the state machine gave a part of a transaction no outcome")),
    };
    Ok(api::TxnResult { result: Some(told) })
}

#[cfg(test)]
mod tests {
    use api::txn_op::Op as Asked;
    use prost::Message;

    use super::*;

    fn limits() -> Limits {
        Limits { key_bytes_max: 4, value_bytes_max: 8, ..Limits::default() }
    }

    fn op(op: Asked) -> api::TxnOp {
        api::TxnOp { op: Some(op) }
    }

    fn set(key: &str) -> api::TxnOp {
        op(Asked::Set(api::SetRequest { key: key.into(), ..Default::default() }))
    }

    fn delete(key: &str) -> api::TxnOp {
        op(Asked::Delete(api::DeleteRequest { key: key.into(), ..Default::default() }))
    }

    fn delete_prefix(prefix: &str) -> api::TxnOp {
        op(Asked::DeleteRange(api::DeleteRangeRequest { prefix: prefix.into(), ..Default::default() }))
    }

    fn delete_all() -> api::TxnOp {
        op(Asked::DeleteRange(api::DeleteRangeRequest { all: true, ..Default::default() }))
    }

    fn get(key: &str) -> api::TxnOp {
        op(Asked::Get(api::GetRequest { key: key.into(), ..Default::default() }))
    }

    fn nested(then: Vec<api::TxnOp>, otherwise: Vec<api::TxnOp>) -> api::TxnOp {
        op(Asked::Txn(api::TxnRequest { then, otherwise, ..Default::default() }))
    }

    fn then(then: Vec<api::TxnOp>) -> api::TxnRequest {
        api::TxnRequest { then, ..Default::default() }
    }

    fn compare(key: &str, range_end: &str) -> api::Compare {
        api::Compare {
            key: key.into(),
            range_end: range_end.into(),
            operator: 0,
            target: Some(api::compare::Target::Version(1)),
        }
    }

    fn comparing(compare: api::Compare) -> api::TxnRequest {
        api::TxnRequest { compare: vec![compare], ..Default::default() }
    }

    /// The field that was refused; empty if none was.
    fn refused(request: api::TxnRequest) -> String {
        txn(request, &limits()).err().map(|invalid| invalid.field.into_owned()).unwrap_or_default()
    }

    #[test]
    fn no_list_writes_a_key_twice() {
        let table = [
            (vec![set("a"), set("b")], ""),
            (vec![set("a"), set("a")], "then[1]"),
            (vec![set("a"), get("a"), delete("b")], ""),
            (vec![set("a"), delete("a")], "then[1]"),
            (vec![delete("a"), set("a")], "then[1]"),
            (vec![delete("a"), delete("a")], ""),
            (vec![delete_prefix("a"), set("ab")], "then[1]"),
            (vec![set("ab"), delete_prefix("a")], "then[1]"),
            (vec![set("b"), delete_prefix("a")], ""),
            (vec![set("a"), set("z"), delete_prefix("m")], ""),
            (vec![delete_prefix("a"), delete_prefix("ab")], ""),
            (vec![set("a"), delete_all()], "then[1]"),
            (vec![delete_all(), set("zzzz")], "then[1]"),
            (vec![nested(vec![set("a")], vec![set("a")])], ""),
            (vec![nested(vec![set("a")], vec![set("b")]), set("b")], "then[1]"),
            (vec![set("b"), nested(vec![set("a")], vec![set("b")])], "then[1]"),
            (vec![set("b"), nested(vec![delete_prefix("b")], vec![])], "then[1]"),
            (vec![nested(vec![set("a")], vec![]), nested(vec![], vec![set("a")])], "then[1]"),
            (vec![nested(vec![set("a"), set("a")], vec![])], "then[0].txn.then[1]"),
            (vec![nested(vec![], vec![delete("a"), set("a")])], "then[0].txn.otherwise[1]"),
        ];
        for (list, field) in table {
            assert_eq!(refused(then(list.clone())), field, "{list:?}");
        }
        let both = api::TxnRequest { then: vec![set("a")], otherwise: vec![set("a")], ..Default::default() };
        assert_eq!(refused(both), "");
    }

    #[test]
    fn comparisons_are_checked() {
        let table = [
            (compare("a", ""), ""),
            (compare("", ""), "compare[0].key"),
            (compare("aaaaa", ""), "compare[0].key"),
            (compare("aaaaa", "b"), ""),
            (compare("aaaaaa", "b"), "compare[0].key"),
            (compare("", "\0"), ""),
            (compare("a", "\0"), ""),
            (compare("a", "a"), ""),
            (compare("b", "a"), "compare[0].range_end"),
            (compare("a", "bbbbbb"), "compare[0].range_end"),
            (api::Compare { operator: 4, ..compare("a", "") }, "compare[0].operator"),
            (api::Compare { target: None, ..compare("a", "") }, "compare[0].target"),
            (
                api::Compare { target: Some(api::compare::Target::Value(vec![0; 9].into())), ..compare("a", "") },
                "compare[0].value",
            ),
        ];
        for (compare, field) in table {
            assert_eq!(refused(comparing(compare.clone())), field, "{compare:?}");
        }
    }

    #[test]
    fn comparisons_come_through() {
        use internal::compare::Target;
        let targets = [
            (api::compare::Target::Version(1), Target::Version(1)),
            (api::compare::Target::CreateRevision(2), Target::CreateRevision(2)),
            (api::compare::Target::ModRevision(3), Target::ModRevision(3)),
            (api::compare::Target::Value("v".into()), Target::Value("v".into())),
            (api::compare::Target::LeaseId(4), Target::LeaseId(4)),
        ];
        for (asked, target) in targets {
            for operator in 0..4 {
                for (end, range_end) in [("", None), ("\0", Some("")), ("b", Some("b"))] {
                    let request =
                        comparing(api::Compare { operator, target: Some(asked.clone()), ..compare("a", end) });
                    let expected = internal::Compare {
                        key: "a".into(),
                        range_end: range_end.map(Bytes::from),
                        operator,
                        target: Some(target.clone()),
                    };
                    let Ok(Command { op: Some(Op::Txn(txn)), .. }) = txn(request, &limits()) else { panic!("refused") };
                    assert_eq!(txn.compare, [expected]);
                }
            }
        }
    }

    #[test]
    fn what_belongs_elsewhere_is_refused() {
        let id = Some(api::RequestId { client_id: 1, sequence: 1, first_unanswered: 1 });
        let condition = Some(api::Condition { is: Some(api::condition::Is::Absent(true)) });
        let of_set = |set| op(Asked::Set(api::SetRequest { key: "a".into(), ..set }));
        let of_delete = |delete| op(Asked::Delete(api::DeleteRequest { key: "a".into(), ..delete }));
        let of_get = |get| op(Asked::Get(api::GetRequest { key: "a".into(), ..get }));
        let of_list = |list| op(Asked::List(list));
        let table = [
            (of_set(api::SetRequest { request_id: id, ..Default::default() }), "set.request_id"),
            (of_set(api::SetRequest { condition, ..Default::default() }), "set.condition"),
            (of_set(api::SetRequest { keep_value: true, ..Default::default() }), "set.keep_value"),
            (of_set(api::SetRequest { value: vec![0; 9].into(), ..Default::default() }), "set.value"),
            (of_delete(api::DeleteRequest { request_id: id, ..Default::default() }), "delete.request_id"),
            (of_delete(api::DeleteRequest { condition, ..Default::default() }), "delete.condition"),
            (
                op(Asked::DeleteRange(api::DeleteRangeRequest { all: true, request_id: id, ..Default::default() })),
                "delete_range.request_id",
            ),
            (op(Asked::DeleteRange(api::DeleteRangeRequest::default())), "delete_range.all"),
            (of_get(api::GetRequest { consistency: 1, ..Default::default() }), "get.consistency"),
            (of_get(api::GetRequest { min_revision: 1, ..Default::default() }), "get.min_revision"),
            (of_get(api::GetRequest { max_staleness_ms: 1, ..Default::default() }), "get.max_staleness_ms"),
            (of_get(api::GetRequest { revision: 1, ..Default::default() }), "get.revision"),
            (get(""), "get.key"),
            (of_list(api::ListRequest { consistency: 1, ..Default::default() }), "list.consistency"),
            (of_list(api::ListRequest { min_revision: 1, ..Default::default() }), "list.min_revision"),
            (of_list(api::ListRequest { max_staleness_ms: 1, ..Default::default() }), "list.max_staleness_ms"),
            (of_list(api::ListRequest { revision: 1, ..Default::default() }), "list.revision"),
            (of_list(api::ListRequest { end: "a".into(), start: "b".into(), ..Default::default() }), "list.end"),
            (op(Asked::Txn(api::TxnRequest { request_id: id, ..Default::default() })), "txn.request_id"),
        ];
        for (operation, field) in table {
            assert_eq!(refused(then(vec![operation.clone()])), format!("then[0].{field}"), "{operation:?}");
            let inner = nested(vec![], vec![get("a"), operation]);
            assert_eq!(refused(then(vec![inner])), format!("then[0].txn.otherwise[1].{field}"));
        }
        assert_eq!(refused(then(vec![api::TxnOp { op: None }])), "then[0]");
        let whole = api::TxnRequest { request_id: id, ..Default::default() };
        assert_eq!(txn(whole, &limits()).expect("valid").id.expect("id").sequence, 1);
    }

    #[test]
    fn operations_come_through() {
        use internal::txn_op::Op as Meant;
        let list = api::ListRequest {
            prefix: "a".into(),
            start: "ab".into(),
            limit: 3,
            keys_only: true,
            reverse: true,
            ..Default::default()
        };
        let operations = vec![set("s"), delete("d"), delete_prefix("p"), get("g"), op(Asked::List(list))];
        let meant = [
            Meant::Set(internal::Set { key: "s".into(), ..Default::default() }),
            Meant::Delete(internal::Delete { key: "d".into(), ..Default::default() }),
            Meant::DeleteRange(internal::DeleteRange { start: "p".into(), end: "q".into() }),
            Meant::Get(internal::Get { key: "g".into() }),
            Meant::Scan(internal::Scan {
                start: "ab".into(),
                end: "b".into(),
                limit: 3,
                keys_only: true,
                reverse: true,
            }),
        ];
        let meant = meant.map(|op| internal::TxnOp { op: Some(op) }).to_vec();
        let nested = nested(vec![], operations.clone());
        let request = api::TxnRequest { then: operations, otherwise: vec![nested], ..Default::default() };
        let inner = internal::Txn { otherwise: meant.clone(), ..Default::default() };
        let inner = internal::TxnOp { op: Some(Meant::Txn(inner)) };
        let expected = internal::Txn { then: meant, otherwise: vec![inner], ..Default::default() };
        assert_eq!(txn(request, &limits()), Ok(Command { id: None, op: Some(Op::Txn(expected)) }));
    }

    #[test]
    fn transactions_are_bounded_with_all_that_is_in_them() {
        let gets = |count| (0..count).map(|_| get("a")).collect::<Vec<_>>();
        assert_eq!(refused(then(gets(128))), "");
        assert_eq!(refused(then(gets(129))), "then");
        let halves = api::TxnRequest { then: gets(64), otherwise: gets(65), ..Default::default() };
        assert_eq!(refused(halves), "otherwise");
        assert_eq!(refused(then(vec![nested(gets(127), vec![])])), "");
        assert_eq!(refused(then(vec![nested(gets(128), vec![])])), "then[0].txn.then");

        let compares = |count| api::TxnRequest { compare: vec![compare("a", ""); count], ..Default::default() };
        assert_eq!(refused(compares(128)), "");
        assert_eq!(refused(compares(129)), "compare");
        let inner = op(Asked::Txn(compares(127)));
        assert_eq!(refused(api::TxnRequest { then: vec![inner.clone()], ..compares(1) }), "");
        assert_eq!(refused(api::TxnRequest { then: vec![inner], ..compares(2) }), "then[0].txn.compare");
    }

    /// Whatever is taken can be decoded wherever it appears, or a node could not read its own log.
    #[test]
    fn the_deepest_transaction_is_readable_everywhere() {
        let deep = |levels| (1..levels).fold(then(vec![set("a")]), |inner, _| then(vec![op(Asked::Txn(inner))]));
        assert!(refused(deep(TXN_DEPTH_MAX + 1)).ends_with("then[0].txn"));
        let command = txn(deep(TXN_DEPTH_MAX), &limits()).expect("valid");
        let item = internal::ForwardItem {
            call: Some(internal::forward_item::Call::Command(command.clone())),
            ..Default::default()
        };
        let forwarded = internal::ForwardRequest { items: vec![item] }.encode_to_vec();
        internal::ForwardRequest::decode(&forwarded[..]).expect("forwarded");
        let logged = internal::Batch { commands: vec![command], log_time_ms: 0 }.encode_to_vec();
        internal::Batch::decode(&logged[..]).expect("logged");

        let outcome = (1..TXN_DEPTH_MAX).fold(internal::TxnOutcome::default(), |inner, _| {
            let result = internal::TxnResult { result: Some(internal::txn_result::Result::Txn(inner)) };
            internal::TxnOutcome { results: vec![result], ..Default::default() }
        });
        let answer = internal::Answer {
            outcome: Some(internal::Outcome { result: Some(internal::outcome::Result::Txn(outcome.clone())) }),
            ..Default::default()
        };
        let session = internal::Session { answers: vec![answer], ..Default::default() }.encode_to_vec();
        internal::Session::decode(&session[..]).expect("remembered");
        let told = txn_response(outcome, &|_| Duration::ZERO).expect("told");
        let result = api::PipelineResult { result: Some(api::pipeline_result::Result::Txn(told)), number: 1 };
        let pipelined = api::PipelineResponse { results: vec![result] }.encode_to_vec();
        api::PipelineResponse::decode(&pipelined[..]).expect("pipelined");
    }

    #[test]
    fn outcomes_are_told_one_by_one() {
        use internal::txn_result::Result as Outcome;
        let pair = internal::Pair { key: "k".into(), value: "v".into(), mod_revision: 3, ..Default::default() };
        let results = [
            Outcome::Set(internal::SetOutcome { revision: 7, version: 1, ..Default::default() }),
            Outcome::Delete(internal::DeleteOutcome { existed: true, revision: 7, ..Default::default() }),
            Outcome::DeleteRange(internal::DeleteRangeOutcome { deleted: 2, revision: 7 }),
            Outcome::Get(internal::GetOutcome { pair: Some(pair.clone()) }),
            Outcome::Get(internal::GetOutcome { pair: None }),
            Outcome::Scan(internal::ScanOutcome { pairs: vec![pair], more: true }),
            Outcome::Txn(internal::TxnOutcome { succeeded: false, revision: 7, results: vec![], truncated: false }),
        ];
        let results = results.map(|result| internal::TxnResult { result: Some(result) }).to_vec();
        let outcome = internal::TxnOutcome { succeeded: true, revision: 7, results, truncated: true };
        let told = txn_response(outcome, &|_| Duration::ZERO).expect("told");

        use api::txn_result::Result as Told;
        let pair =
            api::GetResponse { key: "k".into(), value: "v".into(), revision: 7, mod_revision: 3, ..Default::default() };
        let results = [
            Told::Set(api::SetResponse { ok: true, revision: 7, version: 1, ..Default::default() }),
            Told::Delete(api::DeleteResponse { ok: true, existed: true, revision: 7, ..Default::default() }),
            Told::DeleteRange(api::DeleteRangeResponse { deleted: 2, revision: 7 }),
            Told::Get(api::TxnGetResult { pair: Some(pair.clone()) }),
            Told::Get(api::TxnGetResult { pair: None }),
            Told::List(api::TxnListResult { pairs: vec![pair], more: true }),
            Told::Txn(api::TxnResponse { succeeded: false, revision: 7, results: vec![], truncated: false }),
        ];
        let results = results.map(|result| api::TxnResult { result: Some(result) }).to_vec();
        assert_eq!(told, api::TxnResponse { succeeded: true, revision: 7, results, truncated: true });

        let nothing = internal::TxnResult { result: None };
        let outcome = internal::TxnOutcome { results: vec![nothing], ..Default::default() };
        assert_eq!(txn_response(outcome, &|_| Duration::ZERO).expect_err("a bug").code(), tonic::Code::Internal);
    }
}
