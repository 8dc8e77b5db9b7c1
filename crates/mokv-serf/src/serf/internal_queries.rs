//! Serf's own queries: whether a node is there, whose a name is, and the keys.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use tracing::{debug, info, warn};

use super::output::{Output, QueryId};
use super::queries::{AskedBy, QUERY_BYTES_MAX, QueryOptions};
use super::{SendError, Serf};
use crate::wire::Text;
use crate::wire::keyring::Keyring;
use crate::wire::serf::{KeyResponse, Message, Query, QueryResponse};

/// What the names of Serf's own queries begin with.
pub(super) const INTERNAL_PREFIX: &[u8] = b"_serf_";

/// Is there anybody? Answered by the word that it arrived, if that is asked for.
const PING: &str = "_serf_ping";

/// Whose is this name?
pub(super) const CONFLICT: &str = "_serf_conflict";

const INSTALL_KEY: &str = "_serf_install-key";
const USE_KEY: &str = "_serf_use-key";
const REMOVE_KEY: &str = "_serf_remove-key";
const LIST_KEYS: &str = "_serf_list-keys";

/// How many keys a node takes: each is tried on whatever comes.
const KEYS_MAX: usize = 64;

/// What to do with the keys of all nodes.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyCommand {
    /// To decrypt with it too.
    Install(Bytes),
    /// To encrypt with it.
    Use(Bytes),
    /// To forget it.
    Remove(Bytes),
    /// To say which there are.
    List,
}

/// Without the key: this may end up in a log.
impl fmt::Debug for KeyCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Install(_) => "Install",
            Self::Use(_) => "Use",
            Self::Remove(_) => "Remove",
            Self::List => "List",
        })
    }
}

/// What the nodes said to a [`KeyCommand`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// How many nodes there were to answer.
    pub nodes: usize,
    /// How many answered.
    pub answered: usize,
    /// Why it did not work, by node. It worked where it says nothing.
    pub errors: BTreeMap<Text, String>,
    /// How many nodes have each key, by the key in base64. Only of [`KeyCommand::List`].
    pub keys: BTreeMap<Text, usize>,
    /// How many nodes encrypt with it. Only of [`KeyCommand::List`].
    pub primary_keys: BTreeMap<Text, usize>,
}

impl KeyReport {
    /// Whether all nodes answered.
    pub fn is_complete(&self) -> bool {
        self.answered >= self.nodes
    }

    /// Whether it is done on all nodes.
    pub fn is_done(&self) -> bool {
        self.is_complete() && self.errors.is_empty()
    }

    pub(super) fn add(&mut self, response: &QueryResponse) {
        self.answered += 1;
        let Ok(Message::KeyResponse(answer)) = Message::decode(&response.payload) else {
            self.errors.insert(response.from.clone(), "an answer that can't be read".to_owned());
            return;
        };
        if !answer.result {
            self.errors.insert(response.from.clone(), answer.message.to_string());
        }
        for key in answer.keys {
            *self.keys.entry(key).or_default() += 1;
        }
        if !answer.primary_key.is_empty() {
            *self.primary_keys.entry(answer.primary_key).or_default() += 1;
        }
    }
}

impl Serf {
    /// Does something with the keys of all nodes. [`Output::KeysFinished`] tells what came of it, as soon as all have
    /// answered or the time is over. To change the key: install the new one, use it, remove the old one, each when the step
    /// before is done everywhere.
    ///
    /// # Errors
    ///
    /// If too many queries are under way; nothing was sent.
    pub fn key_command(&mut self, now: Duration, command: KeyCommand) -> Result<QueryId, SendError> {
        let (name, key) = match command {
            KeyCommand::Install(key) => (INSTALL_KEY, key),
            KeyCommand::Use(key) => (USE_KEY, key),
            KeyCommand::Remove(key) => (REMOVE_KEY, key),
            KeyCommand::List => (LIST_KEYS, Bytes::new()),
        };
        let report = KeyReport { nodes: self.layer.members.alive(), ..KeyReport::default() };
        let payload = Message::KeyRequest(key).encode();
        let id = self.ask(now, name.into(), payload, QueryOptions::default(), AskedBy::Keys(report))?;
        self.settle(now);
        Ok(id)
    }

