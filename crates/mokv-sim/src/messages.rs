//! What clients ask, in the messages of the contract, and what they are told, in the words of the judges.

use mokv_check::{
    Answer, Compare, Comparison, Condition, Delete, List, Op, Pair, Range, Seen, Set, Target, Txn, TxnDone, TxnOp,
    TxnResult, Watch, WatchEvent, Watched,
};
use mokv_proto::api::{self, RequestId};

pub(crate) fn set(set: &Set, request_id: Option<RequestId>) -> api::SetRequest {
    api::SetRequest {
        key: set.key.clone(),
        value: set.value.clone().into(),
        request_id,
        ttl_ms: set.ttl_ms,
        lease_id: set.lease,
        condition: condition(set.condition),
        return_previous: set.previous,
        keep_ttl: set.keep_ttl,
        keep_value: set.keep_value,
    }
}

pub(crate) fn delete(delete: &Delete, request_id: Option<RequestId>) -> api::DeleteRequest {
    api::DeleteRequest {
        key: delete.key.clone(),
        request_id,
        condition: condition(delete.condition),
        return_previous: delete.previous,
    }
}

fn condition(condition: Option<Condition>) -> Option<api::Condition> {
    let is = condition.map(|condition| match condition {
        Condition::Absent => api::condition::Is::Absent(true),
        Condition::Present => api::condition::Is::Present(true),
        Condition::ModRevision(revision) => api::condition::Is::ModRevision(revision),
    });
    is.map(|is| api::Condition { is: Some(is) })
}

pub(crate) fn delete_range(range: &Range, request_id: Option<RequestId>) -> api::DeleteRangeRequest {
    let Range { prefix, start, end } = range.clone();
    api::DeleteRangeRequest { prefix, start, end, request_id, all: *range == Range::default() }
}

/// A list of the present, as fresh as the caller says.
pub(crate) fn list(list: &List) -> api::ListRequest {
    let Range { prefix, start, end } = list.range.clone();
    let List { limit, reverse, keys_only, .. } = *list;
    api::ListRequest { prefix, start, end, limit, keys_only, reverse, ..api::ListRequest::default() }
}

pub(crate) fn txn(txn: &Txn, request_id: Option<RequestId>) -> api::TxnRequest {
    let ops = |ops: &[TxnOp]| ops.iter().map(txn_op).collect();
    api::TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        then: ops(&txn.then),
        otherwise: ops(&txn.otherwise),
        request_id,
    }
}

fn txn_op(op: &TxnOp) -> api::TxnOp {
    use api::txn_op::Op;
    let op = match op {
        TxnOp::Set(op) => Op::Set(set(op, None)),
        TxnOp::Delete(op) => Op::Delete(delete(op, None)),
        TxnOp::DeleteRange { range } => Op::DeleteRange(delete_range(range, None)),
        TxnOp::Get { key } => Op::Get(api::GetRequest { key: key.clone(), ..api::GetRequest::default() }),
        TxnOp::List(op) => Op::List(list(op)),
        TxnOp::Txn(op) => Op::Txn(txn(op, None)),
    };
    api::TxnOp { op: Some(op) }
}

fn compare(compare: &Compare) -> api::Compare {
    use api::compare::{Operator, Target as To};
    let operator = match compare.is {
        Comparison::Equal => Operator::Equal,
        Comparison::Greater => Operator::Greater,
        Comparison::Less => Operator::Less,
        Comparison::NotEqual => Operator::NotEqual,
    };
    let target = match &compare.target {
        Target::Version(version) => To::Version(*version),
        Target::CreateRevision(revision) => To::CreateRevision(*revision),
        Target::ModRevision(revision) => To::ModRevision(*revision),
        Target::Value(value) => To::Value(value.clone().into()),
        Target::Lease(lease) => To::LeaseId(*lease),
    };
    // A NUL stands for no bound.
    let range_end = match compare.range_end.as_deref() {
        None => String::new(),
        Some("") => "\0".into(),
        Some(end) => end.into(),
    };
    api::Compare { key: compare.key.clone(), range_end, operator: operator.into(), target: Some(target) }
}

