//! Queries: something that is told to all, and answered by those that it is meant for.
//!
//! An answer goes straight to the asker in a datagram, and over a few others too if the asker wants that: one of the ways may
//! lose it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::seq::IteratorRandom;
use regex_lite::RegexBuilder;
use tracing::debug;

use super::broadcasts::Kind;
use super::internal_queries::{INTERNAL_PREFIX, KeyReport};
use super::layer::QueryNumber;
use super::members::Status;
use super::output::{Event, Output, Query, QueryAnswer, QueryId};
use super::{SendError, Serf};
use crate::wire::Text;
use crate::wire::serf::{self as wire, Filter, Message, QueryResponse, Relay, Tags};

/// What a query may have, and what an answer may have, encoded: it has to fit into a packet.
pub const QUERY_BYTES_MAX: usize = 1024;

/// Queries of this node that are under way at once.
const ASKED_MAX: usize = 1024;

/// How many rounds of gossip an answer is waited for, times the logarithm of the pool: the query takes a few to arrive.
const TIMEOUT_ROUNDS: u32 = 16;

/// memberlist's protocol from which on a node passes answers on.
const RELAY_PROTOCOL: u8 = 5;

/// What a compiled expression of another node may take, in bytes.
const EXPRESSION_BYTES_MAX: usize = 64 * 1024;

/// How a query is asked.
#[derive(Debug, Clone, Default)]
pub struct QueryOptions {
    /// Who is meant: those that match all of them.
    pub filters: Vec<Filter>,
    /// Whether each of them is to say at once that the query arrived.
    pub ack: bool,
    /// Over how many others each answer goes as well.
    pub relay_factor: u8,
    /// How long answers are waited for; if none, as long as gossip may take.
    pub timeout: Option<Duration>,
}

/// Whom the answers of a query are for.
#[derive(Debug)]
pub(super) enum AskedBy {
    /// The shell.
    User,
    /// The vote on a name.
    Conflict,
    /// The keys.
    Keys(KeyReport),
}

/// A query of this node that is under way.
#[derive(Debug)]
pub(super) struct Asked {
    deadline: Duration,
    acks: BTreeSet<Text>,
    responses: BTreeMap<Text, Bytes>,
    /// How many may answer: names can be made up.
    answers_max: usize,
    by: AskedBy,
}

impl Asked {
    pub(super) fn by(&mut self) -> &mut AskedBy {
        &mut self.by
    }

    /// Whether this node is heard for the first time.
    fn is_first(&mut self, response: &QueryResponse) -> bool {
        if self.acks.len() + self.responses.len() >= self.answers_max {
            return false;
        }
        if response.flags & QueryResponse::ACK != 0 {
            self.acks.insert(response.from.clone())
        } else if self.responses.contains_key(&response.from) {
            false
        } else {
            self.responses.insert(response.from.clone(), response.payload.clone());
            true
        }
    }
}

impl Serf {
    /// Asks. Answers come as [`Output::QueryAnswer`], the last of which is [`QueryAnswer::Finished`].
    ///
    /// # Errors
    ///
    /// If it is too large, or too many are under way; nothing was sent.
    pub fn query(
        &mut self,
        now: Duration,
        name: Text,
        payload: Bytes,
        options: QueryOptions,
    ) -> Result<QueryId, SendError> {
        let id = self.ask(now, name, payload, options, AskedBy::User)?;
        self.settle(now);
        Ok(id)
    }

    /// Answers a query.
    ///
    /// # Errors
    ///
    /// If the answer is too large, or too late; nothing was sent.
    pub fn respond(&mut self, now: Duration, query: &Query, payload: Bytes) -> Result<(), SendError> {
        if now > query.deadline {
            return Err(SendError::TooLate);
        }
        self.send_response(now, &query.query, 0, payload)?;
        self.settle(now);
        Ok(())
    }

    /// How long the answers to a query are waited for unless it says otherwise.
    pub fn query_timeout(&self) -> Duration {
        // As many as are there: the dead don't answer.
        let alive = self.layer.members.alive().max(1);
        let digits = alive.ilog10() + 1;
        self.config.gossip.gossip_interval * TIMEOUT_ROUNDS * digits
    }