    /// Answers a query of Serf's own.
    pub(super) fn internal_query(&mut self, now: Duration, query: &Query) {
        match query.name.as_str() {
            Some(PING) => {}
            Some(CONFLICT) => self.vote(now, query),
            Some(INSTALL_KEY) => self.change_keys(now, query, |keyring, key| {
                if keyring.keys().len() >= KEYS_MAX {
                    return Err(format!("there are {KEYS_MAX} keys already"));
                }
                keyring.install(key).map_err(|error| error.to_string())
            }),
            Some(USE_KEY) => {
                self.change_keys(now, query, |keyring, key| keyring.use_key(key).map_err(|error| error.to_string()));
            }
            Some(REMOVE_KEY) => {
                self.change_keys(now, query, |keyring, key| keyring.remove(key).map_err(|error| error.to_string()));
            }
            Some(LIST_KEYS) => self.list_keys(now, query),
            _ => warn!(name = %query.name, from = %query.source_node, "a query of Serf's own that is not known here"),
        }
    }

    /// Sends the answer to a query of Serf's own.
    pub(super) fn answer_query(&mut self, now: Duration, query: &Query, answer: Bytes) {
        if let Err(error) = self.send_response(now, query, 0, answer) {
            debug!(name = %query.name, %error, "an answer is not sent");
        }
    }

    fn change_keys(
        &mut self,
        now: Duration,
        query: &Query,
        change: impl FnOnce(&mut Keyring, &[u8]) -> Result<(), String>,
    ) {
        let result = match (Message::decode(&query.payload), self.config.codec.keyring.clone()) {
            (_, None) => Err("No keyring to modify (encryption not enabled)".to_owned()),
            (Ok(Message::KeyRequest(key)), Some(mut keyring)) => change(&mut keyring, &key).map(|()| keyring),
            _ => Err("no key in the request".to_owned()),
        };
        let message = match result {
            Ok(keyring) => {
                info!(query = %query.name, by = %query.source_node, "keys changed");
                self.config.codec.keyring = Some(keyring.clone());
                self.outputs.push(Output::KeyringChanged(keyring));
                None
            }
            Err(message) => Some(message),
        };
        let response = KeyResponse {
            result: message.is_none(),
            message: message.unwrap_or_default().into(),
            keys: Vec::new(),
            primary_key: Text::default(),
        };
        self.answer_query(now, query, Message::KeyResponse(response).encode());
    }

    fn list_keys(&mut self, now: Duration, query: &Query) {
        let Some(keyring) = &self.config.codec.keyring else {
            let response = KeyResponse {
                result: false,
                message: "Keyring is empty (encryption not enabled)".into(),
                keys: Vec::new(),
                primary_key: Text::default(),
            };
            self.answer_query(now, query, Message::KeyResponse(response).encode());
            return;
        };
        let keys: Vec<Text> = keyring.keys().map(key_text).collect();
        let (all, primary_key) = (keys.len(), key_text(keyring.primary()));
        let mut response = KeyResponse { result: true, message: Text::default(), keys, primary_key };
        let mut encoded = Message::KeyResponse(response.clone()).encode();
        while encoded.len() + RESPONSE_HEAD_BYTES + self.config.gossip.name.as_bytes().len() > QUERY_BYTES_MAX
            && response.keys.pop().is_some()
        {
            response.message = format!("the first {} of {all} keys", response.keys.len()).into();
            encoded = Message::KeyResponse(response.clone()).encode();
        }
        self.answer_query(now, query, encoded);
    }
}

/// What a query response takes beside its payload and the name of who answers, at most.
const RESPONSE_HEAD_BYTES: usize = 64;

fn key_text(key: &[u8]) -> Text {
    BASE64.encode(key).into()
}