pub(crate) fn pair(found: api::GetResponse) -> Pair {
    Pair {
        key: found.key,
        value: String::from_utf8_lossy(&found.value).into_owned(),
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
        lease: found.lease_id,
    }
}

pub(crate) fn set_answer(done: api::SetResponse) -> Answer {
    let api::SetResponse { ok, revision, create_revision, version, mod_revision, previous } = done;
    match ok {
        true => Answer::Set { revision, create_revision, version, previous: previous.map(pair) },
        false => Answer::Unmet { revision, mod_revision },
    }
}

pub(crate) fn delete_answer(done: api::DeleteResponse) -> Answer {
    let api::DeleteResponse { ok, existed, revision, previous, mod_revision } = done;
    match ok {
        true => Answer::Delete { existed, revision, previous: previous.map(pair) },
        false => Answer::Unmet { revision, mod_revision },
    }
}

/// `None` if it was cut, or is none: then nothing can be said of what it did.
pub(crate) fn txn_answer(done: api::TxnResponse) -> Option<Answer> {
    let revision = done.revision;
    Some(Answer::Txn { revision, done: txn_done(done)? })
}

fn txn_done(done: api::TxnResponse) -> Option<TxnDone> {
    let results = done.results.into_iter().map(|result| txn_result(result.result?));
    (!done.truncated).then_some(())?;
    Some(TxnDone { succeeded: done.succeeded, results: results.collect::<Option<_>>()? })
}

fn txn_result(result: api::txn_result::Result) -> Option<TxnResult> {
    use api::txn_result::Result as Done;
    Some(match result {
        Done::Set(done) => {
            let api::SetResponse { create_revision, version, previous, .. } = done;
            TxnResult::Set { create_revision, version, previous: previous.map(pair) }
        }
        Done::Delete(done) => TxnResult::Delete { existed: done.existed, previous: done.previous.map(pair) },
        Done::DeleteRange(done) => TxnResult::DeleteRange { deleted: done.deleted },
        Done::Get(done) => TxnResult::Get { pair: done.pair.map(pair) },
        Done::List(done) => TxnResult::List { pairs: done.pairs.into_iter().map(pair).collect(), more: done.more },
        Done::Txn(done) => TxnResult::Txn(txn_done(done)?),
    })
}

pub(crate) fn watch(watch: &Watch) -> api::WatchRequest {
    let (key, range) = match &watch.keys {
        Watched::Key(key) => (key.clone(), Range::default()),
        Watched::Range(range) => (String::new(), range.clone()),
    };
    api::WatchRequest {
        key,
        prefix: range.prefix,
        start: range.start,
        end: range.end,
        start_revision: watch.start_revision,
        list_first: watch.list_first,
        previous: watch.previous,
        keys_only: watch.keys_only,
        no_puts: watch.no_puts,
        no_deletes: watch.no_deletes,
        progress_interval_ms: 200,
        consistency: if watch.local { api::Consistency::Local } else { api::Consistency::Linearizable }.into(),
    }
}

pub(crate) fn seen(response: api::WatchResponse) -> Seen {
    let event = |event: api::WatchEvent| {
        let is_put = event.kind() == api::watch_event::Kind::Put;
        let found = pair(event.pair.unwrap_or_default());
        WatchEvent {
            key: found.key.clone(),
            revision: found.mod_revision,
            pair: is_put.then_some(found),
            previous: event.previous.map(pair),
        }
    };
    Seen {
        revision: response.revision,
        events: response.events.into_iter().map(event).collect(),
        pairs: response.pairs.into_iter().map(pair).collect(),
        more: response.more,
    }
}

/// An operation in a line of the trace.
pub(crate) fn brief(op: &Op) -> String {
    match op {
        Op::Set(set) => format!("set {} = {}", set.key, set.value.trim_end_matches('.')),
        Op::Delete(delete) => format!("delete {}", delete.key),
        Op::Get { key, read } => format!("get {key} {:?}", read.consistency),
        Op::List(list) => format!("list {:?} {:?}", list.range, list.read.consistency),
        other => format!("{other:?}"),
    }
}