    pub(super) fn ask(
        &mut self,
        now: Duration,
        name: Text,
        payload: Bytes,
        options: QueryOptions,
        by: AskedBy,
    ) -> Result<QueryId, SendError> {
        if self.asked.len() >= ASKED_MAX {
            return Err(SendError::TooMany);
        }
        let timeout = options.timeout.unwrap_or_else(|| self.query_timeout());
        let query = wire::Query {
            time: self.layer.query_clock.time(),
            // HashiCorp's Serf has no larger ones.
            id: self.rng.random_range(0..1 << 31),
            addr: self.config.gossip.addr,
            port: self.config.gossip.port,
            source_node: self.config.gossip.name.clone(),
            filters: options.filters,
            flags: if options.ack { wire::Query::ACK } else { 0 },
            relay_factor: options.relay_factor,
            timeout: timeout.as_nanos().try_into().unwrap_or(i64::MAX),
            name,
            payload,
        };
        let message = Message::Query(query.clone()).encode();
        SendError::check(message.len(), QUERY_BYTES_MAX)?;

        let id = QueryId { time: query.time, id: query.id };
        let asked = Asked {
            deadline: now + timeout,
            acks: BTreeSet::new(),
            responses: BTreeMap::new(),
            answers_max: 64 + 4 * self.layer.members.all().len(),
            by,
        };
        self.asked.insert(id, asked);
        self.hear_query(now, query);
        self.layer.broadcasts.push(Kind::Query, message);
        Ok(id)
    }

    /// Hears a query, and says whether others should.
    pub(super) fn hear_query(&mut self, now: Duration, query: wire::Query) -> bool {
        if !self.believe(|layer| &mut layer.query_clock, query.time) {
            return false;
        }
        let clock = self.layer.query_clock.time();
        if !self.layer.queries.admit(clock, query.time, QueryNumber(query.id)) {
            return false;
        }
        let retell = query.flags & wire::Query::NO_BROADCAST == 0;
        let is_meant = query.filters.iter().all(|filter| matches(filter, &self.config.gossip.name, &self.config.tags));
        if !is_meant {
            return retell;
        }
        if query.flags & wire::Query::ACK != 0
            && let Err(error) = self.send_response(now, &query, QueryResponse::ACK, Bytes::new())
        {
            debug!(%error, "word of a query is not sent");
        }
        if query.name.as_bytes().starts_with(INTERNAL_PREFIX) {
            self.internal_query(now, &query);
        } else {
            let timeout = Duration::from_nanos(query.timeout.try_into().unwrap_or(0));
            let deadline = now.saturating_add(timeout);
            self.emit(Some(Event::Query(Query { query, deadline })));
        }
        retell
    }

    /// Sends an answer, or the word that the query arrived.
    pub(super) fn send_response(
        &mut self,
        now: Duration,
        query: &wire::Query,
        flags: u32,
        payload: Bytes,
    ) -> Result<(), SendError> {
        let response =
            QueryResponse { time: query.time, id: query.id, from: self.config.gossip.name.clone(), flags, payload };
        let message = Message::QueryResponse(response.clone()).encode();
        SendError::check(message.len(), QUERY_BYTES_MAX)?;
        let to = SocketAddr::new(query.addr, query.port);
        if to == self.config.gossip.socket_addr() {
            self.hear_response(now, &response);
            return Ok(());
        }
        self.gossip.send_user(to, message.clone(), &mut self.effects);
        self.send_over_others(query, message)
    }

    /// Sends an answer over some others, if there are enough of them for that to be worth it.
    fn send_over_others(&mut self, query: &wire::Query, message: Bytes) -> Result<(), SendError> {
        let factor = usize::from(query.relay_factor);
        if factor == 0 || self.layer.members.all().len() <= factor {
            return Ok(());
        }
        let relay =
            Message::Relay(Relay { addr: query.addr, port: query.port, node: query.source_node.clone(), message })
                .encode();
        SendError::check(relay.len(), QUERY_BYTES_MAX)?;
        let (me, asker) = (&self.config.gossip.name, &query.source_node);
        let able = self.layer.members.with(Status::Alive).filter(|member| {
            member.name != *me && member.name != *asker && member.versions.protocol_max >= RELAY_PROTOCOL
        });
        for member in able.sample(&mut self.rng, factor) {
            self.gossip.send_user(member.addr, relay.clone(), &mut self.effects);
        }
        Ok(())
    }

