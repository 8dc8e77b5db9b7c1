//! What clients say, checked and put into the state machine's words, and its outcomes put back into theirs.
//!
//! Pure. Promises that what is not wholly understood becomes no command, and that a refusal names the field.
//! `remaining` says how long something with a deadline has still to live.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use mokv_proto::{api, internal};
use tonic::Status;

use super::status;
use crate::command::{Command, Op, RequestId};
use crate::node::{Consistency, Freshness, Limits};
use crate::store::{KeyRange, LogTime, Pair, Record};

/// A key lives less than so long by a ttl of its own: far beyond any use, and far below what the log's time can count to.
const TTL_MAX: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// Between keep-alives there has to be time for an election.
const LEASE_TTL_MIN: Duration = Duration::from_secs(1);

/// A lease is for those who are there to keep it alive.
const LEASE_TTL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A field says something that can't be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invalid {
    /// The field, from the request on.
    pub(super) field: Cow<'static, str>,
    /// Why.
    pub(super) description: String,
}

impl Invalid {
    pub(super) fn new(field: &'static str, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }

    /// The same of a message that is itself a field.
    pub(super) fn within(self, path: impl Display) -> Self {
        let field = if self.field.is_empty() { path.to_string() } else { format!("{path}.{}", self.field) };
        Self { field: field.into(), ..self }
    }
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        status::invalid(invalid.field, invalid.description)
    }
}

pub(super) fn set(request: api::SetRequest, limits: &Limits) -> Result<Command, Invalid> {
    let id = id(request.request_id)?;
    let condition = condition(request.condition)?;
    Ok(Command { id, op: Some(Op::Set(internal::Set { condition, ..set_op(request, limits)? })) })
}

/// A Set without what only a command of its own may have.
pub(super) fn set_op(request: api::SetRequest, limits: &Limits) -> Result<internal::Set, Invalid> {
    let api::SetRequest { key, value, ttl_ms, lease_id, return_previous, keep_ttl, keep_value, .. } = request;
    check_key(&key, limits)?;
    check_size("value", value.len(), limits.value_bytes_max)?;
    check_ttl(ttl_ms)?;
    if ttl_ms > 0 && lease_id > 0 {
        return Err(Invalid::new("ttl_ms", "a key ends by its ttl or with its lease, not by both"));
    }
    if keep_ttl && (ttl_ms > 0 || lease_id > 0) {
        return Err(Invalid::new("keep_ttl", "a new ttl or lease takes the place of what the key has"));
    }
    if keep_value && keep_ttl {
        return Err(Invalid::new("keep_value", "nothing would change if the ttl stays, too"));
    }
    if keep_value && !value.is_empty() {
        return Err(Invalid::new("value", "the value is to stay what it is"));
    }
    let key = key.into();
    Ok(internal::Set { key, value, ttl_ms, lease_id, condition: None, return_previous, keep_ttl, keep_value })
}

pub(super) fn delete(request: api::DeleteRequest, limits: &Limits) -> Result<Command, Invalid> {
    let id = id(request.request_id)?;
    let condition = condition(request.condition)?;
    Ok(Command { id, op: Some(Op::Delete(internal::Delete { condition, ..delete_op(request, limits)? })) })
}

/// A Delete without what only a command of its own may have.
pub(super) fn delete_op(request: api::DeleteRequest, limits: &Limits) -> Result<internal::Delete, Invalid> {
    check_key(&request.key, limits)?;
    let return_previous = request.return_previous;
    Ok(internal::Delete { key: request.key.into(), condition: None, return_previous })
}

pub(super) fn delete_range(request: api::DeleteRangeRequest, limits: &Limits) -> Result<Command, Invalid> {
    let id = id(request.request_id)?;
    Ok(Command { id, op: Some(Op::DeleteRange(delete_range_op(request, limits)?)) })
}

