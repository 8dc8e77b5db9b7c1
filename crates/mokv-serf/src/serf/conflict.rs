//! Two nodes of one name: the others vote which of them is the one that they know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tracing::{error, info, warn};

use super::Serf;
use super::internal_queries::CONFLICT;
use super::members::{Member, Status};
use super::output::Output;
use super::queries::{AskedBy, QueryOptions};
use crate::gossip::Node;
use crate::wire::Text;
use crate::wire::memberlist::Alive;
use crate::wire::serf::{self as wire, Message, Query};

impl Serf {
    /// A node claims a name that another one has.
    pub(super) fn conflict(&mut self, now: Duration, known: &Node, other: &Alive) {
        let (here, there) = (SocketAddr::new(known.addr, known.port), SocketAddr::new(other.addr, other.port));
        if known.name != self.config.gossip.name {
            warn!(name = %known.name, %here, %there, "two nodes have this name");
            return;
        }
        let is_voting = self.asked.values_mut().any(|asked| matches!(asked.by(), AskedBy::Conflict));
        if is_voting {
            return;
        }
        error!(name = %known.name, %here, %there, "another node has this node's name: asking the others who is meant");
        let name = known.name.as_bytes().to_vec().into();
        if let Err(error) = self.ask(now, CONFLICT.into(), name, QueryOptions::default(), AskedBy::Conflict) {
            error!(%error, "could not ask the others");
        }
    }

    /// Says where a name is, as far as this node knows; nothing of its own, of which it is no judge.
    pub(super) fn vote(&mut self, now: Duration, query: &Query) {
        let name = Text::from(query.payload.clone());
        if name == self.config.gossip.name {
            return;
        }
        let member = self.layer.members.all().get(&name).map(on_the_wire);
        self.answer_query(now, query, Message::ConflictResponse(member).encode());
    }

    /// The vote is over. Without a majority for this node it has to go: a name is to be taken once. That nobody answered is
    /// no majority either, so of two nodes that are alone and have one name neither stays.
    pub(super) fn count_votes(&mut self, responses: BTreeMap<Text, Bytes>) {
        let here = self.config.gossip.socket_addr();
        let votes: Vec<bool> = responses
            .values()
            .filter_map(|payload| match Message::decode(payload) {
                Ok(Message::ConflictResponse(member)) => {
                    Some(member.is_some_and(|member| SocketAddr::new(member.addr, member.port) == here))
                }
                _ => None,
            })
            .collect();
        let ours = votes.iter().filter(|vote| **vote).count();
        if ours > votes.len() / 2 {
            info!(ours, of = votes.len(), "a majority knows this node by its name");
        } else {
            error!(ours, of = votes.len(), "another node is known by this node's name: stopping");
            self.outputs.push(Output::NameTaken);
        }
    }
}

fn on_the_wire(member: &Member) -> wire::Member {
    let versions = member.versions;
    wire::Member {
        name: member.name.clone(),
        addr: member.addr.ip(),
        port: member.addr.port(),
        tags: member.tags.clone(),
        status: match member.status {
            Status::Alive => 1,
            Status::Leaving => 2,
            Status::Left => 3,
            Status::Failed => 4,
        },
        protocol: [versions.protocol_min, versions.protocol_max, versions.protocol],
        delegate: [versions.delegate_min, versions.delegate_max, versions.delegate],
    }
}