    /// Hears an answer to a query of this node.
    pub(super) fn hear_response(&mut self, now: Duration, response: &QueryResponse) {
        let id = QueryId { time: response.time, id: response.id };
        let Some(asked) = self.asked.get_mut(&id) else {
            // Late, or of nobody's query.
            return;
        };
        if now >= asked.deadline || !asked.is_first(response) {
            return;
        }
        let is_ack = response.flags & QueryResponse::ACK != 0;
        match &mut asked.by {
            AskedBy::User => {
                let from = response.from.clone();
                let answer = if is_ack {
                    QueryAnswer::Ack(from)
                } else {
                    QueryAnswer::Response { from, payload: response.payload.clone() }
                };
                self.outputs.push(Output::QueryAnswer { id, answer });
            }
            AskedBy::Keys(report) if !is_ack => {
                report.add(response);
                if report.is_complete() {
                    self.finish_query(id);
                }
            }
            AskedBy::Conflict | AskedBy::Keys(_) => {}
        }
    }

    /// Passes an answer of somebody else on.
    pub(super) fn relay(&mut self, now: Duration, relay: Relay) {
        self.counters.relayed += 1;
        let to = SocketAddr::new(relay.addr, relay.port);
        if to != self.config.gossip.socket_addr() {
            self.gossip.send_user(to, relay.message, &mut self.effects);
        } else if let Ok(Message::QueryResponse(response)) = Message::decode(&relay.message) {
            self.hear_response(now, &response);
        }
    }

    /// Ends the queries whose time is over.
    pub(super) fn finish_queries(&mut self, now: Duration) {
        let over: Vec<QueryId> =
            self.asked.iter().filter(|(_, asked)| now >= asked.deadline).map(|(id, _)| *id).collect();
        for id in over {
            self.finish_query(id);
        }
    }

    fn finish_query(&mut self, id: QueryId) {
        let Some(asked) = self.asked.remove(&id) else {
            return;
        };
        match asked.by {
            AskedBy::User => self.outputs.push(Output::QueryAnswer { id, answer: QueryAnswer::Finished }),
            AskedBy::Conflict => self.count_votes(asked.responses),
            AskedBy::Keys(report) => self.outputs.push(Output::KeysFinished { id, report }),
        }
    }

    /// When the next query ends.
    pub(super) fn next_query_deadline(&self) -> Option<Duration> {
        self.asked.values().map(|asked| asked.deadline).min()
    }
}

/// Whether a node is meant by a filter. A tag that it does not have is empty; an expression that can't be read matches
/// nobody.
fn matches(filter: &Filter, name: &Text, tags: &Tags) -> bool {
    match filter {
        Filter::Nodes(names) => names.contains(name),
        Filter::Unknown(_) => false,
        Filter::Tag { tag, expr } => {
            let value = tags.get(tag).map_or(Some(""), Text::as_str);
            let regex = expr.as_str().map(|expr| RegexBuilder::new(expr).size_limit(EXPRESSION_BYTES_MAX).build());
            match (value, regex) {
                (Some(value), Some(Ok(regex))) => regex.is_match(value),
                _ => false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(tag: &str, expr: &str) -> Filter {
        Filter::Tag { tag: tag.into(), expr: expr.into() }
    }

    #[test]
    fn filters() {
        let tags = Tags::from([("role".into(), "web-1".into()), ("bad".into(), Bytes::from_static(b"\xff").into())]);
        let is_meant = |filter| matches(&filter, &"a".into(), &tags);
        assert!(is_meant(Filter::Nodes(vec!["b".into(), "a".into()])));
        assert!(!is_meant(Filter::Nodes(vec!["b".into()])));
        assert!(is_meant(tag("role", "eb")), "anywhere in the value");
        assert!(is_meant(tag("role", r"^web-\d+$")));
        assert!(!is_meant(tag("role", "^web$")));
        assert!(is_meant(tag("missing", "^$")));
        assert!(!is_meant(tag("bad", ".*")));
    }

    /// Expressions come from others: none may take long, or much.
    #[test]
    fn an_expression_that_is_wrong_or_huge_matches_nobody() {
        let tags = Tags::from([("role".into(), "a".repeat(200).into())]);
        let is_meant = |expr: &str| matches(&tag("role", expr), &"a".into(), &tags);
        assert!(!is_meant("("));
        assert!(!is_meant("((a{0,1000}){0,1000}){0,1000}"));
        assert!(!is_meant(&"(".repeat(100_000)));
        assert!(!is_meant(&format!("{}$", "(a*)*".repeat(100)).replace('$', "b$")), "in linear time");
    }
}