/// A DeleteRange without what only a command of its own may have.
pub(super) fn delete_range_op(
    request: api::DeleteRangeRequest,
    limits: &Limits,
) -> Result<internal::DeleteRange, Invalid> {
    let api::DeleteRangeRequest { prefix, start, end, all, .. } = request;
    let bounded = !(prefix.is_empty() && start.is_empty() && end.is_empty());
    match (all, bounded) {
        (false, false) => return Err(Invalid::new("all", "without a prefix, a start or an end it has to be set")),
        (true, true) => return Err(Invalid::new("all", "there is a prefix, a start or an end, too")),
        _ => {}
    }
    let (start, end) = bounds(&range(prefix, start, end, limits)?);
    Ok(internal::DeleteRange { start, end })
}

pub(super) fn increment(request: api::IncrementRequest, limits: &Limits) -> Result<Command, Invalid> {
    let api::IncrementRequest { key, delta, request_id, ttl_ms } = request;
    check_key(&key, limits)?;
    check_ttl(ttl_ms)?;
    let increment = internal::Increment { key: key.into(), delta, ttl_ms };
    Ok(Command { id: id(request_id)?, op: Some(Op::Increment(increment)) })
}

pub(super) fn grant_lease(request: api::GrantLeaseRequest) -> Result<Command, Invalid> {
    let api::GrantLeaseRequest { ttl_ms, lease_id, request_id } = request;
    let ttl = Duration::from_millis(ttl_ms);
    if !(LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
        let (min, max) = (LEASE_TTL_MIN.as_millis(), LEASE_TTL_MAX.as_millis());
        return Err(Invalid::new("ttl_ms", format!("{ttl_ms} is none that a lease can have: {min} to {max}")));
    }
    Ok(Command { id: id(request_id)?, op: Some(Op::GrantLease(internal::GrantLease { lease_id, ttl_ms })) })
}

pub(super) fn revoke_lease(request: api::RevokeLeaseRequest) -> Result<Command, Invalid> {
    let api::RevokeLeaseRequest { lease_id, request_id } = request;
    check_lease_id(lease_id)?;
    Ok(Command { id: id(request_id)?, op: Some(Op::RevokeLease(internal::RevokeLease { lease_id })) })
}

pub(super) fn freshness(consistency: i32, min_revision: u64, max_staleness_ms: u64) -> Result<Freshness, Invalid> {
    let consistency = match api::Consistency::try_from(consistency) {
        Ok(api::Consistency::Linearizable) => Consistency::Linearizable,
        Ok(api::Consistency::Local) => Consistency::Local,
        Ok(api::Consistency::Lease) => Consistency::Lease,
        Err(_) => return Err(Invalid::new("consistency", format!("{consistency} is none that this node knows"))),
    };
    let max_staleness = (max_staleness_ms > 0).then(|| Duration::from_millis(max_staleness_ms));
    Ok(Freshness { consistency, min_revision, max_staleness })
}

/// How fresh a read has to be that shows a revision; 0 is the newest.
pub(super) fn freshness_at(revision: u64, freshness: Freshness) -> Freshness {
    match freshness.consistency {
        // A node that may lag behind can't tell a revision that it has not seen yet from one that does not exist.
        Consistency::Local => Freshness { min_revision: freshness.min_revision.max(revision), ..freshness },
        Consistency::Linearizable | Consistency::Lease => freshness,
    }
}

/// How fresh an answer is.
pub(super) fn served(consistency: Consistency) -> api::Consistency {
    match consistency {
        Consistency::Linearizable => api::Consistency::Linearizable,
        Consistency::Local => api::Consistency::Local,
        Consistency::Lease => api::Consistency::Lease,
    }
}

/// The range that three bounds leave.
pub(super) fn range(prefix: String, start: String, end: String, limits: &Limits) -> Result<KeyRange, Invalid> {
    for (field, bound) in [("prefix", &prefix), ("start", &start), ("end", &end)] {
        check_bound(field, bound, limits)?;
    }
    if !end.is_empty() && start > end {
        return Err(Invalid::new("end", "it is before the start"));
    }
    let range = KeyRange::prefix(prefix).starting_at(start);
    Ok(if end.is_empty() { range } else { range.ending_before(end) })
}

/// A range as commands have it: an empty end is none.
pub(super) fn bounds(range: &KeyRange) -> (bytes::Bytes, bytes::Bytes) {
    (range.start().clone(), range.end().cloned().unwrap_or_default())
}

pub(super) fn check_key(key: &str, limits: &Limits) -> Result<(), Invalid> {
    if key.is_empty() {
        return Err(Invalid::new("key", "a key has at least one byte"));
    }
    check_size("key", key.len(), limits.key_bytes_max)
}

/// A page begins at the last key of the one before and a NUL, and that key may be as long as keys get.
pub(super) fn check_bound(field: &'static str, bound: &str, limits: &Limits) -> Result<(), Invalid> {
    check_size(field, bound.len(), limits.key_bytes_max + 1)
}

pub(super) fn check_size(field: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Invalid> {
    match bytes <= bytes_max {
        true => Ok(()),
        false => Err(Invalid::new(field, format!("{bytes} bytes are too long: at most {bytes_max}"))),
    }
}

pub(super) fn check_lease_id(lease_id: u64) -> Result<(), Invalid> {
    match lease_id {
        0 => Err(Invalid::new("lease_id", "no lease has the id 0")),
        _ => Ok(()),
    }
}

fn check_ttl(ttl_ms: u64) -> Result<(), Invalid> {
    match Duration::from_millis(ttl_ms) < TTL_MAX {
        true => Ok(()),
        false => Err(Invalid::new("ttl_ms", "a thousand years or more: leave it out for a key that stays")),
    }
}

/// A request's id, if it has one.
pub(super) fn id(id: Option<api::RequestId>) -> Result<Option<RequestId>, Invalid> {
    let Some(api::RequestId { client_id, sequence, first_unanswered }) = id else { return Ok(None) };
    if client_id == 0 {
        return Err(Invalid::new("request_id.client_id", "it comes from OpenSession and is never 0"));
    }
    if sequence == 0 {
        return Err(Invalid::new("request_id.sequence", "sequences start at 1"));
    }
    if first_unanswered == 0 || first_unanswered > sequence {
        let description = format!("the answer to {sequence} itself is still missing: 1 to {sequence} are possible");
        return Err(Invalid::new("request_id.first_unanswered", description));
    }
    Ok(Some(RequestId { client_id, sequence, first_unanswered }))
}

fn condition(condition: Option<api::Condition>) -> Result<Option<internal::Condition>, Invalid> {
    use api::condition::Is as Asked;
    use internal::condition::Is;
    let Some(condition) = condition else { return Ok(None) };
    let is = match condition.is {
        // What answers say of a key that is absent.
        Some(Asked::Absent(true) | Asked::ModRevision(0)) => Is::Absent(true),
        Some(Asked::Present(true)) => Is::Present(true),
        Some(Asked::ModRevision(revision)) => Is::ModRevision(revision),
        Some(Asked::Absent(false)) => return Err(Invalid::new("condition.absent", "it can only be true")),
        Some(Asked::Present(false)) => return Err(Invalid::new("condition.present", "it can only be true")),
        None => return Err(Invalid::new("condition", "it says nothing that this node knows")),
    };
    Ok(Some(internal::Condition { is: Some(is) }))
}

/// A pair as an answer that reflects `revision`.
pub(super) fn answer(
    key: String,
    record: Record,
    revision: u64,
    remaining: &impl Fn(LogTime) -> Duration,
) -> api::GetResponse {
    api::GetResponse {
        key,
        value: record.value,
        revision,
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        version: record.version,
        lease_id: record.lease_id,
        ttl_ms: record.deadline.map_or(0, |deadline| ttl_ms(deadline, remaining)),
        served: api::Consistency::default().into(),
    }
}

/// A pair of the store as an answer that reflects `revision`.
pub(super) fn stored_pair(
    pair: Pair,
    revision: u64,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<api::GetResponse, Status> {
    Ok(answer(text(pair.key)?, pair.record, revision, remaining))
}

/// 0 would say that there is no ttl.
fn ttl_ms(deadline: LogTime, remaining: &impl Fn(LogTime) -> Duration) -> u64 {
    millis(remaining(deadline)).max(1)
}

/// Whole milliseconds, as times travel.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A pair of an outcome as an answer that reflects `revision`.
pub(super) fn pair(
    pair: internal::Pair,
    revision: u64,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<api::GetResponse, Status> {
    let deadline = (pair.deadline_ms > 0).then(|| LogTime::from_millis(pair.deadline_ms));
    Ok(api::GetResponse {
        key: text(pair.key)?,
        value: pair.value,
        revision,
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
        lease_id: pair.lease_id,
        ttl_ms: deadline.map_or(0, |deadline| ttl_ms(deadline, remaining)),
        served: api::Consistency::default().into(),
    })
}

/// What there was before a write, of which the answer says the revision.
fn previous(
    previous: Option<internal::Pair>,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<Option<api::GetResponse>, Status> {
    previous.map(|before| pair(before, 0, remaining)).transpose()
}

pub(super) fn set_response(
    outcome: internal::SetOutcome,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<api::SetResponse, Status> {
    Ok(api::SetResponse {
        ok: !outcome.unmet,
        revision: outcome.revision,
        create_revision: outcome.create_revision,
        version: outcome.version,
        mod_revision: outcome.mod_revision,
        previous: previous(outcome.previous, remaining)?,
    })
}

pub(super) fn delete_response(
    outcome: internal::DeleteOutcome,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<api::DeleteResponse, Status> {
    Ok(api::DeleteResponse {
        ok: !outcome.unmet,
        existed: outcome.existed,
        revision: outcome.revision,
        previous: previous(outcome.previous, remaining)?,
        mod_revision: outcome.mod_revision,
    })
}

pub(super) fn delete_range_response(outcome: internal::DeleteRangeOutcome) -> api::DeleteRangeResponse {
    api::DeleteRangeResponse { deleted: outcome.deleted, revision: outcome.revision }
}

pub(super) fn increment_response(outcome: internal::IncrementOutcome) -> api::IncrementResponse {
    let internal::IncrementOutcome { value, revision, create_revision, version } = outcome;
    api::IncrementResponse { value, revision, create_revision, version }
}

/// A key as clients see it.
pub(super) fn text(key: bytes::Bytes) -> Result<String, Status> {
    // This service takes only keys that are UTF-8, and no other writes any.
    String::from_utf8(key.into()).map_err(|_| status::internal("a key that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn limits() -> Limits {
        Limits { key_bytes_max: 4, value_bytes_max: 8, ..Limits::default() }
    }

    fn set_request() -> api::SetRequest {
        api::SetRequest { key: "k".into(), value: "v".into(), ..Default::default() }
    }

    fn condition_is(is: Option<api::condition::Is>) -> Option<api::Condition> {
        Some(api::Condition { is })
    }

    #[track_caller]
    fn assert_fields<R: std::fmt::Debug + Clone>(
        check: impl Fn(R) -> Result<Command, Invalid>,
        table: impl IntoIterator<Item = (R, &'static str)>,
    ) {
        for (request, field) in table {
            let refused = check(request.clone()).err().map(|invalid| invalid.field).unwrap_or_default();
            assert_eq!(refused, field, "{request:?}");
        }
    }

    /// The empty field: it is taken.
    #[test]
    fn sets_are_checked() {
        use api::condition::Is;
        let thousand_years = TTL_MAX.as_millis() as u64;
        let with = |condition| api::SetRequest { condition: condition_is(condition), ..set_request() };
        assert_fields(
            |request| set(request, &limits()),
            [
                (set_request(), ""),
                (api::SetRequest { key: String::new(), ..set_request() }, "key"),
                (api::SetRequest { key: "öö".into(), ..set_request() }, ""),
                (api::SetRequest { key: "öök".into(), ..set_request() }, "key"),
                (api::SetRequest { value: vec![0; 8].into(), ..set_request() }, ""),
                (api::SetRequest { value: vec![0; 9].into(), ..set_request() }, "value"),
                (api::SetRequest { ttl_ms: 1, ..set_request() }, ""),
                (api::SetRequest { ttl_ms: thousand_years - 1, ..set_request() }, ""),
                (api::SetRequest { ttl_ms: thousand_years, ..set_request() }, "ttl_ms"),
                (api::SetRequest { ttl_ms: u64::MAX, ..set_request() }, "ttl_ms"),
                (api::SetRequest { lease_id: 7, ..set_request() }, ""),
                (api::SetRequest { lease_id: 7, ttl_ms: 1, ..set_request() }, "ttl_ms"),
                (api::SetRequest { keep_ttl: true, ..set_request() }, ""),
                (api::SetRequest { keep_ttl: true, ttl_ms: 1, ..set_request() }, "keep_ttl"),
                (api::SetRequest { keep_ttl: true, lease_id: 1, ..set_request() }, "keep_ttl"),
                (api::SetRequest { keep_value: true, ..set_request() }, "value"),
                (api::SetRequest { keep_value: true, value: Bytes::new(), ..set_request() }, ""),
                (api::SetRequest { keep_value: true, value: Bytes::new(), ttl_ms: 5, ..set_request() }, ""),
                (
                    api::SetRequest { keep_value: true, value: Bytes::new(), keep_ttl: true, ..set_request() },
                    "keep_value",
                ),
                (with(None), "condition"),
                (with(Some(Is::Absent(true))), ""),
                (with(Some(Is::Absent(false))), "condition.absent"),
                (with(Some(Is::Present(true))), ""),
                (with(Some(Is::Present(false))), "condition.present"),
                (with(Some(Is::ModRevision(3))), ""),
            ],
        );
    }

    #[test]
    fn a_set_says_all_that_was_asked() {
        let id = RequestId { client_id: 1, sequence: 3, first_unanswered: 2 };
        let request = api::SetRequest {
            request_id: Some(api::RequestId { client_id: 1, sequence: 3, first_unanswered: 2 }),
            ttl_ms: 5,
            condition: condition_is(Some(api::condition::Is::ModRevision(9))),
            return_previous: true,
            ..set_request()
        };
        let op = internal::Set {
            key: "k".into(),
            value: "v".into(),
            ttl_ms: 5,
            lease_id: 0,
            condition: Some(internal::Condition { is: Some(internal::condition::Is::ModRevision(9)) }),
            return_previous: true,
            keep_ttl: false,
            keep_value: false,
        };
        assert_eq!(set(request, &limits()), Ok(Command { id: Some(id), op: Some(Op::Set(op)) }));

        let request = api::SetRequest { lease_id: 4, ..set_request() };
        let op = internal::Set { key: "k".into(), value: "v".into(), lease_id: 4, ..Default::default() };
        assert_eq!(set(request, &limits()), Ok(Command { id: None, op: Some(Op::Set(op)) }));
        for (keep_ttl, keep_value) in [(true, false), (false, true)] {
            let request = api::SetRequest { keep_ttl, keep_value, value: Bytes::new(), ..set_request() };
            let op = internal::Set { key: "k".into(), keep_ttl, keep_value, ..Default::default() };
            assert_eq!(set(request, &limits()), Ok(Command { id: None, op: Some(Op::Set(op)) }));
        }
    }

    /// Answers give an absent key the revision 0.
    #[test]
    fn a_key_whose_last_write_has_revision_0_is_absent() {
        use internal::condition::Is;
        let asked = |is| condition(condition_is(Some(is))).expect("valid").and_then(|condition| condition.is);
        assert_eq!(asked(api::condition::Is::ModRevision(0)), Some(Is::Absent(true)));
        assert_eq!(asked(api::condition::Is::ModRevision(1)), Some(Is::ModRevision(1)));
        assert_eq!(asked(api::condition::Is::Absent(true)), Some(Is::Absent(true)));
        assert_eq!(asked(api::condition::Is::Present(true)), Some(Is::Present(true)));
    }

    #[test]
    fn deletes_are_checked() {
        let request = || api::DeleteRequest { key: "k".into(), ..Default::default() };
        assert_fields(
            |request| delete(request, &limits()),
            [
                (request(), ""),
                (api::DeleteRequest { key: String::new(), ..request() }, "key"),
                (api::DeleteRequest { key: "kkkkk".into(), ..request() }, "key"),
                (api::DeleteRequest { condition: condition_is(None), ..request() }, "condition"),
                (
                    api::DeleteRequest { request_id: Some(api::RequestId::default()), ..request() },
                    "request_id.client_id",
                ),
            ],
        );
        let condition = condition_is(Some(api::condition::Is::Present(true)));
        let command = delete(api::DeleteRequest { condition, return_previous: true, ..request() }, &limits());
        let condition = Some(internal::Condition { is: Some(internal::condition::Is::Present(true)) });
        let op = internal::Delete { key: "k".into(), condition, return_previous: true };
        assert_eq!(command, Ok(Command { id: None, op: Some(Op::Delete(op)) }));
    }

    #[test]
    fn range_deletes_are_checked() {
        let request = |prefix: &str, start: &str, end: &str, all| api::DeleteRangeRequest {
            prefix: prefix.into(),
            start: start.into(),
            end: end.into(),
            request_id: None,
            all,
        };
        assert_fields(
            |request| delete_range(request, &limits()),
            [
                (request("a", "", "", false), ""),
                (request("", "a", "", false), ""),
                (request("", "", "a", false), ""),
                (request("", "", "", true), ""),
                (request("", "", "", false), "all"),
                (request("a", "", "", true), "all"),
                (request("", "b", "a", false), "end"),
                (request("", "a", "a", false), ""),
                (request("aaaaa", "", "", false), ""),
                (request("aaaaaa", "", "", false), "prefix"),
                (request("", "aaaaaa", "", false), "start"),
                (request("", "", "aaaaaa", false), "end"),
            ],
        );
        for (request, start, end) in [
            (request("a", "", "", false), "a", "b"),
            (request("a", "ab", "ac", false), "ab", "ac"),
            (request("", "b", "", false), "b", ""),
            (request("", "", "", true), "", ""),
        ] {
            let op = internal::DeleteRange { start: start.to_owned().into(), end: end.to_owned().into() };
            assert_eq!(delete_range(request, &limits()), Ok(Command { id: None, op: Some(Op::DeleteRange(op)) }));
        }
    }

    #[test]
    fn increments_are_checked() {
        let request = || api::IncrementRequest { key: "k".into(), delta: -2, ttl_ms: 3, request_id: None };
        assert_fields(
            |request| increment(request, &limits()),
            [
                (request(), ""),
                (api::IncrementRequest { key: String::new(), ..request() }, "key"),
                (api::IncrementRequest { ttl_ms: u64::MAX, ..request() }, "ttl_ms"),
            ],
        );
        let op = internal::Increment { key: "k".into(), delta: -2, ttl_ms: 3 };
        assert_eq!(increment(request(), &limits()), Ok(Command { id: None, op: Some(Op::Increment(op)) }));
    }

    #[test]
    fn leases_are_checked() {
        let grant = |ttl_ms| api::GrantLeaseRequest { ttl_ms, ..Default::default() };
        let year = 365 * 24 * 60 * 60 * 1000;
        assert_fields(
            grant_lease,
            [
                (grant(999), "ttl_ms"),
                (grant(1000), ""),
                (grant(year), ""),
                (grant(year + 1), "ttl_ms"),
                (grant(0), "ttl_ms"),
            ],
        );
        let revoke = |lease_id| api::RevokeLeaseRequest { lease_id, request_id: None };
        assert_fields(revoke_lease, [(revoke(0), "lease_id"), (revoke(1), "")]);
    }

    #[test]
    fn request_ids_are_checked() {
        for ((client_id, sequence, first_unanswered), field) in [
            ((1, 1, 1), ""),
            ((1, 5, 2), ""),
            ((0, 1, 1), "request_id.client_id"),
            ((1, 0, 0), "request_id.sequence"),
            ((1, 1, 0), "request_id.first_unanswered"),
            ((1, 1, 2), "request_id.first_unanswered"),
        ] {
            let refused = id(Some(api::RequestId { client_id, sequence, first_unanswered }));
            assert_eq!(refused.err().map(|invalid| invalid.field).unwrap_or_default(), field);
        }
        assert_eq!(id(None), Ok(None));
    }

    #[test]
    fn how_fresh_a_read_is_to_be_comes_through() {
        let expected = |consistency, max_staleness| Freshness { consistency, min_revision: 5, max_staleness };
        assert_eq!(freshness(0, 5, 0), Ok(expected(Consistency::Linearizable, None)));
        assert_eq!(freshness(1, 5, 250), Ok(expected(Consistency::Local, Some(Duration::from_millis(250)))));
        assert_eq!(freshness(2, 5, 0), Ok(expected(Consistency::Lease, None)));
        assert_eq!(freshness(3, 0, 0).expect_err("unknown").field, "consistency");
        let local = expected(Consistency::Local, None);
        assert_eq!(freshness_at(9, local), Freshness { min_revision: 9, ..local }, "it has to be there");
        assert_eq!(freshness_at(4, local), local);
        let linearizable = expected(Consistency::Linearizable, None);
        assert_eq!(freshness_at(9, linearizable), linearizable);
        for consistency in [Consistency::Linearizable, Consistency::Local, Consistency::Lease] {
            let asked = freshness(served(consistency).into(), 0, 0).expect("known");
            assert_eq!(asked.consistency, consistency);
        }
    }

    #[test]
    fn outcomes_are_told_in_full() {
        let time = |deadline: LogTime| Duration::from_millis(deadline.as_millis() - 1000);
        let before = internal::Pair {
            key: "k".into(),
            value: "v".into(),
            create_revision: 1,
            mod_revision: 2,
            version: 3,
            lease_id: 4,
            deadline_ms: 1500,
        };
        let previous = Some(api::GetResponse {
            key: "k".into(),
            value: "v".into(),
            revision: 0,
            create_revision: 1,
            mod_revision: 2,
            version: 3,
            lease_id: 4,
            ttl_ms: 500,
            served: 0,
        });
        let outcome = internal::SetOutcome {
            revision: 9,
            create_revision: 1,
            version: 4,
            unmet: false,
            mod_revision: 8,
            previous: Some(before.clone()),
        };
        let response = api::SetResponse {
            ok: true,
            revision: 9,
            create_revision: 1,
            version: 4,
            mod_revision: 8,
            previous: previous.clone(),
        };
        assert_eq!(set_response(outcome.clone(), &time).expect("text"), response);
        let unmet = set_response(internal::SetOutcome { unmet: true, ..outcome }, &time).expect("text");
        assert!(!unmet.ok);

        let outcome = internal::DeleteOutcome {
            existed: true,
            revision: 9,
            unmet: false,
            mod_revision: 8,
            previous: Some(before.clone()),
        };
        let response = api::DeleteResponse { ok: true, existed: true, revision: 9, previous, mod_revision: 8 };
        assert_eq!(delete_response(outcome.clone(), &time).expect("text"), response);
        assert!(!delete_response(internal::DeleteOutcome { unmet: true, ..outcome }, &time).expect("text").ok);

        // A ttl that is over is not the same as none.
        let over = internal::Pair { deadline_ms: 1000, ..before.clone() };
        assert_eq!(pair(over, 7, &time).expect("text").ttl_ms, 1);
        let none = internal::Pair { deadline_ms: 0, ..before };
        let answered = pair(none, 7, &time).expect("text");
        assert_eq!((answered.ttl_ms, answered.revision), (0, 7));
    }
}
